"""What the reference output in xml/ cannot show: what is refused, and what must not depend on what."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_network
from pathlib import Path

import pytest
from lxml import etree
from support.elements import attribute, inside

from libvirt_guestnet import xmlgen
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.guest.image import TinyImage
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.model.network import Bandwidth, DhcpRange, DnsHost, Mode, Network, Rate, Subnet
from libvirt_guestnet.model.port_address import Assignment, PortAddress
from libvirt_guestnet.model.topology import AddressPair, Guest, Port, PortKind, Topology
from libvirt_guestnet.xmlgen.element import fill, maybe, node

NOWHERE = HostMap()
NET = Network(name="net", mode=Mode.NAT, bridge="gn-net", mac="52:54:00:00:00:01")
IPV4 = Subnet(ip_network("10.0.0.0/24"), gateway=ip_address("10.0.0.1"), host=ip_address("10.0.0.1"))
IPV6 = Subnet(ip_network("fd00::/64"), gateway=ip_address("fd00::1"), host=ip_address("fd00::1"))
PORT = Port(name="net", network="net", kind=PortKind.NETWORK, mac="52:54:00:00:00:02", tap="vme00000002")


def topology(network: Network = NET, *guests: Guest) -> Topology:
    return Topology(name="t", file="t.yaml", networks=(network,), guests=guests)


def network_xml(network: Network, *guests: Guest, hostmap: HostMap = NOWHERE) -> etree._Element:
    return xmlgen.network(topology(network, *guests), network, hostmap)


def interface_xml(port: Port, network: Network = NET) -> etree._Element:
    guest = Guest("g", (port,))
    return xmlgen.interface(topology(network, guest), guest, port, NOWHERE)


def address(ip: str, assignment: Assignment) -> PortAddress:
    return PortAddress(ip_address(ip), 24, assignment)


# -- elements


def test_none_is_left_out_and_truth_is_yes_or_no() -> None:
    element = node("a", None, node("b", text="x"), [node("c"), node("d")], one=None, two=True, three=False, four=4)
    assert etree.tostring(element) == b'<a two="yes" three="no" four="4"><b>x</b><c/><d/></a>'


def test_maybe_makes_nothing_of_nothing() -> None:
    assert maybe([], "a") is None
    assert maybe([1], "a", one=1).get("one") == "1"


def test_values_cannot_become_markup() -> None:
    hostile = '\'"/><evil a="<&'
    element = node("a", node("b", text=hostile), name=hostile)
    parsed = etree.fromstring(xmlgen.to_string(element))
    assert (parsed.get("name"), parsed.findtext("b"), len(parsed), len(parsed[0])) == (hostile, hostile, 1, 0)


def test_control_characters_are_refused() -> None:
    with pytest.raises(ValueError, match="XML compatible"):
        node("a", name="\x00")


def test_printing_keeps_text_and_leaves_the_element_alone() -> None:
    element = node("a", node("b", text="one\n  two\n"), node("c"))
    assert xmlgen.to_string(element) == "<a>\n  <b>one\n  two\n</b>\n  <c/>\n</a>\n"
    assert etree.tostring(element) == b"<a><b>one\n  two\n</b><c/></a>"


def test_api_text_has_no_namespace_left() -> None:
    element = xmlgen.domain_metadata(topology(), Guest("g", (PORT,)), HostMap())
    plain = etree.fromstring(xmlgen.api_text(element))
    assert [e.tag for e in plain.iter()] == ["domain", "port"]
    assert "guestnet:" not in xmlgen.api_text(element)
    assert element.tag.startswith("{https:")


def test_fill_keeps_order_of_children() -> None:
    element = node("a")
    fill(element, node("z"), node("y"))
    assert [child.tag for child in element] == ["z", "y"]


# -- networks


def test_uuid_depends_on_names_only() -> None:
    changed = replace(NET, mode=Mode.ISOLATED, bridge="other", subnets=(IPV4,))
    same = xmlgen.network_uuid(topology(), NET)
    assert xmlgen.network_uuid(topology(changed), changed) == same
    assert xmlgen.network_uuid(topology(), replace(NET, name="net2")) != same
    assert xmlgen.network_uuid(replace(topology(), name="t2"), NET) != same


def test_ipv4_only_nat_has_no_nat66() -> None:
    assert network_xml(replace(NET, subnets=(IPV4,))).find("forward/nat") is None
    assert network_xml(replace(NET, subnets=(IPV4, IPV6))).find("forward/nat").get("ipv6") == "yes"
    assert network_xml(replace(NET, mode=Mode.ROUTE, subnets=(IPV6,))).find("forward/nat") is None


def test_ipv6_between_guests_is_asked_for_only_where_libvirt_would_drop_it() -> None:
    hostless = replace(IPV6, host=None, gateway=None)
    isolated = replace(NET, mode=Mode.ISOLATED)
    assert network_xml(replace(isolated, subnets=(IPV4, hostless))).get("ipv6") == "yes"
    assert network_xml(replace(isolated, subnets=(IPV4, IPV6))).get("ipv6") is None
    assert network_xml(replace(isolated, subnets=(IPV4,))).get("ipv6") is None


def test_unmapped_label_says_how_to_map_it() -> None:
    network = replace(NET, physical_network="lan2")
    with pytest.raises(GuestnetError) as caught:
        network_xml(network)
    assert str(caught.value) == (
        "network 'net' needs physical network 'lan2', and this host maps no device to it: "
        'add "lan2: DEVICE" under physical-networks: in /etc/libvirt-guestnet/host.yaml, '
        "or pass --map lan2=DEVICE (a NIC or a bridge of this host)"
    )


def test_bridge_of_a_nic_and_bridge_that_exists() -> None:
    network = replace(NET, mode=Mode.BRIDGE, bridge="gn-lan", mac=None, physical_network="lan")
    nic = network_xml(network, hostmap=HostMap({"lan": "eth7"}, device_is_bridge=lambda _device: False))
    assert nic.find("bridge").attrib == {"name": "gn-lan"}
    assert [e.get("device") for e in nic.iter("{*}uplink")] == ["eth7"]
    there = network_xml(network, hostmap=HostMap({"lan": "br7"}, device_is_bridge=lambda _device: True))
    assert there.find("bridge").attrib == {"name": "br7"}
    assert not list(there.iter("{*}uplink"))


def test_network_wide_bandwidth_needs_a_bridge_of_libvirts() -> None:
    network = replace(NET, mode=Mode.BRIDGE, physical_network="lan", bandwidth=Bandwidth(inbound=Rate(100)))
    with pytest.raises(GuestnetError, match=r"network 'net'.*mode bridge; set bandwidth on the ports instead"):
        network_xml(network, hostmap=HostMap({"lan": "br7"}))


def test_only_dhcp_addresses_are_reserved_and_the_others_get_a_dns_name() -> None:
    addresses = (address("10.0.0.5", Assignment.DHCP), address("fd00::5", Assignment.SLAAC))
    first, second = replace(PORT, addresses=addresses), replace(PORT, name="2nd_port", mac="52:54:00:00:00:03")
    second = replace(second, addresses=(address("10.0.0.6", Assignment.DHCP), address("10.0.0.7", Assignment.STATIC)))
    network = replace(NET, subnets=(IPV4, IPV6), dns_hosts=(DnsHost(ip_address("fd00::5"), ("www", "g")),))
    xml = network_xml(network, Guest("g", (first, second)))
    assert [dict(host.attrib) for host in xml.iterfind("ip/dhcp/host")] == [
        {"mac": "52:54:00:00:00:02", "name": "g", "ip": "10.0.0.5"},
        {"mac": "52:54:00:00:00:03", "name": "g-2nd-port", "ip": "10.0.0.6"},
    ]
    names = {host.get("ip"): [name.text for name in host] for host in xml.iterfind("dns/host")}
    assert names == {"fd00::5": ["www", "g"], "10.0.0.7": ["g-2nd-port"]}


def test_the_hosts_server_hands_out_nothing_that_is_declared() -> None:
    """Whatever `validate` says of it: dnsmasq asks nobody whether an address is in use."""
    pool = DhcpRange(IPv4Address("10.0.0.100"), IPv4Address("10.0.0.200"))
    pairs = (AddressPair(IPv4Network("10.0.0.110/32"), None), AddressPair(IPv4Network("10.0.0.128/30"), None))
    addresses = (address("10.0.0.150", Assignment.DHCP), address("10.0.0.151", Assignment.STATIC))
    port = replace(PORT, addresses=addresses, pairs=pairs, floating=(IPv4Address("10.0.0.199"),))
    port = replace(port, untranslated=(IPv4Address("10.0.0.200"), ip_address("fd00::77")))
    gateway = replace(IPV4, dhcp=pool, gateway=IPv4Address("10.0.0.100"))
    network = replace(NET, subnets=(gateway,), dns_hosts=(DnsHost(IPv4Address("10.0.0.170"), ("vip",)),))
    xml = network_xml(network, Guest("g", (port,)))
    assert [(each.get("start"), each.get("end")) for each in xml.iterfind("ip/dhcp/range")] == [
        ("10.0.0.101", "10.0.0.109"),
        ("10.0.0.111", "10.0.0.127"),
        ("10.0.0.132", "10.0.0.150"),
        ("10.0.0.152", "10.0.0.169"),
        ("10.0.0.171", "10.0.0.198"),
    ]


def test_no_dns_server_without_a_host_address() -> None:
    named = replace(PORT, addresses=(address("10.0.0.5", Assignment.STATIC),))
    xml = network_xml(replace(NET, mode=Mode.ISOLATED, subnets=(replace(IPV4, host=None),)), Guest("g", (named,)))
    assert etree.tostring(inside(xml, "dns")) == b'<dns enable="no"/>'
    assert xml.find("ip") is None


def options(network: Network) -> list[str]:
    return [attribute(option, "value") for option in network_xml(network).iter("{*}option")]


@pytest.mark.parametrize(
    ("mode", "gateways", "expected"),
    [
        (Mode.NAT, ("10.0.0.1", "fd00::1"), []),
        (Mode.NAT, ("10.0.0.2", "fd00::2"), ["dhcp-option=option:router,10.0.0.2", "ra-param=*,0,0"]),
        (Mode.ROUTE, (None, None), ["dhcp-option=option:router", "ra-param=*,0,0"]),
        (Mode.ISOLATED, ("10.0.0.2", "fd00::2"), ["dhcp-option=option:router,10.0.0.2"]),
        (Mode.ISOLATED, ("10.0.0.1", "fd00::1"), []),
        (Mode.ISOLATED, (None, None), []),
    ],
)
def test_guests_are_told_another_gateway_than_libvirt_would(
    mode: Mode, gateways: tuple[str | None, str | None], expected: list[str]
) -> None:
    pool = DhcpRange(IPv4Address("10.0.0.9"), IPv4Address("10.0.0.99"))
    ipv4, ipv6 = (ip_address(gateway) if gateway else None for gateway in gateways)
    subnets = (replace(IPV4, gateway=ipv4, dhcp=pool), replace(IPV6, gateway=ipv6))
    # With DHCP a lease always belongs to a MAC address.
    assert options(replace(NET, mode=mode, subnets=subnets)) == [*expected, "dhcp-ignore-clid"]


def test_no_dhcp_option_without_dhcp() -> None:
    assert options(replace(NET, subnets=(replace(IPV4, gateway=None),))) == []


# -- interfaces


@pytest.mark.parametrize(
    ("kind", "of_network", "of_port", "said"),
    [
        (PortKind.NETWORK, False, False, None),
        (PortKind.NETWORK, True, True, None),
        (PortKind.NETWORK, False, True, "yes"),
        (PortKind.NETWORK, True, False, "no"),
        (PortKind.BRIDGE, True, True, "yes"),
        (PortKind.BRIDGE, True, False, None),
        (PortKind.ETHERNET, True, True, None),
    ],
)
def test_isolation_is_said_where_it_is_not_inherited(
    kind: PortKind, of_network: bool, of_port: bool, said: str | None
) -> None:
    xml = interface_xml(replace(PORT, kind=kind, isolated=of_port), replace(NET, isolated_ports=of_network))
    port = xml.find("port")
    assert (None if port is None else port.get("isolated")) == said


@pytest.mark.parametrize(
    ("mode", "kind", "size"),
    [
        (Mode.NAT, PortKind.NETWORK, None),
        (Mode.NAT, PortKind.BRIDGE, "1400"),
        (Mode.NAT, PortKind.ETHERNET, "1400"),
        (Mode.BRIDGE, PortKind.NETWORK, "1400"),
    ],
)
def test_mtu_is_said_where_it_is_not_inherited(mode: Mode, kind: PortKind, size: str | None) -> None:
    mtu = interface_xml(replace(PORT, kind=kind), replace(NET, mode=mode, mtu=1400)).find("mtu")
    assert (None if mtu is None else mtu.get("size")) == size
    assert interface_xml(replace(PORT, kind=kind)).find("mtu") is None


# -- domains


NO_IMAGE = TinyImage(Path("/nonexistent"), Path("/nonexistent"))


def test_a_users_own_domain_is_not_generated() -> None:
    guest = Guest("mine", (PORT,))
    with pytest.raises(GuestnetError, match="guest 'mine' has no image"):
        xmlgen.domain(topology(NET, guest), guest, NOWHERE, image=NO_IMAGE, virt_type="qemu")
