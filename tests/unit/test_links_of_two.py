"""Subnets with two addresses (/31, /127): one for each end. `tests/guest/test_routed_lab.py` sends packets over one."""

from __future__ import annotations

import pytest

from libvirt_guestnet.errors import TopologyError
from libvirt_guestnet.topology import loads

FILE = """name: t
physical-networks: { wan: { subnets: [198.18.1.0/31, "fd61::/127"] } }
networks:
  up: { mode: nat, physical-network: wan, subnets: [10.0.9.0/31, "fd00:9::/127"] }
  between: { mode: isolated, subnets: [10.0.8.0/31, "fd00:8::/127"] }
  mixed: { mode: nat, subnets: [10.0.7.0/31, 10.0.6.0/24, "fd00:7::/127", "fd00:6::/64"], dhcp: {}, dhcp6: {} }
guests:
  a: { ports: [{ network: up }, { network: between }, { network: mixed, addresses: [10.0.7.0, "fd00:7::"] }] }
  b: { ports: [{ network: between, addresses: [10.0.8.1, "fd00:8::1"] }] }
"""


def test_the_host_has_the_upper_address_and_the_guest_the_lower() -> None:
    found = loads(FILE, "t.yaml")
    assert [str(each.host) for each in found.network("up").subnets] == ["10.0.9.1", "fd00:9::1"]
    ports = {f"{guest.name}.{port.name}": port for guest in found.guests for port in guest.ports}
    addresses = {name: [f"{a.ip}/{a.prefix_length}" for a in port.addresses] for name, port in ports.items()}
    assert addresses["a.up"] == ["10.0.9.0/31", "fd00:9::/127"]
    assert addresses["a.between"] == ["10.0.8.0/31", "fd00:8::/127"]
    assert addresses["b.between"] == ["10.0.8.1/31", "fd00:8::1/127"]
    assert addresses["a.mixed"][:2] == ["10.0.7.0/31", "fd00:7::/127"]
    (wan,) = found.physical_networks
    assert [*map(str, wan.stand_in), *map(str, wan.host)] == ["198.18.1.1", "fd61::1", "198.18.1.0", "fd61::"]


def test_dhcp_is_of_a_subnet_with_room() -> None:
    subnets = loads(FILE, "t.yaml").network("mixed").subnets
    assert {str(each.prefix) for each in subnets if each.dhcp or each.dhcp6} == {"10.0.6.0/24", "fd00:6::/64"}


NAT = "name: t\nnetworks: {{ a: {{ mode: nat, subnets: [{}], {} }} }}\nguests:\n"
GUESTS = ["  a: { ports: [{ network: a }] }", "  b: { ports: [{ network: a }] }"]


@pytest.mark.parametrize(("subnet", "more", "guests", "message"), [
    ("10.0.9.0/31", "dhcp: {}", GUESTS[:1], "dhcp needs an IPv4 subnet on the network with room for a range"),
    ('"fd00::/127"', "dhcp6: {}", GUESTS[:1], "dhcp6 needs an IPv6 subnet on the network with room for a range"),
    ("10.0.9.0/31", "dhcp: { range: [10.0.9.0, 10.0.9.0] }", GUESTS[:1], "with room for a range"),
    ('"fd00::/127"', 'dhcp6: { range: ["fd00::", "fd00::"] }', GUESTS[:1], "with room for a range"),
    ("10.0.9.0/31", "mtu: 1400", GUESTS, "10.0.9.0, is also that of port 'a.a'; the subnet is full"),
    ("10.0.9.0/31", "mtu: 1400", ["  a: { ports: [{ network: a, addresses: [10.0.9.1] }] }"], "already the address of"),
    ("10.0.9.0/32", "mtu: 1400", GUESTS[:1], "10.0.9.0/32 is too small for a network: /31 is the smallest"),
])  # fmt: skip
def test_what_does_not_fit_is_an_error(subnet: str, more: str, guests: list[str], message: str) -> None:
    with pytest.raises(TopologyError) as error:
        loads(NAT.format(subnet, more) + "\n".join(guests), "t.yaml")
    assert message in str(error.value)
