"""`auto` VLANs and VNIs: who gets which number out of a pool."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libvirt_guestnet.errors import TopologyError
from libvirt_guestnet.model.topology import Topology
from libvirt_guestnet.topology import addressing, loads

HEAD = """name: {name}
physical-networks:
  lan: {{ vlans: [100-119, 200], vnis: [5000-5009] }}
networks:
"""
NAMES = [f"n{index}" for index in range(21)]  # as many as the pool has VLANs


def load(names: list[str], *more: str, topology: str = "t") -> Topology:
    lines = [f"  {name}: {{ mode: bridge, physical-network: lan, vlan: auto }}\n" for name in names]
    return loads(HEAD.format(name=topology) + "".join([*lines, *(f"  {line}\n" for line in more)]), "t.yaml")


def vlans(topology: Topology) -> dict[str, int | None]:
    return {network.name: network.vlan for network in topology.networks}


def test_a_pool_is_used_to_its_last_number_and_no_number_twice() -> None:
    assert sorted(v for v in vlans(load(NAMES)).values() if v) == [*range(100, 120), 200]
    with pytest.raises(TopologyError, match=r"pool of physical network 'lan' has run out: it has 21 VLANs \(100-119"):
        load([*NAMES, "one-more"])


def test_explicit_numbers_are_never_drawn() -> None:
    fixed = [f"f{vlan}: {{ mode: bridge, physical-network: lan, vlan: {vlan} }}" for vlan in range(100, 119)]
    topology = load(["a", "b"], *fixed)
    assert {topology.network("a").vlan, topology.network("b").vlan} == {119, 200}


def test_a_ports_own_vlan_is_not_drawn_but_a_trunks_may_be() -> None:
    ports = "{ network: f, addresses: [], vlan: 119 }", "{ network: f, name: t, addresses: [], trunk: [100-200], %s }"
    fixed = [f"f{vlan}: {{ mode: bridge, physical-network: lan, vlan: {vlan} }}" for vlan in range(100, 119)]
    text = HEAD.format(name="t") + "".join(f"  {line}\n" for line in fixed)
    text += "  f: { mode: bridge, physical-network: lan }\n  a: { mode: bridge, physical-network: lan, vlan: auto }\n"
    text += f"guests: {{ g: {{ ports: [{ports[0]}, {ports[1] % 'guarded: false'}] }} }}\n"
    assert loads(text, "t.yaml").network("a").vlan == 200


@given(st.permutations(NAMES), st.integers(1, 20))
def test_a_network_at_the_end_moves_nobody(order: list[str], count: int) -> None:
    before, after = vlans(load(order[:count])), vlans(load(order[: count + 1]))
    assert before.items() <= after.items()


@given(st.permutations(NAMES), st.integers(0, 20))
def test_a_network_taken_away_moves_no_earlier_one(order: list[str], gone: int) -> None:
    before, after = vlans(load(order)), vlans(load(order[:gone] + order[gone + 1 :]))
    assert all(after[name] == before[name] for name in order[:gone])


def test_the_numbers_are_the_same_tomorrow() -> None:
    topology = load(["red", "blue"], "v: { mode: bridge, vxlan: { vni: auto, underlay: lan, group: 239.1.1.1 } }")
    assert vlans(topology) == {"red": 111, "blue": 116, "v": None}
    vxlan = topology.network("v").vxlan
    assert vxlan is not None
    assert vxlan.vni == 5007
    assert topology.network("red").bridge == "gn-lan.111"
    assert all(network.drawn for network in topology.networks)


def test_two_topologies_usually_draw_different_numbers_of_one_pool() -> None:
    ours, theirs = (load(["red", "blue"], topology=name) for name in ("t", "other"))
    assert vlans(ours) != vlans(theirs)


@given(st.lists(st.tuples(st.integers(1, 4000), st.integers(0, 90)), max_size=5), st.sets(st.integers(1, 4094)))
def test_what_is_drawn_is_in_the_pool_and_free(spans: list[tuple[int, int]], taken: set[int]) -> None:
    pool = [(first, first + more) for first, more in spans]
    free = {number for first, last in pool for number in range(first, last + 1)} - taken
    number = addressing.draw(pool, taken, "x")
    assert number in free if free else number is None
