"""Making a router do what it should, and come back with it."""

from __future__ import annotations

from pathlib import Path

from libvirt_guestnet.router import disks
from libvirt_guestnet.router.client import RouterClient
from libvirt_guestnet.router.document import Document


def ensure_document(client: RouterClient, config_disk: Path, document: Document) -> bool:
    """Puts a document into force unless it is, and onto the router's disk after that (decision 82); whether anything
    was changed. Raises RefusedDocumentError when the router refuses it, with its disk as it was, and GuestnetError."""
    encoded = document.encoded()
    changed = client.state().document != document.digest
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
