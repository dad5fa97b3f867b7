"""Making a router do what it should, and come back with it."""

from __future__ import annotations

import time
from pathlib import Path

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.router import disks, folder
from libvirt_guestnet.router.client import RefusedDocumentError, RouterClient
from libvirt_guestnet.router.document import Document, digest

NIC_SECONDS = 10.0
SERVING_SECONDS = 60.0
"""That a router may take from its start until it serves; without KVM, on a busy machine, it takes some twenty."""


def ensure_document(client: RouterClient, config_disk: Path, document: Document) -> bool:
    """Puts a document into force unless it is, and onto the router's disk after that (decision 82); whether anything
    was changed. Raises RefusedDocumentError when the router refuses it, with its disk as it was, and GuestnetError."""
    return ensure_encoded(client, config_disk, document.encoded())


def ensure_encoded(client: RouterClient, config_disk: Path, encoded: bytes) -> bool:
    """The same for an encoded document."""
    changed = client.state().document != digest(encoded)
    if changed:
        client.configure(encoded)
    return ensure_on_disk(config_disk, encoded) or changed


def ensure_on_disk(config_disk: Path, encoded: bytes) -> bool:
    """Writes an encoded document onto a router's disk unless it is there; whether it was not. For a router that does
    not run this is all. Raises GuestnetError."""
    if disks.read(config_disk) == encoded:
        return False
    disks.write(config_disk, encoded)
    return True


def put(name: str, channel: str, encoded: bytes) -> None:
    """Puts an encoded document onto a router's disk and, where there is a channel to it, into force before that. A NIC
    that it was just given may take it a moment to see. Raises RefusedDocumentError and GuestnetError."""
    path = folder.disk(name, disks.CONFIG)
    if not channel:
        ensure_on_disk(path, encoded)
        return
    deadline = time.monotonic() + NIC_SECONDS
    with RouterClient.connect(channel, name) as client:
        while True:
            try:
                ensure_encoded(client, path, encoded)
                return
            except RefusedDocumentError as error:
                if error.section != "net" or "no NIC has" not in error.reason or time.monotonic() > deadline:
                    raise
            time.sleep(0.2)


def await_serving(name: str, channel: str, seconds: float = SERVING_SECONDS) -> str:
    """Waits until a started router does what is on its disk; "", or what is wrong with it. Never raises GuestnetError:
    it may only take longer."""
    deadline = time.monotonic() + seconds
    try:
        with RouterClient.connect(channel, name, seconds) as client:
            while (state := client.state()).document is None and not state.trouble and time.monotonic() < deadline:
                time.sleep(0.1)
            if state.document is None:
                return "; ".join(state.trouble) or f"it does not serve after {seconds:.0f} s"
    except GuestnetError as error:
        return str(error)
    return ""
