"""What a topology's rows are called, derived from names: the same from whatever host it is applied. Pure."""

from __future__ import annotations

from hashlib import sha256
from uuid import UUID, uuid5

from libvirt_guestnet.metadata.policy import NAMESPACE

BRIDGE = "br-int"
"""The bridge of Open vSwitch into which libvirt plugs the ports of logical switches, on every chassis."""
_ROOT = UUID("6b6a58a2-2f0b-5d0c-9d0e-1d7f0a5f3c11")


def logical_port(topology: str, guest: str, port: str) -> str:
    """The name of a port's row, which is the interfaceid in libvirt's XML: by that a chassis knows it."""
    return str(uuid5(_ROOT, "\0".join((NAMESPACE, topology, guest, port))))


def mac(*names: str) -> str:
    """A MAC address for a router's port: locally administered, and none that a guest has (52:54:00)."""
    return "0a:" + ":".join(f"{byte:02x}" for byte in _digest("mac", *names)[:5])


def group(*names: str) -> str:
    """The name of a port group: letters and digits, as matches name it."""
    return "guestnet_" + _digest("group", *names).hex()[:16]


def link(topology: str, network: str) -> str:
    """What the hooks call a network's link on the bridge that it shares with all others: as long as a device's name."""
    return "gnl-" + _digest("link", topology, network).hex()[:8]


def _digest(*names: str) -> bytes:
    return sha256("\0".join(names).encode()).digest()
