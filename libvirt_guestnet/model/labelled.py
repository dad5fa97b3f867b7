"""What can be behind a physical network's label on a host, as text: a NIC or a Linux bridge by its name, `nic:NAME` or
`bridge:NAME` where it is not this host that says which of the two it is, `BRIDGE/NIC`, or `ovs:BRIDGE`. Pure."""

from __future__ import annotations

from libvirt_guestnet import parse

OVS, NIC, BRIDGE = "ovs:", "nic:", "bridge:"
_KINDS = (OVS, NIC, BRIDGE)


def bare(entry: str) -> str:
    """Without what says which kind it is."""
    for kind in _KINDS:
        entry = entry.removeprefix(kind)
    return entry


def is_bridge(entry: str) -> bool | None:
    """Whether an entry itself says that it is a bridge; None for a bare name."""
    if entry.startswith(NIC):
        return False
    return True if "/" in entry or entry.startswith((OVS, BRIDGE)) else None


def with_kind(entry: str) -> str:
    """The same where a bare name is a NIC's, whatever any host has of that name."""
    return f"{NIC}{entry}" if is_bridge(entry) is None else entry


def is_entry(text: object) -> bool:
    """Whether a host can map a label to that."""
    if not isinstance(text, str):
        return False
    names = bare(text).split("/")
    return 1 <= len(names) <= (1 if text.startswith(NIC) else 2) and all(map(_is_device, names))


def _is_device(name: str) -> bool:
    try:
        return bool(parse.device(name))
    except parse.TextError:
        return False
