"""One hook call: from stdin to the function of its table, under one deadline."""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # what `signal` adds takes a millisecond

from libvirt_guestnet import log, xmlread
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook import concern
from libvirt_guestnet.hook.call import Call
from libvirt_guestnet.hook.helpers import unfinished
from libvirt_guestnet.hook.processes import deadline
from libvirt_guestnet.state.locked import UnlockedState


def dispatch(hook: str, argv: list[str], data: bytes | None) -> int:
    """Does a call, and what killed processes left undone. `data` is None if it did not come in time. An error of any
    kind ends in one line on stderr, nothing on stdout, and the exit status that the table gives."""
    status = _done(hook, argv, data)
    unfinished.see_to()
    return status


def _call(hook: str, operation: str) -> Call:
    """The call's row. Only that part of the table is imported, as a guest waits meanwhile."""
    if hook == "qemu":
        from libvirt_guestnet.hook import lifecycle_qemu

        return lifecycle_qemu.TABLE[operation]
    if operation == "start":
        from libvirt_guestnet.hook import lifecycle_bridge

        return lifecycle_bridge.TABLE[operation]
    if operation.startswith("port-"):
        from libvirt_guestnet.hook import lifecycle_port

        return lifecycle_port.TABLE[operation]
    from libvirt_guestnet.hook import lifecycle_network

    return lifecycle_network.TABLE[operation]


def _done(hook: str, argv: list[str], data: bytes | None) -> int:
    name, operation = argv[1], argv[2]
    signal.signal(signal.SIGALRM, deadline.expired)
    try:
        with deadline.Deadline():
            _do(hook, _call(hook, operation), data)
    except GuestnetError as error:
        return _failed(f"{hook} {name} {operation}: {error}", (hook, operation), data, error)
    except Exception as error:  # closed, with one line, whatever the bug or the damage
        what = f"internal error: {type(error).__name__}: {error}"
        return _failed(f"{hook} {name} {operation}: {what}", (hook, operation), data, error)
    return 0


def _do(hook: str, call: Call, data: bytes | None) -> None:
    if data is None:
        deadline.expired(0, None)
    elif not data.strip():
        from libvirt_guestnet.hook import caller

        raise GuestnetError(caller.without_input(hook))
    elif call.work is not None:
        call.work(xmlread.parse(data), UnlockedState())


def _failed(text: str, call: tuple[str, str], data: bytes | None, error: Exception) -> int:
    if call not in concern.VETOED:
        log.tell(text)
        return 0
    if _is_held_up(call[0], data, error):
        log.tell(text)
        return 1
    log.report(f"{text}; it goes on, as it has nothing of guestnet")
    return 0


def _is_held_up(hook: str, data: bytes | None, error: Exception) -> bool:
    try:
        from libvirt_guestnet.hook import strangers  # a call that works needs none of it

        return strangers.is_held_up(hook, data, error)
    except Exception:  # that module is broken, too: what cannot be told is refused
        return True
