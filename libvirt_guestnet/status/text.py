"""`guestnet status` for people: tables, whose columns are the fields of `rows`, and in capitals what is not guarded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from libvirt_guestnet.hook.read.hostwide import ALL, OBSERVE
from libvirt_guestnet.status.meanings import meaning
from libvirt_guestnet.status.nic_states import BY_HOST, GUARDED, NO_TAP, NOBODY, OBSERVED, TRUSTED, UNGUARDED
from libvirt_guestnet.status.unguarded import PENDING
from libvirt_guestnet.styled import BAD, NOTE, QUIET, Line, line, visible
from libvirt_guestnet.table import Block, Table, as_text, made

# What only --json has; of the table of ports and of that of NICs that cannot be guarded besides.
_HIDDEN = (
    "kind",
    "trusted",
    "any_address",
    "unknown",
    "note",
    "reasons",
    "silent",
    "wrong",
    "observed",
    "external",
    "claimed",
)
_HIDDEN_OF = {
    "port": ("running", "reason", "wanted"),
    "unguarded": ("state",),
    "router": ("port", "trouble", "members", "members_left_out"),
}


_MOST_NAMES = 12


def status_text(rows: Sequence[Mapping[str, object]], skip: Sequence[str] = ()) -> str:
    """What `status_blocks` has, as text."""
    return as_text(status_blocks(rows, skip))


def status_blocks(rows: Sequence[Mapping[str, object]], skip: Sequence[str] = ()) -> list[Block]:
    """Tables of networks, ports, forwards, routes to guests and NICs that nothing can guard, and aloud which ports
    nothing guards that could be."""
    return [*tables(rows, skip), *aloud(rows)]


def tables(rows: Sequence[Mapping[str, object]], skip: Sequence[str] = ()) -> list[Table]:
    """The tables alone."""
    found = (_table(kind, rows, skip) for kind in ("network", "router", "port", "way", "route", "unguarded"))
    return [each for each in found if each is not None]


def _table(kind: str, rows: Sequence[Mapping[str, object]], skip: Sequence[str]) -> Table | None:
    found = [_shown(row) for row in rows if row["kind"] == kind]
    return made(found, (*_HIDDEN, *_HIDDEN_OF.get(kind, ()), *skip), meaning)


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


def aloud(rows: Sequence[Mapping[str, object]]) -> list[Line]:
    """Paragraphs on ports without port security: those that are meant to have none, those that are not, and those that
    can therefore neither send nor receive."""
    ports = _ports_without_row(rows)
    has_rules = (GUARDED, OBSERVED)
    found = [
        (NOTE, "TRUSTED, no port security by their own policy or their network's", _names(ports, TRUSTED)),
        (NOTE, "OBSERVED, nothing is dropped, `guestnet suggest` says what would be", _names(ports, OBSERVED)),
        (BAD, "UNGUARDED, try `guestnet hooks sync`", [_name(row) for row in ports if _is_bare(row)]),
        (QUIET, "NOT GUARDED, nobody asked for it", [_name(row) for row in ports if row["reason"] == NOBODY]),
        (NOTE, "BY THIS HOST'S DEFAULT alone, `guard:` in host.yaml", [_name(r) for r in ports if _is_by_host(r)]),
        (
            NOTE,
            "ANY ADDRESS that nobody holds, by policy or this host's default",
            _names(ports, *has_rules, also="any_address"),
        ),
        (
            NOTE,
            "NO ADDRESS known, DHCP and link-local only, until the policy says addresses",
            _names(ports, *has_rules, also="unknown"),
        ),
    ]
    return [*(line((text, look), f": {_listing(names, look)}") for look, text, names in found if names), *_wrong(rows)]


def _listing(names: Sequence[str], look: str) -> str:
    """Names that are no fault, as many as somebody reads: the table has the states, and `--json` all of it."""
    rest = len(names) - _MOST_NAMES
    if look == BAD or rest <= 0:
        return ", ".join(names)
    return f"{', '.join(names[:_MOST_NAMES])} and {rest} more (`status --json`)"


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


def _wrong(rows: Sequence[Mapping[str, object]]) -> list[Line]:
    silent = {
        f"{port} on {row['bridge']}": None
        for row in rows
        if row["kind"] == "network"
        for port in _listed(row, "silent")
    }
    loud = [*_unguarded_offload(rows), *_of_routers(rows)]
    kinds = ("network", "port")
    loud += [
        line(("WRONG", BAD), f": {text}") for row in rows if row["kind"] in kinds for text in _listed(row, "wrong")
    ]
    said = "SILENCED, nobody guards them, try `guestnet hooks sync`"
    return loud + ([line((said, BAD), f": {', '.join(silent)}")] if silent else [])


def _unguarded_offload(rows: Sequence[Mapping[str, object]]) -> list[Line]:
    by_word: dict[object, list[str]] = {}
    for row in rows:
        if row["kind"] == "port" and row["offload"]:
            by_word.setdefault(row["offload"], []).append(_name(row))
    said = {
        "missing": "NO CHECKSUM GUARD, try `guestnet hooks sync`",
        "kernel cannot": "NO CHECKSUM GUARD, this host cannot (`guestnet doctor` says why)",
    }
    return [line((text, BAD), f": {', '.join(by_word[word])}") for word, text in said.items() if word in by_word]


def _of_routers(rows: Sequence[Mapping[str, object]]) -> Iterator[Line]:
    """What went wrong in virtual routers, in their own words, and whom their balancers leave out."""
    for row in rows:
        if row["kind"] == "router":
            left_out = " ".join(map(str, _listed(row, "members_left_out")))
            said = _listed(row, "trouble") + ([f"balancers leave out {left_out}"] if left_out else [])
            yield from (line((f"ROUTER {visible(str(row['guest']))}", BAD), f": {text}") for text in said)


def _listed(row: Mapping[str, object], key: str) -> list[object]:
    found = row.get(key)
    return found if isinstance(found, list) else []


def drops_text(rows: Sequence[Mapping[str, object]]) -> str:
    """What `drops_blocks` has, as text."""
    return as_text(drops_blocks(rows))


def drops_blocks(rows: Sequence[Mapping[str, object]]) -> list[Block]:
    """A table of what port security dropped, by port and reason; and of what it would have, where a port is
    observed."""
    found = drops_rows(rows)
    skip = () if any(each["passed"] for each in found) else ("passed",)
    return [made(found, ("kind", *skip), meaning) or line("nothing was dropped")]


def drops_rows(rows: Sequence[Mapping[str, object]]) -> list[Mapping[str, object]]:
    """One for each port and reason."""
    found: list[Mapping[str, object]] = []
    for row in rows:
        reasons = row.get("reasons")
        for reason, frames in sorted(reasons.items()) if isinstance(reasons, dict) else ():
            found.append(
                {"kind": "drop"}
                | {key: row[key] for key in ("guest", "port", "network", "tap")}
                | {"reason": reason, "frames": frames, "passed": bool(row.get("observed"))}
            )
    return found
