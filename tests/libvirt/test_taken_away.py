"""What `apply` takes away from a running guest is gone at once, with its last address, and nothing else is gained."""

from __future__ import annotations

from collections.abc import Iterator

import frames
import pytest
from make import (
    GATEWAY4,
    GATEWAY6,
    ME,
    ME4,
    ME6,
    MY_LL,
    THEIR_LL,
    THEM,
    THEM4,
    THEM6,
    arp,
    from_ll,
    marked,
    mine,
    na,
    tll,
)
from scapy.all import IP, UDP  # type: ignore[attr-defined]
from support.libvirt_wire import Wire, domain

from libvirt_guestnet.sandbox import Sandbox, python_inside

pytestmark = pytest.mark.libvirt
PAIR4, PAIR6 = "10.61.1.100", "fd61:1::100"
TOPOLOGY = """
name: held
networks:
  held: { mode: nat, subnets: [10.61.1.0/24, "fd61:1::/64"] }
guests:
  me: { ports: [{ network: held, name: p, mac: "%s", %s }] }
  them: { ports: [{ network: held, name: p, mac: "%s", addresses: [%s, "%s"] }] }
"""
PAIRS = f'allowed-pairs: [{{ address: {PAIR4} }}, {{ address: "{PAIR6}" }}]'
# It always passes, and asks for nothing of anybody.
LAST = frames.HONEST["RARP: QEMU's announcement after a migration"]


def _topology(port: str) -> str:
    return TOPOLOGY % (ME, port, THEM, THEM4, THEM6)


def _uses(address: str) -> list[bytes]:
    if ":" in address:
        return [
            mine(from_ll(UDP(sport=9, dport=9), marked(), src=address)),
            mine(na(address, tll(ME), src=address)),
        ]
    return [mine(arp(address)), mine(IP(src=address, dst="255.255.255.255") / UDP(sport=9, dport=9) / marked())]


@pytest.fixture(scope="module")
def sandbox(hooked_sandbox: Sandbox) -> Sandbox:
    return hooked_sandbox


class Guests:
    """Two guests of the user's own: what one sends, the other hears on their bridge."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox, self.names = sandbox, ("me", "them")
        self.wires: list[Wire] = []

    def apply(self, port: str) -> None:
        self.guestnet("apply", "-", stdin=_topology(port))

    def guestnet(self, *arguments: str, stdin: str = "") -> str:
        argv = python_inside(["-m", "libvirt_guestnet.cli", *arguments])
        return self.sandbox.run(argv, stdin=stdin, timeout=480).stdout

    def start(self) -> None:
        for name in self.names:
            self.sandbox.run(["virsh", "-q", "start", name], timeout=240)
            self.wires.append(Wire(self.sandbox, name).__enter__())
        me, them = self.wires
        for number in range(100):  # the bridge forwards as soon as it hears that there is a link
            me.send(frames.sentinel(number))
            if them.next_frame(0.2):
                return

    def heard(self, *addresses: str) -> set[str]:
        """Which of these addresses the other one hears from me, in whatever form; every form or none."""
        me, them = self.wires
        found = set()
        for address in addresses:
            sent = _uses(address)
            me.send(*sent, LAST)
            received = them.receive_until(LAST)
            arrived = {any(frames.is_same(each, frame) for each in received) for frame in sent}
            assert len(arrived) == 1, address
            found |= {address} if arrived.pop() else set()
        return found


@pytest.fixture
def guests(sandbox: Sandbox) -> Iterator[Guests]:
    found = Guests(sandbox)
    for name in found.names:
        sandbox.run(["virsh", "-q", "define", "/dev/stdin"], stdin=domain(name))
    yield found
    for wire in found.wires:
        wire.stack.close()
    for name in found.names:
        sandbox.run(["virsh", "-q", "destroy", name], timeout=240, check=False)
    found.guestnet("destroy", "--name", "held")
    for name in found.names:
        sandbox.run(["virsh", "-q", "undefine", name])


def _card_for_wires(sandbox: Sandbox, name: str) -> None:
    xml = sandbox.run(["virsh", "-q", "dumpxml", "--inactive", name]).stdout
    sandbox.run(["virsh", "-q", "define", "/dev/stdin"], stdin=xml.replace("'virtio'", "'rtl8139'"))


def test_the_last_address_that_apply_takes_away_is_gone_at_once(guests: Guests) -> None:
    own, pairs, others = (ME4, ME6), (PAIR4, PAIR6), (THEM4, THEM6, THEIR_LL, GATEWAY4, GATEWAY6)
    everything = (*own, *pairs, *others, MY_LL, "10.61.1.77", "fd61:1::77")
    both = f'addresses: [{ME4}, "{ME6}"], {PAIRS}'
    guests.apply(both)
    for name in guests.names:
        _card_for_wires(guests.sandbox, name)
    guests.start()
    assert guests.heard(*everything) == {*own, *pairs, MY_LL}
    guests.apply(f"addresses: [], {PAIRS}")
    assert guests.heard(*everything) == {*pairs, MY_LL}
    guests.apply("addresses: []")
    assert guests.heard(*everything) == set()
    status = guests.guestnet("status")
    assert "ANY ADDRESS" not in status
    guests.apply("addresses: any")
    assert guests.heard(*everything) == {*own, *pairs, MY_LL, "10.61.1.77", "fd61:1::77"}
    assert "ANY ADDRESS that nobody holds, by policy or this host's default: me.p\n" in guests.guestnet("status")
    guests.apply(both)
    assert guests.heard(*everything) == {*own, *pairs, MY_LL}
    guests.apply(both.replace(f", {PAIRS}", ""))
    assert guests.heard(*everything) == {*own, MY_LL}
