"""The tiny guest's image: Debian's cloud kernel and an initramfs of busybox, perl and nft, made from this machine's own
distribution, cached by content.

    /var/cache/libvirt-guestnet/
        lock                    held while an image is made: two builders would download and write twice
        kernel.json             the kernel package apt offered, and the state of apt's lists when it did
        debs/                   the packages that images were made from, beside what is installed
        tiny-1a2b3c4d5e6f/      an image: kernel, initrd; the name is the hash of everything that went in
        router-1a2b3c4d5e6f/    the same of a virtual router, pairrouter-… of one of a pair

An image is made beside its place and renamed into it, so it is whole or absent. Once made it needs no network.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.guest import debian, initrd
from libvirt_guestnet.guest.kvm import virt_type
from libvirt_guestnet.ownfolder import ensure_own_folder

__all__ = ["CACHE", "TinyImage", "ensure_image", "newest", "virt_type"]

CACHE = Path("/var/cache/libvirt-guestnet")
KEEP = 3
"""Images kept: domains defined with an older one still start."""

LOCK_SECONDS = 300.0
BUILDER = 1
"""Raise when the way images are made changes."""


@dataclass(frozen=True)
class TinyImage:
    """What a domain's <kernel> and <initrd> name. The kernel is an uncompressed ELF where it can be (it boots 0.3 s
    faster under TCG), else Debian's bzImage; libvirt and QEMU take either."""

    kernel: Path
    initrd: Path


@dataclass(frozen=True)
class Recipe:
    """A kind of image: what its folders' names begin with, its kernel's modules, and what makes the rest."""

    prefix: str
    modules: tuple[str, ...]
    userland: Callable[[], initrd.Contents]


TINY = Recipe("tiny", initrd.MODULES, initrd.userland)

Tell = Callable[[str], None]


def _quiet(_doing: str) -> None:
    return None


def ensure_image(cache: Path = CACHE, tell: Tell = _quiet, recipe: Recipe = TINY) -> TinyImage:
    """The image for this machine's packages, made if it is not in the cache. `tell` hears what takes its time.

    Raises GuestnetError when a package is missing, or when the kernel package cannot be had and no image made from
    it is cached. An image whose kernel apt can no longer name is still used offline.
    """
    if not _writable(cache):
        # Seen from a sandbox, which cannot make one.
        if found := newest(cache, recipe):
            return found
        raise GuestnetError(f"{cache} has no guest image and is read-only here: make it outside the sandbox first")
    contents = recipe.userland()
    with _locked(cache / "lock"):
        directory = _find_or_build(cache, debian.kernel_package(cache), recipe, contents, tell)
        os.utime(directory)  # the newest is the one in use: for sandboxes, and for _prune
    return TinyImage(directory / "kernel", directory / "initrd")


def _writable(cache: Path) -> bool:
    try:
        ensure_own_folder(cache)
    except OSError as error:
        raise GuestnetError(f"{cache}: {error.strerror}: the guest image cannot be kept there") from error
    return not os.statvfs(cache).f_flag & os.ST_RDONLY


def newest(cache: Path = CACHE, recipe: Recipe = TINY) -> TinyImage | None:
    """The image that was used last, without making one; None when there is none."""
    images = sorted(cache.glob(f"{recipe.prefix}-*"), key=lambda path: path.stat().st_mtime)
    return TinyImage(images[-1] / "kernel", images[-1] / "initrd") if images else None


def _find_or_build(
    cache: Path, kernel: debian.KernelPackage | None, recipe: Recipe, contents: initrd.Contents, tell: Tell
) -> Path:
    if (
        kernel is not None
        and (directory := cache / f"{recipe.prefix}-{_key(kernel.filename, contents, recipe)}").is_dir()
    ):
        return directory
    tell("fetching the guest's kernel")
    deb = debian.fetch(kernel, cache / "debs")
    directory = cache / f"{recipe.prefix}-{_key(deb.name, contents, recipe)}"
    if not directory.is_dir():
        _build(directory, deb, recipe, contents, tell)
        _prune(cache, recipe)
    return directory


def _key(kernel: str, contents: initrd.Contents, recipe: Recipe = TINY) -> str:
    digest = hashlib.sha256(f"{BUILDER}\0{kernel}\0{recipe.modules}\0".encode())
    digest.update(initrd.fingerprint(contents))
    return digest.hexdigest()[:16]


def _build(directory: Path, deb: Path, recipe: Recipe, contents: initrd.Contents, tell: Tell) -> None:
    tell("unpacking the guest's kernel")
    with tempfile.TemporaryDirectory(prefix=".making-", dir=directory.parent) as scratch:
        root = debian.unpack(deb, Path(scratch) / "kernel")
        made = Path(scratch) / "image"
        made.mkdir(mode=0o755)
        (made / "kernel").write_bytes(debian.bootable(root))
        tell("packing the guest's initramfs")
        (made / "initrd").write_bytes(initrd.archive({**contents, **initrd.modules(root, recipe.modules)}))
        for path in made.iterdir():
            path.chmod(0o644)
        made.chmod(0o755)
        made.rename(directory)


def _prune(cache: Path, recipe: Recipe = TINY) -> None:
    """Leaves the newest images of a kind, and no half-made one (we hold the lock, so nobody is at it)."""
    for leftover in cache.glob(".making-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    images = sorted(cache.glob(f"{recipe.prefix}-*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in images[KEEP:]:
        shutil.rmtree(old, ignore_errors=True)
    for deb in sorted((cache / "debs").glob("linux-image-*.deb"), key=lambda path: path.stat().st_mtime)[:-1]:
        deb.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    deadline = time.monotonic() + LOCK_SECONDS
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise GuestnetError(
                        f"{path}: another process has been making the guest image for minutes"
                    ) from None
                time.sleep(0.1)
        yield
    finally:
        os.close(descriptor)
