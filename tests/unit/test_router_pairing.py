"""Two virtual routers of one name in the file: what is made of it, and what their disks say of each other."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.topology_files import read_yaml

from libvirt_guestnet.errors import TopologyError
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.model.topology import Topology
from libvirt_guestnet.router import disks, folder, pairing
from libvirt_guestnet.router.config import router_config
from libvirt_guestnet.router.document import document
from libvirt_guestnet.topology import loads
from libvirt_guestnet.topology.virtual_routers import control_number
from libvirt_guestnet.xmlgen.policy import network_policy

HOST = HostMap({})
LABS = Path(__file__).parents[2] / "labs"
ALONE = (LABS / "virtual-router.yaml").read_text()
TWO = ALONE.replace("  edge:\n", "  edge:\n    redundant: true\n")


@pytest.fixture
def routers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Topology:
    """A topology of two, and a host that has their disks."""
    monkeypatch.setattr(folder, "ROUTERS", tmp_path)
    topology = loads(TWO, "t.yaml")
    for guest in topology.guests:
        if guest.virtual_router:
            (tmp_path / guest.name).mkdir()
            path = folder.disk(guest.name, disks.CONFIG)
            disks.ensure_disk(path, disks.CONFIG_BYTES)
            disks.write(path, document(router_config(topology, guest)).encoded())
    return topology


def test_they_share_what_neighbours_know_and_nothing_else() -> None:
    topology = loads(TWO, "t.yaml")
    one, two = (router_config(topology, topology.guest(name)) for name in ("edge", "edge-2"))
    assert one.name == two.name == "edge"
    for mine, yours in zip(one.traffic_nics, two.traffic_nics, strict=True):
        assert (mine.addresses, mine.virtual_mac) == (yours.addresses, yours.virtual_mac)
        assert mine.mac != yours.mac
        assert mine.virtual_mac not in ("", mine.mac, yours.mac)
    assert one.sync and two.sync
    assert (one.sync.address.ip, one.sync.peer) == (two.sync.peer, two.sync.address.ip)
    assert one.control.address != two.control.address
    assert (one.forwards, one.static_nat, one.guests[0].dhcp) == (two.forwards, two.static_nat, two.guests[0].dhcp)


def test_each_port_may_use_the_shared_addresses_with_the_shared_mac_address_alone() -> None:
    topology = loads(TWO, "t.yaml")
    for name in ("edge", "edge-2"):
        port = next(port for port in topology.guest(name).ports if port.network == "office")
        assert port.addresses == ()
        assert {pair.mac for pair in port.pairs} == {
            router_config(topology, topology.guest("edge")).guests[0].virtual_mac
        }
        assert {"10.1.1.1/32", "fd11:1::1/128"} <= {str(pair.prefix) for pair in port.pairs}


def test_the_first_one_has_the_devices_that_it_has_alone() -> None:
    alone, first = loads(ALONE, "t.yaml").guest("edge"), loads(TWO, "t.yaml").guest("edge")
    assert [(port.mac, port.tap) for port in first.ports[:-1]] == [(port.mac, port.tap) for port in alone.ports]


@pytest.mark.parametrize("name", ["edge", "edge-2"])
def test_each_finds_the_other_by_their_disks(routers: Topology, name: str) -> None:
    pair = pairing.pair_of(name)
    assert pair is not None
    assert [member.router for member in pair] == ["edge", "edge-2"]
    for member in pair:
        config = router_config(routers, routers.guest(member.router))
        assert member.address == config.control.address.ip
        assert member.macs == {nic.mac for nic in config.traffic_nics}


def test_one_whose_second_is_gone_is_alone(routers: Topology) -> None:
    folder.disk("edge-2", disks.CONFIG).unlink()
    assert pairing.pair_of("edge") is None
    assert pairing.pair_of("nobody") is None


def test_the_seconds_name_is_nobody_elses() -> None:
    document = read_yaml(LABS / "virtual-router.yaml")
    assert "edge-2" not in document["guests"]
    with pytest.raises(TopologyError, match="'edge-2' is the second router's name, and a guest's or router's"):
        loads(TWO.replace("  desk:", "  edge-2:").replace("desk", "edge-2"), "t.yaml")


def _many(names: list[str], topology: str = "t") -> str:
    """So many redundant routers, each with a network of its own, on one public one."""
    networks = "".join(
        f"  n{number}: {{ mode: isolated, subnets: [10.{number}.0.0/24] }}\n" for number in range(len(names))
    )
    routers = "".join(
        f"  {name}: {{ redundant: true, tiers: {{ n{number}: {{ egress: deny }} }},"
        f" public: {{ public: {{ addresses: [198.18.0.{number + 2}] }} }} }}\n"
        for number, name in enumerate(names)
    )
    public = "  public: { mode: isolated, subnets: [198.18.0.0/16] }\n"
    return f"name: {topology}\nnetworks:\n{public}{networks}routers:\n{routers}"


def _controls(topology: Topology) -> list[str]:
    return [str(router_config(topology, guest).control.address.ip) for guest in topology.guests if guest.virtual_router]


def test_second_routers_of_several_pairs_have_addresses_of_their_own() -> None:
    """Both are derived from names, and some names come to the same."""
    names = [f"r{number}" for number in range(40)]
    found = _controls(loads(_many(names), "t.yaml"))
    assert len(set(found)) == len(found) == 80


def test_two_routers_meet_beside_the_control_network() -> None:
    """That one has a number that is derived from the topology's name: any of the link-local ones but a few."""
    for wanted in (250, 251, 24):
        name = next(f"t{number}" for number in range(10_000) if control_number(f"t{number}") == wanted)
        topology = loads(_many(["edge"], name), "t.yaml")
        config = router_config(topology, topology.guest("edge"))
        assert str(config.control.address.prefix) == f"169.254.{wanted}.0/24"
        assert config.sync
        assert not config.sync.address.prefix.overlaps(config.control.address.prefix)


def test_more_routers_than_their_control_network_has_room_for_are_refused() -> None:
    with pytest.raises(TopologyError, match="a topology has at most 200 routers, a redundant one counting as two"):
        loads(_many([f"r{number}" for number in range(101)]), "t.yaml")


def test_ports_learn_from_the_mac_address_that_both_have() -> None:
    ranged, bare = (
        loads(TWO, "t.yaml"),
        loads(TWO.replace("    dhcp: { range: [10.1.1.100, 10.1.1.199], lease: 1h }\n", ""), "t.yaml"),
    )
    config = router_config(ranged, ranged.guest("edge-2"))
    found, none = (network_policy(each, each.network("office"), HOST).dhcp for each in (ranged, bare))
    assert found is not None
    assert (found.mac, found.routers, found.lease) == (config.guests[0].virtual_mac, ("edge", "edge-2"), 3600)
    assert found.addresses == tuple(each.ip for each in config.guests[0].addresses)
    assert found.lease6 is None, "no range"
    assert none is None, "each guest of the file has an address in its own policy"
