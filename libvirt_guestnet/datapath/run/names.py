"""What may be written into nft text: our table's name, and names and addresses that have been checked. Pure."""

from __future__ import annotations

from libvirt_guestnet import parse

TABLE = "netdev guestnet"

# Sets of links: KIND-LINK.
LINK_KINDS = ("held4", "held6", "owned4", "owned6", "wide4", "wide6", "tried6", "announced6", "reserved4", "reserved6")

# Sets of what is noted of ports that are only observed, by IP version and of tags: KIND-TAP.
NOTE_KINDS = ("seen4", "seen6", "seentags")

check_device, check_mac = parse.device, parse.mac


def check_segment(name: str) -> str:
    """The name of a link: a bridge's, perhaps with a slash, which no device has in its name, and a VLAN; 0 for all.
    Raises TextError otherwise."""
    # Receipts of earlier versions may have a dot there.
    bridge, between, vlan = name.rpartition("." if len(name) > 15 and "/" not in name else "/")
    return f"{check_device(bridge)}{between}{parse.number(vlan, 0, 4094)}" if between else check_device(name)


def policy_set(version: int, segment: str) -> str:
    """The name of the set of what ports of a link hold by their policy."""
    return f"owned{version}-{check_segment(segment)}"


def wide_set(version: int, segment: str) -> str:
    """The name of the set of the ranges among that which are too large to be told address by address."""
    return f"wide{version}-{check_segment(segment)}"


def reserved_set(version: int, segment: str) -> str:
    """The name of the set of what a network reserves for MAC addresses, where that is much."""
    return f"reserved{version}-{check_segment(segment)}"


def digits(mac: str) -> str:
    """A MAC's hexadecimal digits alone."""
    return mac.replace(":", "")
