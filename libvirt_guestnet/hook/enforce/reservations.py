"""Networks with many reservations: these are in a set of the link, which is written once for all its ports."""

from __future__ import annotations

from collections.abc import Iterable

from libvirt_guestnet.datapath.port import held_sets
from libvirt_guestnet.datapath.run.names import TABLE
from libvirt_guestnet.hook.read.port_receipts import FEW_RESERVED, Leases, link_of
from libvirt_guestnet.parse import address
from libvirt_guestnet.state.folder import State
from libvirt_guestnet.state.receipts import NetworkReceipt, PortReceipt


def batch(ports: Iterable[PortReceipt], state: State) -> str:
    """The nft batch that fills the sets of reservations which the rules of these ports look into."""
    return _batch({port.reserved for port in ports if port.reserved}, list(state.networks()))


def changed(before: NetworkReceipt | None, now: NetworkReceipt | None, state: State) -> str:
    """The nft batch that changes a network's set from what it reserved `before` to what it reserves now."""
    links = {_link(each) for each in (before, now) if each is not None and each.bridge}
    if _all_of(before) == _all_of(now) and len(links) < 2:
        return ""
    used = {port.reserved for port in state.ports()}
    many = {_link(now)} if now is not None and now.bridge and len(now.reservations) > FEW_RESERVED else set()
    others = (network for network in state.networks() if before is None or network.name != before.name)
    return _batch(links & (used | many), [*others, *([now] if now else [])])


def for_itself(leases: Leases, receipt: PortReceipt, state: State) -> Leases:
    """The leases of a port without addresses that its network reserves for another port by now."""
    network = state.sound_network(receipt.network) if leases and receipt.reserved else None
    others = {ip for mac, ip in network.reservations if mac != receipt.mac} if network else ()
    return tuple(lease for lease in leases if str(lease[0]) not in others)


def _batch(links: set[str], networks: list[NetworkReceipt]) -> str:
    lines = []
    for link in sorted(links):
        on_link = (network for network in networks if network.bridge and _link(network) == link)
        lines += held_sets.reserve(link, {address(ip) for network in on_link for ip in _all_of(network)})
    return "".join(f"{line}\n" for line in (f"add table {TABLE}", *lines)) if lines else ""


def _link(network: NetworkReceipt) -> str:
    return link_of(network)


def _all_of(network: NetworkReceipt | None) -> list[str]:
    return [ip for _, ip in network.reservations] if network else []
