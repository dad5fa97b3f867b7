"""`verify` where neighbours both forge: one's forged frame is what the other may send, and each is judged by itself."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from support.taps import ip, open_tap

from libvirt_guestnet.datapath.netlink import kernel
from libvirt_guestnet.datapath.port import filters
from libvirt_guestnet.lab import checks, forge, verify
from libvirt_guestnet.model.topology import FORGERIES, Port
from libvirt_guestnet.parse import prefix
from libvirt_guestnet.topology import loads

TOPOLOGY = loads(
    """
name: mutual
networks:
  lan: { mode: isolated, subnets: [10.1.0.0/24, "fd00:1::/64"] }
guests:
  a: { image: tiny, ports: [{ network: lan }] }
  b: { image: tiny, ports: [{ network: lan }] }
expect:
  - { from: a, forge: all }
  - { from: b, forge: all }
""",
    "mutual.yaml",
)
PORTS = {guest.name: guest.ports[0] for guest in TOPOLOGY.guests}
PLANNED = list(enumerate(checks.plan(TOPOLOGY)))


class Guest:
    """An agent whose frames come out of a tap."""

    def __init__(self, port: Port) -> None:
        self.fd = open_tap(port.tap)
        for command in (f"set {port.tap} master br0", f"set {port.tap} up"):
            ip(f"link {command}")

    def send_frames(self, _nic: str, frames: list[bytes]) -> None:
        for frame in frames:
            os.write(self.fd, frame)


@pytest.fixture
def guests(namespace: None) -> Iterator[dict[str, Guest]]:
    ip("link add br0 up type bridge stp_state 0 forward_delay 0 mcast_snooping 0")
    found = {name: Guest(port) for name, port in PORTS.items()}
    yield found
    for guest in found.values():
        os.close(guest.fd)


def guard(*names: str) -> None:
    for port in (PORTS[name] for name in names):
        owned = tuple(prefix(str(address.ip)) for address in port.addresses)
        kernel.nft(filters.guard(filters.PortGuard(port.tap, port.mac, owned)))


def judged(guests: dict[str, Guest]) -> set[tuple[str, str, str]]:
    """Of whom which kind of forging ended how."""
    found = dict(verify._forge(TOPOLOGY, guests, PLANNED))  # type: ignore[arg-type]
    assert len(found) == 2 * len(FORGERIES)
    return {(r.check.source[0], str(r.check.forgery), r.seen) for r in found.values() if not r.passed}


def test_two_that_forge_are_not_each_others_accusers(guests: dict[str, Guest]) -> None:
    guard("a", "b")
    assert judged(guests) == set()


def test_of_two_that_forge_the_one_without_a_guard_is_found(guests: dict[str, Guest]) -> None:
    guard("b")
    found = judged(guests)
    assert {(who, kind) for who, kind, _ in found} == {("a", kind) for kind in FORGERIES}
    assert all("arrived at" in seen for *_, seen in found)


def test_every_frame_of_every_check_is_another() -> None:
    forgeries = verify._forgeries(TOPOLOGY, PLANNED)
    packets = [forge.packet(frame) for each in forgeries for frame in (*each.forged, each.honest)]
    assert len(packets) == len(set(packets))
