"""Under which name a network's DHCP and DNS server knows a guest's port. Pure."""

from __future__ import annotations

import re
import unicodedata
from hashlib import sha256

from libvirt_guestnet.model.topology import Guest, Port

_SPELT = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue", "ß": "ss"})
_USUAL = re.compile("[A-Za-z0-9][A-Za-z0-9_.-]*")
_LABEL = 63


def host_name(guest: Guest, port: Port) -> str:
    """What the file says, else the guest's name as DNS can have it; a further port of the guest's on the network has
    its own name behind that: two reservations cannot share one."""
    if port.hostname:
        return port.hostname
    first = next(p for p in guest.ports if p.network == port.network)
    base = guest.hostname or mapped(guest.name)
    return base if port.name == first.name else f"{base}-{mapped(port.name)}"


def mapped(name: str) -> str:
    """A name as DNS can have it. An underscore is no part of a host name, and libvirt's schema refuses it."""
    if _USUAL.fullmatch(name):
        return name.replace("_", "-")
    composed = unicodedata.normalize("NFC", name).translate(_SPELT)
    ascii_ = unicodedata.normalize("NFKD", composed).encode("ascii", "ignore").decode()
    plain = re.sub("[^A-Za-z0-9.]+", "-", ascii_).strip("-.")[:_LABEL].strip("-.")
    plain = re.sub(r"-?\.[-.]*", ".", plain)
    if not re.search("[A-Za-z]", plain):
        return f"vm-{sha256(name.encode()).hexdigest()[:8]}"
    return plain if plain[0].isalpha() else f"vm-{plain}"[:_LABEL].rstrip("-.")
