"""Deleting flows from the kernel's connection tracking when their destination now belongs to another guest, or the way
there is gone.

The kernel chooses a translation at a flow's first packet. Without this, a client that keeps sending (UDP from one port)
would not reach a guest that has started since, or would be translated to one that is gone; and what was behind a guest
that is gone would be let pass as established, wherever the host then routes it. Done over a bare netlink
socket, since the program conntrack is not installed everywhere. On the hook path.
"""

from __future__ import annotations

import _socket  # the socket module's own core: `socket` would cost a hook 3 ms
import struct
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from ipaddress import IPv4Address, IPv6Address

from libvirt_guestnet.datapath.netlink import codec
from libvirt_guestnet.datapath.netlink.codec import attributes
from libvirt_guestnet.light_typing import NamedTuple
from libvirt_guestnet.model import ip_protocols
from libvirt_guestnet.model.claims import ANYWHERE, Claim
from libvirt_guestnet.parse import Prefix, address

_NETFILTER, _GET, _DELETE = 12, 1 << 8 | 1, 1 << 8 | 2
_ORIGINAL, _REPLY, _IP, _PROTO = 1, 2, 1, 2
_SOURCE = {4: 1, 6: 3}  # CTA_IP_V4_SRC, CTA_IP_V6_SRC
_DESTINATION = {4: 2, 6: 4}  # CTA_IP_V4_DST, CTA_IP_V6_DST
_FAMILY = {4: 2, 6: 10}
_NUMBER, _PORT = 1, 3
_GENERAL = struct.Struct("=BBH")
_SECONDS = 15


class Flow(NamedTuple):
    """The source and destination of a flow's first packet; `original` is its tuple in the kernel's own form. `answered`
    is where its answers go to, which is an address of the host's if it begins at a guest that is translated."""

    destination: str
    protocol: int
    port: int
    original: bytes
    answered: str = ""
    source: str = ""


def forget_behind(prefixes: Iterable[Prefix]) -> None:
    """Deletes all flows from and to these prefixes; where the kernel cannot, as for `forget`."""
    wanted = list(prefixes)
    with suppress(OSError):
        for version in sorted({prefix.version for prefix in wanted}):
            for flow in list(_flows(version)):
                if any(address(end) in prefix for end in (flow.source, flow.destination) for prefix in wanted):
                    _send(version, _DELETE, codec.REQUEST, flow.original).close()


def forget(claims: Iterable[Claim], host: Iterable[str]) -> None:
    """Deletes all flows to what these forwards claim; `host` are the host's addresses, for which ANYWHERE stands.

    If the kernel cannot (it has no ctnetlink, or a flow is gone already), flows end by themselves.
    """
    wanted = [each for claim in claims for each in _spread(claim, list(host))]
    versions = {6 if ":" in claim.at else 4 for claim in wanted}
    with suppress(OSError):
        for version in sorted(versions):
            for flow in _matching(list(_flows(version)), wanted):
                _send(version, _DELETE, codec.REQUEST, flow.original).close()


def _spread(claim: Claim, host: list[str]) -> list[Claim]:
    if claim.at not in ANYWHERE.values():
        return [claim]
    return [claim._replace(at=address) for address in host if (":" in address) == (":" in claim.at)]


def _matching(flows: list[Flow], wanted: list[Claim]) -> Iterator[Flow]:
    by_address: dict[str, list[Claim]] = {}
    for claim in wanted:
        by_address.setdefault(claim.at, []).append(claim)
    for flow in flows:
        asked, begun = by_address.get(flow.destination, ()), by_address.get(flow.answered, ())
        if any(_meant(flow, claim) for claim in asked) or any(_begun(flow, claim) for claim in begun):
            yield flow


def _meant(flow: Flow, claim: Claim) -> bool:
    if not claim.protocol:
        return True
    is_asked = ip_protocols.is_whole(claim.protocol) or claim.first <= flow.port <= claim.last
    return flow.protocol == ip_protocols.number(claim.protocol) and is_asked


def _begun(flow: Flow, claim: Claim) -> bool:
    """Whether the guest may have begun it, where what it sends comes from the address, too."""
    return not claim.protocol or (ip_protocols.is_whole(claim.protocol) and _meant(flow, claim))


def _send(version: int, kind: int, flags: int, body: bytes) -> _socket.socket:
    sock = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, _NETFILTER)
    sock.settimeout(_SECONDS)
    sock.bind((0, 0))
    sock.send(codec.request(kind, flags, _GENERAL.pack(_FAMILY[version], 0, 0) + body))
    return sock


def _flows(version: int) -> Iterator[Flow]:
    with closing(_send(version, _GET, codec.REQUEST | codec.DUMP, b"")) as sock:
        while data := sock.recv(1 << 18):
            for kind, _, body in codec.messages(data):
                if kind in (codec.ERROR, codec.DONE):
                    return
                if flow := _parse(version, body[_GENERAL.size :]):
                    yield flow


def _parse(version: int, body: bytes) -> Flow | None:
    found = attributes(body)
    original = found.get(_ORIGINAL, b"")
    inside = attributes(original)
    destination = _address(inside, _DESTINATION[version])
    proto = attributes(inside.get(_PROTO, b""))
    if not destination or _NUMBER not in proto:
        return None
    port = int.from_bytes(proto.get(_PORT, b"\0\0"), "big")
    nested = codec.encode([(_ORIGINAL | codec.NESTED, original)])
    answered = _address(attributes(found.get(_REPLY, b"")), _DESTINATION[version])
    return Flow(destination, proto[_NUMBER][0], port, nested, answered, _address(inside, _SOURCE[version]))


def _address(inside: dict[int, bytes], which: int) -> str:
    """An address in a tuple; "" where there is none."""
    octets = attributes(inside.get(_IP, b"")).get(which)
    if octets is None:
        return ""
    return str(IPv4Address(octets) if len(octets) == 4 else IPv6Address(octets))
