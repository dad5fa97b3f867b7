"""The XML as files, for people who prefer `virsh net-define` and `virsh attach-device`.

DIRECTORY/
  networks/NETWORK.xml                   virsh net-define (not of external networks)
  guests/GUEST/domain.xml                virsh define (guests with an image and virtual routers)
  guests/GUEST/seed/…                    what cloud-init is told (guests with an image file): a disk labelled cidata
  guests/GUEST/interface-PORT.xml        virsh attach-device --config GUEST (the user's own domains)
  guests/GUEST/metadata.xml              goes into the domain's <metadata>, as it is
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from libvirt_guestnet import xmlgen
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.guest.seed import seed_files
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.model.topology import DISK, TINY, Guest, Topology

if TYPE_CHECKING:
    from libvirt_guestnet.guest.image import TinyImage


class Document(NamedTuple):
    """One file: its path below the directory, its text, and whether only its owner may read it."""

    path: Path
    text: str
    secret: bool = False


def documents(
    topology: Topology,
    hostmap: HostMap,
    image: TinyImage | None = None,
    virt_type: str = "qemu",
    router_image: TinyImage | None = None,
) -> list[Document]:
    """Every document of the topology, networks first. Without an image there are no domain.xml of guests that boot it.

    Raises GuestnetError as the generators of `xmlgen` do.
    """
    images = {"tiny": image, "router": router_image}
    return [*_networks(topology, hostmap), *_guests(topology, hostmap, images, virt_type)]


def render(
    topology: Topology,
    hostmap: HostMap,
    directory: Path,
    image: TinyImage | None = None,
    virt_type: str = "qemu",
    *,
    router_image: TinyImage | None = None,
) -> list[Path]:
    """Write every document below `directory` (made if missing); returns the files' paths.

    Nothing is written unless everything can be generated. Each file is replaced whole. Files of networks and guests
    that are gone from the topology stay. Raises GuestnetError when something cannot be generated or written.
    """
    wanted = documents(topology, hostmap, image, virt_type, router_image)
    return [_write(directory / each.path, each.text, 0o600 if each.secret else 0o644) for each in wanted]


def render_text(
    topology: Topology,
    hostmap: HostMap,
    image: TinyImage | None = None,
    virt_type: str = "qemu",
    router_image: TinyImage | None = None,
) -> str:
    """Every document in one text, each under a comment with its path: to read, not to feed to virsh."""
    found = documents(topology, hostmap, image, virt_type, router_image)
    return "\n".join(f"<!-- {path} -->\n{text}" for path, text, _ in found)


def _networks(topology: Topology, hostmap: HostMap) -> Iterator[Document]:
    for network in topology.libvirt_networks:
        element = xmlgen.network(topology, network, hostmap)
        yield Document(Path("networks", f"{network.name}.xml"), xmlgen.to_string(element))


_Images = Mapping[str, "TinyImage | None"]


def _guests(topology: Topology, hostmap: HostMap, images: _Images, virt_type: str) -> Iterator[Document]:
    for guest in topology.guests:
        folder = Path("guests", guest.name)
        for name, element in _parts(topology, guest, hostmap, images, virt_type):
            yield Document(folder / f"{name}.xml", xmlgen.to_string(element))
        for name, text in seed_files(topology, guest).items() if guest.image == DISK else ():
            yield Document(folder / "seed" / name, text, secret=True)


def _parts(
    topology: Topology, guest: Guest, hostmap: HostMap, images: _Images, virt_type: str
) -> Iterator[tuple[str, xmlgen.Element]]:
    image = images.get(guest.image or "")
    if guest.image == DISK or (guest.image == TINY and image is not None):
        yield "domain", xmlgen.domain(topology, guest, hostmap, image, virt_type)
    elif image is not None:
        yield "domain", xmlgen.router_domain(topology, guest, hostmap, image, virt_type)
    for port in guest.ports:
        yield f"interface-{port.name}", xmlgen.interface(topology, guest, port, hostmap)
    yield "metadata", xmlgen.domain_metadata(topology, guest, hostmap)


def _write(path: Path, text: str, mode: int) -> Path:
    """Replace a file whole: a reader, or a crash, sees the old text or the new."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text)
            Path(temporary).chmod(mode)
            Path(temporary).replace(path)
        except BaseException:
            with suppress(FileNotFoundError):
                Path(temporary).unlink()
            raise
    except OSError as error:
        raise GuestnetError(f"{path}: cannot be written: {error.strerror}") from error
    return path
