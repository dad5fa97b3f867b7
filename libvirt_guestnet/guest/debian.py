"""Debian's cloud kernel: which package, its download, and its parts in the form a tiny guest wants."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import re
import struct
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.guest.tools import run

METAPACKAGE = "linux-image-cloud-amd64"
LISTS = Path("/var/lib/apt/lists")

# ELF note XEN_ELFNOTE_PHYS32_ENTRY (18): the kernel has a PVH entry point, QEMU boots the bare ELF.
_PVH = re.compile(rb"\x04\0\0\0[\x04\x08]\0\0\0\x12\0\0\0Xen\0")


@dataclass(frozen=True)
class KernelPackage:
    """The kernel apt offers now. `filename` is the .deb's, and names the version."""

    name: str
    filename: str


def kernel_package(cache: Path) -> KernelPackage | None:
    """What METAPACKAGE depends on, None when apt knows no such package. Remembered in `cache`/kernel.json until apt's
    lists change, since asking apt takes a second."""
    memo = cache / "kernel.json"
    lists = LISTS.stat().st_mtime_ns if LISTS.is_dir() else 0
    try:
        known = json.loads(memo.read_text())
        if known["lists"] == lists:
            return KernelPackage(known["name"], known["filename"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass
    package = _ask_apt()
    if package is not None:
        fresh = memo.with_suffix(".new")
        fresh.write_text(json.dumps({"lists": lists, "name": package.name, "filename": package.filename}))
        fresh.replace(memo)
    return package


def _ask_apt() -> KernelPackage | None:
    try:
        depends = run("apt-cache", "depends", "--important", METAPACKAGE).decode()
        match = re.search(r"Depends: (linux-image-[a-z0-9.+-]+)$", depends, re.MULTILINE)
        if match is None:
            return None
        uris = run("apt-get", "--print-uris", "download", match[1]).decode()
    except GuestnetError:
        return None
    parts = uris.split("' ", 1)[-1].split()
    return KernelPackage(match[1], parts[0]) if parts and parts[0].endswith(".deb") else None


def fetch(package: KernelPackage | None, debs: Path) -> Path:
    """The .deb in `debs`, downloaded (and verified) by apt if need be. Without a network the newest one that is there
    already serves; raises GuestnetError when there is none."""
    debs.mkdir(mode=0o755, exist_ok=True)
    if package is not None and (debs / package.filename).is_file():
        return debs / package.filename
    try:
        if package is None:
            raise GuestnetError(f"guest image: apt knows no {METAPACKAGE}; run apt-get update")
        return _download(package, debs)
    except GuestnetError as error:
        have = sorted(debs.glob("linux-image-*.deb"), key=lambda path: path.stat().st_mtime)
        if not have:
            raise GuestnetError(f"{error}\nThe first image needs the network; is apt-get update recent?") from error
        return have[-1]


def _download(package: KernelPackage, debs: Path) -> Path:
    return _downloaded([package.name], debs)[0]


def _downloaded(names: Sequence[str], debs: Path) -> list[Path]:
    """The packages' files in `debs`, in some order; apt has verified them."""
    with tempfile.TemporaryDirectory(dir=debs) as scratch:
        # As root: apt's own user cannot write into our scratch directory, and would warn about it.
        run("apt-get", "-o", "APT::Sandbox::User=root", "-qq", "download", *names, timeout=300, cwd=Path(scratch))
        found = list(Path(scratch).glob("*.deb"))
        if len(found) != len(names):
            raise GuestnetError(f"guest image: apt-get download {' '.join(names)} left {len(found)} files")
        return [path.rename(debs / path.name) for path in found]


def fetch_with_needs(name: str, debs: Path) -> tuple[Path, ...]:
    """The .deb of a package that is not to be installed here, since it would bring a service, and those of what it
    needs and is not installed either; in `debs`, where they also are the next time, without a network then. Raises
    GuestnetError."""
    debs.mkdir(mode=0o755, exist_ok=True)
    memo = debs / f"{name}.json"
    known, installed = _remembered(memo), Path("/var/lib/dpkg/status").stat().st_mtime_ns
    if known and known[0] == installed:
        return known[1]
    try:
        files = _downloaded(_needed(name, debs) or [name], debs)
    except GuestnetError:
        if known:
            return known[1]
        raise
    fresh = memo.with_suffix(".new")
    fresh.write_text(json.dumps({"installed": installed, "files": [path.name for path in files]}))
    fresh.replace(memo)
    return tuple(files)


def _needed(name: str, debs: Path) -> list[str]:
    """What apt would have to install for a package. It leaves out what lies in its cache already, so it gets another
    one to look into."""
    with tempfile.TemporaryDirectory(dir=debs) as empty:
        (Path(empty) / "partial").mkdir()
        asked = ("--print-uris", "--download-only", "--yes", "-o", f"Dir::Cache::archives={empty}", "install", name)
        uris = run("apt-get", "-qq", *asked).decode()
    return re.findall(r"^'[^']*' ([a-z0-9.+-]+)_\S*\.deb ", uris, re.MULTILINE)


def _remembered(memo: Path) -> tuple[int, tuple[Path, ...]] | None:
    """What packages were fetched the last time, if they are still there, and when dpkg had last changed anything."""
    try:
        known = json.loads(memo.read_text())
        files = tuple(memo.parent / Path(each).name for each in known["files"])
        return (int(known["installed"]), files) if files and all(each.is_file() for each in files) else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def unpack(deb: Path, into: Path) -> Path:
    """The package's files below `into`. Raises GuestnetError for a broken package."""
    run("dpkg-deb", "-x", str(deb), str(into))
    return into


def bootable(root: Path) -> bytes:
    """The kernel of an unpacked package: the ELF inside its bzImage when QEMU can boot that, else the bzImage."""
    image = next(root.glob("boot/vmlinuz-*"), None)
    if image is None:
        raise GuestnetError("guest image: the kernel package has no boot/vmlinuz-*")
    packed = image.read_bytes()
    try:
        elf = _payload(packed)
    except (GuestnetError, OSError, lzma.LZMAError):
        return packed
    return elf if elf.startswith(b"\x7fELF") and _PVH.search(elf) else packed


def _payload(bzimage: bytes) -> bytes:
    """The compressed kernel in a bzImage, unpacked; offsets as in Documentation/arch/x86/boot.rst. All but gzip are
    followed by their unpacked length, four bytes that are none of the format's."""
    setup_sectors = bzimage[0x1F1] or 4
    offset, length = struct.unpack_from("<II", bzimage, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    payload = bzimage[start : start + length]
    if payload.startswith(b"\x1f\x8b"):
        return gzip.decompress(payload)
    return decompress(payload[:-4])


def decompress(data: bytes) -> bytes:
    """Data in any of the forms Debian packs kernels and modules in; unchanged when it is in none."""
    for magic, unpacker in _UNPACKERS.items():
        if data.startswith(magic):
            return unpacker(data)
    return data


_UNPACKERS: dict[bytes, Callable[[bytes], bytes]] = {
    b"\xfd7zXZ": lzma.decompress,
    b"\x1f\x8b": gzip.decompress,
    b"\x28\xb5\x2f\xfd": lambda data: run("zstd", "-dcq", stdin=data),
    b"\x02\x21\x4c\x18": lambda data: run("lz4", "-dcq", stdin=data),
}


def installed(program: str) -> Path:
    """Where a program is. Raises GuestnetError that names what to install."""
    for directory in ("/usr/bin", "/bin", "/usr/sbin", "/sbin"):
        path = Path(directory, program)
        if os.access(path, os.X_OK):
            return path
    packages = {"busybox": "busybox-static", "nft": "nftables", "perl": "perl-base", "dnsmasq": "dnsmasq-base"}
    package = packages.get(program, program)
    raise GuestnetError(f"guest image: {program} is not installed; apt-get install {package}")
