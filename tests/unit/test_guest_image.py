"""The parts of an image that need no kernel package: cpio, modules, unpacking, keys, where KVM works."""

from __future__ import annotations

import gzip
import lzma
import stat
import struct
import subprocess
from pathlib import Path

import pytest

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.guest import debian, image, initrd, kvm
from libvirt_guestnet.guest.initrd import ArchiveEntry


@pytest.mark.system
def test_the_archive_is_what_cpio_reads(tmp_path: Path) -> None:
    contents = {
        "bin/tool": ArchiveEntry(stat.S_IFREG | 0o755, b"#!/bin/sh\n" * 7),
        "bin/link": ArchiveEntry(stat.S_IFLNK | 0o777, b"tool"),
        "dev/console": ArchiveEntry(stat.S_IFCHR | 0o600, device=(5, 1)),
        "empty": ArchiveEntry(stat.S_IFREG | 0o644),
    }
    cpio = gzip.decompress(initrd.archive(contents))
    listed = subprocess.run(["busybox", "cpio", "-t"], input=cpio, capture_output=True, timeout=120, check=True)
    assert listed.stdout.decode().split() == ["bin", "bin/link", "bin/tool", "dev", "dev/console", "empty"]
    subprocess.run(["busybox", "cpio", "-id", "bin/*"], input=cpio, cwd=tmp_path, timeout=120, check=True)
    assert (tmp_path / "bin/link").readlink() == Path("tool")
    assert (tmp_path / "bin/tool").read_bytes() == b"#!/bin/sh\n" * 7


def test_the_same_contents_are_the_same_archive() -> None:
    one = {"a": ArchiveEntry(stat.S_IFREG | 0o644, b"1"), "b": ArchiveEntry(stat.S_IFREG | 0o644, b"2")}
    assert initrd.archive(one) == initrd.archive(dict(reversed(one.items())))
    assert initrd.fingerprint(one) == initrd.fingerprint(dict(reversed(one.items())))


def test_every_input_changes_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = {"a": ArchiveEntry(stat.S_IFREG | 0o644, b"1")}
    keys = [
        image._key("kernel_1", plain),
        image._key("kernel_2", plain),
        image._key("kernel_1", {"a": ArchiveEntry(stat.S_IFREG | 0o644, b"2")}),
        image._key("kernel_1", {"a": ArchiveEntry(stat.S_IFREG | 0o755, b"1")}),
        image._key("kernel_1", {"b": ArchiveEntry(stat.S_IFREG | 0o644, b"1")}),
    ]
    monkeypatch.setattr(image, "BUILDER", image.BUILDER + 1)
    keys.append(image._key("kernel_1", plain))
    assert len(set(keys)) == len(keys)


def _kernel(root: Path, modules: dict[str, str], suffix: str = "", builtin: str = "") -> None:
    directory = root / "lib/modules/6.1"
    (directory / "kernel").mkdir(parents=True)
    (directory / "modules.builtin").write_text(builtin)
    for name, depends in modules.items():
        data = b"\x7fELF\0license=GPL\0depends=" + depends.encode() + b"\0name=x\0"
        packed = lzma.compress(data) if suffix == ".xz" else data
        (directory / "kernel" / f"{name}.ko{suffix}").write_bytes(packed)


@pytest.mark.parametrize("suffix", ["", ".xz"])
def test_modules_come_with_what_they_need_in_loading_order(tmp_path: Path, suffix: str) -> None:
    _kernel(
        tmp_path,
        {"virtio_net": "virtio,net_failover", "net-failover": "failover", "failover": "", "virtio": "", "other": ""},
        suffix,
        "kernel/drivers/input/evdev.ko\n",
    )
    contents = initrd.modules(tmp_path, ("virtio_net", "evdev"))
    names = {Path(path).name for path in contents}
    assert names == {"virtio_net.ko", "net_failover.ko", "failover.ko", "virtio.ko", "modules.dep"}
    dep = contents["lib/modules/6.1/modules.dep"].data.decode().splitlines()
    assert "virtio_net.ko: virtio.ko net_failover.ko failover.ko" in dep
    assert contents["lib/modules/6.1/virtio.ko"].data.startswith(b"\x7fELF")


def test_a_missing_module_is_named(tmp_path: Path) -> None:
    _kernel(tmp_path, {})
    with pytest.raises(GuestnetError, match="no module virtio_net"):
        initrd.modules(tmp_path, ("virtio_net",))


ELF = b"\x7fELF" + bytes(60) + struct.pack("<III", 4, 4, 18) + b"Xen\0" + bytes(4)


def _bzimage(root: Path, payload: bytes) -> bytes:
    header = bytearray(1024)
    header[0x1F1] = 1
    struct.pack_into("<II", header, 0x248, 16, len(payload))
    whole = bytes(header) + bytes(16) + payload + b"trailing"
    (root / "boot").mkdir()
    (root / "boot/vmlinuz-6.1").write_bytes(whole)
    return whole


@pytest.mark.parametrize(
    "payload", [gzip.compress(ELF), lzma.compress(ELF) + struct.pack("<I", len(ELF))], ids=["gzip", "xz"]
)
def test_the_kernel_inside_a_bzimage_is_found(tmp_path: Path, payload: bytes) -> None:
    _bzimage(tmp_path, payload)
    assert debian.bootable(tmp_path) == ELF


@pytest.mark.parametrize(
    "payload", [gzip.compress(ELF[:64]), b"\xfd7zXZ broken", b"unknown"], ids=["no-pvh", "broken", "?"]
)
def test_a_bzimage_we_cannot_open_serves_as_it_is(tmp_path: Path, payload: bytes) -> None:
    whole = _bzimage(tmp_path, payload)
    assert debian.bootable(tmp_path) == whole


def test_without_a_network_the_package_that_is_there_serves(tmp_path: Path) -> None:
    deb = tmp_path / "linux-image-6.1.0-1-cloud-amd64_6.1-1_amd64.deb"
    deb.write_bytes(b"")
    unreachable = debian.KernelPackage("linux-image-no-such-package", "linux-image-no-such-package_1_amd64.deb")
    assert debian.fetch(unreachable, tmp_path) == deb
    assert debian.fetch(None, tmp_path) == deb
    deb.unlink()
    with pytest.raises(GuestnetError, match="The first image needs the network"):
        debian.fetch(None, tmp_path)


def test_old_images_and_leftovers_go(tmp_path: Path) -> None:
    (tmp_path / "debs").mkdir()
    for name in ("tiny-1", "tiny-2", "tiny-3", "tiny-4", ".making-dead"):
        (tmp_path / name).mkdir()
    image._prune(tmp_path)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(left) == 1 + image.KEEP
    assert ".making-dead" not in left


@pytest.mark.parametrize(
    ("flags", "expected"), [("fpu vmx sse", True), ("svm", True), ("fpu hypervisor", False), ("vmxnet", False)]
)
def test_kvm_needs_hardware(flags: str, expected: bool) -> None:
    assert kvm._has_hardware(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t:\n") is expected
