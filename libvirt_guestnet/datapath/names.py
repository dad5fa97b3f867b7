"""What may be written into nft text: our table's name, and names and addresses that have been checked. Pure."""

from __future__ import annotations

from libvirt_guestnet.errors import GuestnetError

TABLE = "netdev guestnet"

_DEVICE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
_HEX = frozenset("0123456789abcdef")


def check_device(name: str) -> str:
    """The name, if it can be written into nft text. Raises GuestnetError otherwise."""
    if 0 < len(name) <= 15 and _DEVICE.issuperset(name) and name not in (".", ".."):
        return name
    raise GuestnetError(f"device name {name!r} cannot be guarded: use letters, digits, '_', '.' and '-', at most 15")


def check_mac(mac: str) -> str:
    """The MAC in lower case. Raises GuestnetError unless it is six hex pairs of a unicast address."""
    text = mac.lower()
    pairs = text.split(":")
    if len(pairs) != 6 or not all(len(p) == 2 and _HEX.issuperset(p) for p in pairs) or int(pairs[0], 16) & 1:
        raise GuestnetError(f"{mac!r} is not a unicast MAC address")
    return text


def digits(mac: str) -> str:
    """A MAC's hexadecimal digits alone."""
    return mac.replace(":", "")
