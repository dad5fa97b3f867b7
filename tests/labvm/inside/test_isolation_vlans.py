"""`guestnet verify --isolation` where networks are VLANs, of a VLAN-aware bridge, a NIC's devices or Open vSwitch: a
membership too many, a trunk port and cables are found. `doctor` hints at a VLAN from which nothing comes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from support import labvm_ovs as ovs
from support.labvm_host import DOT1Q, Tap, frame, ip
from support.labvm_real import Real

from libvirt_guestnet.sandbox import Sandbox, python_inside
from libvirt_guestnet.topology import loads

pytestmark = pytest.mark.only(
    "bookworm"
)  # minutes: the other one has test_external_bridges.py and test_router_vlans.py

FOUND = loads(
    """
name: t
physical-networks: { lan: {}, nic: {}, switch: {} }
networks:
  red: { mode: bridge, physical-network: lan, vlan: 100, subnets: [10.0.1.0/24] }
  blue: { mode: bridge, physical-network: lan, vlan: 200, subnets: [10.0.2.0/24] }
  green: { mode: bridge, physical-network: nic, vlan: 300, subnets: [10.0.3.0/24] }
  grey: { mode: bridge, physical-network: nic, vlan: 301, subnets: [10.0.4.0/24] }
  ten: { mode: bridge, physical-network: switch, vlan: 10, subnets: [10.0.5.0/24] }
  eleven: { mode: bridge, physical-network: switch, vlan: 11, subnets: [10.0.7.0/24] }
  inside: { mode: isolated, vlan: 20, subnets: [10.0.6.0/24] }
guests:
  many:
    ports:
      - { network: red, name: red1, tap: red1, addresses: [10.0.1.2] }
      - { network: blue, name: blue1, tap: blue1, addresses: [10.0.2.2], guarded: false }
      - { network: red, name: trunk, tap: trunk, trunk: [100-102], addresses: [], guarded: false }
""",
    "test",
)


@pytest.fixture(scope="module")
def real(hooked_sandbox: Sandbox) -> Iterator[Real]:
    with Real(hooked_sandbox, FOUND, {"lan": "br0/out0", "nic": "nic0", "switch": "ovs:sw0"}) as made:
        ovs.start(hooked_sandbox.run)
        ip("link add br0 type bridge stp_state 0 mcast_snooping 0 vlan_filtering 1 vlan_default_pvid 5")
        ip("link set br0 up")
        made.taps = {"out0": Tap("out0", "br0"), "nic0": Tap("nic0"), "swout": Tap("swout")}
        hooked_sandbox.run(["ovs-vsctl", "add-br", "sw0", "--", "add-port", "sw0", "swout"])
        made.start_networks()
        made.create("many")
        yield made
        ovs.stop(hooked_sandbox.run)


def guestnet(real: Real, *words: str) -> tuple[int, Any]:
    argv = python_inside(["-m", "libvirt_guestnet.cli", *words, "--json"])
    done = real.sandbox.run(argv, check=False, timeout=900)
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def test_vlans_are_apart(real: Real) -> None:
    status, rows = guestnet(real, "verify", "--isolation")
    assert (status, [row for row in rows if row["result"] != "ok"]) == (0, [])
    left = {row["networks"][0]: set(row["left_by"]) for row in rows if row["frames"] == "ordinary"}
    assert left["red"] == {"out0 tagged 100"} and left["blue"] == {"out0 tagged 200"}
    assert left["green"] == {"nic0.300 untagged", "nic0 tagged 300"}
    assert left["ten"] == {"swout tagged 10"} and left["eleven"] == {"swout tagged 11"}
    assert left["inside"] == set()
    heard = {row["networks"][0]: row["heard"] for row in rows if row["frames"] == "ordinary"}
    assert {"red1", "trunk"} <= set(heard["red"]) and "trunk" not in heard["blue"]
    assert real.sandbox.run(["ovs-vsctl", "list-ports", "sw0"]).stdout.split() == ["swout"]


def _cable(number: int) -> str:
    return (
        f"ip link add lk{number} type veth peer name cb{number}; ip link set lk{number} up; ip link set cb{number} up; "
    )


# By where it is found: on (network, device, tags). A cable between two bridges of ours carries nothing, as the bridge
# guard silences both its ends: what leaves by a NIC's device of VLAN 300 is copied to that of VLAN 301. The last is no
# leak: an administrator's own port in the VLAN of a network is on it.
FAULTS = {
    ("red", "blue1", ()): "bridge vlan add vid 100 dev blue1 untagged",
    ("blue", "lk1", (200,)): _cable(1) + "ip link set lk1 master br0; bridge vlan add vid 200 dev lk1",
    ("green", "nic0", (301,)): "tc qdisc add dev nic0.300 clsact; "
    "tc filter add dev nic0.300 egress matchall action mirred egress mirror dev nic0.301",
    ("ten", "swout", (11,)): _cable(3) + "ovs-vsctl add-port sw0 lk3 tag=10 -- add-port sw0 cb3 tag=11",
    ("eleven", "lk4", (11,)): _cable(4) + "ovs-vsctl add-port sw0 lk4 trunks=11",
}
ALLOWED = {("eleven", "lk4", (11,))}


def test_leaks_are_found(real: Real) -> None:
    """A membership too many, a trunk port that is no guest's, and cables from VLAN to VLAN, all at once."""
    real.sandbox.run(["sh", "-euc", "; ".join(FAULTS.values())])
    status, rows = guestnet(real, "verify", "--isolation")
    found = {(row["networks"][0], leak["device"], tuple(leak["tags"])) for row in rows for leak in row["leaks"]}
    assert (status, FAULTS.keys() - found) == (1, ALLOWED), found
    assert {network for network, *_ in found if network == "inside"} == set()


def test_a_vlan_that_the_switch_does_not_deliver(real: Real) -> None:
    """Others' frames arrive; of VLAN 300 none did, for some minutes."""

    def said() -> list[str]:
        return [row["about"] for row in guestnet(real, "doctor")[1] if row["check"] == "vlan"]

    real.taps["nic0"].send(frame("02:00:00:00:00:09", (DOT1Q, 301)))
    real.sandbox.run(["sh", "-c", "touch -d '10 minutes ago' /run/libvirt-guestnet/networks/*.json"])
    assert said() == ["nic0.300"]
    real.taps["nic0"].send(frame("02:00:00:00:00:09", (DOT1Q, 300)))
    assert said() == []
