"""What of a plan libvirt alone cannot do on another host (decision 122). Pure.

Networks, and definitions of domains, need libvirt alone: what follows from them in the kernel is done by that host's
own hooks when they start. What changes under a running guest, and what are files or programs of guestnet's own, is done
by guestnet on the host itself.
"""

from __future__ import annotations

from collections.abc import Iterator

from libvirt_guestnet.changes.change import Change
from libvirt_guestnet.changes.guest import (
    AttachInterface,
    DefineDomain,
    DetachInterface,
    RestorePorts,
    SetDomainMetadata,
    UpdateInterface,
)
from libvirt_guestnet.changes.network import (
    AdoptNetwork,
    RemoveNetwork,
    RestartNetwork,
    SetNetworkMetadata,
    StartNetwork,
)
from libvirt_guestnet.changes.router import ConfigureRouter, RemoveRouter, StartRouter
from libvirt_guestnet.libvirtd.snapshot import Snapshot
from libvirt_guestnet.plan.order import Plan

_RUNS = "the guest runs, and its ports are guarded by its host alone"
_ON_IT = "running guests are on it, and are put back onto it by their host alone"
_DISKS = "its disks are made by its host alone"


def beyond(plan: Plan, snapshot: Snapshot) -> list[str]:
    """A line for each change that is not to be made from elsewhere."""
    return [f"{change.text()}: {why}" for change in plan.changes for why in _why(change, snapshot)]


def _why(change: Change, snapshot: Snapshot) -> Iterator[str]:
    match change:
        case AttachInterface(live=True) | RestorePorts():
            yield _RUNS
        case SetDomainMetadata() | DetachInterface() | UpdateInterface() if change.live is not None:
            yield _RUNS
        case StartNetwork() | RestartNetwork() if change.taps:
            yield _ON_IT
        case RemoveNetwork() if change.left:
            yield _ON_IT
        case AdoptNetwork() if snapshot.network[change.name].live is not None:
            yield "it is active, and its hooks are told by its host alone"
        case SetNetworkMetadata():
            yield "it is active, and its hooks are told by its host alone"
        case ConfigureRouter() | StartRouter() | RemoveRouter():
            yield _DISKS
        case DefineDomain():
            yield "its image is made by its host alone"
