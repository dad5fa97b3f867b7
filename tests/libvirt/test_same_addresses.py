"""Two isolated networks with the same subnet, and guests with the same addresses: neither knows of the other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.labvm_real import Real, announcement

from libvirt_guestnet.sandbox import Sandbox
from libvirt_guestnet.topology import loads

FOUND = loads(
    """
name: twins
networks:
  red: { mode: isolated, subnets: [10.0.0.0/24, "fd00::/64"] }
  blue: { mode: isolated, subnets: [10.0.0.0/24, "fd00::/64"] }
guests:
  red1: { ports: [{ network: red, name: red1, addresses: [10.0.0.1, "fd00::1"] }] }
  red2: { ports: [{ network: red, name: red2, addresses: [10.0.0.2, "fd00::2"] }] }
  blue1: { ports: [{ network: blue, name: blue1, addresses: [10.0.0.1, "fd00::1"] }] }
  blue2: { ports: [{ network: blue, name: blue2, addresses: [10.0.0.2, "fd00::2"] }] }
""",
    "test",
)


@pytest.fixture(scope="module")
def real(hooked_sandbox: Sandbox) -> Iterator[Real]:
    with Real(hooked_sandbox, FOUND, {}) as made:
        made.start_networks()
        for guest in FOUND.guests:
            made.create(guest.name)
        yield made


def test_each_has_its_own_address_and_hears_its_own_network_alone(real: Real) -> None:
    last = {name: announcement(real.mac(name), "10.0.0.1") for name in ("red1", "blue1")}
    real.soon(lambda: _is_connected(real, "red1"), "the red network forwards")
    real.soon(lambda: _is_connected(real, "blue1"), "the blue network forwards")
    real.wires["red1"].send(announcement(real.mac("red1"), "10.0.0.2"), last["red1"])
    real.wires["blue1"].send(announcement(real.mac("red1"), "10.0.0.1"), last["blue1"])
    for name, other in (("red2", "red1"), ("blue2", "blue1")):
        heard = real.wires[name].receive_until(last[other])
        assert {frame for frame in heard if frame[12:14] == b"\x08\x06"} == {last[other]}


def _is_connected(real: Real, name: str) -> bool:
    """A bridge forwards once it has heard that there is a link."""
    frame = announcement(real.mac(name), "10.0.0.1")
    real.wires[name].send(frame)
    hearing = real.wires[name.replace("1", "2")]
    return any(heard.startswith(frame) for heard in iter(lambda: hearing.next_frame(0.2), None))
