"""What `guestnet doctor` says of one thing that it looked at."""

from __future__ import annotations

from dataclasses import asdict, dataclass

FINE, NOTE, MUST = "fine", "note", "must"


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `level`: fine, a note, or something that must be done (`do`) for guests to be guarded or
    reached. `about` names the thing where there are several of a `check`."""

    check: str
    level: str
    about: str
    found: str
    do: str = ""

    def json(self) -> dict[str, object]:
        return asdict(self)
