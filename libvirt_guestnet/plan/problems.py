"""Why there is no plan."""

from __future__ import annotations

from libvirt_guestnet.errors import GuestnetError


class PlanError(GuestnetError):
    """What the topology wants clashes with what is somebody else's; `problems` lists every clash."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))
