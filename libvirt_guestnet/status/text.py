"""`guestnet status` as text: tables, whose columns are the fields of `rows`, and in capitals what is not guarded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from libvirt_guestnet.hook.read.hostwide import ALL, OBSERVE
from libvirt_guestnet.status.nic_states import BY_HOST, GUARDED, NO_TAP, NOBODY, OBSERVED, TRUSTED, UNGUARDED
from libvirt_guestnet.status.unguarded import PENDING
from libvirt_guestnet.table import table, visible

# What only --json has; of the table of ports and of that of NICs that cannot be guarded besides.
_HIDDEN = ("kind", "trusted", "any_address", "unknown", "note", "reasons", "silent", "wrong", "observed", "external")
_HIDDEN_OF = {"port": ("running", "reason", "wanted"), "unguarded": ("state",)}


def status_text(rows: Sequence[Mapping[str, object]], skip: Sequence[str] = ()) -> str:
    """Tables of networks, ports, forwards, routes to guests and NICs that nothing can guard, and aloud which ports
    nothing guards that could be."""
    tables = (_table(kind, rows, skip) for kind in ("network", "port", "way", "route", "unguarded"))
    return "\n".join([*filter(None, tables), *_aloud(rows)])


def _table(kind: str, rows: Sequence[Mapping[str, object]], skip: Sequence[str]) -> str:
    found = [_shown(row) for row in rows if row["kind"] == kind]
    return table(found, (*_HIDDEN, *_HIDDEN_OF.get(kind, ()), *skip))


def _name(row: Mapping[str, object]) -> str:
    """Of a port, for people: who may change a domain's metadata names it."""
    return visible(f"{row['guest']}.{row['port'] or row['mac']}")


def _shown(row: Mapping[str, object]) -> Mapping[str, object]:
    """A port with its state in the place of what the hooks applied."""
    if row["kind"] != "port":
        return row
    state = row["state"]
    pairs = ((key, value) for key, value in row.items() if key != "state")
    return dict(("state", state) if key == "guarded" else (key, value) for key, value in pairs)


def _aloud(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Paragraphs on ports without port security: those that are meant to have none, those that are not, and those that
    can therefore neither send nor receive."""
    ports = _ports_without_row(rows)
    found = [
        ("TRUSTED, no port security by their own policy or their network's", _names(ports, TRUSTED)),
        ("OBSERVED, nothing is dropped, `guestnet suggest` says what would be", _names(ports, OBSERVED)),
        ("UNGUARDED, try `guestnet hooks sync`", [_name(row) for row in ports if _is_bare(row)]),
        ("NOT GUARDED, nobody asked for it", [_name(row) for row in ports if row["reason"] == NOBODY]),
        ("BY THIS HOST'S DEFAULT alone, `guard:` in host.yaml", [_name(row) for row in ports if _is_by_host(row)]),
        (
            "ANY ADDRESS that nobody holds, by policy or this host's default",
            _names(ports, GUARDED, OBSERVED, also="any_address"),
        ),
        (
            "NO ADDRESS known, DHCP and link-local only, until the policy says addresses",
            _names(ports, GUARDED, OBSERVED, also="unknown"),
        ),
    ]
    return [*(f"{text}: {', '.join(names)}\n" for text, names in found if names), *_wrong(rows)]


def _ports_without_row(rows: Sequence[Mapping[str, object]]) -> list[Mapping[str, object]]:
    """The ports of which the table of those that cannot be guarded, or wait for it, says nothing."""
    unguarded = [row for row in rows if row["kind"] == "unguarded"]
    said = {(row["guest"], row["mac"], row["device"]) for row in unguarded}
    pending = {(row["guest"], row["mac"]) for row in unguarded if row["reason"] == PENDING}
    ports = [row for row in rows if row["kind"] == "port" and (row["guest"], row["mac"], row["tap"]) not in said]
    return [row for row in ports if (row["guest"], row["mac"]) not in pending]


def _names(ports: Sequence[Mapping[str, object]], *states: str, also: str = "state") -> list[str]:
    """The ports in these states of which `also` is true."""
    return [_name(row) for row in ports if row["state"] in states and row[also]]


def _is_by_host(row: Mapping[str, object]) -> bool:
    return row["reason"] in (BY_HOST.format(OBSERVE), BY_HOST.format(ALL))


def _is_bare(row: Mapping[str, object]) -> bool:
    return row["state"] == UNGUARDED and row["reason"] not in (NOBODY, NO_TAP)


def _wrong(rows: Sequence[Mapping[str, object]]) -> list[str]:
    silent = {
        f"{port} on {row['bridge']}": None
        for row in rows
        if row["kind"] == "network"
        for port in _listed(row, "silent")
    }
    loud = _unguarded_offload(rows)
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
