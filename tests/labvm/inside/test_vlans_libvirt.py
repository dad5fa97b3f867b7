"""VLANs under Debian 12's and 13's own libvirtd: networks as guestnet writes them, real domains, tags on the wire."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.labvm_host import ACCESS, DOT1AD, DOT1Q, Tap, frame, ip, vlans
from support.labvm_real import Real, announcement, any_address
from support.libvirt_host import NIC
from support.libvirt_wire import Wire, domain

from libvirt_guestnet.sandbox import Sandbox
from libvirt_guestnet.topology import loads

FOUND = loads(
    """
name: t
physical-networks: { lan: {}, provider: {} }
networks:
  red: { mode: bridge, physical-network: lan, vlan: 100, subnets: [10.0.1.0/24] }
  blue: { mode: bridge, physical-network: lan, vlan: 200, subnets: [10.0.2.0/24] }
  green: { mode: bridge, physical-network: lan, vlan: 300, subnets: [10.0.3.0/24] }
  plain: { mode: bridge, physical-network: lan }
  customer: { mode: bridge, physical-network: provider, service-vlan: 400 }
  inside: { mode: isolated, vlan: 10, subnets: [10.0.4.0/24] }
  outside: { mode: nat, vlan: 20, subnets: [10.0.5.0/24] }
guests:
  many:
    ports:
      - { network: red, name: red1, tap: red1, addresses: [10.0.1.2] }
      - { network: blue, name: blue1, tap: blue1, addresses: [], guarded: false }
      - { network: plain, name: trunk, tap: trunk, trunk: [100-102], native-vlan: 7, addresses: [], guarded: false }
      - { network: customer, name: site, tap: site, addresses: [], guarded: false }
      - { network: inside, name: in1, tap: in1, addresses: [], guarded: false }
      - { network: inside, name: in2, tap: in2, vlan: 11, addresses: [], guarded: false }
      - { network: outside, name: nat1, tap: nat1, addresses: [10.0.5.2] }
""",
    "test",
)
OUTSIDE = "02:00:00:00:00:01"
LATE = "52:54:00:00:01:00"


@pytest.fixture(scope="module")
def real(hooked_sandbox: Sandbox) -> Iterator[Real]:
    """A VLAN-aware bridge with another default PVID than 1, a provider's NIC, and a guest with a port on everything."""
    with Real(hooked_sandbox, FOUND, {"lan": "br0/out0", "provider": "pro0"}) as made:
        ip("link add br0 type bridge stp_state 0 mcast_snooping 0 vlan_filtering 1 vlan_default_pvid 5")
        ip("link set br0 up")
        made.taps = {"out0": Tap("out0", "br0"), "pro0": Tap("pro0")}
        made.start_networks()
        made.create("many")
        yield made


def test_taps_are_members_of_their_vlans_alone(real: Real) -> None:
    assert vlans("red1") == {100: ACCESS}
    assert vlans("blue1") == {200: ACCESS}
    assert vlans("trunk") == {7: ACCESS, 100: set(), 101: set(), 102: set()}
    assert (vlans("in1"), vlans("in2"), vlans("nat1")) == ({10: ACCESS}, {11: ACCESS}, {20: ACCESS})
    assert vlans("gn-inside") == {10: ACCESS}
    assert vlans("out0") == {5: ACCESS, **{vid: set() for vid in (7, 100, 101, 102, 200)}}
    assert real.guarded() == {"red1": real.mac("red1"), "nat1": real.mac("nat1")}


def test_frames_leave_with_their_tag(real: Real) -> None:
    for port, vlan in (("blue1", 200), ("trunk", 7)):
        real.wires[port].send(frame(real.mac(port)))
        assert real.taps["out0"].heard(least=1) == [frame(real.mac(port), (DOT1Q, vlan))]
    for vlan in (101, 200):  # the second is not in its trunk
        real.wires["trunk"].send(frame(real.mac("trunk"), (DOT1Q, vlan)))
    assert real.taps["out0"].heard(least=1) == [frame(real.mac("trunk"), (DOT1Q, 101))]
    real.wires["site"].send(frame(real.mac("site"), (DOT1Q, 9)))
    assert real.taps["pro0"].heard(least=1) == [frame(real.mac("site"), (DOT1AD, 400), (DOT1Q, 9))]


def test_a_port_hears_its_own_vlan_alone(real: Real) -> None:
    for vlan in (5, 7, 100, 101, 200, 300):
        real.taps["out0"].send(frame(OUTSIDE, (DOT1Q, vlan), text=f"in {vlan}"))
    real.taps["out0"].send(frame(OUTSIDE, (DOT1Q, 300), (DOT1Q, 200), text="in 300 and 200"))
    real.taps["out0"].send(frame(OUTSIDE, text="in none"))
    for vlan in (100, 200):
        real.taps["out0"].send(frame(OUTSIDE, (DOT1Q, vlan), text="end"))
    assert real.texts("blue1", OUTSIDE, "end") == ["in 200", "end"]
    assert real.texts("red1", OUTSIDE, "end") == ["in 100", "end"]


def test_a_guarded_port_sends_no_tag_and_an_unguarded_one_hops_nowhere(real: Real) -> None:
    for tags in ([(DOT1Q, 100)], [(DOT1Q, 200), (DOT1Q, 100)], [(DOT1AD, 100)], [(DOT1Q, 0)], [(DOT1Q, 200)]):
        for port in ("blue1", "red1"):
            real.wires[port].send(frame(real.mac(port), *tags, text="hop"))
    outside = real.taps["out0"].heard(least=1)
    assert [data for data in outside if data[12:16] != bytes.fromhex("810000c8")] == []
    assert {data[6:12].hex(":") for data in outside} == {real.mac("blue1")}
    real.taps["out0"].send(frame(OUTSIDE, (DOT1Q, 100), text="end"))
    heard = real.wires["red1"].receive_until(frame(OUTSIDE, text="end"))
    assert [data for data in heard if b"hop" in data] == []


@pytest.fixture
def empty(real: Real) -> Iterator[str]:
    """A running guest without a NIC; the one that is plugged in has any address of its network."""
    real.define("create", domain("empty", metadata=any_address(LATE)))
    yield "empty"
    real.virsh("destroy", "empty")


def test_a_plugged_nic_gets_its_vlan_and_its_guard_wherever_it_moves(real: Real, empty: str) -> None:
    before = vlans("out0")
    real.change("attach-device", empty, NIC.format(network="green", mac=LATE))
    (tap,) = real.nics(empty)
    real.soon(lambda: vlans(tap) == {300: ACCESS} and 300 in vlans("out0"), "the new NIC is in its VLAN")
    assert real.guarded()[tap] == LATE
    honest = announcement(LATE, "10.0.3.9")
    with Wire(real.sandbox, empty) as wire:
        wire.send(announcement(OUTSIDE, "10.0.3.9"), announcement(LATE, "10.0.2.9"), honest)
    assert real.taps["out0"].heard(kind=b"\x08\x06", least=1) == [honest[:12] + bytes.fromhex("8100012c") + honest[12:]]
    # Two networks of one bridge, and libvirt 9.0 takes the tap out and puts it in again.
    real.change("update-device", empty, NIC.format(network="blue", mac=LATE))
    real.soon(lambda: vlans(tap) == {200: ACCESS} and vlans("out0") == before, "it is in the other VLAN")
    assert "10.0.2." in real.rules(tap)
    real.change("update-device", empty, NIC.format(network="inside", mac=LATE))
    real.soon(lambda: vlans(tap) == {10: ACCESS}, "it is in another bridge's VLAN")
    real.change("detach-device", empty, NIC.format(network="inside", mac=LATE))
    real.virsh("reset", empty)  # nobody in the guest answers the request
    real.soon(lambda: not {tap} & {*real.files("ports"), *real.files("vlans")}, "the unplugged NIC is forgotten")
    assert tap not in real.guarded()


@pytest.mark.only("trixie")  # 9.0 refuses it
def test_libvirts_own_vlan_is_completed(real: Real, empty: str) -> None:
    nic = NIC.format(network="plain", mac=LATE).replace("<model", "<vlan><tag id='150'/></vlan><model")
    real.change("attach-device", empty, nic)
    (tap,) = real.nics(empty)
    real.soon(lambda: vlans(tap) == {150: ACCESS} and 150 in vlans("out0"), "default PVID and uplink are set right")
    real.define("create", domain("own", nic.replace(LATE, "52:54:00:00:01:01").replace("150", "151")))
    (tap,) = real.nics("own")
    assert vlans(tap) == {151: ACCESS}
    assert 151 in vlans("out0")


def test_an_inert_tag_keeps_a_guest_from_starting(real: Real) -> None:
    ip("link set br0 type bridge vlan_filtering 0")
    before = real.files("vlans")
    try:
        real.define("define", domain("inert", NIC.format(network="green", mac=LATE)))
        assert "bridge br0 does not tell VLANs apart" in real.virsh("start", "inert", check=False)
        assert real.files("vlans") == before
    finally:
        ip("link set br0 type bridge vlan_filtering 1")
        real.virsh("undefine", "inert")


def test_what_the_last_guest_leaves_is_what_was_there_before(real: Real) -> None:
    for guest in real.running():
        real.virsh("destroy", guest)
    assert vlans("out0") == {5: ACCESS}
    assert (real.files("vlans"), real.files("uplinks"), real.guarded()) == ({}, {}, {})
    for network in FOUND.networks:
        real.virsh("net-destroy", network.name)
    assert not Path("/sys/class/net/gn-provider.400").exists()
