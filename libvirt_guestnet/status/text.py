"""`guestnet status` as text: tables, whose columns are the fields of `rows`, and in capitals what is not guarded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from libvirt_guestnet.status.unguarded import PENDING
from libvirt_guestnet.table import table, visible

# What only --json has.
_HIDDEN = ("kind", "trusted", "any_address", "unknown", "note", "reasons", "silent", "wrong", "observed", "external")


def status_text(rows: Sequence[Mapping[str, object]], skip: Sequence[str] = ()) -> str:
    """Tables of networks, ports, forwards, routes to guests and NICs that nothing can guard, and aloud which ports
    nothing guards that could be."""
    kinds = ([row for row in rows if row["kind"] == kind] for kind in ("network", "port", "way", "route", "unguarded"))
    tables = (table(list(map(_shown, found)), (*_HIDDEN, *skip)) for found in kinds if found)
    return "\n".join([*tables, *_aloud(rows)])


def _name(row: Mapping[str, object]) -> str:
    """Of a port, for people: who may change a domain's metadata names it."""
    return visible(f"{row['guest']}.{row['port'] or row['mac']}")


def _shown(row: Mapping[str, object]) -> Mapping[str, object]:
    return {**row, "guarded": "observed"} if row.get("observed") else row


def _aloud(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Paragraphs on ports without port security: those that are meant to have none, those that are not, and those that
    can therefore neither send nor receive."""
    unguarded = [row for row in rows if row["kind"] == "unguarded"]  # and why, in a table
    said = {(row["guest"], row["mac"], row["device"]) for row in unguarded}
    pending = {(row["guest"], row["mac"]) for row in unguarded if row["reason"] == PENDING}
    ports = [
        row
        for row in rows
        if row["kind"] == "port"
        and (row["guest"], row["mac"], row["tap"]) not in said
        and (row["guest"], row["mac"]) not in pending
    ]
    running = [row for row in ports if row["running"] and not row["guarded"] and not row.get("observed")]
    trusted = [_name(row) for row in running if row["trusted"]]
    bare = [_name(row) for row in running if not row["trusted"] and row["tap"]]
    guarded = [row for row in ports if row["running"] and (row["guarded"] or row.get("observed"))]
    observed = [_name(row) for row in guarded if row.get("observed")]
    anything = [_name(row) for row in guarded if row["any_address"]]
    unknown = [_name(row) for row in guarded if row["unknown"]]
    loud = [f"TRUSTED, no port security by their own policy: {', '.join(trusted)}\n"] if trusted else []
    loud += (
        [f"OBSERVED, nothing is dropped, `guestnet suggest` says what would be: {', '.join(observed)}\n"]
        if observed
        else []
    )
    loud += [f"UNGUARDED, try `guestnet hooks sync`: {', '.join(bare)}\n"] if bare else []
    loud += [f"ANY ADDRESS that nobody holds, by their own policy: {', '.join(anything)}\n"] if anything else []
    loud += (
        [f"NO ADDRESS known, DHCP and link-local only, until the policy says addresses: {', '.join(unknown)}\n"]
        if unknown
        else []
    )
    silent = {
        f"{port} on {row['bridge']}": None
        for row in rows
        if row["kind"] == "network"
        for port in _listed(row, "silent")
    }
    loud += _unguarded_offload(rows)
    loud += [f"WRONG: {text}\n" for row in rows if row["kind"] in ("network", "port") for text in _listed(row, "wrong")]
    return loud + (
        [f"SILENCED, nobody guards them, try `guestnet hooks sync`: {', '.join(silent)}\n"] if silent else []
    )


def _unguarded_offload(rows: Sequence[Mapping[str, object]]) -> list[str]:
    by_word: dict[object, list[str]] = {}
    for row in rows:
        if row["kind"] == "port" and row["offload"]:
            by_word.setdefault(row["offload"], []).append(_name(row))
    said = {
        "missing": "NO CHECKSUM GUARD, try `guestnet hooks sync`",
        "kernel cannot": "NO CHECKSUM GUARD, this host cannot (`guestnet doctor` says why)",
    }
    return [f"{text}: {', '.join(by_word[word])}\n" for word, text in said.items() if word in by_word]


def _listed(row: Mapping[str, object], key: str) -> list[object]:
    found = row.get(key)
    return found if isinstance(found, list) else []


def drops_text(rows: Sequence[Mapping[str, object]]) -> str:
    """A table of what port security dropped, by port and reason; and of what it would have, where a port is
    observed."""
    found = []
    for row in rows:
        reasons = row.get("reasons")
        for reason, frames in sorted(reasons.items()) if isinstance(reasons, dict) else ():
            found.append(
                {key: row[key] for key in ("guest", "port", "network", "tap")}
                | {"reason": reason, "frames": frames, "passed": bool(row.get("observed"))}
            )
    skip = () if any(each["passed"] for each in found) else ("passed",)
    return table(found, skip) or "nothing was dropped\n"
