"""What this host knows about a port beyond the XML: leases of its DHCP server, and addresses of other ports."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, ip_address
from typing import Any

from libvirt_guestnet.datapath.filters import check_device, link_local
from libvirt_guestnet.hook.intent import Leases
from libvirt_guestnet.state import PortReceipt, State

# libvirt's own leases helper writes it, from what dnsmasq tells it; guests have no part in it.
_LEASES = "/var/lib/libvirt/dnsmasq/{}.status"
_LARGEST = 16 << 20


def leases(receipt: PortReceipt, path: str = _LEASES) -> Leases:
    """The port's addresses in the lease file of the host's DHCP server, with the seconds that each has left.

    They matter where a filter is put back while the guest runs: it will not ask again before half its lease is over.
    """
    return tuple(_leases(receipt, path)) if receipt.dhcp else ()


def _leases(receipt: PortReceipt, path: str) -> Iterator[tuple[IPv4Address, int]]:
    for lease in _read(path.format(check_device(receipt.bridge))):
        if str(lease.get("mac-address", "")).lower() != receipt.mac:
            continue
        try:
            address, expires = ip_address(str(lease.get("ip-address"))), int(lease.get("expiry-time") or 0)
        except ValueError:
            continue
        left = expires - int(time.time()) if expires else receipt.lease
        if isinstance(address, IPv4Address) and left > 0:
            yield address, min(left, receipt.lease)


def _read(path: str) -> list[dict[str, Any]]:
    try:
        with open(path, "rb") as file:
            found = json.loads(file.read(_LARGEST) or b"[]")
    except (FileNotFoundError, ValueError):
        return []
    return [lease for lease in found if isinstance(lease, dict)] if isinstance(found, list) else []


def completed(receipt: PortReceipt, state: State) -> PortReceipt:
    """A port with privacy addresses owns every IPv6 address of its network's /64s, and every link-local one, but not
    those that other ports of the network are known by."""
    if not receipt.privacy:
        return receipt
    network = state.network(receipt.network)
    prefixes = [subnet for subnet in network.subnets if subnet.endswith("/64")] if network else []
    hosts = [*network.hosts, str(link_local(network.mac))] if network and network.mac else []
    others = [a for other in state.ports() if other.network == receipt.network for a in _addresses(other, receipt)]
    return receipt._replace(
        owned=(*receipt.owned, *prefixes, "fe80::/64"), excluded=(*receipt.excluded, *hosts, *others)
    )


def _addresses(other: PortReceipt, receipt: PortReceipt) -> Iterator[str]:
    if other.mac == receipt.mac:
        return
    yield str(link_local(other.mac))
    yield from (text for text in other.owned if ":" in text and text.partition("/")[2] in ("", "128"))


def is_new(receipt: PortReceipt, state: State) -> bool:
    """Whether this is not the port that the tap's receipt speaks of: what that one learnt is not for this one."""
    before = state.port(receipt.tap)
    return before is None or _port(before) != _port(receipt)


def _port(receipt: PortReceipt) -> tuple[str, str, int, str]:
    # A tap that moves to another network stays the same tap, but learns its addresses anew.
    return receipt.uuid, receipt.mac, receipt.ifindex, receipt.network
