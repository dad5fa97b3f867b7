"""The changes of virtual routers, beside those of their domains and NICs."""

from __future__ import annotations

from dataclasses import dataclass

from libvirt_guestnet.changes.change import Change, Run
from libvirt_guestnet.changes.guest import RemoveDomain
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.libvirtd.snapshot import channel, parse_xml
from libvirt_guestnet.router import control, folder
from libvirt_guestnet.router.client import RefusedDocumentError
from libvirt_guestnet.router.document import decoded


@dataclass(frozen=True, kw_only=True)
class ConfigureRouter(Change):
    """Put a document onto a router's disk and, if it is to be told now (`live`), into force. `old` is the one on its
    disk, None where it has no disks yet."""

    document: bytes
    topology: str = ""
    old: bytes | None = None
    live: bool = False
    VERB = "configure"
    KIND = "router"

    def run(self, run: Run) -> None:
        old, is_new = self.old, not folder.exists(self.name)
        folder.ensure(self.name, run.libvirt.qemu_owner(), self.topology)
        if is_new:
            back = f"remove the disks of router {self.name}"
            run.done("disks made", back, lambda: folder.remove(self.name))
        elif old is not None:
            run.undo(f"configure router {self.name} as before", lambda: self._put(run, old))
        self._put(run, self.document)
        run.step("configured")

    def _put(self, run: Run, document: bytes) -> None:
        try:
            control.put(self.name, channel_of(run, self.name) if self.live else "", document)
        except RefusedDocumentError as error:
            raise GuestnetError(f"{error}{_line(document, error)}") from error


def _line(document: bytes, error: RefusedDocumentError) -> str:
    """The text of the line that a router refuses."""
    files = decoded(document)
    lines = [] if files is None else files._asdict().get(error.section, "").splitlines()
    return f": {lines[error.line - 1]}" if 0 < error.line <= len(lines) else ""


def channel_of(run: Run, name: str) -> str:
    """The socket that leads to a router; "" where it does not run (any more)."""
    live = run.libvirt.live_xml(name)
    return "" if live is None else channel(parse_xml(live))


@dataclass(frozen=True, kw_only=True)
class StartRouter(Change):
    """Start a router, and wait a while for it to serve: its networks are of no use before."""

    VERB = "start"
    KIND = "router"

    def run(self, run: Run) -> None:
        run.libvirt.start_domain(self.name)
        run.done("started", f"stop router {self.name}", lambda: run.libvirt.stop_domain(self.name))
        if trouble := control.await_serving(self.name, channel_of(run, self.name)):
            run.note(f"router {self.name} is started, and does not serve yet: {trouble}")


@dataclass(frozen=True, kw_only=True)
class RemoveRouter(RemoveDomain):
    """Stop and undefine a router that the topology no longer has, and remove its disks, leases too."""

    KIND = "router"

    def run(self, run: Run) -> None:
        self._stop(run)
        owner, kept = run.libvirt.qemu_owner(), folder.contents(self.name)
        back = f"make the disks of router {self.name} again"
        run.undo(back, lambda: folder.restore(self.name, owner, kept))
        folder.remove(self.name)  # while its definition is there to say that they are ours to remove
        run.step("disks removed")
        self._undefine(run)


@dataclass(frozen=True, kw_only=True)
class ForgetRouter(Change):
    """Remove the disks of a router that libvirt does not have any more."""

    VERB = "remove"
    KIND = "disks of router"

    def run(self, run: Run) -> None:
        owner, kept = run.libvirt.qemu_owner(), folder.contents(self.name)
        run.undo(f"make the disks of router {self.name} again", lambda: folder.restore(self.name, owner, kept))
        folder.remove(self.name)
        run.step("disks removed")
