"""What must change so that a guest's disk and seed are as they are wanted. Pure.

A disk is its guest's data: it is made once, and no plan changes or removes it. What the file says of it later is a note
or an error, with what a person can do (decision 93).
"""

from __future__ import annotations

from collections.abc import Iterator

from libvirt_guestnet.changes.change import Change
from libvirt_guestnet.changes.files import MakeDisk, RemoveDisk, RemoveSeed, WriteSeed
from libvirt_guestnet.guest import files
from libvirt_guestnet.guest.files import GuestFiles
from libvirt_guestnet.libvirtd.snapshot import DomainState, Snapshot, WantedGuest
from libvirt_guestnet.model.disk_image import DiskImage

_UNITS = ((40, "T"), (30, "G"), (20, "M"), (10, "K"))


def plan_files(wanted: WantedGuest, found: GuestFiles) -> Iterator[Change]:
    """The changes before the guest is defined."""
    if wanted.disk is None:
        return
    if found.disk is None:
        size = wanted.disk.size or found.image_size
        yield MakeDisk(wanted.name, f"{shown(size)}, of {wanted.disk.file}", image=wanted.disk, size=size)
    if wanted.seed is None and found.seed is not None:
        yield RemoveSeed(wanted.name, old=found.seed)
    elif wanted.seed is not None and wanted.seed != found.seed:
        detail = "its text changes" if found.seed is not None else ""
        yield WriteSeed(wanted.name, detail, data=wanted.seed, old=found.seed)


def file_notes(wanted: WantedGuest, found: GuestFiles, state: DomainState | None) -> Iterator[str]:
    """What a person may want to know of them."""
    if wanted.disk is None:
        return
    path = files.place(wanted.name).disk
    if found.disk is not None and state is None:
        yield f"guest {wanted.name!r} gets the disk again that it had, {path}: remove that for a new one"
    if found.disk is not None and wanted.disk.size not in (None, found.disk.size):
        now, then = shown(found.disk.size), shown(wanted.disk.size or 0)
        yield (
            f"guest {wanted.name!r} has a disk of {now}, and the file says {then}: a disk has its size from the start; "
            f"a larger one is for `virsh blockresize {wanted.name} vda {then}` while it runs"
        )
    if state is not None and state.live is not None and wanted.seed != found.seed:
        yield f"guest {wanted.name!r} is running and is told at its next start what its seed says now"


def file_problems(wanted: WantedGuest, snapshot: Snapshot) -> Iterator[str]:
    """Why there can be no plan: the disk that is there stands on something else, or there is no room for the image."""
    found = snapshot.files.get(wanted.name, GuestFiles())
    if wanted.disk is None:
        return
    if found.disk is not None and found.disk.backing != wanted.disk.file:
        yield (
            f"guest {wanted.name!r}: its disk {files.place(wanted.name).disk} stands on {found.disk.backing!r}, not on "
            f"{wanted.disk.file}: what a disk stands on cannot be changed. Remove the disk, with all that is on it, or "
            f"give the guest another name"
        )
    elif found.disk is None and wanted.disk.size and wanted.disk.size < found.image_size:
        yield _too_small(wanted.name, wanted.disk, found.image_size)


def _too_small(name: str, disk: DiskImage, needed: int) -> str:
    return f"guest {name!r}: disk: {shown(disk.size or 0)} is smaller than its image, {disk.file}: {shown(needed)}"


def leave_files(state: DomainState, why: str, *, remove_disk: bool) -> Iterator[Change]:
    """The changes after a guest is gone. Its disk stays, unless somebody has said outright that it is to go."""
    if not (state.ours and state.has_own_disk):
        return
    yield RemoveSeed(state.name, why)
    if remove_disk:
        yield RemoveDisk(state.name, f"{files.place(state.name).disk}, with all that is on it")


def left_notes(state: DomainState) -> Iterator[str]:
    """That its disk stays."""
    if state.ours and state.has_own_disk:
        path = files.place(state.name).disk
        yield f"the disk of guest {state.name!r} stays, and is its own again when it comes back: rm {path}"


def shown(size: int) -> str:
    """A size in bytes as a file would say it, where that is possible."""
    bits, unit = next(((bits, unit) for bits, unit in _UNITS if size and size % (1 << bits) == 0), (0, ""))
    return f"{size >> bits}{unit}"
