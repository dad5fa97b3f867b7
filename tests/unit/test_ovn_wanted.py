"""What OVN's northbound database must have for a topology, what differs, and what libvirt has of such networks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

import pytest

from libvirt_guestnet.apply import northbound
from libvirt_guestnet.changes.northbound import changes
from libvirt_guestnet.errors import TopologyError
from libvirt_guestnet.model.network import Mode
from libvirt_guestnet.model.topology import Topology
from libvirt_guestnet.ovn import names
from libvirt_guestnet.ovn.compare import Difference, compare, held, problems
from libvirt_guestnet.ovn.hosted import hosted
from libvirt_guestnet.ovn.rows import ACL, BALANCER, DHCP, NAMED, Northbound, Ref, Row
from libvirt_guestnet.ovn.wanted import wanted
from libvirt_guestnet.topology import loads

HEAD = """
name: t
hosts:
  left: { uri: "qemu+ssh://left/system", underlay: 192.0.2.1, labels: { wan: "ovs:br-wan" } }
  right: { uri: "qemu+ssh://right/system", underlay: 192.0.2.2 }
fabric: { kind: ovn, northbound: "tcp:192.0.2.1:6641" }
physical-networks:
  wan: { subnets: [198.18.1.0/24, "fd61:1::/64"], host: [198.18.1.2, "fd61:1::2"] }
"""
BODY = """
networks:
  office: { mode: nat, physical-network: wan, subnets: [10.1.1.0/24, "fd11:1::/64"], dhcp: {}, domain: office.example }
  lone: { mode: isolated, gateway: host, isolated-ports: true, subnets: [10.1.2.0/24] }
  lan: { mode: bridge, physical-network: wan, vlan: 7, subnets: [10.7.0.0/24] }
guests:
  web:
    host: left
    ports:
      - network: office
        mac: "52:54:00:00:00:0a"
        addresses: [10.1.1.11, "fd11:1::11"]
        floating: [198.18.1.60]
        forwards: [{ services: [tcp/8080-8081], to: 80, from: [203.0.113.0/24] }]
      - { network: lone, addresses: [10.1.2.11] }
      - { network: lan, addresses: [10.7.0.11], guarded: false }
"""


def found(body: str = BODY, head: str = HEAD) -> Topology:
    return loads(head + body, "t.yaml")


def rows(topology: Topology | None = None) -> dict[Ref, Row]:
    made = wanted(topology or found())
    by_ref = {row.ref: row for row in made}
    assert len(by_ref) == len(made), "two rows of one key"
    return by_ref


def columns(table: str, key: str, *columns: str) -> tuple[object, ...]:
    row = rows()[Ref(table, key)]
    return tuple(row.columns[name] for name in columns)


def test_every_row_is_listed_by_one_that_is_wanted_too() -> None:
    made = rows()
    for row in made.values():
        assert row.parent is None or row.parent in made, row
        for value in row.columns.values():
            refs = [each for each in value if isinstance(each, Ref)] if isinstance(value, tuple) else []
            assert set(refs) <= made.keys(), row


def test_names_are_one_for_each_row() -> None:
    said = [(row.table, row.name) for row in rows().values() if row.table in NAMED]
    assert len(set(said)) == len(said)
    assert all(name for _, name in said)
    # Southbound, ports of switches and of routers are one table.
    ports = [name for table, name in said if table.endswith("_Port")]
    assert len(set(ports)) == len(ports)


def test_a_ports_row_has_the_name_that_libvirt_gives_its_tap() -> None:
    (guest,) = hosted(found()).guests
    port = guest.ports[0]
    assert port.logical_port == names.logical_port("t", "web", "office")
    name, addresses, secured = columns("Logical_Switch_Port", "web/office", "name", "addresses", "port_security")
    assert (name, addresses) == (port.logical_port, ("52:54:00:00:00:0a 10.1.1.11 fd11:1::11",))
    assert secured == ("52:54:00:00:00:0a 10.1.1.11 fd11:1::11 fe80::/64 fd11:1::/64",)


def test_a_port_without_a_guard_hears_everything_and_is_held_by_nothing() -> None:
    _, _, lan = found().guests[0].ports
    addresses, secured = columns("Logical_Switch_Port", "web/lan", "addresses", "port_security")
    assert (addresses, secured) == ((f"{lan.mac} 10.7.0.11", "unknown"), ())


def test_a_networks_mtu_is_what_the_encapsulation_leaves() -> None:
    def sizes(topology: Topology) -> list[int | None]:
        return [network.mtu for network in hosted(topology).networks]

    assert sizes(found()) == [1442, 1442, None]
    assert sizes(found(head=HEAD.replace("kind: ovn", "kind: ovn, encapsulation: vxlan"))) == [1450, 1450, None]
    six = HEAD.replace("192.0.2.1,", '"2001:db8::1",').replace("192.0.2.2 ", '"2001:db8::2" ')
    assert sizes(found(head=six)) == [1422, 1422, None]
    assert ("mtu", "1442") in columns(DHCP, "office/10.1.1.0/24", "options")[0]  # type: ignore[operator]


def test_dhcp_and_names_are_what_the_file_says() -> None:
    (options,) = columns(DHCP, "office/10.1.1.0/24", "options")
    said = dict(options)  # type: ignore[call-overload]
    assert said["domain_name"] == '"office.example"'
    assert (said["router"], said["server_id"], said["lease_time"]) == ("10.1.1.1", "10.1.1.1", "3600")
    assert columns("Logical_Switch_Port", "web/office", "dhcpv4_options") == ((Ref(DHCP, "office/10.1.1.0/24"),),)
    assert columns("Logical_Switch_Port", "web/lone", "dhcpv4_options") == ((),)
    assert ("web.office.example", "10.1.1.11 fd11:1::11") in columns("DNS", "office", "records")[0]  # type: ignore[operator]


def test_a_bridged_network_is_on_its_physical_network_in_its_vlan() -> None:
    assert columns("Logical_Switch_Port", "lan/to/localnet", "type", "options", "tag") == (
        "localnet",
        (("network_name", "wan"),),
        ("7",),
    )


def test_forwards_and_floating_addresses_reach_their_guest_and_nothing_else_does() -> None:
    vips = dict(columns(BALANCER, "web/office/tcp", "vips")[0])  # type: ignore[call-overload]
    assert vips == {"198.18.1.2:8080": "10.1.1.11:80", "198.18.1.2:8081": "10.1.1.11:81"}
    let = {row.columns["match"] for row in rows().values() if row.table == ACL and row.columns["action"] != "drop"}
    outport = f'outport == "{names.logical_port("t", "web", "office")}"'
    forwarded = "ip4.dst == 10.1.1.11 && ip4.src == {203.0.113.0/24} && 80 <= tcp.dst <= 81"
    assert {f"{outport} && ip4", f"{outport} && {forwarded}"} <= let
    # Not every host reaches the physical network: so the router's gateway translates, and no host of the guest's.
    assert columns("NAT", "wan/198.18.1.60", "type", "logical_ip", "logical_port") == (
        "dnat_and_snat",
        "10.1.1.11",
        (),
    )
    everywhere = HEAD.replace("192.0.2.2 }", "192.0.2.2, labels: { wan: br-wan } }")
    there = rows(found(head=everywhere))[Ref("NAT", "wan/198.18.1.60")]
    assert there.columns["logical_port"] == (names.logical_port("t", "web", "office"),)


def test_no_match_says_what_several_prefixes_are_not() -> None:
    """OVN makes a flow for each combination: 82,000 of three IPv6 prefixes."""
    assert [row for row in rows().values() if row.table == ACL and "!=" in str(row.columns["match"])] == []


def test_each_zone_has_a_router_of_its_own() -> None:
    head = HEAD.replace("name: t", "name: t\nzones: [red, blue]")
    head = head.replace("198.18.1.2,", "198.18.1.2, 198.18.1.3,").replace('fd61:1::2"', 'fd61:1::2", "fd61:1::3"')
    body = """
networks:
  a: { mode: nat, physical-network: wan, zone: red, subnets: [10.1.1.0/24] }
  b: { mode: nat, physical-network: wan, zone: blue, subnets: [10.1.2.0/24] }
"""
    made = rows(found(body, head))
    own = {ref.key: row.columns["networks"] for ref, row in made.items() if ref.key.endswith("/to/outside")}
    assert own["wan/red/to/outside"] == ("198.18.1.2/24", "fd61:1::2/64")
    assert own["wan/blue/to/outside"] == ("198.18.1.3/24", "fd61:1::3/64")


def test_libvirt_has_ports_of_one_bridge_and_nothing_that_ovn_does() -> None:
    there = hosted(found())
    for network in there.networks:
        assert (network.mode, network.bridge, network.physical_network) == (Mode.BRIDGE, "br-int", None)
    assert len({network.link for network in there.networks}) == 3
    assert [(p.forwards, p.floating, p.vlan) for p in there.guests[0].ports] == [((), (), None)] * 3


def test_a_topology_without_ovn_is_left_as_it_is() -> None:
    plain = loads("name: t\nnetworks: { a: { mode: isolated } }", "t.yaml")
    assert hosted(plain) is plain
    assert wanted(plain) == ()


def there(made: Sequence[Row]) -> Northbound:
    return Northbound({row.ref: row for row in made})


def test_what_is_there_is_left_alone_and_the_rest_is_made_in_order() -> None:
    made = wanted(found())
    assert compare(made, there(made)) == ()
    known: set[Ref] = set()
    for each in compare(made, Northbound()):
        assert each.row.parent is None or each.row.parent in known, each
        known.add(each.row.ref)
    assert len(known) == len(made)


def test_a_changed_a_moved_and_a_foreign_row() -> None:
    made = wanted(found())
    ref = Ref("Logical_Switch_Port", "web/office")
    other = {row.ref: row for row in made}
    other[ref] = replace(other[ref], columns={**other[ref].columns, "addresses": ("unknown",)})
    (changed,) = compare(made, Northbound(other))
    assert changed.detail() == "addresses {unknown} -> {52:54:00:00:00:0a 10.1.1.11 fd11:1::11}"
    other[ref] = replace(other[ref], parent=Ref("Logical_Switch", "lone"))
    assert [(each.old is None, each.new is None) for each in compare(made, Northbound(other))] == [
        (False, True),
        (True, False),
    ]
    taken = Northbound(others={("Logical_Switch", "t/office"): "", ("Logical_Router", "t/router/wan"): "x"})
    said = list(problems(made, taken, "here"))
    assert len(said) == 2
    assert "somebody else than guestnet made it" in said[0] + said[1]
    assert "topology 'x' made it" in said[0] + said[1]
    full = Northbound({row.ref: row for row in made}, guests={Ref("Logical_Switch", "lan"): ("port x",)})
    (held_up,) = held(made, full, "here")
    assert "has port x, which guestnet did not make" in held_up


class Recorder:
    """Stands for the database."""

    def __init__(self, fails: bool = False) -> None:
        self.fails, self.made = fails, list[Sequence[Difference]]()

    def commit(self, topology: str, differences: Sequence[Difference]) -> None:
        if self.fails and self.made:
            raise OSError("gone")
        self.made.append(differences)


@pytest.mark.parametrize("fails", [False, True])
def test_all_changes_are_one_transaction_that_is_taken_back_whole(fails: bool) -> None:
    differences, database = compare(wanted(found()), Northbound()), Recorder(fails)
    made = changes(database, "t", differences)
    assert [each.verb for each in made] == ["define"] * len(differences)
    left: list[str] = []
    with ExitStack() as undo:
        northbound.make(made, undo, left)
        assert database.made == [differences]
    if fails:
        assert left == ["change OVN's northbound database back: gone"]
    else:
        assert database.made[1] == [each.reverse() for each in reversed(differences)]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("mode: nat, phys", "mode: open, phys", "OVN has no mode open"),
        ("mode: nat, physical-network: wan,", "mode: nat,", "needs physical-network"),
        ("dhcp: {}", "dhcp: { range: [10.1.1.100, 10.1.1.200] }", "leave range out"),
        ("dhcp: {}", "dhcp: { options: { nis-domain: x } }", "no DHCP option nis-domain"),
        ("dhcp: {}", "dhcp: { boot: { file: x } }", "have a guest serve DHCP"),
        ("dhcp: {}", "dhcp: { reservations: [{ address: 10.1.1.9, mac: '52:54:00:00:00:01' }] }", "reservations out"),
        ("dhcp: {}", "dns-texts: [{ name: a.b, text: c }]", "no TXT records"),
        ("dhcp: {}", "dns-forwarders: [{ domain: a.b, address: 10.0.0.1 }]", "asks nobody for names"),
        ("dhcp: {}", "bridge: br9", "leave bridge out"),
        ("dhcp: {}", "bandwidth: { inbound: { average: 1 } }", "limit its ports"),
        ("host: left", "host: right", "says under labels no bridge for 'wan'"),
        ("guarded: false", "trunk: [5-7]", "ports have no VLANs of their own"),
        ("guarded: false", "kind: bridge", "leave kind out"),
        ("guarded: false", "floating: [198.18.1.61]", "no router for floating"),
        ("floating: [198.18.1.60]", "floating-untranslated: [198.18.1.60]", "say floating"),
        ("tcp/8080-8081], to: 80", "gre], at: [198.18.1.7]", "OVN forwards tcp, udp, sctp only"),
    ],
)
def test_what_ovn_cannot_do_is_refused_with_its_place(old: str, new: str, said: str) -> None:
    assert old in BODY
    with pytest.raises(TopologyError) as refused:
        found(BODY.replace(old, new))
    assert [each for each in refused.value.problems if said in each.message and each.where.line > 9], refused.value
