"""The bridge guard of this host: which bridges it closes and which ports may pass, by the receipts.

A bridge is managed, and closed, if libvirt or our hook made it for a guarded network. A bridge that was there before
may have ports that are not ours to cut off (decision 29).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress

from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.datapath.port import bridge_filter
from libvirt_guestnet.datapath.run.names import TABLE
from libvirt_guestnet.datapath.run.nft import NftRefusedError, nft
from libvirt_guestnet.hook.read import hostwide
from libvirt_guestnet.hook.read.domain import Domain
from libvirt_guestnet.state.folder import State
from libvirt_guestnet.state.locked import LockedState
from libvirt_guestnet.state.receipts import Bridges, PortReceipt
from libvirt_guestnet.xmlread import Node


def joined(xml: Node, state: State, default: str | None = None) -> Domain:
    """A domain, its NICs joined with the networks that count for them; `default` as this host says, unless given.
    Raises NotAdmittedError if what this host says cannot be read.

    For a NIC that names a managed bridge, or another network on it, that is the bridge's own network, so that the same
    rules hold for all its ports. The same goes for any bridge of a network that requires guarded ports.
    """
    bridges = state.bridges()
    managed = bridges.networks if bridges else {}

    def name_of(bridge: str, named: str) -> str:
        name = managed.get(bridge, "") or ("" if named or not bridge else state.insisting(bridge))
        if not name and bridge and not named and default != hostwide.DECLARED:
            return _libvirts(bridge, state)
        declared = state.network(named) if name and named else None
        return name if name and (declared is None or declared.undeclared) else named

    default = hostwide.read().guard if default is None else default
    return Domain(xml, state.network, name_of, default)


def _libvirts(bridge: str, state: State) -> str:
    """The network whose own bridge a NIC names instead of the network, or ""."""
    return next((each.name for each in state.networks() if each.bridge == bridge and each.hosts), "")


def closed(state: State) -> Collection[str]:
    """The closed bridges: on these every port must be admitted, trusted ones too."""
    bridges = state.bridges()
    return bridges.networks if bridges and not bridges.cannot else ()


def change(admitted: Iterable[PortReceipt], gone: Iterable[PortReceipt], state: State) -> str:
    """The lines that admit and shut out ports, for a batch that guards and releases them; none if `settle` is due."""
    bridges = state.bridges()
    if bridges is None or bridges.cannot or not bridges.settled:
        return ""
    return bridge_filter.change(*({r.ifindex for r in receipts if r.ifindex} for receipts in (admitted, gone)))


def changing(locked: LockedState) -> None:
    """To be called before receipts of networks change: should we be killed, a later call knows that `settle` is due."""
    locked.put_bridges((locked.bridges() or Bridges({}))._replace(settled=False))


def review(locked: LockedState, again: bool = False) -> None:
    """Notes which bridges are managed by now; `settle` must follow. `again`: the kernel may be able to by now."""
    bridges = locked.bridges() or Bridges({})
    networks = {r.bridge: r.name for r in reversed(locked.networks()) if r.managed and r.bridge}
    if networks or locked.bridges():
        locked.put_bridges(Bridges(networks, False, "" if again else bridges.cannot))


def settle(locked: LockedState, shut: Collection[int] = ()) -> None:
    """Makes the kernel's table agree with the receipts, except for ports that must stay `shut` (indexes), or notes that
    the kernel cannot have it. Raises GuestnetError."""
    bridges = locked.bridges()
    if bridges is None:
        return
    if bridges.networks:
        locked.put_bridges(bridges._replace(settled=True, cannot=bridges.cannot or _refusal(bridges, shut, locked)))
    else:
        remove(locked)


def lost(state: State) -> bool:
    """Whether the kernel's table, if it has been settled, lacks a chain, a bridge, or a port that may pass. Raises
    GuestnetError."""
    from libvirt_guestnet.datapath.netlink.present import ChainKey, ElementKey, index_key, missing, name_key

    bridges = state.bridges()
    if bridges is None or bridges.cannot or not bridges.settled:
        return False
    table: list[ChainKey | ElementKey] = [ChainKey(bridge_filter.TABLE, name) for name in bridge_filter.CHAINS]
    table += [ElementKey(bridge_filter.TABLE, "bridges", name_key(bridge)) for bridge in _silencing(bridges, state)]
    table += [ElementKey(bridge_filter.TABLE, "ports", index_key(index)) for index in _uplinks(bridges, state) - {0}]
    taps = {ElementKey(bridge_filter.TABLE, "ports", index_key(links.index_of(tap))): tap for tap in state.tapnames()}
    # Another device may have the name by now.
    receipts = [(each, state.sound_port(taps[each])) for each in missing(list(taps))]
    out = {r.ifindex for each, r in receipts if r and index_key(r.ifindex) == each.key}
    return bool(missing(table)) or bool(out and out - _bare(state))


def _uplinks(bridges: Bridges, state: State) -> set[int]:
    return {links.index_of(r.uplink) for r in state.networks() if r.uplink and r.bridge in bridges.networks}


def _silencing(bridges: Bridges, state: State) -> list[str]:
    """The bridges on which nobody else passes anything: not those all of whose networks are only observed."""
    managed = [network for network in state.networks() if network.managed]
    open_ones = {network.bridge for network in managed if network.observed}
    open_ones -= {network.bridge for network in managed if not network.observed}
    return [bridge for bridge in bridges.networks if bridge not in open_ones]


def settle_pending(locked: LockedState) -> None:
    """Finishes what a killed call began."""
    bridges = locked.bridges()
    if bridges is not None and not bridges.settled:
        review(locked)
        settle(locked)


def remove(locked: LockedState) -> None:
    """Opens every bridge again."""
    if locked.bridges() is not None:
        with suppress(NftRefusedError):  # a kernel without nftables for bridges
            nft(bridge_filter.remove(), locked.descriptor)
        locked.drop_bridges()


def _bare(state: State) -> set[int]:
    """The indexes of ports without chains, such as of guests that could not be guarded again after a flush."""
    from libvirt_guestnet.datapath.netlink.present import ChainKey, missing

    chains = {ChainKey(TABLE, f"tap-{r.tap}", drops=True): r.ifindex for r in state.ports() if not r.trusted}
    return {chains[each] for each in missing(list(chains))}


def _refusal(bridges: Bridges, shut: Collection[int], locked: LockedState) -> str:
    ports = {*_uplinks(bridges, locked), *(r.ifindex for r in locked.ports())} - {0, *shut, *_bare(locked)}
    try:
        nft(bridge_filter.guard(_silencing(bridges, locked), ports), locked.descriptor)
    except NftRefusedError as error:
        return str(error)
    return ""
