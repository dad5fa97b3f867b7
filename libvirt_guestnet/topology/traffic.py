"""What physical networks are for, and that guests are on none that is the hosts' own."""

from __future__ import annotations

from libvirt_guestnet.model.network import HOSTS_OWN, Traffic

from .network_keys import NetworkDecl, PhysicalDecl
from .report import Report
from .scope import Scope
from .spec import At, values


def of_label(decl: PhysicalDecl, report: Report) -> tuple[Traffic, ...]:
    """What the label is for; none: whatever. One that is for guests and for hosts is reported."""
    said = values(decl.traffic)
    own = next((at for at in decl.traffic or () if at.value in HOSTS_OWN), None)
    if decl.traffic == () and "traffic" not in decl.bad:
        report.add(decl.at, "traffic is empty: say what the physical network is for, or leave it out")
    if own and set(said) - set(HOSTS_OWN):
        message = f"{own.value} and guests' traffic would share a device: give {own.value} a label of its own"
        report.add(own.where, message)
    elif own and decl.zone:
        report.add(decl.zone.where, f"no network of guests is on what is for {own.value}: it is in no zone")
    return tuple(dict.fromkeys(said))


def check_network(scope: Scope, decl: NetworkDecl, report: Report) -> None:
    """Report a network that would put its guests' traffic on a label that is not for it."""
    for label in (decl.physical_network, decl.vxlan.underlay if decl.vxlan else None):
        outside = scope.physicals.get(label.value) if label else None
        if label and outside and outside.traffic and not set(values(outside.traffic)) - set(HOSTS_OWN):
            report.add(label.where, _refusal(label, outside))


def _refusal(label: At[str], outside: PhysicalDecl) -> str:
    kinds = " and ".join(dict.fromkeys(map(str, values(outside.traffic))))
    return f"'{label.value}' is for {kinds}, so guests' traffic cannot be on it: choose a label for guest or public"


def check_public(scope: Scope, report: Report) -> None:
    """Report a virtual router whose public side is a label that is for something else."""
    for router in scope.routers.values():
        for name, _ in router.public if router else ():
            network = scope.networks.get(name.value)
            label = network.physical_network if network else None
            outside = scope.physicals.get(label.value) if label else None
            if label and outside and outside.traffic and Traffic.PUBLIC not in values(outside.traffic):
                message = f"network '{name.value}' is on '{label.value}', which is not for public traffic"
                report.add(name.where, f"{message}: say so there, or choose another network")
