"""Whom a failure of ours holds up: what needs us. A guest that has nothing of ours starts whatever is wrong with us.

Told from the text on stdin and from libvirt's own records: what we wrote may be what cannot be read.
"""

from __future__ import annotations

import os

from libvirt_guestnet import xmlread
from libvirt_guestnet.errors import GuestnetError, NotAdmittedError
from libvirt_guestnet.hook import concern
from libvirt_guestnet.hook.admission import guardable
from libvirt_guestnet.hook.read import hostwide
from libvirt_guestnet.hook.read.domain import Domain
from libvirt_guestnet.state.folder import ROOT

_NETWORKS = "/run/libvirt/network"
_DOMAINS = "/run/libvirt/qemu"


def is_held_up(hook: str, data: bytes | None, error: Exception) -> bool:
    """Whether a call that must not fail in vain is to be refused. Never fails: what cannot be told is refused."""
    if data is None or not data.strip() or isinstance(error, NotAdmittedError):
        return True
    try:
        return _needs_us(data) or (hook == "qemu" and _is_unwelcome(data)) or (hook == "network" and _is_plugged(data))
    except (GuestnetError, OSError, ValueError):
        return True


def _needs_us(data: bytes) -> bool:
    """Whether it is ours, or names a running network of ours or its bridge."""
    return concern.is_ours(data) or any(b"'%s'" % name in data or b'"%s"' % name in data for name in _marked())


def _marked() -> set[bytes]:
    """The names and bridges of networks that run with our metadata, as XML has them. Raises OSError."""
    found = set()
    for name in _listed(_NETWORKS):
        with open(f"{_NETWORKS}/{name}", "rb") as file:
            record = file.read(concern.MAX_STDIN + 1)
        if concern.is_ours(record):
            found |= {_between(record, b"<name>", b"</name>"), _between(record, b"<bridge name='", b"'")}
    return found - {b""}


def _listed(folder: str) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if name.endswith(".xml")]
    except FileNotFoundError:
        return []


def _between(text: bytes, start: bytes, end: bytes) -> bytes:
    return text.partition(start)[2].partition(end)[0]


def _is_unwelcome(data: bytes) -> bool:
    """Whether this host refuses it, or it names a tap that a guest of ours may have. Raises GuestnetError or
    OSError."""
    domain = Domain(xmlread.parse(data))
    guardable.check(domain)
    return any(map(_is_ours, domain.taps))


def _is_ours(tap: str) -> bool:
    """Whether somebody declared the guard of a tap: only for one of this host's default nobody is held up."""
    try:
        with open(f"{ROOT}/ports/{tap}.json", "rb") as file:
            return b'"by_host": true' not in file.read(concern.MAX_STDIN)
    except FileNotFoundError:
        return False


def _is_plugged(data: bytes) -> bool:
    """Whether a running domain of ours has a NIC plugged in, as the call is its network's; or this host refuses some
    NICs of whomever. Raises GuestnetError or OSError."""
    if b"<networkport" in data and hostwide.read().unguardable == hostwide.REFUSE:
        return True
    owner = _between(data, b"<owner>", b"</owner>")
    name = _between(owner, b"<name>", b"</name>").decode()
    if not name or not os.path.lexists(f"{_DOMAINS}/{name}.xml"):
        return "&" in name or "/" in name  # as no file is called
    with open(f"{_DOMAINS}/{name}.xml", "rb") as file:
        return concern.is_ours(file.read(concern.MAX_STDIN + 1))
