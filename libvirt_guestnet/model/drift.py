"""Something that the kernel has otherwise than it should: a plain fact, found by `actual`."""

from __future__ import annotations

from dataclasses import dataclass

SYNC = "guestnet hooks sync"
GUEST, NETWORK, HOST = "guest", "network", "host"


@dataclass(frozen=True)
class Drift:
    """Something of a running guest, an active network or the whole host (`kind`; then `owner` is "") that is not so:
    `found` is what is, at `device`, and `do` what mends it. `link` is a word for where a tap is, if it is not up and in
    its bridge."""

    kind: str
    owner: str
    device: str
    found: str
    do: str = SYNC
    link: str = ""

    @property
    def is_mended_by_guard(self) -> bool:
        """Whether guarding the guest again does it."""
        return self.kind == GUEST and self.do == SYNC

    def text(self) -> str:
        """One line."""
        return f"{f'{self.kind} {self.owner!r}: ' if self.owner else ''}{self.device} {self.found}".strip()
