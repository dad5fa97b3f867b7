"""The rows of `status` on forwards and floating addresses: what domains ask for, and whether the kernel has it open."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

from libvirt_guestnet.datapath.forwards.table import version_of
from libvirt_guestnet.hook.read.wanted_forwards import rule
from libvirt_guestnet.libvirtd.snapshot import DomainState
from libvirt_guestnet.metadata.policy import PortPolicy
from libvirt_guestnet.model import ip_protocols
from libvirt_guestnet.state.receipts import PortForwards
from libvirt_guestnet.state.serialiser import LEASES


@dataclass(frozen=True)
class ForwardRow:
    """A forward or floating address of a port: `service` at `at` ("": at any address of the host) is translated to
    `to`, which is lease4 or lease6 while there is no lease, for `clients` in these prefixes (none: for all); for a
    floating address, service and port are "". `open`: whether the kernel has it; None while the guest does not run."""

    topology: str
    guest: str
    port: str
    at: str
    service: str
    clients: list[str]
    to: str
    open: bool | None

    def json(self) -> dict[str, object]:
        return {"kind": "way", **asdict(self)}


def forward_rows(domains: Iterable[DomainState], receipts: Iterable[PortForwards]) -> Iterator[ForwardRow]:
    """What these domains ask for; `receipts` are those of what the kernel has."""
    opened = {(each.uuid, each.mac): each for each in receipts if each.active}
    for domain in domains:
        for port in domain.policies:
            yield from _of_port(domain, port, opened.get((domain.uuid, port.mac)))


def _of_port(domain: DomainState, port: PortPolicy, applied: PortForwards | None) -> Iterator[ForwardRow]:
    place = (domain.topology or "", domain.name, port.name)
    forwards = {f._replace(hide=False) for f in applied.forwards} if applied else set()
    leases = {version_of(f.to): f.to for f in applied.forwards} if applied else {}
    floating = set(applied.floating) if applied else set()
    for each in port.forwards:
        to = leases.get(LEASES[each.to], each.to) if each.to in LEASES else each.to
        wanted = rule(each)._replace(to=to, hide=False)
        target = to if not each.first else f"[{to}]:{each.to_first}" if ":" in to else f"{to}:{each.to_first}"
        service = ip_protocols.service(each.protocol, each.first, each.last)
        is_open = None if domain.live is None else wanted in forwards
        yield ForwardRow(*place, each.at, service, list(wanted.sources), target, is_open)
    for address in port.floating:
        ip, to, via = (str(each or "") for each in address)
        is_open = (ip, to or ip, via) in floating
        yield ForwardRow(*place, ip, "", [], to or via, None if domain.live is None else is_open)
