"""User text made fit for any picture: one line, printable, not endless."""

from __future__ import annotations

_LONGEST = 60


def line(text: str) -> str:
    """The text on one line of at most 60 characters; what no picture can show becomes U+FFFD."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return shown if len(shown) <= _LONGEST else shown[: _LONGEST - 1] + "…"
