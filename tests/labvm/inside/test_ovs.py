"""Open vSwitch with the kernel's datapath, under a real libvirtd: networks as guestnet writes them for `ovs:br0`."""

from __future__ import annotations

from collections.abc import Iterator

import frames
import pytest
from support import labvm_ovs as ovs
from support.labvm_host import DOT1AD, DOT1Q, Tap, frame
from support.labvm_real import Real, announcement, any_address
from support.libvirt_host import NIC
from support.libvirt_wire import Wire, domain

from libvirt_guestnet.sandbox import Sandbox
from libvirt_guestnet.topology import loads

FOUND = loads(
    f"""
name: t
physical-networks: {{ lan: {{}} }}
networks:
  red: {{ mode: bridge, physical-network: lan, vlan: 100, subnets: [10.61.1.0/24, "fd61:1::/64"] }}
  blue: {{ mode: bridge, physical-network: lan, vlan: 200, subnets: [10.0.2.0/24] }}
  plain: {{ mode: bridge, physical-network: lan }}
guests:
  many:
    ports:
      - {{ network: red, name: red1, tap: red1, mac: "{frames.ME}", addresses: [{frames.ME4}, "{frames.ME6}"] }}
      - {{ network: blue, name: blue1, tap: blue1, addresses: [], guarded: false }}
      - {{ network: plain, name: trunk, tap: trunk, trunk: [100-102], native-vlan: 7, addresses: [], guarded: false }}
      - {{ network: plain, name: own, tap: own, vlan: 150, addresses: [], guarded: false }}
""",
    "test",
)
OUTSIDE, LATE = "02:00:00:00:00:01", "52:54:00:00:01:00"


@pytest.fixture(scope="module")
def real(hooked_sandbox: Sandbox) -> Iterator[Real]:
    with Real(hooked_sandbox, FOUND, {"lan": "ovs:br0"}) as made:
        ovs.start(hooked_sandbox.run)
        made.taps = {"out0": Tap("out0")}
        hooked_sandbox.run(["ovs-vsctl", "add-br", "br0", "--", "add-port", "br0", "out0"])
        made.start_networks()
        made.create("many")
        yield made


def column(real: Real, port: str, name: str) -> str:
    """A column of a port's row in Open vSwitch's own database."""
    return real.sandbox.run(["ovs-vsctl", "get", "port", port, name]).stdout.strip()


def ports(real: Real) -> list[str]:
    return real.sandbox.run(["ovs-vsctl", "list-ports", "br0"]).stdout.split()


def test_open_vswitch_was_told_every_vlan(real: Real) -> None:
    assert [column(real, port, "tag") for port in ("red1", "blue1", "own", "trunk")] == ["100", "200", "150", "7"]
    assert column(real, "trunk", "trunks") == "[7, 100, 101, 102]"
    assert column(real, "trunk", "vlan_mode") == "native-untagged"
    assert real.guarded() == {"red1": frames.ME}
    assert real.files("vlans") == {}  # no Linux bridge is in this


def test_frames_leave_with_their_tag(real: Real) -> None:
    for port, vlan in (("blue1", 200), ("own", 150), ("trunk", 7)):
        real.wires[port].send(frame(real.mac(port)))
        assert real.taps["out0"].heard(least=1) == [frame(real.mac(port), (DOT1Q, vlan))]
    for vlan in (101, 200):  # the second is not in its trunk
        real.wires["trunk"].send(frame(real.mac("trunk"), (DOT1Q, vlan)))
    assert real.taps["out0"].heard(least=1) == [frame(real.mac("trunk"), (DOT1Q, 101))]
    honest = announcement(frames.ME, frames.ME4)
    real.wires["red1"].send(announcement(frames.ME, frames.THEM4), announcement(OUTSIDE, frames.ME4), honest)
    assert real.taps["out0"].heard(kind=b"\x08\x06", least=1) == [honest[:12] + b"\x81\0\0\x64" + honest[12:]]


def test_a_port_hears_its_own_vlan_alone(real: Real) -> None:
    for vlan in (7, 100, 101, 200, 300):
        real.taps["out0"].send(frame(OUTSIDE, (DOT1Q, vlan), text=f"in {vlan}"))
    real.taps["out0"].send(frame(OUTSIDE, (DOT1Q, 300), (DOT1Q, 200), text="in 300 and 200"))
    real.taps["out0"].send(frame(OUTSIDE, text="in none"))
    for port, vlan in (("red1", 100), ("blue1", 200)):
        # A flow's first frame takes the way through ovs-vswitchd, and a second one overtakes it at times.
        assert real.texts(port, OUTSIDE, f"in {vlan}") == [f"in {vlan}"]
        real.taps["out0"].send(frame(OUTSIDE, (DOT1Q, vlan), text="end"))
        assert real.texts(port, OUTSIDE, "end") == ["end"]


def test_nobody_hops_into_another_vlan(real: Real) -> None:
    for tags in ([(DOT1Q, 100)], [(DOT1Q, 200), (DOT1Q, 100)], [(DOT1AD, 100)], [(DOT1Q, 0)], [(DOT1Q, 200)]):
        for port in ("blue1", "red1"):
            real.wires[port].send(frame(real.mac(port), *tags, text="hop"))
    outside = real.taps["out0"].heard(least=1)
    assert [data for data in outside if data[12:16] != bytes.fromhex("810000c8")] == []
    assert {data[6:12].hex(":") for data in outside} == {real.mac("blue1")}
    real.taps["out0"].send(frame(OUTSIDE, (DOT1Q, 100), text="end"))
    assert [data for data in real.wires["red1"].receive_until(frame(OUTSIDE, text="end")) if b"hop" in data] == []


def test_a_customers_tags_pass_a_trunk_inside_its_own(real: Real) -> None:
    """QinQ as far as libvirt speaks of it: what is behind the first tag is the customer's."""
    inner = frame(real.mac("trunk"), (DOT1Q, 101), (DOT1Q, 9))
    real.wires["trunk"].send(inner)
    assert real.taps["out0"].heard(least=1) == [inner]


def test_a_plugged_nic_is_guarded_and_tagged(real: Real) -> None:
    real.define("create", domain("empty", metadata=any_address(LATE)))
    real.change("attach-device", "empty", NIC.format(network="red", mac=LATE))
    (tap,) = real.nics("empty")
    with Wire(real.sandbox, "empty") as wire:
        judge(real, wire, tap, "10.61.1.77", 100)
    real.change("detach-device", "empty", NIC.format(network="red", mac=LATE))
    real.virsh("reset", "empty")
    real.soon(lambda: tap not in real.files("ports"), "the unplugged NIC is forgotten")
    assert tap not in real.guarded()
    assert ports(real) == ["blue1", "out0", "own", "red1", "trunk"]


@pytest.mark.only("trixie")  # 9.0 cannot move a NIC of Open vSwitch to another network
def test_a_nic_that_moves_to_another_network_is_guarded_and_tagged_again(real: Real) -> None:
    real.define("create", domain("mover", metadata=any_address(LATE)))
    real.change("attach-device", "mover", NIC.format(network="red", mac=LATE))
    (tap,) = real.nics("mover")
    real.soon(lambda: "10.61.1." in real.rules(tap), "it is guarded by its network's rules")
    real.change("update-device", "mover", NIC.format(network="blue", mac=LATE))
    with Wire(real.sandbox, "mover") as wire:
        judge(real, wire, tap, "10.0.2.77", 200)


def judge(real: Real, wire: Wire, tap: str, address: str, vlan: int) -> None:
    """The NIC is in the VLAN, and may send from its network's addresses."""
    real.soon(lambda: address[:-2] in real.rules(tap), "it is guarded by its network's rules")
    assert column(real, tap, "tag") == str(vlan)
    honest = announcement(LATE, address)
    wire.send(announcement(OUTSIDE, address), announcement(LATE, "10.9.9.9"), frame(LATE), honest)
    tagged = honest[:12] + b"\x81\0" + vlan.to_bytes(2, "big") + honest[12:]
    assert real.taps["out0"].heard(kind=b"\x08\x06", least=1) == [tagged]


def test_the_last_guest_leaves_nothing(real: Real) -> None:
    for guest in real.running():
        real.virsh("destroy", guest)
    assert ports(real) == ["out0"]
    assert (real.guarded(), real.files("ports")) == ({}, {})
