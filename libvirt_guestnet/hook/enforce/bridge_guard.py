"""The bridge guard of this host: which bridges it keeps closed and who passes, as the receipts have it.

A bridge is managed if libvirt or our hook made it for a guarded network. One that was there before has ports of other
people, which are not ours to cut off (decision 29).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress

from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.datapath.port import bridge_filter
from libvirt_guestnet.datapath.run.names import TABLE
from libvirt_guestnet.datapath.run.nft import NftRefusedError, nft
from libvirt_guestnet.hook.read.domain import Domain
from libvirt_guestnet.state.folder import State
from libvirt_guestnet.state.locked import LockedState
from libvirt_guestnet.state.receipts import Bridges, PortReceipt
from libvirt_guestnet.xmlread import Node


def joined(xml: Node, state: State) -> Domain:
    """A domain, its NICs joined with the networks that count for them.

    For a NIC that names a managed bridge, or a network of somebody's over it, that is the bridge's own network: what
    may pass there is the same for all. The same for the bridge of a network that insists, whosever that bridge is.
    """
    bridges = state.bridges()
    managed = bridges.networks if bridges else {}

    def name_of(bridge: str, named: str) -> str:
        name = managed.get(bridge, "") or ("" if named or not bridge else state.insisting(bridge))
        return name if name and not (named and state.network(named)) else named

    return Domain(xml, state.network, name_of)


def closed(state: State) -> Collection[str]:
    """The bridges on which a port needs admission, were it only a trusted one."""
    bridges = state.bridges()
    return bridges.networks if bridges and not bridges.cannot else ()


def change(admitted: Iterable[PortReceipt], gone: Iterable[PortReceipt], state: State) -> str:
    """What a batch that guards and releases ports must say besides; nothing while the kernel's table is not settled."""
    bridges = state.bridges()
    if bridges is None or bridges.cannot or not bridges.settled:
        return ""
    return bridge_filter.change(*({r.ifindex for r in receipts if r.ifindex} for receipts in (admitted, gone)))


def changing(locked: LockedState) -> None:
    """To be called before receipts of networks change: whoever comes after a kill knows that `settle` is due."""
    locked.put_bridges((locked.bridges() or Bridges({}))._replace(settled=False))


def review(locked: LockedState, again: bool = False) -> None:
    """Notes which bridges are managed by now; `settle` must follow. `again`: the kernel may be able to by now."""
    bridges = locked.bridges() or Bridges({})
    networks = {r.bridge: r.name for r in reversed(locked.networks()) if r.managed and r.bridge}
    if networks or locked.bridges():
        locked.put_bridges(Bridges(networks, False, "" if again else bridges.cannot))


def settle(locked: LockedState, shut: Collection[int] = ()) -> None:
    """Makes the kernel's table what the receipts say, but for ports that are to stay `shut`, by index, or notes that
    the kernel cannot. Raises GuestnetError."""
    bridges = locked.bridges()
    if bridges is None:
        return
    if bridges.networks:
        locked.put_bridges(bridges._replace(settled=True, cannot=bridges.cannot or _refusal(bridges, shut, locked)))
    else:
        remove(locked)


def lost(state: State) -> bool:
    """Whether the kernel's table, if it has been settled, lacks a chain, a bridge, or somebody who may pass. Raises
    GuestnetError."""
    from libvirt_guestnet.datapath.netlink.present import ChainKey, ElementKey, index_key, missing, name_key

    bridges = state.bridges()
    if bridges is None or bridges.cannot or not bridges.settled:
        return False
    table: list[ChainKey | ElementKey] = [ChainKey(bridge_filter.TABLE, name) for name in bridge_filter.CHAINS]
    table += [ElementKey(bridge_filter.TABLE, "bridges", name_key(bridge)) for bridge in _silencing(bridges, state)]
    table += [ElementKey(bridge_filter.TABLE, "ports", index_key(index)) for index in _uplinks(bridges, state) - {0}]
    taps = {ElementKey(bridge_filter.TABLE, "ports", index_key(links.index_of(tap))): tap for tap in state.tapnames()}
    # A name that has a receipt may be another device's by now.
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
    """The indexes of ports whose chains are missing, such as of a guest that cannot be guarded again after a flush of
    all rules. Who is put under guard is admitted with that."""
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
