"""Networks that are there without guestnet: what may be said of them, and of ports on them. What they are, their host
knows: `plan.external` asks it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from libvirt_guestnet.metadata.policy import REQUIRED
from libvirt_guestnet.model.network import External, Mode, Network
from libvirt_guestnet.model.topology import PortKind

from ..errors import Where
from .guest_keys import GuestDecl, PortDecl
from .network_keys import NetworkDecl
from .port_security import with_port_security
from .report import Report
from .scope import HOST, Segment
from .spec import At, Decl, keys_of, value

_SAYS = {"external", "guarded", "privacy-addresses", "log-drops", "offload"}


def segment(at: At[str], decl: NetworkDecl, report: Report) -> Segment:
    """The network, as far as the file knows it."""
    for where, name in _refused(decl):
        report.add(where, f"{name} is not for an external network, of which guestnet changes nothing: leave it out")
    bridge = value(decl.external.bridge) if decl.external else None
    if bridge and decl.guarded.value == REQUIRED:
        report.add(decl.guarded.where, f"bridge {bridge} has no libvirt network that could insist: say guarded: true")
    network = replace(
        with_port_security(at, decl, Mode.EXTERNAL, bridge or ""),
        gateway=HOST,
        external=External(bridge, bool(decl.guarded.value) and decl.guarded.where != decl.at, at.where),
    )
    return Segment(at, decl, network, (), sure=False)


def _refused(decl: NetworkDecl) -> Iterator[tuple[Where, str]]:
    for name, (field, _) in keys_of(NetworkDecl).items():
        said = getattr(decl, field)
        if name not in _SAYS and _is_said(said, decl):
            yield _place(said) or decl.at, name


def _place(said: Any) -> Where | None:
    """Of a list that of its first item."""
    while isinstance(said, tuple) and said:
        said = said[0]
    return said.where if isinstance(said, At) else said.at if isinstance(said, Decl) else None


def _is_said(said: Any, decl: NetworkDecl) -> bool:
    """A default stands where its record does."""
    return said is not None and not (isinstance(said, At) and said.where == decl.at)


def check_port(guest: GuestDecl, decl: PortDecl, network: Network, report: Report) -> None:
    """Report what cannot be said of a port on one."""
    vlan = decl.vlan or decl.native_vlan or next(iter(decl.trunk or ()), None)
    if vlan:
        message = f"the VLANs on external network '{network.name}' are not guestnet's: say them in libvirt's XML"
        report.add(vlan.where, message)
    if decl.kind.value is not PortKind.NETWORK and decl.kind.where != decl.at:
        report.add(decl.kind.where, f"kind follows from external network '{network.name}': leave it out")
    if guest.image is None and decl.tap is not None:
        message = f"a NIC on external network '{network.name}' keeps the tap that its domain's XML names: leave it out"
        report.add(decl.tap.where, message)
    if guest.image is not None and not decl.addresses:
        message = f"a lab guest's port on external network '{network.name}' needs addresses: it is told what it has"
        report.add(decl.network.where, message)
