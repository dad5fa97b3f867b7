"""A NIC that a user's own domain has, on a real libvirtd: changed in its place, and left as it was."""

import re
from contextlib import nullcontext

import pytest
from lxml import etree
from support.elements import attribute, inside
from support.libvirt_apply import USERS_OWN, WITH_USER, ApplyHost, clean

from libvirt_guestnet.libvirtd.nics import interfaces

pytestmark = pytest.mark.libvirt


@pytest.fixture
def host(apply_host: ApplyHost) -> ApplyHost:
    return apply_host


def nic_of_a_user(mac: str, *more: str) -> str:
    return f"""<interface type='network'><mac address='{mac}'/><source network='default'/><model type='e1000'/>
    <mtu size='1400'/><boot order='1'/><alias name='ua-wan'/><rom enabled='no'/>{"".join(more)}
    <address type='pci' domain='0x0000' bus='0x00' slot='0x0a' function='0x0'/></interface>"""


@pytest.mark.parametrize("runs", [False, True], ids=["stopped", "running"])
def test_a_users_own_nic_is_changed_in_its_place_and_left_as_it_was(host: ApplyHost, runs: bool) -> None:
    own = "52:54:00:aa:bb:01"
    more = "<filterref filter='clean-traffic'/><coalesce><rx><frames max='7'/></rx></coalesce>"
    nic = nic_of_a_user(own, "" if runs else more)
    text = WITH_USER.replace("network: one", f'network: one, mac: "{own}"')
    host.libvirt.define_network("<network><name>default</name><bridge name='virbr9'/></network>")
    host.libvirt.start_network("default")
    host.libvirt.define_domain(USERS_OWN.replace("<interface type='user'>", f"{nic}<interface type='user'>"))
    if runs:
        host.start("u")
    before = host.libvirt.snapshot().domain["u"]
    try:
        with host.cooperative("u") if runs else nullcontext():
            host.apply(text, allow_interrupt=True)
        assert host.plan(text).changes == ()
        state = host.libvirt.snapshot().domain["u"]
        for was, now in ((before.config, state.config), (before.live, state.live)):
            if was is not None and now is not None:
                assert changed(interfaces(was)[own], interfaces(now)[own]) == {"source", "target"}
        assert list(interfaces(state.config)) == list(interfaces(before.config)), "their order is the guest's"
        with host.cooperative("u") if runs else nullcontext():
            host.destroy()
        after = host.libvirt.snapshot().domain["u"]
        assert clean(after.config).replace("<metadata></metadata>", "") == clean(before.config)
        if before.live is not None and after.live is not None:
            assert changed(interfaces(before.live)[own], interfaces(after.live)[own]) <= {"target"}
            device = attribute(inside(interfaces(after.live)[own], "target"), "dev")
            assert device not in host.sandbox.run(["nft", "list", "ruleset"]).stdout, "nobody guards it any more"
    finally:
        host.libvirt.stop_domain("u")
        host.libvirt.undefine_domain("u")
        host.libvirt.stop_network("default")
        host.libvirt.undefine_network("default")


def changed(old: etree._Element, new: etree._Element) -> set[str]:
    """The elements of a NIC that are others."""
    one, other = parts(old), parts(new)
    return {tag for tag in one.keys() | other.keys() if one.get(tag) != other.get(tag)}


def parts(nic: etree._Element) -> dict[str, str]:
    """Its elements, without what libvirt numbers again, and without a link that is as up as any."""
    texts = {each.tag: etree.tostring(each, method="c14n", with_tail=False).decode() for each in nic}
    found = {tag: re.sub(' portid="[^"]*"', "", text) for tag, text in texts.items()}
    return {tag: text for tag, text in found.items() if text != '<link state="up"></link>'}
