"""Other people's domains that name a running guest's tap, or have its MAC or name, on real daemons with our hooks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.libvirt_host import DOMAIN, NIC, XMLNS, Host, mac, uuid
from support.own_programs import guestnet, watching

from libvirt_guestnet.sandbox import Sandbox

TAP, ROUTED = "vmeofa", "vmeofr"
QUEUES = "<driver name='qemu' queues='2'/>"
PORT = '<g:port mac="{mac}" name="p" network="one"><g:address ip="{ip}"/></g:port>'


def policy(address: str, ip: str) -> str:
    return f'<g:domain {XMLNS} topology="t" guest="g">{PORT.format(mac=address, ip=ip)}</g:domain>'


def nic(kind: str, tap: str, number: int, queues: str = QUEUES, managed: str = "yes") -> str:
    source = {"network": "<source network='one'/>", "bridge": "<source bridge='br-one'/>"}.get(kind, "")
    return f"""<interface type='{kind}'>{source}<mac address='{mac(number, 0)}'/>
      <target dev='{tap}' managed='{managed}'/><model type='virtio'/>{queues}<rom enabled='no'/></interface>"""


@pytest.fixture(scope="module")
def shared(each_sandbox: Sandbox) -> Host:
    host = Host(each_sandbox)
    host.networks()
    return host


@pytest.fixture
def host(shared: Host) -> Iterator[Host]:
    """Guest a runs, with a tap of several queues and a name of its own on network one; r with one on no bridge."""
    define(shared, "a", 1, policy(mac(1, 0), "10.61.1.77"), nic("network", TAP, 1))
    define(shared, "r", 3, policy(mac(3, 0), "10.61.1.79"), nic("ethernet", ROUTED, 3))
    for name in ("a", "r"):
        shared.virsh("start", name)
    yield shared
    for name in shared.running():
        shared.virsh("destroy", name)
    assert (shared.guarded(), shared.files("ports"), shared.files("domains")) == ({}, {}, {})
    for name in shared.virsh("list", "--all", "--name").split():
        shared.virsh("undefine", name, "--managed-save")


def define(host: Host, name: str, number: int, metadata: str, *nics: str) -> None:
    host.define("define", DOMAIN.format(name=name, uuid=uuid(number), policy=metadata, nics="".join(nics)))


def has(host: Host) -> tuple[str, str]:
    """What guests a and r have, and the receipts of it."""
    rules = host.rules(TAP) + host.rules(ROUTED)
    assert "10.61.1.77" in rules
    assert "10.61.1.79" in rules
    files = " ".join((f"ports/{TAP}", f"ports/{ROUTED}", f"domains/{uuid(1)}", f"domains/{uuid(3)}")).split()
    return rules, host.sandbox.run(["cat", *(f"/run/libvirt-guestnet/{each}.json" for each in files)]).stdout


def test_a_domain_that_only_names_a_tap_starts_and_takes_nothing(host: Host) -> None:
    before = has(host)
    define(host, "thief", 2, policy(mac(2, 0), "10.61.1.66"), nic("user", TAP, 4, ""), nic("user", ROUTED, 5, ""))
    host.virsh("start", "thief")
    assert has(host) == before
    host.restart_daemon()
    host.soon(lambda: set(host.running()) == {"a", "r", "thief"}, "the guests are known again")
    host.soon(lambda: host.sandbox.run(["ls", "/run/libvirt-guestnet/reconnect"]).stdout == "", "they are repaired")
    host.soon(lambda: has(host) == before, "they are as they were")
    host.virsh("destroy", "thief")
    assert has(host) == before


@pytest.mark.parametrize("metadata", ["", policy(mac(2, 0), "10.61.1.66")], ids=["plain", "own policy"])
def test_a_domain_that_would_share_a_tap_does_not_start(host: Host, metadata: str) -> None:
    """libvirt attaches queues of two domains to one tap where it is told not to make it; else it refuses the name."""
    before = has(host)
    for tap, owner in ((TAP, "a"), (ROUTED, "r")):
        for kind, managed in (("ethernet", "no"), ("ethernet", "yes"), ("bridge", "yes"), ("network", "yes")):
            define(host, "thief", 2, metadata, nic(kind, tap, 2, managed=managed))
            said = host.virsh("start", "thief", check=False)
            ours = f"tap {tap} belongs to domain '{owner}', which runs: give the interface a <target dev>"
            assert (ours if managed == "no" else "already exists") in said
            assert has(host) == before
            host.virsh("undefine", "thief")


def test_a_plugged_nic_takes_no_tap(host: Host) -> None:
    before = has(host)
    define(host, "thief", 2, policy(mac(2, 0), "10.61.1.66"))
    host.virsh("start", "thief")
    nics = nic("user", TAP, 4, ""), nic("network", TAP, 5), nic("ethernet", TAP, 2, managed="no")
    said = []
    for each in nics:
        host.sandbox.run(["tee", "/tmp/nic.xml"], stdin=each)
        said.append("error" in host.virsh("attach-device", "thief", "/tmp/nic.xml", "--live", check=False))
        assert has(host) == before
    assert said == [False, True, False], "libvirt itself refuses one"
    assert "tap vmeofa belongs to domain 'a'" in guestnet(host, "hooks", "sync")
    assert has(host) == before


def test_a_neighbours_mac_on_a_plugged_nic_is_no_claim_to_its_tap(host: Host) -> None:
    before = has(host)
    define(host, "thief", 2, policy(mac(1, 0), "10.61.1.66"))
    host.virsh("start", "thief")
    host.sandbox.run(["tee", "/tmp/nic.xml"], stdin=NIC.format(network="one", mac=mac(1, 0)))
    host.virsh("attach-device", "thief", "/tmp/nic.xml", "--live")
    (tap,) = host.nics("thief")
    host.soon(lambda: "10.61.1.66" in host.rules(tap), "the new NIC is guarded")
    assert has(host) == before


def test_a_saved_domain_restored_with_a_neighbours_tap_takes_nothing(host: Host) -> None:
    """Its file comes from another host, where that name was its own."""
    define(host, "thief", 2, policy(mac(2, 0), "10.61.1.66"), nic("ethernet", "vmeofx", 2))
    host.virsh("start", "thief")
    host.virsh("save", "thief", "/tmp/thief.saved")
    before = has(host)
    other = f"s/'vmeofx' managed='yes'/'{ROUTED}' managed='no'/"
    host.sandbox.run(["sh", "-c", f'virsh save-image-dumpxml /tmp/thief.saved | sed "{other}" >/tmp/t.xml'])
    said = host.virsh("restore", "/tmp/thief.saved", "--xml", "/tmp/t.xml", check=False)
    assert f"tap {ROUTED} belongs to domain 'r'" in said
    assert has(host) == before


def test_a_guest_that_is_undefined_or_renamed_keeps_what_it_has(host: Host) -> None:
    before = has(host)
    host.virsh("undefine", "a")
    assert has(host) == before
    host.sandbox.run(["tee", "/tmp/other.xml"], stdin=DOMAIN.format(name="a", uuid=uuid(9), policy="", nics=""))
    assert "error" in host.virsh("define", "/tmp/other.xml", check=False), "libvirt keeps the name for who runs"
    assert "error" in host.virsh("domrename", "r", "r2", check=False), "nor is one renamed that runs"
    assert has(host) == before
    host.virsh("destroy", "r")
    host.virsh("domrename", "r", "r2")
    host.virsh("start", "r2")
    assert "10.61.1.79" in host.rules(ROUTED)
    host.virsh("destroy", "a")
    assert set(host.guarded()) == {ROUTED}


def test_one_deleted_chain_comes_back_and_the_others_stay(host: Host) -> None:
    before, others = has(host), _handles(host, ROUTED)
    with watching(host.sandbox):
        for damage in (f"flush chain netdev guestnet tap-{TAP}; delete chain netdev guestnet tap-{TAP}",
                       f"add chain netdev guestnet tap-{TAP} {{ policy accept; }}"):  # fmt: skip
            host.sandbox.run(["nft", damage])
            host.soon(lambda: (host.rules(TAP) + host.rules(ROUTED), before[1]) == before, "the service puts it back")
    assert _handles(host, ROUTED) == others


def _handles(host: Host, tap: str) -> str:
    """A rule that is written again has another handle, and its counter begins again."""
    return host.sandbox.run(["nft", "-a", "-s", "list", "chain", "netdev", "guestnet", f"tap-{tap}"]).stdout
