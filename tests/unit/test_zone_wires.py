"""That no VLAN is in two zones is found without going through each VLAN of each trunk."""

from __future__ import annotations

import pytest
from steps import steps

from libvirt_guestnet.errors import TopologyError
from libvirt_guestnet.topology import loads

FILE = """
name: t
zones: [blue, red]
physical-networks: {{ lan: {{}}, other: {{}} }}
networks:
  b: {{ mode: bridge, physical-network: lan, vlan: 7, zone: blue }}
  r: {{ mode: bridge, physical-network: {label}, vlan: 8, zone: red }}
guests:
  one: {{ ports: [{{ network: b, trunk: [{blue}] }}] }}
  two: {{ ports: [{{ network: r, trunk: [{red}] }}] }}
"""


def problems(blue: str, red: str) -> list[str]:
    with pytest.raises(TopologyError) as caught:
        loads(FILE.format(label="lan", blue=blue, red=red), "t.yaml")
    return [line.partition(": ")[2] for line in str(caught.value).splitlines()]


def test_a_vlan_of_two_zones_is_named() -> None:
    shared = "that of port 'one.b' in zone blue, and port 'two.r' is in zone red: zones share no bridge and no VLAN"
    assert problems("100-110, 120", "110-130, 4000-4094") == [f"VLAN 110 on 'lan' is {shared}"]
    assert problems("4094", "1-6, 4094") == [f"VLAN 4094 on 'lan' is {shared}"]
    assert problems("8, 300", "200, 250-260, 300") == [
        "VLAN 8 on 'lan' is that of network 'r' in zone red, and port 'one.b' is in zone blue: "
        "zones share no bridge and no VLAN",
        f"VLAN 300 on 'lan' is {shared}",
    ]


def test_zones_on_labels_of_their_own_may_have_the_same_vlans() -> None:
    loads(FILE.format(label="other", blue="100-200", red="100-200"), "t.yaml")


def test_many_large_trunks_cost_no_more_than_their_number() -> None:
    """Each of these has thousands of VLANs: one by one, a file of the largest size would take many minutes."""

    def taken(count: int) -> int:
        blue = ", ".join(f"{10 + number}-{4000 - number}" for number in range(count))
        text = FILE.format(label="other", blue=blue, red="100")
        return steps(lambda each: loads(each, "t.yaml"), text)

    few, many = taken(50), taken(150)
    assert (many - few) / 100 < 1000
