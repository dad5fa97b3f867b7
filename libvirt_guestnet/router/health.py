"""Whether a router serves, proven by packets: as a guest of its network would, from a port on that network.

The port needs no address on the host, whose other networks may have the same ones: all frames are made and read here.
A whole DHCP exchange gives the address, ARP the router's MAC address, then come a DNS question and an echo request
through NAT. What arrives is believed no further than its format, and nothing is waited for beyond a deadline.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TypeVar

from libvirt_guestnet import parse
from libvirt_guestnet.errors import GuestnetError

_Answer = TypeVar("_Answer")
_BROADCAST = b"\xff" * 6
_ARP, _IP = 0x0806, 0x0800
_UDP, _ICMP = 17, 1
_COOKIE = b"\x63\x82\x53\x63"
_DISCOVER, _OFFER, _REQUEST, _ACK = 1, 2, 3, 5
_AGAIN_SECONDS = 1.0
_MOST_BYTES = 2048


@dataclass(frozen=True)
class Check:
    """One thing that was tried: `name` is "dhcp", "gateway", "dns" or "nat"; `seconds` what its answer took."""

    name: str
    ok: bool
    seconds: float
    detail: str


@dataclass(frozen=True)
class Wanted:
    """What a healthy router gives: to a guest with this MAC address a lease of `address` with itself as gateway, an
    address for `dns_name`, and a way to `target` and back, if there is one to try."""

    mac: str
    address: IPv4Address
    gateway: IPv4Address
    dns_name: str
    target: IPv4Address | None


@dataclass(frozen=True)
class _Lease:
    address: IPv4Address
    server: bytes


def check(device: str, wanted: Wanted, timeout: float = 5.0) -> tuple[Check, ...]:
    """Tries everything from a device of this network namespace, each within `timeout` seconds; what comes after a
    failure is not tried. Raises GuestnetError when the device cannot be used."""
    try:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as port:
            port.bind((parse.device(device), 0))
            return _Prober(port, wanted, timeout).all()
    except OSError as error:
        raise GuestnetError(f"{device}: a router's health cannot be tried from there: {error.strerror}") from error


class _Prober:
    def __init__(self, port: socket.socket, wanted: Wanted, timeout: float) -> None:
        self._port, self._wanted, self._timeout = port, wanted, timeout
        self._mac = bytes.fromhex(wanted.mac.replace(":", ""))
        self._gateway = _BROADCAST
        self._number = os.urandom(4)

    def all(self) -> tuple[Check, ...]:
        done = list[Check]()
        attempts = [("dhcp", self._dhcp), ("gateway", self._arp), ("dns", self._dns)]
        target = self._wanted.target
        attempts += [("nat", lambda: self._nat(target))] if target else []
        for name, attempt in attempts:
            began = time.monotonic()
            failure = attempt()
            done.append(Check(name, not failure, time.monotonic() - began, failure or "answered"))
            if failure:
                break
        return tuple(done)

    # ---- what is tried: "" or what was wrong

    def _dhcp(self) -> str:
        offer = self._ask(self._dhcp_frame(_DISCOVER), lambda frame: self._lease(frame, _OFFER))
        if offer is None:
            return "no DHCP offer"
        wish = struct.pack("!BB4sBB4s", 50, 4, offer.address.packed, 54, 4, offer.server)
        given = self._ask(self._dhcp_frame(_REQUEST, wish), lambda frame: self._lease(frame, _ACK))
        if given is None:
            return f"{offer.address} was offered by DHCP, and then not given"
        if given.address != self._wanted.address:
            return f"{given.address} was given by DHCP, not {self._wanted.address}"
        return ""

    def _arp(self) -> str:
        found = self._ask(self._arp_frame(1, _BROADCAST, self._wanted.gateway.packed), self._arp_answer)
        if found is None:
            return f"no answer to ARP for {self._wanted.gateway}"
        self._gateway = found
        return ""

    def _dns(self) -> str:
        labels = b"".join(bytes([len(part)]) + part.encode() for part in self._wanted.dns_name.split("."))
        question = self._number[:2] + struct.pack("!HHHHH", 0x0100, 1, 0, 0, 0) + labels + b"\0\0\1\0\1"
        frame = self._ip_frame(_UDP, self._wanted.gateway, _udp(40053, 53, question))
        if self._ask(frame, self._dns_answer) is None:
            return f"no DNS answer for {self._wanted.dns_name}"
        return ""

    def _nat(self, target: IPv4Address) -> str:
        echo = struct.pack("!BBHHH", 8, 0, 0, *struct.unpack("!HH", self._number))
        echo = echo[:2] + struct.pack("!H", checksum(echo)) + echo[4:]
        if self._ask(self._ip_frame(_ICMP, target, echo), self._echo_answer) is None:
            return f"no echo from {target}"
        return ""

    # ---- sending and waiting

    def _ask(self, frame: bytes, read: Callable[[bytes], _Answer | None]) -> _Answer | None:
        """The first frame that `read` takes for the answer. Asks again each second, and answers ARP meanwhile."""
        deadline, again = time.monotonic() + self._timeout, 0.0
        while (now := time.monotonic()) < deadline:
            if now >= again:
                self._port.send(frame)
                again = now + _AGAIN_SECONDS
            if not select.select([self._port], [], [], max(0.0, min(deadline, again) - now))[0]:
                continue
            received = self._port.recv(_MOST_BYTES)
            if (answer := read(received)) is not None:
                return answer
            self._answer_arp(received)
        return None

    def _ethernet(self, to: bytes, kind: int, payload: bytes) -> bytes:
        return to + self._mac + struct.pack("!H", kind) + payload

    def _arp_frame(self, operation: int, to: bytes, address: bytes) -> bytes:
        target = b"\0" * 6 if to == _BROADCAST else to
        head = struct.pack("!HHBBH", 1, _IP, 6, 4, operation)
        return self._ethernet(to, _ARP, head + self._mac + self._wanted.address.packed + target + address)

    def _ip_frame(self, protocol: int, to: IPv4Address, payload: bytes) -> bytes:
        return self._ethernet(self._gateway, _IP, _ip(protocol, self._wanted.address, to, payload))

    def _dhcp_frame(self, kind: int, options: bytes = b"") -> bytes:
        message = struct.pack("!BBBB4sHH", 1, 1, 6, 0, self._number, 0, 0x8000) + b"\0" * 16
        message += self._mac.ljust(16, b"\0") + b"\0" * 192 + _COOKIE + bytes((53, 1, kind)) + options + b"\xff"
        packet = _ip(_UDP, IPv4Address(0), IPv4Address(0xFFFFFFFF), _udp(68, 67, message))
        return self._ethernet(_BROADCAST, _IP, packet)

    # ---- reading: what is not the answer is None

    def _lease(self, frame: bytes, kind: int) -> _Lease | None:
        message = _udp_payload(frame, 67, 68)
        if len(message) < 240 or message[0] != 2 or message[4:8] != self._number or message[28:34] != self._mac:
            return None
        options = _options(message[240:])
        server = options.get(54, b"")
        if options.get(53) != bytes([kind]) or len(server) != 4:
            return None
        return _Lease(IPv4Address(message[16:20]), server)

    def _arp_answer(self, frame: bytes) -> bytes | None:
        is_reply = len(frame) >= 42 and frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\2"
        return frame[22:28] if is_reply and frame[28:32] == self._wanted.gateway.packed else None

    def _dns_answer(self, frame: bytes) -> bool | None:
        """A response (its highest bit) without an error, with an answer."""
        message = _udp_payload(frame, 53, 40053)
        if len(message) < 12 or message[:2] != self._number[:2]:
            return None
        flags, _, answers = struct.unpack_from("!HHH", message, 2)
        return True if flags & 0x8000 and not flags & 0xF and answers else None

    def _echo_answer(self, frame: bytes) -> bool | None:
        protocol, source, payload = _read_ip(frame)
        target = self._wanted.target.packed if self._wanted.target else b""
        right = protocol == _ICMP and source == target and payload[:1] == b"\0"
        return True if right and payload[4:8] == self._number else None

    def _answer_arp(self, frame: bytes) -> None:
        """The router asks for us, too."""
        is_request = len(frame) >= 42 and frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\1"
        if is_request and frame[38:42] == self._wanted.address.packed and frame[6:12] != self._mac:
            self._port.send(self._arp_frame(2, frame[22:28], frame[28:32]))


def checksum(data: bytes) -> int:
    """RFC 1071's."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _udp(source: int, to: int, payload: bytes) -> bytes:
    """Without a checksum, which IPv4 allows."""
    return struct.pack("!HHHH", source, to, 8 + len(payload), 0) + payload


def _ip(protocol: int, source: IPv4Address, to: IPv4Address, payload: bytes) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0) + source.packed + to.packed
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def _read_ip(frame: bytes) -> tuple[int, bytes, bytes]:
    """Protocol, source and payload of an IPv4 packet; of all else protocol -1."""
    if len(frame) < 34 or frame[12:14] != b"\x08\x00" or frame[14] >> 4 != 4:
        return -1, b"", b""
    return frame[23], frame[26:30], frame[14 + (frame[14] & 15) * 4 :]


def _udp_payload(frame: bytes, source: int, to: int) -> bytes:
    protocol, _, payload = _read_ip(frame)
    right = protocol == _UDP and len(payload) >= 8 and struct.unpack_from("!HH", payload) == (source, to)
    return payload[8:] if right else b""


def _options(data: bytes) -> dict[int, bytes]:
    found, place = dict[int, bytes](), 0
    while place + 1 < len(data) and data[place] != 255:
        if data[place] == 0:
            place += 1
            continue
        found[data[place]] = data[place + 2 : place + 2 + data[place + 1]]
        place += 2 + data[place + 1]
    return found
