"""VLANs: which memberships a tap must have, and who carries them."""

from __future__ import annotations

from pathlib import Path

import pytest
from lxml import etree

from libvirt_guestnet import xmlgen, xmlread
from libvirt_guestnet.datapath.devices.subinterface import VlanDevice
from libvirt_guestnet.datapath.devices.vlan_bridge import TapVlans, batch, members
from libvirt_guestnet.datapath.port.port_facts import Trunk
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.read import network_receipts, port_receipts, vlan_membership
from libvirt_guestnet.hook.read.domain import Domain
from libvirt_guestnet.hostmap import HostMap, load_hostmap
from libvirt_guestnet.model.topology import Topology
from libvirt_guestnet.state.locked import UnlockedState
from libvirt_guestnet.state.receipts import NetworkReceipt
from libvirt_guestnet.topology import loads

ACCESS, TAGGED = frozenset({"PVID", "Egress Untagged"}), frozenset[str]()
FRESH = {1: ACCESS}  # what a new port of a bridge with the usual default PVID is a member of
NETWORK = NetworkReceipt("lan", "t", True, "br0", vlan=100, vlan_uplink="eth1")


def test_an_access_port_leaves_the_default_vlan_first() -> None:
    wanted = members(TapVlans("tap0", "u", "br0", pvid=100))
    assert batch("tap0", FRESH, wanted) == "vlan del vid 1 dev tap0\nvlan add vid 100 dev tap0 pvid untagged\n"
    assert batch("tap0", wanted, wanted) == ""


def test_a_trunk_has_no_untagged_vlan_unless_it_is_native() -> None:
    wanted = members(TapVlans("tap0", "u", "br0", tagged=((100, 102), (200, 200))))
    assert wanted == dict.fromkeys((100, 101, 102, 200), TAGGED)
    native = members(TapVlans("tap0", "u", "br0", pvid=101, tagged=((100, 102),)))
    assert native == {100: TAGGED, 101: ACCESS, 102: TAGGED}
    # From one to the other without touching what is right already.
    assert batch("tap0", wanted, native) == "vlan del vid 200 dev tap0\nvlan add vid 101 dev tap0 pvid untagged\n"


def test_a_member_with_other_flags_is_corrected() -> None:
    assert batch("tap0", {100: frozenset({"Egress Untagged"})}, {100: TAGGED}) == "vlan add vid 100 dev tap0\n"


def test_a_tap_name_that_could_be_read_as_more_is_refused() -> None:
    with pytest.raises(GuestnetError, match="device name"):
        batch("tap0\nlink", {}, {1: TAGGED})


def domain(nic: str = "", policy: str = "", guarded: str = "no") -> xmlread.Node:
    return xmlread.parse(
        f"""<domain><uuid>u</uuid><name>g</name><metadata>
        <guestnet:domain xmlns:guestnet="https://libvirt-guestnet.org/xmlns/1" topology="t" guest="g">
        <guestnet:port mac="52:54:00:00:00:01" name="p" network="lan" guarded="{guarded}">{policy}</guestnet:port>
        </guestnet:domain></metadata>
        <devices><interface type="bridge"><mac address="52:54:00:00:00:01"/>
        <source network="lan" bridge="br0"/><target dev="tap0"/>{nic}</interface></devices></domain>""".encode()
    )


@pytest.mark.parametrize(
    ("nic", "policy", "wanted"),
    [
        ("", "", (100, ())),
        ("", '<guestnet:vlan tag="7"/>', (7, ())),
        ("", '<guestnet:vlan trunk="100-110,200" native="1"/>', (1, ((100, 110), (200, 200)))),
        ("<vlan><tag id='8'/></vlan>", "", (8, ())),
        ("<vlan trunk='yes'><tag id='8'/><tag id='9' nativeMode='untagged'/></vlan>", "", (9, ((8, 8),))),
        ("<vlan><tag id='8'/><tag id='9' nativeMode='tagged'/></vlan>", "", (9, ((8, 8), (9, 9)))),
    ],
)
def test_the_ports_own_vlans_win_over_libvirts_and_those_over_the_networks(
    nic: str, policy: str, wanted: tuple[int, tuple[tuple[int, int], ...]]
) -> None:
    (found,) = vlan_membership.tap_vlans(Domain(domain(nic, policy), lambda _name: NETWORK))
    assert (found.tap, found.bridge, found.uplink) == ("tap0", "br0", "eth1")
    assert (found.pvid, found.tagged) == wanted


@pytest.mark.parametrize(
    ("nic", "policy", "trunk"),
    [
        ("", "", None),
        ("<vlan><tag id='8'/></vlan>", "", None),
        ("", '<guestnet:vlan tag="7"/>', None),
        ("<vlan trunk='yes'><tag id='8'/></vlan>", '<guestnet:vlan tag="7"/>', None),
        ("", '<guestnet:vlan trunk="100-110,200"/>', Trunk([(100, 110), (200, 200)])),
        ("", '<guestnet:vlan trunk="100" native="1"/>', Trunk([(100, 100)], native=True)),
        ("<vlan trunk='yes'><tag id='8'/></vlan>", "", Trunk([(8, 8)])),
        ("<virtualport type='openvswitch'/><vlan><tag id='8'/><tag id='9'/></vlan>", "", Trunk([(8, 8), (9, 9)])),
    ],
)
@pytest.mark.parametrize("service", [False, True])
def test_a_guard_knows_the_tags_of_a_trunk(nic: str, policy: str, trunk: Trunk | None, service: bool) -> None:
    network = NETWORK._replace(service=service)
    (receipt,) = port_receipts.port_receipts(Domain(domain(nic, policy, "yes"), lambda _name: network))
    assert port_receipts.guard_of(receipt).trunk == (trunk and trunk._replace(service=service))


def test_a_receipt_of_a_trunk_is_read_back(tmp_path: Path) -> None:
    vlans = '<guestnet:vlan trunk="100-110,200" native="1"/>'
    (receipt,) = port_receipts.port_receipts(Domain(domain(policy=vlans, guarded="yes"), lambda _name: NETWORK))
    state = UnlockedState(str(tmp_path))
    with state.lock() as locked:
        locked.put_ports("u", [receipt])
    assert state.port("tap0") == receipt


def _on(network: NetworkReceipt, text: xmlread.Node) -> Domain:
    return Domain(text, lambda _name: network)


def test_a_guarded_trunk_without_an_address_does_not_start_where_it_would_have_to_learn_one() -> None:
    pool = NETWORK._replace(hosts=("10.0.0.1",), dynamic=(("10.0.0.100", "10.0.0.200"),))
    trunk = '<guestnet:vlan trunk="5"/>'
    with pytest.raises(GuestnetError, match=r"a guarded trunk learns no address .* of network 'lan': give its port"):
        port_receipts.port_receipts(Domain(domain(policy=trunk, guarded="yes"), lambda _name: pool))
    assert port_receipts.port_receipts(Domain(domain(policy=trunk), lambda _name: pool)) == []
    known = '<guestnet:address ip="10.0.0.5"/>' + trunk
    reserved = pool._replace(reservations=(("52:54:00:00:00:01", "10.0.0.5/32"),))
    for policy, network in ((known, pool), (trunk, reserved)):
        (receipt,) = port_receipts.port_receipts(_on(network, domain(policy=policy, guarded="yes")))
        assert (receipt.owned, receipt.dhcp) == (("10.0.0.5/32",), ())


def test_what_is_not_ours_gets_no_vlan() -> None:
    assert vlan_membership.tap_vlans(Domain(domain(policy=""), lambda _name: None)) == []
    assert vlan_membership.tap_vlans(Domain(domain("<vlan><tag id='8'/></vlan>"), lambda _name: None)) == []
    assert vlan_membership.tap_vlans(Domain(domain(), lambda _name: NETWORK._replace(vlan=0))) == []
    ovs = domain("<virtualport type='openvswitch'/>", '<guestnet:vlan tag="7"/>')
    assert vlan_membership.tap_vlans(Domain(ovs, lambda _name: NETWORK)) == []


@pytest.mark.parametrize(
    "bad", ['tag="4095"', 'tag="x"', 'trunk=""', 'trunk="5-4"', 'trunk="1,0"', 'trunk="1" native="0"']
)
def test_damaged_vlans_stop_the_start(bad: str) -> None:
    with pytest.raises(GuestnetError, match=r"metadata: "):
        vlan_membership.tap_vlans(Domain(domain("", f"<guestnet:vlan {bad}/>"), lambda _name: NETWORK))


TOPOLOGY = """
name: t
physical-networks: {{ lan: {{}} }}
networks:
  net: {{ mode: {mode}, {keys} }}
guests:
  g: {{ ports: [{{ network: net, addresses: [], {port} }}] }}
"""


def topology(keys: str = "physical-network: lan, vlan: 100", port: str = "", mode: str = "bridge") -> Topology:
    return loads(TOPOLOGY.format(mode=mode, keys=keys, port=port), "test")


def network_xml(found: Topology, device: str) -> etree._Element:
    hostmap = HostMap({"lan": device}, lambda name: name.startswith("br"))
    return xmlgen.network(found, found.network("net"), hostmap)


def read_back(element: etree._Element) -> xmlread.Node:
    return xmlread.parse(etree.tostring(element))


def test_behind_a_nic_a_vlan_has_a_bridge_and_a_subinterface_of_its_own() -> None:
    node = read_back(network_xml(topology(), "eth1"))
    assert network_receipts.subinterface(node) == VlanDevice("gn-lan.100", "eth1", 100)
    assert network_receipts.uplink(node) is None
    assert network_receipts.aware_bridge(node) is None
    service = read_back(network_xml(topology("physical-network: lan, service-vlan: 100"), "eth1"))
    assert network_receipts.subinterface(service) == VlanDevice("gn-lan.100", "eth1", 100, service=True)


def test_a_subinterfaces_name_always_fits() -> None:
    assert VlanDevice("b", "eth1", 100).device == "eth1.100"
    long = VlanDevice("b", "enp130s0f1np1", 4094).device
    assert len(long) <= 15
    assert long != VlanDevice("b", "enp130s0f1np0", 4094).device


def test_behind_a_bridge_the_hook_tags_the_taps() -> None:
    aware = network_receipts.aware_bridge(read_back(network_xml(topology(), "br0/eth1")))
    assert aware == network_receipts.AwareBridge("br0", existing=True, tag=100, service=False, uplink="eth1")
    trunk = topology("physical-network: lan", "trunk: [5]")
    aware = network_receipts.aware_bridge(read_back(network_xml(trunk, "br0")))
    assert aware == network_receipts.AwareBridge("br0", existing=True, tag=0, service=False, uplink="")
    assert network_receipts.aware_bridge(read_back(network_xml(topology("physical-network: lan"), "br0"))) is None


def test_libvirts_own_bridge_is_made_to_tell_vlans_apart() -> None:
    aware = network_receipts.aware_bridge(read_back(network_xml(topology("vlan: 100", mode="isolated"), "br0")))
    assert aware == network_receipts.AwareBridge("gn-net", existing=False, tag=100, service=False, uplink="")


def test_open_vswitch_is_told_by_libvirt() -> None:
    found = topology(port="trunk: [5-6], native-vlan: 7")
    element = network_xml(found, "ovs:br0")
    assert element.find("bridge").get("name") == "br0"
    assert element.find("virtualport").get("type") == "openvswitch"
    assert [tag.get("id") for tag in element.findall("vlan/tag")] == ["100"]
    assert network_receipts.aware_bridge(read_back(element)) is None
    guest = found.guest("g")
    nic = xmlgen.interface(found, guest, guest.ports[0], HostMap({"lan": "ovs:br0"}))
    assert [dict(tag.attrib) for tag in nic.findall("vlan/tag")] == [
        {"id": "5"},
        {"id": "6"},
        {"id": "7", "nativeMode": "untagged"},
    ]


@pytest.mark.parametrize(
    ("keys", "port", "device", "message"),
    [
        (
            "physical-network: lan",
            "vlan: 5",
            "eth1",
            "port g.net has VLANs of its own, which takes a VLAN-aware",
        ),
        ("physical-network: lan, service-vlan: 5", "", "ovs:br0", "libvirt has no service-vlan for Open vSwitch"),
    ],
)
def test_what_the_host_cannot_carry_is_refused_with_its_name(keys: str, port: str, device: str, message: str) -> None:
    with pytest.raises(GuestnetError, match=message):
        network_xml(topology(keys, port), device)


def test_the_host_map_says_more_about_bridges() -> None:
    hostmap = load_hostmap(pairs=["a=br0/eth1", "b=ovs:br1", "c=eth2"])
    assert [hostmap.device(label) for label in "abc"] == ["br0", "br1", "eth2"]
    assert [hostmap.vlan_uplink(label) for label in "abc"] == ["eth1", None, None]
    assert [hostmap.is_ovs(label) for label in "abc"] == [False, True, False]
    for bad in ("a=br0/", "a=/eth1", "a=br0/eth1/x", "a=ovs:", "a=br 0"):
        with pytest.raises(GuestnetError, match="not a device name"):
            load_hostmap(pairs=[bad])
