"""Protocols and ports in a topology file, and what is tried of them, read as `kinds` says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from libvirt_guestnet.model import ip_protocols
from libvirt_guestnet.model.traffic import Protocol, Service

from .kinds import Kind, pattern
from .report import shown, unknown

_PORTS = r"[0-9]{1,5}(-[0-9]{1,5})?"
LAYER2 = "layer2"
_FORWARDED, _ASKED = list(Protocol), [each for each in Protocol if each is not Protocol.SCTP]


def _read_service(text: str) -> Service:
    return _service(text, _ASKED)


def _read_forwarded(text: str) -> Service:
    protocol = text.partition("/")[0]
    if protocol in _FORWARDED:
        return _service(text, _FORWARDED)
    if text in ("all", "any", "ip"):
        raise ValueError(f"{shown(text)}: whatever comes to an address is a floating address: list it under floating:")
    if protocol in ("proto", "ah", *ip_protocols.WHOLE):
        return Service(ip_protocols.read_whole(text))
    known = [*_FORWARDED, *ip_protocols.WHOLE]
    raise ValueError(_no_service(text, known))


def _service(text: str, protocols: Sequence[Protocol]) -> Service:
    protocol, slash, ports = text.partition("/")
    if protocol not in protocols:
        raise ValueError(_no_service(text, protocols))
    if not slash:
        return Service(Protocol(protocol))
    if protocol == Protocol.ICMP or not re.fullmatch(_PORTS, ports):
        raise ValueError(_no_service(text))
    first, last = int(ports.split("-")[0]), int(ports.split("-")[-1])
    if not 1 <= first <= last <= 65535:
        raise ValueError(f"{shown(text)}: ports go from 1 to 65535, the lower one first")
    return Service(Protocol(protocol), first, last)


def _no_service(text: str, known: Iterable[str] = ()) -> str:
    guess = unknown("service", text.partition("/")[0], known)
    plain = f"{shown(text)} is not a service such as icmp, tcp, tcp/80 or udp/8000-8010"
    return guess if guess.endswith("?") else plain


def _read_probe(text: str) -> Service | str:
    if text == LAYER2:
        return text
    if text.partition("/")[0] not in _ASKED:
        raise ValueError(_no_service(text, [LAYER2, *_ASKED]))
    return _read_service(text)


SERVICE = Kind(_read_service, pattern(rf"(icmp|(tcp|udp)(/{_PORTS})?)"))
FORWARDED = Kind(
    _read_forwarded,
    pattern(rf"(icmp|(tcp|udp|sctp)(/{_PORTS})?|{'|'.join(ip_protocols.WHOLE)}|proto/[0-9]{{1,3}})"),
)
PROBE = Kind(_read_probe, pattern(rf"({LAYER2}|icmp|(tcp|udp)(/{_PORTS})?)"))
