"""What the DHCP servers of networks gave, by what libvirt keeps of it."""

from __future__ import annotations

import time
from contextlib import suppress

from libvirt_guestnet import parse
from libvirt_guestnet.hook.enforce import address_sets

_LATEST = 1 << 40  # seconds since the epoch


def leased(bridge: str) -> dict[str, frozenset[str]]:
    """By MAC address, the addresses whose time is not over."""
    found: dict[str, set[str]] = {}
    for lease in address_sets.entries(bridge):
        with suppress(parse.TextError):
            expires = parse.number(str(lease.get("expiry-time") or 0), 0, _LATEST)
            if not expires or expires > time.time():
                ip = str(parse.address(str(lease.get("ip-address"))))
                found.setdefault(str(lease.get("mac-address", "")).lower(), set()).add(ip)
    return {mac: frozenset(ips) for mac, ips in found.items()}
