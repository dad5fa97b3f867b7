"""What this host knows about a port beyond the XML: leases of its DHCP server, and addresses of other ports."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from libvirt_guestnet.datapath import learning, nft
from libvirt_guestnet.datapath.filters import link_local
from libvirt_guestnet.datapath.learning import Address
from libvirt_guestnet.datapath.names import TABLE, check_device
from libvirt_guestnet.hook.intent import Leases
from libvirt_guestnet.state import PortReceipt, State

Numbers = Callable[[str], list[int]]  # what is in a set of the kernel's, by its name

# libvirt's own leases helper writes it, from what dnsmasq tells it; guests have no part in it.
_LEASES = "/var/lib/libvirt/dnsmasq/{}.status"
_LARGEST = 16 << 20


def leases(receipt: PortReceipt, numbers: Numbers = nft.numbers, path: str = _LEASES) -> Leases:
    """The port's addresses in the lease file of the host's DHCP server, with the seconds that each has left.

    They matter where a filter is put back while the guest runs: it will not ask again before half its lease is over.
    The server also writes down what a port never got to hear because another one holds it: that is left out.
    """
    found = list(_leases(receipt, path)) if receipt.dhcp else []
    others = _held(receipt, numbers) - set(learnt(receipt, numbers)) if found else set()
    return tuple((address, left) for address, left in found if address not in others)


def learnt(receipt: PortReceipt, numbers: Numbers = nft.numbers) -> list[Address]:
    """What a port has learnt, as the kernel has it."""
    return _addresses_in(lambda version: learning.learnt_set(version, receipt.tap), numbers) if receipt.dhcp else []


def _held(receipt: PortReceipt, numbers: Numbers) -> set[Address]:
    return set(_addresses_in(lambda version: learning.held_set(version, receipt.bridge), numbers))


def _addresses_in(name: Callable[[int], str], numbers: Numbers) -> list[Address]:
    return [*map(IPv4Address, numbers(name(4))), *map(IPv6Address, numbers(name(6)))]


def given_back(receipt: PortReceipt, numbers: Numbers = nft.numbers) -> str:
    """The nft batch after which others may learn what this port has learnt."""
    held = learnt(receipt, numbers)
    return f"add table {TABLE}\n{learning.give_back(receipt.bridge, held)}" if held else ""


def _leases(receipt: PortReceipt, path: str) -> Iterator[tuple[Address, int]]:
    for lease in _read(path.format(check_device(receipt.bridge))):
        if str(lease.get("mac-address", "")).lower() != receipt.mac:
            continue
        try:
            address, expires = ip_address(str(lease.get("ip-address"))), int(lease.get("expiry-time") or 0)
        except ValueError:
            continue
        longest = receipt.lease if address.version == 4 else receipt.lease6
        left = expires - int(time.time()) if expires else longest
        if min(left, longest) > 0:
            yield address, min(left, longest)


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
