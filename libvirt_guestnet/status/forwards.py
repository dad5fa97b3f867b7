"""The rows of `status` on ways in to guests: what their domains ask for, and whether the hooks have opened it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass

from libvirt_guestnet import parse
from libvirt_guestnet.datapath.forwards.table import Ways, version_of
from libvirt_guestnet.libvirtd.snapshot import DOMAIN_MARK, PORT_MARK, DomainState, Element
from libvirt_guestnet.model.metadata import NAMESPACE
from libvirt_guestnet.state.serialiser import LEASES

_FORWARD, _FLOATING = (f"{{{NAMESPACE}}}{tag}" for tag in ("forward", "floating"))


@dataclass(frozen=True)
class WayRow:
    """A way in to a port: `service` asked for at `at` ("": at any address of the host) reaches `to`, lease4 or lease6
    while there is none; of a floating address service and port are "". `open` is whether the kernel has it open: None
    while the guest does not run."""

    topology: str
    guest: str
    port: str
    at: str
    service: str
    to: str
    open: bool | None

    def json(self) -> dict[str, object]:
        return {"kind": "way", **asdict(self)}


def way_rows(domains: Iterable[DomainState], ways: Iterable[Ways]) -> Iterator[WayRow]:
    """What these domains ask for; `ways` are the hooks' receipts of what the kernel has."""
    opened = {(each.uuid, each.mac): each for each in ways if each.active}
    for domain in domains:
        current = domain.config if domain.live is None else domain.live
        for port in current.iterfind(f"{DOMAIN_MARK}/{PORT_MARK}"):
            yield from _of_port(domain, port, opened.get((domain.uuid, port.get("mac", "").lower())))


def _of_port(domain: DomainState, port: Element, applied: Ways | None) -> Iterator[WayRow]:
    place = (domain.topology or "", domain.name, port.get("name", ""))
    forwards = {(f.protocol, f.at, f.first, f.to, f.to_first) for f in applied.forwards} if applied else set()
    leases = {version_of(f.to): f.to for f in applied.forwards} if applied else {}
    floating = set(applied.floating) if applied else set()
    for each in port.iterfind(_FORWARD):
        at, protocol, ports, to = (each.get(key, "") for key in ("at", "protocol", "ports", "to"))
        first = ports.partition("-")[0]
        to = leases.get(LEASES[to], to) if to in LEASES else to
        to_first = each.get("first") or first
        is_open = (protocol, _plain(at), _number(first), _plain(to), _number(to_first)) in forwards
        target = f"[{to}]:{to_first}" if ":" in to else f"{to}:{to_first}"
        yield WayRow(*place, at, f"{protocol}/{ports}", target, None if domain.live is None else is_open)
    for each in port.iterfind(_FLOATING):
        ip, to, via = (each.get(key, "") for key in ("ip", "to", "via"))
        is_open = (_plain(ip), _plain(to or ip), _plain(via)) in floating
        yield WayRow(*place, ip, "", to or via, None if domain.live is None else is_open)


def _plain(address: str) -> str:
    """As the receipts have it."""
    with suppress(parse.TextError):  # what the hooks refuse is not open
        return str(parse.address(address))
    return address


def _number(text: str) -> int:
    with suppress(parse.TextError):
        return parse.number(text, 1, 65535)
    return 0
