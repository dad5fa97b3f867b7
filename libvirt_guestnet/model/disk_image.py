"""What a guest is started from, where that is an image as clouds have them, and what it is told there, as facts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ImageFormat(StrEnum):
    """What a file of an image is. The file's name says it, and QEMU is told: it never looks for itself."""

    QCOW2 = "qcow2"
    RAW = "raw"


class Seed(StrEnum):
    """Where a guest finds what it is told: on a small disk of its own (NoCloud), or on none."""

    DISK = "disk"
    NONE = "none"


@dataclass(frozen=True)
class DiskImage:
    """The image that a guest's disk begins with; the file itself is never changed. `size` is the disk's in bytes (None:
    as large as the image). `domain_xml` is a <domain> of the user's with what guestnet does not say itself ("": none).
    """

    file: str
    format: ImageFormat
    size: int | None = None
    vcpus: int = 1
    domain_xml: str = ""
    seed: Seed = Seed.DISK


@dataclass(frozen=True)
class CloudInit:
    """What the file says that cloud-init in a guest is told: SSH keys of its default user, and the user-data."""

    ssh_keys: tuple[str, ...] = ()
    user_data: str = ""
