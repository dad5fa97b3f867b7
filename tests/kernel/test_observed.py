"""A port that is only observed: what its guard would drop passes, and is counted under the same reason."""

from __future__ import annotations

import os
import select
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address

import frames
import pytest
from make import GATEWAY4, ME, ME4, THEM4, arp, dhcp, from_ll, marked, mine, ns
from offload_attacks import ATTACKS, EARLY
from offload_honest import HONEST as HONEST_OFFERS
from scapy.all import BOOTP, IP, UDP, Dot1Q, Ether, Raw  # type: ignore[attr-defined]
from support.claiming import FREE, Neighbours, dad_for
from support.held import last_frame
from support.offload_guarded import OWN, put_guard
from support.offload_wire import OffloadWire
from support.server import LEASED, SERVER_MAC, server
from support.taps import Wire

from libvirt_guestnet.datapath.netlink import kernel
from libvirt_guestnet.datapath.port import filters, notes, observing
from libvirt_guestnet.datapath.port.port_facts import PortGuard, Trunk
from libvirt_guestnet.datapath.run.names import TABLE
from libvirt_guestnet.datapath.run.nft import items, nft, numbers

# Somebody else's table, where a frame has left the tap's chains. The kernel's own reports of multicast listeners
# come by there, too, and have a mark now and then.
MARKED = f"""add table netdev test
add chain netdev test out {{ type filter hook egress device "peer0" priority 0; }}
add rule netdev test out ether saddr {ME} meta mark != 0 counter
"""


def port(tap: str, observed: bool = True, **more: object) -> PortGuard:
    facts = OWN._replace(tap=tap, observed=observed, is_new=False)
    return facts._replace(**more)  # type: ignore[arg-type]


def guard(wire: Wire, observed: bool = True, **more: object) -> None:
    nft(filters.guard(port(wire.tap, observed, **more)))


def families() -> Iterator[tuple[str, Mapping[str, bytes]]]:
    for family in dict.fromkeys(name.partition(":")[0] for name in frames.FORGED):
        yield family, {name: frame for name, frame in frames.FORGED.items() if name.startswith(f"{family}:")}


def reasons(wire: Wire, corpus: Mapping[str, bytes]) -> tuple[set[str], dict[str, int]]:
    """What of a corpus arrives, and what was counted meanwhile."""
    before = Counter(kernel.drops_by_reason()[wire.tap])
    arrived = wire.judge(corpus)
    return arrived, Counter(kernel.drops_by_reason()[wire.tap]) - before


def test_what_would_be_dropped_passes_and_is_counted_under_the_reason_that_drops_it(wire: Wire) -> None:
    for family, corpus in families():
        guard(wire, observed=False)
        arrived, dropped = reasons(wire, corpus)
        assert arrived == set(), family
        guard(wire)
        arrived, counted = reasons(wire, corpus)
        assert set(corpus) - arrived == set(corpus) & frames.UNCARRIED, family
        assert counted == dropped, family


def test_nothing_honest_is_counted_nor_noted(wire: Wire) -> None:
    guard(wire)
    assert reasons(wire, frames.HONEST) == (set(frames.HONEST), {})
    assert notes.read() == {wire.tap: notes.Noted()}


def test_a_trunk_is_observed_inside_its_tags_and_by_its_vlans(wire: Wire) -> None:
    guard(wire, trunk=Trunk([(100, 100)]))
    wire.tags = [(0x8100, 100)]
    forged = {"a source": mine(IP(src=THEM4, dst=ME4) / UDP(sport=9, dport=9) / marked())}
    assert reasons(wire, forged) == (set(forged), {"IPv4 source": 1})
    wire.tags = []
    other = bytes(Ether(src=ME, dst="ff:ff:ff:ff:ff:ff") / Dot1Q(vlan=200) / IP(src=ME4, dst=THEM4) / marked())
    os.write(wire.fd, other)
    wire.tags = [(0x8100, 100)]
    wire.judge({})
    assert reasons(wire, forged)[0] == set(forged)
    assert kernel.drops_by_reason()[wire.tap] == {"IPv4 source": 2, "VLAN": 1}
    assert notes.read()[wire.tap] == notes.Noted(((ME, IPv4Address(THEM4)),), (200,))


def test_the_addresses_of_what_would_be_dropped_are_noted(wire: Wire) -> None:
    guard(wire)
    other = "52:54:00:00:00:77"
    sent = {
        "source": mine(IP(src="10.61.1.50", dst=THEM4) / UDP(sport=9, dport=9) / marked()),
        "arp": mine(arp("10.61.1.51")),
        "probe": mine(arp("0.0.0.0", target="10.61.1.52")),
        "dad": mine(ns("fd61:1::53", src="::", dst="ff02::1:ff00:53")),
        "mac": bytes(Ether(src=other, dst="ff:ff:ff:ff:ff:ff") / IP(src="10.61.1.54", dst=THEM4) / marked()),
    }
    assert wire.judge(sent) == set(sent)
    found = notes.read()[wire.tap]
    assert set(found.addresses) == {
        (ME, IPv4Address("10.61.1.50")),
        (ME, IPv4Address("10.61.1.51")),
        (ME, IPv4Address("10.61.1.52")),
        (other, IPv4Address("10.61.1.54")),
        (ME, IPv6Address("fd61:1::53")),
    }
    assert not found.announces
    advert = next(frame for name, frame in frames.FORGED.items() if name.startswith("ra:"))
    assert wire.judge({"ra": advert}) == {"ra"}
    assert notes.read()[wire.tap].announces


def test_a_guest_that_makes_up_addresses_fills_no_more_than_the_notes_have_room_for(wire: Wire) -> None:
    guard(wire)
    for number in range(3 * observing.MOST):
        source = f"10.99.{number // 256}.{number % 256}"
        os.write(wire.fd, mine(IP(src=source, dst=THEM4) / UDP(sport=9, dport=9) / marked()))
        while select.select([wire.ear], [], [], 0)[0]:  # or its buffer were full
            wire.ear.recv(65536)
    assert wire.judge({"last": last_frame()}) == {"last"}
    assert len(notes.read()[wire.tap].addresses) == observing.MOST
    assert kernel.drops_by_reason()[wire.tap] == {"IPv4 source": 3 * observing.MOST}


def test_nothing_is_left_of_the_notes_once_a_port_is_guarded_or_gone(wire: Wire) -> None:
    guard(wire)
    nft(filters.own(port(wire.tap, observed=False), was_observed=True))
    assert kernel.noted_taps() == set()
    guard(wire)
    nft(filters.release([wire.tap], {wire.tap}))
    assert kernel.noted_taps() == set()
    assert kernel.guarded_taps() == set()


def test_no_frame_leaves_with_the_filters_own_mark(wire: Wire) -> None:
    """By it others route and filter; within the chains it counts what a DHCPv6 question asks for."""
    guard(wire, server=server())
    subprocess.run(["nft", "-f", "-"], input=MARKED, text=True, check=True, timeout=120)
    relayed, long = (
        mine(from_ll(UDP(sport=546, dport=547), Raw(each))) for each in (b"\x0c" + bytes(40), bytes([3] * 300))
    )
    asked = {"a relay's": relayed, "one that is too long": long}
    assert wire.judge(asked) == set(asked)
    assert kernel.drops_by_reason()[wire.tap] == {"DHCPv6 relay": 1, "DHCPv6 message": 1}
    (marked_frames,) = (rule for kind, rule in items("table", "netdev", "test") if kind == "rule")
    assert sum(each["counter"]["packets"] for each in marked_frames["expr"] if "counter" in each) == 0


def test_a_servers_answer_that_gives_anothers_lease_passes_and_is_not_learnt(wire: Wire) -> None:
    guard(wire, server=server(), segment="br0")
    nft(f"add element {TABLE} held4-br0 {{ {int(IPv4Address(LEASED)):#x} timeout 3600s }}\n")
    message = dhcp("ack", op=2, sport=67, dport=68, src=GATEWAY4)
    message[BOOTP].yiaddr = LEASED
    answer = bytes(Ether(src=SERVER_MAC, dst="ff:ff:ff:ff:ff:ff") / message)
    wire.ear.send(answer)
    while os.read(wire.fd, 4096) != answer:
        pass
    assert kernel.guarded_ports()[wire.tap] == kernel.Guarded({"another's lease": 1}, [])


def test_an_address_that_a_neighbour_has_claimed_is_noted_and_not_claimed(wire: Wire) -> None:
    both = Neighbours(wire)
    both.guard(observed=True)
    both.they_claim(FREE)
    taken = {"dad": dad_for(FREE)}
    assert both.passing(taken) == set(taken)
    assert kernel.drops_by_reason()[wire.tap] == {"another's address": 1}
    assert notes.read()[wire.tap].addresses == ((ME, IPv6Address(FREE)),)
    assert numbers(f"claimed6-{wire.tap}") == []
    os.close(both.theirs)


class Stream:
    """An honest guest that never stops, and a neighbour who counts."""

    def __init__(self, wire: Wire) -> None:
        self.wire, self.sent, self._over = wire, 0, threading.Event()
        self._guest = threading.Thread(target=self._send)
        self._guest.start()
        self.heard: set[int] = set()

    def _send(self) -> None:
        while not self._over.is_set():
            # No more on the way than the neighbour's buffer has room for.
            os.write(self.wire.fd, numbered(self.sent))
            self.sent += 1
            self._over.wait(0.001)

    def hear(self, seconds: float = 0.0) -> None:
        """What has come by now; waits for the first."""
        while select.select([self.wire.ear], [], [], seconds)[0]:
            frame = self.wire.ear.recv(65536)
            if frame[42:46] == b"numb":
                self.heard.add(int.from_bytes(frame[46:50], "big"))

    def lost(self) -> set[int]:
        self._over.set()
        self._guest.join()
        last = numbered(self.sent)
        os.write(self.wire.fd, last)
        while self.sent not in self.heard:
            self.hear(0.01)
        return set(range(self.sent)) - self.heard


def numbered(number: int) -> bytes:
    payload = b"numb" + number.to_bytes(4, "big") + bytes(32)
    return mine(IP(src=ME4, dst=THEM4) / UDP(sport=9, dport=9) / payload)


def test_no_honest_frame_is_lost_while_a_port_changes_from_observed_to_guarded_and_back(wire: Wire) -> None:
    guard(wire)
    stream = Stream(wire)
    try:
        for number in range(20):
            before = stream.sent
            nft(filters.own(port(wire.tap, observed=bool(number % 2)), was_observed=not number % 2))
            while stream.sent < before + 5:
                time.sleep(0.001)
            stream.hear()
    finally:
        lost = stream.lost()
    assert stream.sent >= 100
    assert lost == set()


@pytest.fixture
def nic(namespace: None) -> Iterator[OffloadWire]:
    wire = OffloadWire("vme0000000a")
    yield wire
    wire.close()


def test_what_the_checksum_guard_would_drop_passes_and_is_counted(nic: OffloadWire) -> None:
    put_guard(nic, observed=True)
    nic.begin(observed=True)
    attacks = {name: each for name, each in ATTACKS.items() if not each.header.gso}
    assert set(attacks) - nic.delivered(attacks) <= EARLY
    counted = nic.counted()
    assert counted > 0
    honest = {name: each for name, each in HONEST_OFFERS.items() if not each.header.gso}
    assert set(honest) - nic.delivered(honest) == set()
    assert nic.counted() == counted
    nic.begin(observed=False)
    assert nic.counted() == 0
    assert not any(nic.heard(each) for each in attacks.values())
    assert nic.counted() == counted
