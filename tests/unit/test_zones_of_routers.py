"""Two zones behind virtual routers: both have the subnet that routers have by default, and meet on a public network."""

from __future__ import annotations

from libvirt_guestnet.topology import loads

TEXT = """
name: t
zones: [blue, red]
physical-networks: { provider: { traffic: [public] } }
networks:
  wan: { mode: bridge, physical-network: provider, subnets: [203.0.113.0/24], zone: public }
  b: { mode: isolated, zone: blue }
  r: { mode: isolated, zone: red }
routers:
  blue-edge: { tiers: { b: { egress: allow } }, public: { wan: { addresses: [203.0.113.2], gateways: [203.0.113.1] } } }
  red-edge: { tiers: { r: { egress: allow } }, public: { wan: { addresses: [203.0.113.3], gateways: [203.0.113.1] } } }
guests:
  b1: { image: tiny, ports: [{ network: b, addresses: [10.1.1.11] }] }
  r1: { image: tiny, ports: [{ network: r, addresses: [10.1.1.11] }] }
"""


def test_each_zone_has_a_router_of_its_own_with_the_same_subnet() -> None:
    found = loads(TEXT, "t.yaml")
    assert {n.name: n.zone for n in found.networks} == {"wan": None, "b": "blue", "r": "red", "t-control": None}
    assert [str(found.network(name).subnets[0].prefix) for name in ("b", "r")] == ["10.1.1.0/24"] * 2
