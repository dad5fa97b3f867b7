"""What words in the tables of `status` mean for the reader: what is as it should be, and what is not. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from libvirt_guestnet.status.nic_states import CANNOT, GUARDED, NOTHING, OBSERVED, STOPPED, TRUSTED, UNGUARDED
from libvirt_guestnet.styled import BAD, GOOD, NOTE, QUIET

OF_STATE = {
    GUARDED: GOOD,
    OBSERVED: NOTE,
    TRUSTED: NOTE,
    UNGUARDED: BAD,
    CANNOT: BAD,
    STOPPED: QUIET,
    NOTHING: QUIET,
}
_ABSENT = {"no": BAD}
_GUARD = {"missing": BAD, "kernel cannot": BAD}
_BY_COLUMN: Mapping[str, Mapping[str, str]] = {
    "STATE": OF_STATE,
    "ACTIVE": {"no": QUIET},
    "BRIDGE GUARD": _GUARD,
    "OFFLOAD": _GUARD,
    "OPEN": _ABSENT,
    "ROUTED": _ABSENT,
    "PUBLISHED": _ABSENT,
    "REFUSED": {"yes": BAD},
    "HEALTH": {"serves": GOOD, "stopped": QUIET, "-": QUIET},
    "DOCUMENT": {"other in force": BAD},
    "LINK": {"host down": BAD, "no bridge": BAD, "down": QUIET},
}


def meaning(column: str, cell: str) -> str:
    """Of a cell, by its column's head; "" for nothing in particular."""
    if column in ("DROPS", "FRAMES"):
        return "" if cell in ("0", "-") else NOTE
    if column == "LINK" and cell.startswith("in "):
        return BAD
    if column == "HEALTH" and cell not in _BY_COLUMN[column]:
        return BAD
    return _BY_COLUMN.get(column, {}).get(cell, QUIET if cell == "-" else "")
