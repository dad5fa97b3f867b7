"""Derived values are fixed for ever: a changed digest would renumber every user's guests."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from uuid import UUID

import pytest

from libvirt_guestnet.model.network import DhcpRange
from libvirt_guestnet.model.slaac import eui64
from libvirt_guestnet.topology import addressing

NET = IPv4Network("10.0.1.0/24")


def test_known_values() -> None:
    assert addressing.mac("archnetwork", "a", "vlan1") == "52:54:00:2d:f7:31"
    assert addressing.tap("archnetwork", "b", "vlan1") == "vme57436df2"
    assert addressing.guest_uuid("archnetwork", "a") == "7d061656-64ad-85e4-bbd0-cfa41187aeee"
    assert addressing.Pool(NET).derive("archnetwork", "a", "vlan1") == IPv4Address("10.0.1.233")


def test_names_do_not_run_together() -> None:
    assert addressing.mac("a", "bc") != addressing.mac("ab", "c")


def test_uuid_is_of_the_custom_version() -> None:
    made = UUID(addressing.guest_uuid("t", "g"))
    assert (made.version, made.variant) == (8, "specified in RFC 4122")


@pytest.mark.parametrize("name", ["lan", "exactly-12-ch"[:12], "a name", "büro", "very-long-network-name", "x" * 128])
def test_bridge_names_fit_the_kernel(name: str) -> None:
    device = addressing.bridge(name)
    assert device.startswith("gn-")
    assert len(device) <= 15
    assert device.isascii()
    assert not set(device) & set("/: \n")


def test_short_bridge_names_stay_readable_and_long_ones_distinct() -> None:
    assert addressing.bridge("lan") == "gn-lan"
    assert addressing.bridge("very-long-network-1") != addressing.bridge("very-long-network-2")
    assert addressing.bridge("a b") != addressing.bridge("a-b")


def test_eui64_is_rfc4291s() -> None:
    made = eui64(IPv6Network("fd61:1::/64"), "52:54:00:2d:f7:31")
    assert made == IPv6Address("fd61:1::5054:ff:fe2d:f731")
    made = eui64(IPv6Network("2001:db8::/64"), "34:56:78:9a:bc:de")
    assert made == IPv6Address("2001:db8::3656:78ff:fe9a:bcde")


def test_derived_addresses_avoid_what_is_spoken_for() -> None:
    dhcp = DhcpRange(IPv4Address("10.0.1.128"), IPv4Address("10.0.1.254"))
    taken = [NET[number] for number in range(1, 100)]
    pool = addressing.Pool(NET, taken, dhcp)
    found = {pool.derive("t", f"g{number}") for number in range(500)}
    assert found == {NET[number] for number in range(100, 128)}


def test_an_address_taken_elsewhere_does_not_move_others() -> None:
    before = {name: addressing.Pool(NET).derive(name) for name in map(str, range(100))}
    victim = before["7"]
    assert victim is not None
    after = {name: addressing.Pool(NET, [victim]).derive(name) for name in map(str, range(100))}
    moved = {name for name in before if before[name] != after[name]}
    assert moved == {name for name in before if before[name] == victim}


def test_a_full_subnet_gives_nothing() -> None:
    assert (
        addressing.Pool(IPv4Network("10.0.1.0/30"), [IPv4Address("10.0.1.1"), IPv4Address("10.0.1.2")]).derive("x")
        is None
    )


def test_the_last_free_address_is_found_in_a_large_subnet() -> None:
    huge = IPv4Network("10.0.0.0/8")
    dhcp = DhcpRange(huge[2], huge[-2])
    assert addressing.Pool(huge, [], dhcp).derive("x") == huge[1]


def test_suggestions_are_neither_derived_nor_repeated() -> None:
    pool = addressing.Pool(IPv4Network("10.0.1.0/29"), [IPv4Address("10.0.1.1")])
    derived = pool.derive("x")
    suggested = []
    while (free := pool.free()) is not None:
        pool.take(free)
        suggested.append(free)
    assert derived not in suggested
    assert len(suggested) == len(set(suggested)) == 4


def test_ipv6_beyond_64_bits_is_hashed_too() -> None:
    prefix = IPv6Network("fd00:1::/112")
    found = addressing.Pool(prefix).derive("t", "g")
    assert found in prefix
    assert found != prefix.network_address
