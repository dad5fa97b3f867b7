"""The ports on which this host itself listens: a forward of such a port would cut off a service of the host's."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address

from libvirt_guestnet import parse
from libvirt_guestnet.model import ip_protocols
from libvirt_guestnet.model.claims import ANYWHERE, Claim, Claims, clash

_TABLES = (("tcp", "tcp", "0A"), ("tcp", "tcp6", "0A"), ("udp", "udp", "07"), ("udp", "udp6", "07"))
_SCTP_LISTENS = "10"  # SCTP_SS_LISTENING is TCP_LISTEN, in decimal here
_LARGEST = 16 << 20


def taken(wanted: list[Claim], proc: str = "/proc") -> tuple[Claim, Claim] | None:
    """The first of these claims on whose port a socket of this host listens, and that socket with its program as owner;
    or whose protocol has a tunnel of the host's, with that.

    A socket of "::" counts as listening on IPv4 too, as most do. Loopback does not count: nothing is forwarded there.
    """
    if not wanted:
        return None
    claims = Claims(claim for claim in wanted if claim.protocol)
    for inode, listener in _listeners(proc):
        if (met := claims.met_by(listener)) < len(claims.all):
            return claims.all[met], listener._replace(owner=_program(inode, proc))
    whole = [claim for claim in wanted if claim.protocol and ip_protocols.is_whole(claim.protocol)]
    if whole:
        from libvirt_guestnet.datapath.forwards import tunnels

        return next(((c, tunnel) for tunnel in tunnels.ends(whole) for c in whole if clash(c, tunnel)), None)
    return None


def _listeners(proc: str) -> Iterator[tuple[str, Claim]]:
    for protocol, table, state in _TABLES:
        for fields in _rows(f"{proc}/net/{table}"):
            if len(fields) > 9 and fields[3] == state:
                text, _, port = fields[1].partition(":")
                yield from _at(fields[9], _address(text), protocol, int(port, 16))
    yield from _sctp(proc)
    yield from _raw(proc)


def _raw(proc: str) -> Iterator[tuple[str, Claim]]:
    """Sockets of programs that speak a protocol without ports themselves, such as a routing daemon's or keepalived's.
    Where others have a port, they have the protocol's number."""
    for table in ("raw", "raw6"):
        for fields in _rows(f"{proc}/net/{table}"):
            if len(fields) > 9:
                text, _, number = fields[1].partition(":")
                yield from _at(fields[9], _address(text), ip_protocols.word(int(number, 16)), 0)


def _sctp(proc: str) -> Iterator[tuple[str, Claim]]:
    """SCTP's sockets that listen, where the kernel has it: all of a socket's addresses are in its line."""
    for fields in _rows(f"{proc}/net/sctp/eps"):
        if len(fields) > 8 and fields[3] == _SCTP_LISTENS:
            for address in map(parse.address, fields[8:]):
                yield from _at(fields[7], address, "sctp", int(fields[5]))


def _at(inode: str, address: parse.Address, protocol: str, port: int) -> Iterator[tuple[str, Claim]]:
    if not address.is_loopback:
        for at in ANYWHERE.values() if str(address) == ANYWHERE[6] else (str(address),):
            yield inode, Claim(at, protocol, port, port)


def _rows(path: str) -> Iterator[list[str]]:
    with suppress(FileNotFoundError), open(path) as file:
        yield from (line.split() for line in file.read(_LARGEST).splitlines()[1:])


def _address(text: str) -> IPv4Address | IPv6Address:
    """An address as the kernel prints it: words of 32 bits in the host's byte order."""
    words = [bytes.fromhex(text[i : i + 8]) for i in range(0, len(text), 8)]
    packed = b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)
    if len(packed) == 4:
        return IPv4Address(packed)
    address = IPv6Address(packed)
    return address.ipv4_mapped or address


def _program(inode: str, proc: str) -> str:
    """The program that has the socket, for the message of a refusal."""
    for pid in filter(str.isdigit, os.listdir(proc)):
        with suppress(OSError):
            for descriptor in os.listdir(f"{proc}/{pid}/fd"):
                if os.readlink(f"{proc}/{pid}/fd/{descriptor}") == f"socket:[{inode}]":
                    with open(f"{proc}/{pid}/comm") as file:
                        return f"{file.read(64).strip()} (process {pid})"
    return "the kernel or another program"
