"""Applying iptables-restore batches, one transaction each, and reading what is there. On the hook path."""

from __future__ import annotations

from libvirt_guestnet.datapath.run import grammar, program
from libvirt_guestnet.datapath.run.program import LockDescriptor, NotInstalledError, RefusedBatchError
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.light_typing import Literal
from libvirt_guestnet.parse import shown


def forward(tool: str) -> list[str] | None:
    """The rules of iptables' (or ip6tables') FORWARD; None where it is not installed. Raises GuestnetError."""
    try:
        output = program.run([tool, "-w", "5", "-S", "FORWARD"], "", "iptables")
    except NotInstalledError:
        return None  # without it, nobody filters with it
    if output.status != 0:
        raise GuestnetError(output.complaint)
    return output.stdout.splitlines()


def change_forward(tool: str, command: Literal["-I", "-D"], rule: list[str]) -> bool:
    """Inserts an accept at the top of FORWARD, or deletes it. Returns whether that was possible."""
    if not grammar.is_accept(rule):
        raise RefusedBatchError(f"not given to {tool}, since we never write {shown(rule)}; please report this bug")
    try:
        return program.run([tool, "-w", "5", command, "FORWARD", *rule], "", "iptables").status == 0
    except GuestnetError:
        return False


def restore(tool: str, batch: str, lock: LockDescriptor | None = None) -> None:
    """Applies a batch: all of it or, with a GuestnetError, nothing (RefusedBatchError: it was understood and refused).

    The `lock` lasts until the batch is in the kernel, even if we are killed meanwhile.
    """
    if not batch:
        return
    grammar.check_iptables(batch)
    output = program.run_transaction([f"{tool}-restore", "--noflush", "-w", "5"], batch, "iptables", lock)
    if output.status != 0:
        raise RefusedBatchError(f"{tool} refused the change: {output.complaint}")
