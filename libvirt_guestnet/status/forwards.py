"""The rows of `status` on ways in to guests: what their domains ask for, and whether the hooks have opened it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

from libvirt_guestnet.datapath.forwards.table import PortForwards, version_of
from libvirt_guestnet.libvirtd.snapshot import DomainState
from libvirt_guestnet.metadata.policy import PortPolicy
from libvirt_guestnet.state.serialiser import LEASES


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


def way_rows(domains: Iterable[DomainState], ways: Iterable[PortForwards]) -> Iterator[WayRow]:
    """What these domains ask for; `ways` are the hooks' receipts of what the kernel has."""
    opened = {(each.uuid, each.mac): each for each in ways if each.active}
    for domain in domains:
        for port in domain.policies:
            yield from _of_port(domain, port, opened.get((domain.uuid, port.mac)))


def _of_port(domain: DomainState, port: PortPolicy, applied: PortForwards | None) -> Iterator[WayRow]:
    place = (domain.topology or "", domain.name, port.name)
    forwards = {(f.protocol, f.at, f.first, f.to, f.to_first) for f in applied.forwards} if applied else set()
    leases = {version_of(f.to): f.to for f in applied.forwards} if applied else {}
    floating = set(applied.floating) if applied else set()
    for each in port.forwards:
        to = leases.get(LEASES[each.to], each.to) if each.to in LEASES else each.to
        is_open = (each.protocol, each.at, each.first, to, each.to_first) in forwards
        target = f"[{to}]:{each.to_first}" if ":" in to else f"{to}:{each.to_first}"
        service = f"{each.protocol}/{each.first}" + (f"-{each.last}" if each.last != each.first else "")
        yield WayRow(*place, each.at, service, target, None if domain.live is None else is_open)
    for address in port.floating:
        ip, to, via = (str(each or "") for each in address)
        is_open = (ip, to or ip, via) in floating
        yield WayRow(*place, ip, "", to or via, None if domain.live is None else is_open)
