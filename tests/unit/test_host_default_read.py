"""`guard:` in host.yaml: what hooks read of it, whom it covers, and what a covered port may send."""

from __future__ import annotations

import json
from ipaddress import ip_address
from pathlib import Path

import pytest

from libvirt_guestnet import hostmap, xmlread
from libvirt_guestnet.datapath.devices import host_devices
from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.datapath.routing import gateway
from libvirt_guestnet.errors import GuestnetError, NotAdmittedError
from libvirt_guestnet.hook import concern, strangers
from libvirt_guestnet.hook.admission import mtu
from libvirt_guestnet.hook.calls import domain as calls
from libvirt_guestnet.hook.calls import networks
from libvirt_guestnet.hook.enforce import address_sets, allow_rules, bridge_guard
from libvirt_guestnet.hook.processes.deadline import DeadlineError
from libvirt_guestnet.hook.read import hostwide, libvirt_records, port_receipts, vlan_membership
from libvirt_guestnet.hook.read.domain import Domain
from libvirt_guestnet.hook.read.hostwide import ALL, DECLARED, OBSERVE, HostWide
from libvirt_guestnet.hook.read.network_receipts import network_receipt, undeclared_receipt
from libvirt_guestnet.install import hook_files
from libvirt_guestnet.state.locked import UnlockedState
from libvirt_guestnet.state.receipts import NetworkReceipt, PortReceipt

XMLNS = 'xmlns:g="https://libvirt-guestnet.org/xmlns/1"'
MAC = "52:54:00:00:00:01"
NIC = """<interface type="{}"><mac address="52:54:00:00:00:0{}"/><source {}/><target dev="vnet{}"/>{}</interface>"""
DOMAIN = "<domain><name>a</name><uuid>u-a</uuid><metadata>{}</metadata><devices>{}</devices></domain>"
PORT = f'<g:domain {XMLNS} topology="t" guest="a"><g:port mac="{MAC}" name="p" network="n" guarded="{{}}"/></g:domain>'
NETWORK = "<network><name>n</name>{}<bridge name='br0'/><mac address='52:54:00:00:00:ff'/>{}</network>"
DHCP4 = "<ip address='10.0.0.1' netmask='255.255.255.0'><dhcp><range start='10.0.0.9' end='10.0.0.20'/>{}</dhcp></ip>"
ON_N = 'network="n" bridge="br0"'


def nic(kind: str = "network", source: str = ON_N, number: int = 1, inside: str = "") -> str:
    return NIC.format(kind, number, source, number, inside)


def network(inside: str = DHCP4.format(""), forward: str = "<forward/>", default: str = ALL) -> NetworkReceipt | None:
    return undeclared_receipt(xmlread.parse(NETWORK.format(forward, inside).encode()), default)


def joined(*nics: str, metadata: str = "", receipt: NetworkReceipt | None = None, default: str = ALL) -> Domain:
    xml = xmlread.parse(DOMAIN.format(metadata, "".join(nics)).encode())
    return Domain(xml, {"n": receipt}.get, default=default)


def only(*nics: str, **more: object) -> PortReceipt:
    (receipt,) = port_receipts.port_receipts(joined(*nics, **more))  # type: ignore[arg-type]
    return receipt


def test_host_yaml_says_it_and_hooks_read_it(tmp_path: Path) -> None:
    file, written = tmp_path / "etc/libvirt-guestnet/host.yaml", tmp_path / "etc/libvirt-guestnet/hooks.json"
    file.parent.mkdir(parents=True)
    for text, wanted in (("all", HostWide(guard=ALL)), ("observe\nunguardable: refuse", HostWide("refuse", OBSERVE))):
        file.write_text(f"guard: {text}\n")
        hook_files.take_over(tmp_path)
        assert (hostwide.read(str(written)), hostmap.load_hostmap(file).devices) == (wanted, {})
    for text in ("maybe", "[all]", "yes"):
        file.write_text(f"guard: {text}\n")
        with pytest.raises(GuestnetError, match=r"host.yaml: guard: .* is none of declared, observe, all"):
            hook_files.take_over(tmp_path)
        assert hostwide.read(str(written)) == HostWide("refuse", OBSERVE), "bad input changes nothing"
    file.write_text("guard: declared\n")
    hook_files.take_over(tmp_path)
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("guard", ['"later"', "1", "[]", "{}", "null"])
def test_a_default_that_no_version_knows_holds_up_nobody(tmp_path: Path, guard: str) -> None:
    (tmp_path / "hooks.json").write_text(f'{{"unguardable": "refuse", "guard": {guard}}}')
    assert hostwide.read(str(tmp_path / "hooks.json")) == HostWide("refuse", DECLARED)


def test_a_network_concerns_us_where_a_default_may_cover_its_guests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(concern, "_STATE", str(tmp_path))
    monkeypatch.setattr(concern, "HOSTWIDE", str(tmp_path / "hooks.json"))
    assert not concern.CONCERNS["network", "started"]("n", b"<hookData/>")
    (tmp_path / "hooks.json").touch()
    assert concern.CONCERNS["network", "started"]("n", b"<hookData/>")


def test_who_is_covered() -> None:
    undeclared, adopted = network(), NetworkReceipt("n", "t", False, "br0", external=True)
    declared = NetworkReceipt("n", "t", False, "br0")
    covered = {
        "undeclared network": joined(nic(), receipt=undeclared),
        "one of which no hook has heard": joined(nic()),
        "adopted, guards nobody": joined(nic(), receipt=adopted),
        "bridge": joined(nic("bridge", 'bridge="br1"')),
    }
    left = {
        "guarded: false of its own": joined(nic(), metadata=PORT.format("no"), receipt=undeclared),
        "guarded: false of its network": joined(nic(), receipt=declared),
        "a tap in no bridge": joined(nic("ethernet", 'dev="x"')),
        "macvtap": joined(nic("direct", 'dev="eth0" mode="bridge"')),
        "user": joined(nic("user", "")),
    }
    said = {what: port_receipts.port_receipts(each) for what, each in (covered | left).items()}
    assert {what for what, receipts in said.items() if receipts} == set(covered)
    assert all(receipt.by_host and not receipt.own for receipts in said.values() for receipt in receipts)
    assert port_receipts.port_receipts(joined(nic(), receipt=undeclared, default=DECLARED)) == []
    own = only(nic(), metadata=PORT.format("yes"), receipt=undeclared)
    assert (own.by_host, own.own) == (False, True)
    watched = only(nic(), metadata=PORT.format("observe"), receipt=undeclared)
    assert (watched.by_host, watched.observed) == (False, True), "the domain's word comes before guard: all"
    by_network = only(nic(), receipt=declared._replace(guarded=True), default=OBSERVE)
    assert (by_network.by_host, by_network.observed) == (False, False)


def test_what_it_may_send_by_what_its_network_tells() -> None:
    """Addresses that the host's DHCP server tells; where nobody tells any, each that is nobody else's."""
    leased = only(nic(), receipt=network())
    assert (leased.dhcp, leased.owned, leased.claims[-1]) == (("10.0.0.1",), (), "fe80::/64")
    reserved = DHCP4.format(f"<host mac='{MAC}' ip='10.0.0.5'/><host mac='52:54:00:00:00:02' ip='10.0.0.6'/>")
    fixed = only(nic(), receipt=network(reserved))
    assert (fixed.dhcp, fixed.owned, fixed.excluded) == ((), ("10.0.0.5",), ("10.0.0.5", "10.0.0.6"))
    untold = only(nic(), receipt=network("<ip address='10.0.0.1' netmask='255.255.255.0'/>"))
    assert (untold.owned, untold.claims[-1]) == (("0.0.0.0/0",), "fe80::/64")
    isolated = only(nic(), receipt=network("", forward=""))
    assert (isolated.owned, isolated.claims) == (("0.0.0.0/0", "::/0"), ())
    six = network(DHCP4.format("") + "<ip family='ipv6' address='fd00::1' prefix='64'/>")
    formed = only(nic(), receipt=six)
    assert (formed.owned, formed.claims) == (("fd00::5054:ff:fe00:1",), ("fd00::/64", "fe80::/64"))
    narrow = only(nic(), receipt=network(DHCP4.format("") + "<ip family='ipv6' address='fd00::1' prefix='120'/>"))
    assert (narrow.owned, narrow.dhcp) == (("::/0",), ("10.0.0.1",))
    lan = only(nic("bridge", 'bridge="lan0"'))
    assert (lan.owned, lan.segment, lan.claims) == (("0.0.0.0/0", "::/0"), "lan0", ())


def test_a_trunk_is_covered_and_refuses_no_start() -> None:
    trunk = "<vlan trunk='yes'><tag id='5'/><tag id='6'/></vlan>"
    receipt = only(nic(inside=trunk), receipt=network())
    assert (receipt.trunk, receipt.owned, receipt.dhcp) == (((5, 5), (6, 6)), ("0.0.0.0/0", "::/0"), ())


def test_observe_has_the_same_guard() -> None:
    found = {default: only(nic(), receipt=network(), default=default) for default in (OBSERVE, ALL)}
    assert (found[OBSERVE].observed, found[ALL].observed) == (True, False)
    assert found[OBSERVE]._replace(observed=False) == found[ALL]


def test_nothing_else_is_done_for_an_undeclared_network(tmp_path: Path) -> None:
    """Its VLANs, MTUs and other firewalls are libvirt's business, and its administrator's."""
    found = network(forward="<forward mode='route' dev='eth0'/><port isolated='yes'/>")
    assert found is not None
    assert (found.outside, found.nat_outside, found.isolated, found.managed, found.guarded) == (
        "",
        "",
        False,
        False,
        False,
    )
    tagged = joined(nic(inside="<vlan><tag id='5'/></vlan><mtu size='9000'/>"), receipt=found)
    assert vlan_membership.tap_vlans(tagged) == []
    state = UnlockedState(str(tmp_path))
    mtu.check(tagged, state)
    with state.lock() as locked:
        locked.put_network(found)
    assert allow_rules.passages(state) == []


def test_a_wide_nic_that_nobody_declared_starts_on_an_adopted_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_devices, "outlet", lambda _bridge, _ports: host_devices.Outlet("eth0", 1500))
    state, adopted = UnlockedState(str(tmp_path)), NetworkReceipt("n", "t", False, "br0", external=True)
    wide = nic(inside="<mtu size='9000'/>")
    for default in (DECLARED, ALL):
        mtu.check(joined(wide, receipt=adopted, default=default), state)
    for declared in (
        joined(wide, receipt=adopted._replace(guarded=True)),
        joined(wide, receipt=adopted._replace(external=False)),
        joined(wide, receipt=adopted, metadata=PORT.format("no")),
    ):
        with pytest.raises(NotAdmittedError, match="9000"):
            mtu.check(declared, state)


def test_the_hosts_own_address_on_an_open_vswitch_bridge_is_no_guests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tap's master is ovs-system there, whatever its bridge; the host's address is on the device of its name."""
    own = {"ovs0": [ip_address("192.0.2.1")], "lan0": [ip_address("192.0.2.2")]}
    monkeypatch.setattr(gateway, "on_link", lambda bridge, routers: (own.get(bridge, []), []))
    monkeypatch.setattr(links, "is_bridge", lambda name: name == "lan0")
    for master, bridge, taken in (("ovs-system", "ovs0", "192.0.2.1"), ("lan0", "lan0", "192.0.2.2")):
        monkeypatch.setattr(links, "master_of", lambda _tap, master=master: master)
        receipt = only(nic("bridge", f'bridge="{bridge}"', inside="<virtualport type='openvswitch'/>"))
        assert taken in address_sets.completed(receipt, lambda _name: []).excluded


def test_networks_without_taps_and_other_defaults_have_no_receipt() -> None:
    assert network(default=DECLARED) is None
    assert network("", forward="<forward mode='private'><interface dev='eth0'/></forward>") is None


def _keep(state: UnlockedState, xml: str, told: bool = True) -> NetworkReceipt | None:
    networks.keep(xmlread.parse(f"<hookData>{xml}</hookData>".encode()), state, told=told)
    return state.network("n")


def test_a_networks_receipt_follows_the_default_and_its_metadata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, plain = UnlockedState(str(tmp_path)), NETWORK.format("<forward/>", DHCP4.format(""))
    mark = f'<metadata><g:network {XMLNS} topology="t" name="n" guarded="no" external="yes"/></metadata>'
    said = {"guard": DECLARED}
    monkeypatch.setattr(hostwide, "read", lambda: HostWide(**said))
    assert _keep(state, plain) is None
    said["guard"] = ALL
    assert _keep(state, plain) == network()
    adopted = _keep(state, NETWORK.format(f"{mark}<forward/>", DHCP4.format("")))
    assert adopted == network_receipt(xmlread.parse(NETWORK.format(f"{mark}<forward/>", DHCP4.format("")).encode()))
    assert _keep(state, plain, told=False) == adopted, "while it runs, libvirt 9.0 says nothing of it"
    assert _keep(state, plain) == network(), "it was started again, and is adopted no more"

    def damaged() -> HostWide:
        raise NotAdmittedError("x")

    monkeypatch.setattr(hostwide, "read", damaged)
    assert _keep(state, plain) == network(), "as before"
    monkeypatch.setattr(hostwide, "read", lambda: HostWide(**said))
    said["guard"] = DECLARED
    assert _keep(state, plain) is None


def test_a_nic_on_libvirts_bridge_is_on_its_network(tmp_path: Path) -> None:
    state, found = UnlockedState(str(tmp_path)), network()
    assert found is not None
    with state.lock() as locked:
        locked.put_network(found)
    xml = xmlread.parse(DOMAIN.format("", nic("bridge", 'bridge="br0"')).encode())
    assert [nic.network for nic in bridge_guard.joined(xml, state, ALL).nics] == ["n"]
    assert [nic.network for nic in bridge_guard.joined(xml, state, DECLARED).nics] == [""]


NAMED = PORT.format("yes").replace(MAC, "52:54:00:00:00:02")


@pytest.mark.parametrize(
    ("metadata", "fault", "then"),
    [
        ("", GuestnetError("nft refused"), [ALL, DECLARED]),
        ("", KeyError("x"), [ALL, DECLARED]),
        ("", DeadlineError("late"), [ALL]),
        (NAMED, GuestnetError("nft refused"), [ALL, DECLARED]),
        (NAMED, DeadlineError("late"), DeadlineError),
        ("", NotAdmittedError("it is another's"), NotAdmittedError),
    ],
)
def test_a_fault_of_the_default_holds_up_nobody(
    metadata: str, fault: Exception, then: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried, told = list[str](), list[str]()

    def guard(domain: Domain, _state: UnlockedState) -> None:
        tried.append(domain.default)
        if domain.default != DECLARED:
            raise fault

    monkeypatch.setattr(calls, "_guard", guard)
    monkeypatch.setattr(hostwide, "read", lambda: HostWide(guard=ALL))
    monkeypatch.setattr(libvirt_records, "network", lambda _name: None)
    monkeypatch.setattr("libvirt_guestnet.log.complain", told.append)
    xml = xmlread.parse(DOMAIN.format(metadata, nic() + nic(number=2)).encode())
    if isinstance(then, list):
        calls.guard(xml, UnlockedState(str(tmp_path)))
        assert tried == then
        assert told == [f"domain 'a': not guarded as this host's default says: {fault}; it goes on"]
    else:
        assert isinstance(then, type)
        with pytest.raises(then):
            calls.guard(xml, UnlockedState(str(tmp_path)))


def test_what_only_the_default_guards_needs_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its receipt may be left of an earlier call: another fault of ours does not hold up its guest."""
    monkeypatch.setattr(strangers, "_NETWORKS", "/nonexistent")
    monkeypatch.setattr(strangers, "ROOT", str(tmp_path))
    stranger = DOMAIN.format("", nic()).encode()
    for by_host in (True, False):
        with UnlockedState(str(tmp_path)).lock() as locked:
            locked.put_ports("u-a", [PortReceipt("vnet1", MAC, "a", "u-a", by_host=by_host)])
        assert strangers.is_held_up("qemu", stranger, GuestnetError("x")) == (not by_host)


def test_hooks_install_says_that_guests_that_run_are_not_covered_yet(tmp_path: Path) -> None:
    (tmp_path / "etc/libvirt-guestnet").mkdir(parents=True)
    (tmp_path / "etc/libvirt-guestnet/hooks.json").write_text(json.dumps({"guard": "all"}))
    (said,) = hook_files.default_note(tmp_path)
    assert said.startswith("guard: all holds for guests that start") and "`guestnet hooks sync`" in said
