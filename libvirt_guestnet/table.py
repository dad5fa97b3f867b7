"""Rows of facts as a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def table(rows: Sequence[Mapping[str, object]], skip: Sequence[str] = ()) -> str:
    """Columns in the first row's key order, as wide as they need to be; empty text for no rows."""
    if not rows:
        return ""
    keys = [key for key in rows[0] if key not in skip]
    lines = [[key.replace("_", " ").upper() for key in keys]]
    lines += [[_text(row.get(key)) for key in keys] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(keys))]
    return "".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() + "\n" for line in lines)


def _text(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " ".join(visible(str(each)) for each in value) or "-"
    return visible(str(value))


def visible(text: str) -> str:
    """A text without what a terminal would obey: lines, colours and the like are written as Python has them."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
