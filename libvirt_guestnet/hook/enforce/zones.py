"""Keeping zones apart on this host, by the receipts of its networks: where it routes, by a table of ours; on layer 2,
by refusing a network that would share a bridge, or a VLAN of it, with another zone's.

A topology file is checked for both. Here it holds for whatever libvirt is told, of several files or by hand.
"""

from __future__ import annotations

from collections.abc import Iterable

from libvirt_guestnet.datapath.routing.zones import TABLE, Routed, batch, sizes
from libvirt_guestnet.datapath.run.nft import nft, sizes_of
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.parse import shown
from libvirt_guestnet.state.folder import State
from libvirt_guestnet.state.locked import LockedState
from libvirt_guestnet.state.receipts import NetworkReceipt


def change(before: NetworkReceipt | None, after: NetworkReceipt | None, locked: LockedState) -> None:
    """Makes the kernel keep zones apart with a network as it is `after`; its receipt is written then, so that a call
    after a kill does this again. Raises GuestnetError, also if it would share its bridge with another zone."""
    if after is not None and (after.zone or (after.mode == "bridge" and not after.external)):
        _check_alone(after, [each for each in locked.networks() if each.name != after.name])
    either = [each for each in (before, after) if each is not None]
    if any(each.zone for each in either):
        others = [each for each in locked.networks() if each.name != either[0].name]
        _put([*others, *([after] if after is not None else [])], locked)


def settle(locked: LockedState) -> None:
    """Makes the kernel agree with the receipts. Raises GuestnetError."""
    if lost(locked) or not sizes(routed(locked.networks())):
        _put(locked.networks(), locked)


def lost(state: State) -> list[str]:
    """The table, if somebody changed or removed it. Raises GuestnetError."""
    wanted = sizes(routed(state.networks()))
    return [TABLE] if wanted and sizes_of(TABLE) != wanted else []


def routed(networks: Iterable[NetworkReceipt]) -> list[Routed]:
    """The bridges of networks that are in a zone and where the host has an address: there it would route."""
    return [Routed(n.bridge, (n.topology, n.zone), n.hosts) for n in networks if n.zone and n.bridge and n.hosts]


def _put(networks: Iterable[NetworkReceipt], locked: LockedState) -> None:
    wanted = routed(networks)
    if sizes(wanted) or sizes_of(TABLE):
        nft(batch(wanted), locked.descriptor)


def _check_alone(network: NetworkReceipt, others: Iterable[NetworkReceipt]) -> None:
    """Raises GuestnetError. Two networks whose bridges libvirt makes have two: of these it refuses one itself."""
    for other in others:
        apart = _zone(network) != _zone(other) and "bridge" in (network.mode, other.mode)
        if apart and network.bridge and (network.bridge, network.vlan) == (other.bridge, other.vlan):
            raise GuestnetError(
                f"network {shown(network.name)} in {_said(network)} would share bridge {network.bridge} with "
                f"{shown(other.name)} in {_said(other)}: zones share no bridge and no VLAN"
            )


def _zone(network: NetworkReceipt) -> tuple[str, str] | None:
    return (network.topology, network.zone) if network.zone else None


def _said(network: NetworkReceipt) -> str:
    return f"zone {shown(network.zone)} of {shown(network.topology)}" if network.zone else "no zone"
