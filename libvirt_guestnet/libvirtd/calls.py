"""Calls of libvirt: each in a thread of its own, with a deadline, and failures as GuestnetError in libvirt's words.

A libvirt call has no timeout of its own, and a hook that hangs blocks every call on its object for ever. So each call
is given up on after a deadline.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.libvirtd.bindings import libvirt

_T = TypeVar("_T")


def bounded(doing: str, seconds: float, call: Callable[[], _T]) -> _T:
    """Run one libvirt call with a deadline; libvirt's errors become GuestnetError, with what was being done."""
    results: list[_T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # handed to the caller below
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True, name=doing)
    thread.start()
    thread.join(seconds)
    if failures:
        if isinstance(failures[0], libvirt.libvirtError):
            raise LibvirtError(doing, failures[0]) from failures[0]
        raise failures[0]
    if not results:
        raise GuestnetError(
            f"{doing}: libvirt has not answered for {seconds:.0f} s: its daemon is busy, such as with its firewall "
            f"rules, or a hook hangs (look at what libvirtd's children are doing); wait and try again"
        )
    return results[0]


def _advice(said: str) -> str:
    """What to do about the messages of libvirt that leave one puzzled."""
    if "Specified qdisc kind is unknown" in said:
        return (
            "\nThis kernel cannot limit bandwidth as libvirt does it: it lacks sch_htb, sch_sfq or sch_ingress. "
            "Load them with modprobe, or take `bandwidth:` out of the topology"
        )
    return ""


class LibvirtError(GuestnetError):
    """libvirt refused something; `code` is its VIR_ERR_* number."""

    def __init__(self, doing: str, error: Any) -> None:
        self.code: int | None = error.get_error_code()
        said = (error.get_error_message() or str(error)).strip()
        super().__init__(f"{doing}: {said}{_advice(said)}")

    @property
    def missing(self) -> bool:
        """Whether the object was simply not there."""
        missing: bool = self.code in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_NO_NETWORK)
        return missing
