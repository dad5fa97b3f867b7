"""The changes of guests' own files: their disks and seeds."""

from __future__ import annotations

from dataclasses import dataclass, field

from libvirt_guestnet.changes.change import Change, Run
from libvirt_guestnet.guest import files
from libvirt_guestnet.model.disk_image import DiskImage


@dataclass(frozen=True, kw_only=True)
class MakeDisk(Change):
    """Make the disk of a guest, which begins as its image is and has `size` bytes."""

    image: DiskImage
    size: int
    VERB = "make"
    KIND = "guest disk"

    def run(self, run: Run) -> None:
        files.make_disk(self.name, self.image.file, self.image.format, self.size)
        run.done("made", f"remove the new disk of {self.name}", lambda: files.remove_disk(self.name))


@dataclass(frozen=True, kw_only=True)
class WriteSeed(Change):
    """Write what a guest is told at its next start; `old` is the seed that this replaces."""

    data: bytes = field(repr=False)
    old: bytes | None = field(default=None, repr=False)
    VERB = "write"
    KIND = "guest seed"

    def run(self, run: Run) -> None:
        files.write_seed(self.name, self.data)
        run.done("written", f"put the seed of {self.name} back", self._undo)

    def _undo(self) -> None:
        if self.old is None:
            files.remove_seed(self.name)
        else:
            files.write_seed(self.name, self.old)


@dataclass(frozen=True, kw_only=True)
class RemoveSeed(Change):
    """Remove the seed of a guest that has none any more."""

    old: bytes | None = field(default=None, repr=False)
    VERB = "remove"
    KIND = "guest seed"

    def run(self, run: Run) -> None:
        files.remove_seed(self.name)
        old = self.old
        if old is not None:
            run.done("removed", f"write the seed of {self.name} again", lambda: files.write_seed(self.name, old))


@dataclass(frozen=True, kw_only=True)
class RemoveDisk(Change):
    """Remove the disk of a guest that is gone, with all that the guest wrote: only `destroy --remove-disks` does."""

    VERB = "remove"
    KIND = "guest disk"

    def run(self, run: Run) -> None:
        files.remove_disk(self.name)
        run.step("removed")
