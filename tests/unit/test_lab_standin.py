"""The hosts that stand for a lab's LANs."""

from __future__ import annotations

import pytest

from libvirt_guestnet import topology
from libvirt_guestnet.lab import standin

FILE = """
name: lab
physical-networks: {{ lan: {{ {} }} }}
networks: {{ office: {{ mode: bridge, physical-network: lan, subnets: {} }} }}
guests: {{ files: {{ image: tiny, ports: [{{ network: office, addresses: [{}] }}] }} }}
"""


@pytest.mark.parametrize(
    ("lan", "subnets", "address", "gateways"),
    [
        ("subnets: [198.18.1.0/24], host: [198.18.1.2]", "[]", "198.18.1.10", ("198.18.1.2",)),
        ("subnets: [198.18.1.0/24]", "[]", "198.18.1.10", ("198.18.1.10",)),
        ("subnets: [198.18.1.0/24]", "[10.1.1.0/24]", "10.1.1.10", ()),
        ("", "[10.1.1.0/24]", "10.1.1.10", ()),
    ],
)
def test_only_what_is_on_its_lan_is_a_stand_ins_gateway(
    lan: str, subnets: str, address: str, gateways: tuple[str, ...]
) -> None:
    """The kernel refuses a route by way of any other."""
    text = FILE.format(lan, subnets, address)
    found = topology.loads(text.replace(", subnets: [] }", " }"), "lab.yaml")
    assert standin.lans(found, {})[0].gateways == gateways
