"""Asking LANs whether anybody has addresses that this host is about to answer for: ARP probes (RFC 5227) and neighbour
solicitations from the unspecified address (RFC 4862, 5.4).

libvirt holds the domain's lock meanwhile, so this takes less time than in the RFCs, which are made for hosts that boot
together on slow links: there are three questions 0.15 s apart, and an answer counts until 0.2 s after the last. All
addresses are asked for at once. The second question for an IPv4 address is an ordinary request if the host has an
address of its own there, because hosts that answer for others, such as this one for its guests, ignore probes.
"""

from __future__ import annotations

import _socket  # the socket module's own core: `socket` would cost a hook 3 ms
import array
import select
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from ipaddress import IPv4Address, IPv6Address

from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.datapath.netlink.packets import ARP, IPV6, PacketSocket, arp_request, group_mac, icmpv6
from libvirt_guestnet.light_typing import NamedTuple

Address = IPv4Address | IPv6Address

_GAPS = (0.15, 0.15, 0.2)
_NOBODY4, _NOBODY6 = IPv4Address(0), IPv6Address(0)
_SOLICITATION, _ADVERTISEMENT = 135, 136
_ARP, _ASK_NEIGHBOUR = struct.Struct("!HHBBH6s4s6s4s"), struct.Struct("!BBHI")
_SO_ATTACH_FILTER, _SOL_PACKET, _ADD_MEMBERSHIP, _MULTICAST = 26, 263, 1, 0
# Lets only neighbour discovery through: next header 58 (offset 20) and type 135 or 136 (54).
_DISCOVERY = (
    (0x30, 0, 0, 20), (0x15, 0, 4, 58), (0x30, 0, 0, 54), (0x15, 1, 0, 135), (0x15, 0, 1, 136),
    (0x06, 0, 0, 0xFFFF), (0x06, 0, 0, 0),
)  # fmt: skip


class Question(NamedTuple):
    """Whether anybody has this address on a device's LAN. `host` is an address that this host has there, if any."""

    address: Address
    device: str
    host: IPv4Address | None = None


class Answer(NamedTuple):
    """Somebody with that MAC address has it, or is just about to take it."""

    question: Question
    mac: str


def ask(questions: Iterable[Question]) -> Answer | None:
    """The first answer, or None after 0.5 s. A LAN that cannot be asked (the device is down) counts as one where nobody
    answers. Answers from this host's own MAC addresses do not count, as several of its devices may be on one LAN."""
    with ExitStack() as stack:
        ears = [ear for each in _by_wire(questions) if (ear := _opened(stack, each))]
        for number, gap in enumerate(_GAPS if ears else ()):
            for ear in ears:
                ear.ask(number)
            if answer := _answer(ears, time.monotonic() + gap):
                return answer
    return None


def _by_wire(questions: Iterable[Question]) -> Iterator[list[Question]]:
    found: dict[tuple[str, int], list[Question]] = {}
    for each in questions:
        found.setdefault((each.device, each.address.version), []).append(each)
    yield from found.values()


def _opened(stack: ExitStack, questions: list[Question]) -> _Ear | None:
    is_arp = questions[0].address.version == 4
    with suppress(OSError):
        sock = stack.enter_context(PacketSocket(questions[0].device, ARP if is_arp else IPV6))
        if len(sock.getsockname()[4]) == 6:  # a tunnel has no MAC address, and no ARP or ND
            return _Ear(sock, questions)
    return None


def _answer(ears: list[_Ear], end: float) -> Answer | None:
    poll = select.poll()
    by_file = {ear.sock.fileno(): ear for ear in ears}
    for file in by_file:
        poll.register(file, select.POLLIN)
    while (left := end - time.monotonic()) > 0:
        for file, _ in poll.poll(left * 1000):
            if answer := by_file[file].heard():
                return answer
    return None


class _Ear:
    """The socket for the questions of one device and family."""

    def __init__(self, sock: _socket.socket, questions: list[Question]) -> None:
        self.sock = sock
        self.mac: bytes = sock.getsockname()[4]
        self.wanted = {each.address.packed: each for each in questions}
        sock.setblocking(False)
        if questions[0].address.version == 6:
            _hear_discovery(sock, questions)

    def ask(self, number: int) -> None:
        for each in self.wanted.values():
            with suppress(OSError):
                self.sock.send(_question(each, self.mac, number))

    def heard(self) -> Answer | None:
        with suppress(OSError):
            found = claimed(self.sock.recv(2048))
            if found and found[0] in self.wanted and not _is_ours(found[1].hex(":")):
                return Answer(self.wanted[found[0]], found[1].hex(":"))
        return None


def _question(each: Question, mac: bytes, number: int) -> bytes:
    if isinstance(each.address, IPv4Address):
        return arp_request(mac, (each.host if number == 1 else None) or _NOBODY4, each.address)
    message = _ASK_NEIGHBOUR.pack(_SOLICITATION, 0, 0, 0) + each.address.packed
    return icmpv6(mac, _NOBODY6, _solicited(each.address), message)


def _solicited(address: IPv6Address) -> IPv6Address:
    return IPv6Address(IPv6Address("ff02::1:ff00:0").packed[:13] + address.packed[13:])


def claimed(frame: bytes) -> tuple[bytes, bytes] | None:
    """The address that a frame's sender has or is about to take, and its MAC address."""
    kind = frame[12:14]
    if kind == b"\x08\x06" and len(frame) >= 14 + _ARP.size:
        *kind_of, _, mac, sender, _, target = _ARP.unpack_from(frame, 14)
        if kind_of == [1, 0x0800, 6, 4]:
            return (target if sender == bytes(4) else sender), mac
    if kind == b"\x86\xdd" and len(frame) >= 78 and (frame[20], frame[21], frame[55]) == (58, 255, 0):
        probing = frame[54] == _SOLICITATION and frame[22:38] == bytes(16)
        if probing or frame[54] == _ADVERTISEMENT:
            return frame[62:78], frame[6:12]
    return None


def _is_ours(mac: str) -> bool:
    return any(mac == each for _, each, _ in links.all_links())


def _hear_discovery(sock: _socket.socket, questions: list[Question]) -> None:
    """Has the socket receive neighbour discovery only, also to the groups at which others ask for these addresses."""
    program = array.array("B", b"".join(struct.pack("=HBBI", *each) for each in _DISCOVERY))
    sock.setsockopt(_socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(_DISCOVERY), program.buffer_info()[0]))
    index = links.index_of(questions[0].device)
    for each in questions:
        if isinstance(each.address, IPv6Address):
            group = group_mac(_solicited(each.address))
            sock.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, struct.pack("=iHH8s", index, _MULTICAST, len(group), group))
