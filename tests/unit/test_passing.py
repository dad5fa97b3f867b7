"""What routed networks exchange: exactly what is behind their bridges, and never past a third network's rejects."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libvirt_guestnet.datapath.firewalls import iptables
from libvirt_guestnet.datapath.firewalls.accepts import Masqueraded, Passage, RoutedLink
from libvirt_guestnet.datapath.routing.routes import HostRoutes, Route
from libvirt_guestnet.hook.enforce.allow_rules import passages
from libvirt_guestnet.state.locked import LockedState, UnlockedState
from libvirt_guestnet.state.receipts import NetworkReceipt, ProxyEntry


@pytest.fixture
def state(tmp_path: Path) -> Iterator[LockedState]:
    with UnlockedState(str(tmp_path)).lock() as locked:
        yield locked


def network(state: LockedState, name: str, outside: str, *subnets: str) -> None:
    state.put_network(NetworkReceipt(name, "t", True, f"gn-{name}", subnets=subnets, outside=outside))


def add_routes(state: LockedState, *routes: Route) -> None:
    state.put_host_routes(HostRoutes(f"vme{hash(routes) & 0xFFFFFF:08x}", "u", "g", routes))


def shown(state: LockedState) -> set[str]:
    found = [each for each in passages(state) if isinstance(each, Passage)]
    return {f"{p.bridge} {p.guest} = {p.other} {p.far or ''}".strip() for p in found}


def test_a_subnet_passes_between_its_bridge_and_its_device(state: LockedState) -> None:
    network(state, "a", "wan", "10.0.1.0/24", "fd00:1::/64")
    assert shown(state) == {"gn-a 10.0.1.0/24 = wan", "gn-a fd00:1::/64 = wan"}


def test_networks_of_one_device_reach_each_other_within_a_family(state: LockedState) -> None:
    network(state, "a", "wan", "10.0.1.0/24", "fd00:1::/64")
    network(state, "b", "wan", "10.0.2.0/24")
    network(state, "c", "lan", "10.0.3.0/24")
    between = {line for line in shown(state) if line.count("gn-") == 2}
    assert between == {"gn-a 10.0.1.0/24 = gn-b 10.0.2.0/24"}


def test_what_is_behind_a_guest_passes_where_its_network_does(state: LockedState) -> None:
    network(state, "a", "wan", "10.0.1.0/24")
    network(state, "b", "wan", "10.0.2.0/24")
    before = shown(state)
    add_routes(state, Route("10.9.0.0/24", "gn-a", "10.0.1.5"), Route("198.18.1.7/32", "gn-b"))
    assert shown(state) - before == {"gn-a 10.9.0.0/24 = wan", "gn-a 10.9.0.0/24 = gn-b 10.0.2.0/24"}


def test_other_networks_have_nothing_of_ours(state: LockedState) -> None:
    network(state, "nat", "", "10.0.1.0/24")  # nat, isolated, open, and routed to anywhere
    assert passages(state) == []


def test_what_is_behind_a_guest_of_such_a_network_passes_what_nobody_rejects(state: LockedState) -> None:
    network(state, "open", "", "10.0.1.0/24")
    add_routes(state, Route("10.9.0.0/24", "gn-open", "10.0.1.5"), Route("198.18.1.7/32", "gn-open"))
    assert passages(state) == [RoutedLink("gn-open", ip_network("10.9.0.0/24"))]


def test_on_a_nat_network_only_what_is_behind_a_guest_passes(state: LockedState) -> None:
    state.put_network(NetworkReceipt("n", "t", True, "gn-n", subnets=("10.0.1.0/24",), nat_outside="wan"))
    network(state, "a", "wan", "10.0.2.0/24")
    add_routes(state, Route("198.18.1.7/32", "gn-n", "10.0.1.5"))
    assert shown(state) == {"gn-a 10.0.2.0/24 = wan", "gn-n 198.18.1.7/32 = wan"}


def test_whatever_is_routed_to_a_tap_of_its_own_passes(state: LockedState) -> None:
    routes = (Route("192.0.2.7/32", "vme1"), Route("10.8.0.0/24", "vme1", "192.0.2.7"))
    state.put_host_routes(HostRoutes("vme1", "u", "g", routes, gateway="169.255.30.1"))
    assert passages(state) == [
        RoutedLink("vme1", ip_network("192.0.2.7/32")),
        RoutedLink("vme1", ip_network("10.8.0.0/24")),
    ]


def test_what_is_behind_a_guest_of_a_nat_network_leaves_it_translated(state: LockedState) -> None:
    for name, outside, versions in (("any", "", (4,)), ("one", "wan", (4, 6))):
        receipt = NetworkReceipt(name, "t", True, f"gn-{name}", nat_outside=outside, mode="nat", translates=versions)
        state.put_network(receipt)
        routes = (Route("10.9.0.0/24", f"gn-{name}", "10.0.1.5"), Route("fd09::/64", f"gn-{name}", "fd00::5"))
        state.put_host_routes(HostRoutes(f"vme-{name}", "u", "g", routes, behind=("10.9.0.0/24", "fd09::/64")))
    four, six = ip_network("10.9.0.0/24"), ip_network("fd09::/64")
    assert passages(state) == [
        Passage("gn-any", four, "gn-any"),
        Masqueraded("gn-any", four),
        Passage("gn-any", six, "gn-any"),  # libvirt does not translate IPv6 there
        Passage("gn-one", four, "gn-one"),
        Masqueraded("gn-one", four, "wan"),
        Passage("gn-one", six, "gn-one"),
        Masqueraded("gn-one", six, "wan"),
    ]


def test_what_is_behind_a_guest_of_an_isolated_network_stays_inside(state: LockedState) -> None:
    state.put_network(NetworkReceipt("n", "t", True, "gn-n", mode="isolated"))
    state.put_host_routes(
        HostRoutes("vme1", "u", "g", (Route("10.9.0.0/24", "gn-n", "10.0.1.5"),), behind=("10.9.0.0/24",))
    )
    assert passages(state) == [Passage("gn-n", ip_network("10.9.0.0/24"), "gn-n")]


def test_host_routed_guests_and_routed_networks_of_the_lan_where_they_are_published(state: LockedState) -> None:
    for name, outside, number in (("a", "wan", 3), ("b", "lan", 4)):
        network(state, name, outside, f"10.0.{number}.0/24")
    before = shown(state)
    found = HostRoutes("vme1", "u", "g", (Route("192.0.2.7/32", "vme1"),), (ProxyEntry("192.0.2.7", "wan"),))
    state.put_host_routes(found)
    assert shown(state) - before == {"gn-a 10.0.3.0/24 = vme1 192.0.2.7/32"}
    state.put_host_routes(found._replace(vrf="red"))
    assert shown(state) == before


def test_what_comes_from_a_tap_in_a_vrf_comes_from_the_vrf(state: LockedState) -> None:
    routes = (Route("192.0.2.7/32", "vme1", table=10),)
    state.put_host_routes(HostRoutes("vme1", "u", "g", routes, gateway="169.255.30.1", vrf="red"))
    assert passages(state) == [link := RoutedLink("vme1", ip_network("192.0.2.7/32"), "red")]
    assert [line for line in iptables.batch([link], ["-P FORWARD DROP"]).splitlines() if "192.0.2.7" in line] == [
        "-A GUESTNET-ROUTED -o vme1 -d 192.0.2.7/32 -j ACCEPT",
        "-A GUESTNET-ROUTED -i red -s 192.0.2.7/32 -j ACCEPT",
    ]


@settings(max_examples=50)
@given(st.dictionaries(st.integers(1, 9), st.sampled_from(["", "wan", "lan"])))
def test_two_bridges_are_joined_exactly_if_their_device_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, networks: dict[int, str]
) -> None:
    state = UnlockedState(str(tmp_path_factory.mktemp("state")))
    with state.lock() as locked:
        for number, outside in networks.items():
            network(locked, f"n{number}", outside, f"10.0.{number}.0/24")
    found = [each for each in passages(state) if isinstance(each, Passage)]
    assert len(found) == len(passages(state))
    joined = {frozenset((p.bridge, p.other)) for p in found if p.other.startswith("gn-")}
    wanted = {
        frozenset((f"gn-n{a}", f"gn-n{b}")) for a, b in combinations(networks, 2) if networks[a] == networks[b] != ""
    }
    assert joined == wanted
    assert all(p.other and ip_network(p.guest) for p in found)
