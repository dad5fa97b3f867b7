"""What a hook call does, and what its failure means."""

from __future__ import annotations

from collections.abc import Callable

from libvirt_guestnet.light_typing import NamedTuple
from libvirt_guestnet.state.locked import UnlockedState
from libvirt_guestnet.xmlread import Node

# VETO: exit 1, libvirt undoes the operation. REPORT: exit 0 and a line on stderr: libvirt would kill a running guest
# (reconnect) or ignore us anyway.
VETO, REPORT = "veto", "report"


class Call(NamedTuple):
    """The function that is called with the object's XML, if any; what a `failure` of it means, and `why`. That of a
    row which cannot even be imported is in `concern.VETOED`, too."""

    work: Callable[[Node, UnlockedState], None] | None
    failure: str
    why: str
