"""Bad links for labs: what a port's may do to packets."""

from __future__ import annotations

from libvirt_guestnet.model.impairment import Impairment

from .guest_keys import ImpairmentDecl, PortDecl
from .report import Report
from .spec import value

_BESIDE = (
    "impairment: libvirt limits what the port receives (bandwidth: inbound) in the same place; a port has either, and "
    "what limits an impaired one is the impairment's rate"
)


def impairment(port: PortDecl, report: Report) -> Impairment | None:
    """What the port says; None if it says nothing of that."""
    decl = port.impairment
    if decl is None:
        return None
    found = Impairment(**{key: value(getattr(decl, key)) or 0 for key in Impairment._fields})
    _check(decl, found, report)
    if port.bandwidth and port.bandwidth.inbound:
        report.add(decl.at, _BESIDE)
    return found


def _check(decl: ImpairmentDecl, found: Impairment, report: Report) -> None:
    if not any(found) and not decl.bad:
        report.add(decl.at, f"impairment: say what happens to packets: {', '.join(Impairment._fields)}")
    key, why = found.contradiction()
    if why and "delay" not in decl.bad:
        report.add(getattr(decl, key).where, f"{key}: {why}")
