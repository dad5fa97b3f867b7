"""Names for nft text: our table's name, and names and addresses that have been checked. Pure."""

from __future__ import annotations

from libvirt_guestnet import parse

TABLE = "netdev guestnet"

# Kinds of sets that a link has; their names are KIND-LINK.
LINK_KINDS = ("held4", "held6", "owned4", "owned6", "wide4", "wide6", "tried6", "announced6", "reserved4", "reserved6")

# Sets of what is noted of ports that are only observed, by IP version and of tags: KIND-TAP.
NOTE_KINDS = ("seen4", "seen6", "seentags")

check_device, check_mac = parse.device, parse.mac


def check_segment(name: str) -> str:
    """Checks the name of a link: a bridge, or BRIDGE/VLAN, where 0 means all VLANs. Raises TextError."""
    # Receipts of earlier versions may have a dot there.
    bridge, between, vlan = name.rpartition("." if len(name) > 15 and "/" not in name else "/")
    return f"{check_device(bridge)}{between}{parse.number(vlan, 0, 4094)}" if between else check_device(name)


def policy_set(version: int, segment: str) -> str:
    """The name of the set of the addresses that ports of a link hold by their policy."""
    return f"owned{version}-{check_segment(segment)}"


def wide_set(version: int, segment: str) -> str:
    """The name of the set of ranges that ports of a link hold, which are too large to be listed by address."""
    return f"wide{version}-{check_segment(segment)}"


def reserved_set(version: int, segment: str) -> str:
    """The name of the set of a network's reserved addresses, if there are many."""
    return f"reserved{version}-{check_segment(segment)}"


def digits(mac: str) -> str:
    """The hexadecimal digits of a MAC address, without colons."""
    return mac.replace(":", "")
