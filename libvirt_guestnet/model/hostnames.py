"""Under which name a network's DHCP and DNS server knows a guest's port. Pure."""

from __future__ import annotations

import re
import unicodedata
from hashlib import sha256

from libvirt_guestnet.model.topology import Guest, Port

_SPELT = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue", "ß": "ss"})
_LABEL, _LONGEST = 63, 253
_LETTER = re.compile("[A-Za-z]")
_USUAL_LABEL = "[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_USUAL = re.compile(rf"{_USUAL_LABEL}(\.{_USUAL_LABEL})*")
# dnsmasq tells the fields of a reservation apart by how they look: these would be an address, a lease time, or that
# the machine gets nothing.
_NO_NAME = re.compile(r"[0-9.]+|[0-9]+[wdhms]|ignore|infinite", re.IGNORECASE)


def host_name(guest: Guest, port: Port) -> str:
    """What the file says, else the guest's name as DNS can have it; a further port of the guest's on the network has
    its own name behind that: two reservations cannot share one."""
    if port.hostname:
        return port.hostname
    first = next(p for p in guest.ports if p.network == port.network)
    base = guest.hostname or mapped(guest.name)
    return base if port.name == first.name else f"{base}-{_spelt(port.name)}"


def mapped(name: str) -> str:
    """A name as DNS can have it, and as dnsmasq takes it for one."""
    found = _spelt(name)
    is_name = _LETTER.search(found) and not is_none(found)
    return found if is_name else f"vm-{found}"[:_LABEL].rstrip("-.")


def is_none(name: str) -> bool:
    """Whether dnsmasq takes a name for something else."""
    return _NO_NAME.fullmatch(name) is not None


def is_too_long(name: str) -> bool:
    """Whether DNS, and so dnsmasq, refuses a name for its length."""
    return len(name) > _LONGEST or any(len(label) > _LABEL for label in name.split("."))


def _spelt(name: str) -> str:
    """An underscore is no part of a host name, and libvirt's schema refuses it."""
    if len(name) <= _LONGEST and _USUAL.fullmatch(name):
        return name.replace("_", "-")
    composed = unicodedata.normalize("NFC", name).translate(_SPELT)
    ascii_ = unicodedata.normalize("NFKD", composed).encode("ascii", "ignore").decode()
    plain = re.sub("[^A-Za-z0-9.]+", "-", ascii_).strip("-.")[:_LABEL].strip("-.")
    plain = re.sub(r"-?\.[-.]*", ".", plain)
    if not _LETTER.search(plain):
        return f"vm-{sha256(name.encode()).hexdigest()[:8]}"
    return plain if plain[0].isalpha() else f"vm-{plain}"[:_LABEL].rstrip("-.")
