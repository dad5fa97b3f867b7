"""Which NICs should be guarded and are not, by the rows of `status`: the reason for its exit status 3."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from libvirt_guestnet.state import network_map
from libvirt_guestnet.state.locked import UnlockedState
from libvirt_guestnet.status.nic_states import CANNOT, GUARDED, STOPPED
from libvirt_guestnet.styled import visible

_Rows = Sequence[Mapping[str, object]]
# A guest that just starts, or a NIC that is just plugged in, has its tap a moment before its guard.
_PAUSE = 1.0
_NAMED = 5


def lacking(rows: _Rows) -> dict[tuple[object, object], Mapping[str, object]]:
    """By domain and MAC address, those NICs: each once, though one that cannot be guarded may have two rows."""
    return {(row["guest"], row["mac"]): row for row in rows if _lacks(row)}


def _lacks(row: Mapping[str, object]) -> bool:
    wanted = row["wanted"] if row["kind"] == "port" else row["kind"] == "unguarded" and row["refused"]
    return bool(wanted) and row["state"] not in (GUARDED, STOPPED)


def settled(look: Callable[[], list[dict[str, object]]]) -> tuple[list[dict[str, object]], list[Mapping[str, object]]]:
    """The rows, and the NICs that should be guarded and are not, at two looks in a row."""
    first = lacking(rows := look())
    if not first:
        return rows, []
    time.sleep(_PAUSE)
    second = lacking(rows := look())
    return rows, [row for nic, row in second.items() if nic in first]


def untold(state: UnlockedState) -> str:
    """One line if `network.json` does not say what the hooks know, else ""."""
    with state.lock() as locked:
        if network_map.is_true(locked):
            return ""
    return f"{state.root}/{network_map.FILE} is not what runs: `guestnet hooks sync` writes it anew"


def complaint(found: Sequence[Mapping[str, object]]) -> str:
    """One line that says which, and what to do."""
    named = ", ".join(map(_named, found[:_NAMED]))
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    cannot = [row for row in found if row["state"] == CANNOT]
    advice = ["`guestnet hooks sync` guards what runs"] if len(cannot) < len(found) else []
    advice += ["`guestnet doctor` says what to use in the place of what cannot be guarded"] if cannot else []
    return f"to be guarded, but not: {named}{more}; {'; '.join(advice)}"


def _named(row: Mapping[str, object]) -> str:
    return visible(f"{row['guest']}.{row.get('port') or row['mac']} ({row['reason']})")
