"""The tiny guest's initramfs: what is in it, and how it becomes a cpio archive."""

from __future__ import annotations

import gzip
import hashlib
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.guest import debian
from libvirt_guestnet.guest.tools import run

# What /init loads, and what it loads for a router; the rest follows from dependencies.
MODULES = (
    *("virtio_pci", "virtio_net", "virtio_console", "qemu_fw_cfg", "button", "evdev", "8021q"),
    *("nf_tables", "nft_ct", "nft_masq", "nft_chain_nat", "nft_reject_inet"),
)
PERL_MODULES = ("strict", "warnings", "constant", "Socket", "Carp", "Exporter::Heavy", "overloading", "File::Glob")


@dataclass(frozen=True)
class ArchiveEntry:
    """One file: `mode` with its type, `data` its content or a link's target, `device` a node's (major, minor)."""

    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


Contents = Mapping[str, ArchiveEntry]
"""Paths, relative to the root, and what is there. Parent directories come by themselves."""


def userland() -> dict[str, ArchiveEntry]:
    """Everything but kernel modules, from what is installed here. Raises GuestnetError for a missing package."""
    contents = programs("perl", "nft") | skeleton()
    data = files("libvirt_guestnet.guest").joinpath("data")
    for name, place in (("init", "init"), ("net", "etc/net"), ("dhcp", "etc/dhcp"), ("agent", "etc/agent")):
        contents[place] = ArchiveEntry(stat.S_IFREG | 0o755, data.joinpath(name).read_bytes())
    contents["etc/passwd"] = ArchiveEntry(stat.S_IFREG | 0o644, b"root::0:0:root:/root:/bin/sh\n")
    return contents


def program_of(root: Path, name: str) -> dict[str, ArchiveEntry]:
    """A program of an unpacked package and what it loads, from there or from this machine. Raises GuestnetError."""
    program = next(iter([*root.glob(f"usr/sbin/{name}"), *root.glob(f"usr/bin/{name}")]), None)
    if program is None:
        raise GuestnetError(f"guest image: the package has no {name}")
    folders = sorted({str(path.parent) for path in root.glob("**/*.so*")})
    contents = {f"bin/{name}": _file(program)}
    for path in _libraries(program, folders):
        place = path.relative_to(root) if path.is_relative_to(root) else path
        contents[str(place).lstrip("/")] = _file(path)
    return contents


def programs(*names: str) -> dict[str, ArchiveEntry]:
    """Static busybox with its applets, and these programs with what they load, all in bin. Raises GuestnetError for a
    missing package."""
    busybox = debian.installed("busybox")
    if _libraries(busybox):
        raise GuestnetError(f"guest image: {busybox} is not static; apt-get install busybox-static")
    contents = {f"bin/{applet}": _link("busybox") for applet in run(str(busybox), "--list").decode().split()}
    contents["bin/busybox"] = _file(busybox)
    for name in names:
        program = debian.installed(name)
        contents[f"bin/{name}"] = _file(program)
        parts = _perl_parts(program) if name == "perl" else []
        for path in [*parts, *_libraries(program), *(lib for part in parts for lib in _libraries(part))]:
            contents[str(path).lstrip("/")] = _file(path)
    return contents


def skeleton() -> dict[str, ArchiveEntry]:
    """Folders, the names that programs are looked for by, and the console."""
    contents = {
        name: ArchiveEntry(stat.S_IFDIR | 0o755) for name in ("dev", "proc", "sys", "run", "tmp", "root", "etc")
    }
    contents |= {"sbin": _link("bin"), "usr/bin": _link("../bin"), "usr/sbin": _link("../bin")}
    contents["dev/console"] = ArchiveEntry(stat.S_IFCHR | 0o600, device=(5, 1))
    return contents


def _perl_parts(perl: Path) -> list[Path]:
    """The files perl loads for PERL_MODULES, asked of perl itself."""
    program = r'print "$_\n" for values %INC, @DynaLoader::dl_shared_objects'
    uses = [f"-M{module}" for module in PERL_MODULES if module != "constant"]
    listed = run(str(perl), *uses, "-e", f"use constant X => 1; {program}").decode().splitlines()
    return sorted({Path(line) for line in listed if line.startswith("/")})


def _libraries(program: Path, folders: Iterable[str] = ()) -> list[Path]:
    """The shared objects a dynamic executable or module needs, the loader included; none for anything else. Some may
    be in `folders`."""
    if not program.read_bytes().startswith(b"\x7fELF"):
        return []
    try:
        listed = run("env", f"LD_LIBRARY_PATH={':'.join(folders)}", "ldd", str(program)).decode()
    except GuestnetError:
        return []  # "not a dynamic executable"
    if "not found" in listed:
        raise GuestnetError(f"guest image: {program} lacks a library:\n{listed}")
    return [Path(path) for path in re.findall(r"(?:=> |^\t)(/\S+) \(0x", listed, re.MULTILINE)]


def _file(path: Path) -> ArchiveEntry:
    return ArchiveEntry(stat.S_IFREG | 0o755, path.read_bytes())


def _link(target: str) -> ArchiveEntry:
    return ArchiveEntry(stat.S_IFLNK | 0o777, target.encode())


# ---- kernel modules


def modules(root: Path, names: Iterable[str]) -> dict[str, ArchiveEntry]:
    """These modules and what they need from an unpacked kernel package, unpacked, with a modules.dep for modprobe.

    Raises GuestnetError when the kernel neither has a module nor is built with it.
    """
    directory = next((p for p in (*root.glob("lib/modules/*"), *root.glob("usr/lib/modules/*"))), None)
    if directory is None:
        raise GuestnetError("guest image: the kernel package has no modules")
    available = {_module_name(path): path for path in directory.rglob("*.ko*")}
    builtin = {_module_name(Path(line)) for line in (directory / "modules.builtin").read_text().splitlines()}
    found: dict[str, tuple[bytes, list[str]]] = {}
    for name in names:
        _collect(name, available, builtin, found)
    base = f"lib/modules/{directory.name}"
    contents = {f"{base}/{name}.ko": ArchiveEntry(stat.S_IFREG | 0o644, data) for name, (data, _) in found.items()}
    lines = (f"{name}.ko:{''.join(f' {n}.ko' for n in _closure(name, found))}\n" for name in found)
    contents[f"{base}/modules.dep"] = ArchiveEntry(stat.S_IFREG | 0o644, "".join(lines).encode())
    return contents


def _collect(
    name: str, available: Mapping[str, Path], builtin: set[str], found: dict[str, tuple[bytes, list[str]]]
) -> None:
    if name in found or name in builtin:
        return
    if name not in available:
        raise GuestnetError(f"guest image: the kernel has no module {name}")
    data = debian.decompress(available[name].read_bytes())
    needs = re.search(rb"(?:^|\0)depends=([^\0]*)\0", data)
    names = [n.replace("-", "_") for n in needs[1].decode("ascii").split(",") if n] if needs else []
    found[name] = (data, [n for n in names if n not in builtin])
    for needed in names:
        _collect(needed, available, builtin, found)


def _closure(name: str, found: Mapping[str, tuple[bytes, list[str]]]) -> list[str]:
    """What must be there before a module, the last to be loaded first (depmod's order)."""
    order: list[str] = []
    for needed in found[name][1]:
        below = [needed, *_closure(needed, found)]
        order = [n for n in order if n not in below] + below
    return order


def _module_name(path: Path) -> str:
    return path.name.split(".ko")[0].replace("-", "_")


# ---- the archive


def fingerprint(contents: Contents) -> bytes:
    """A hash of all paths, modes and contents."""
    digest = hashlib.sha256()
    for path, entry in sorted(contents.items()):
        digest.update(f"{path}\0{entry.mode}\0{entry.device}\0{len(entry.data)}\0".encode())
        digest.update(entry.data)
    return digest.digest()


def archive(contents: Contents) -> bytes:
    """A cpio archive (newc) of the contents, the same bytes every time, gzipped: no form is unpacked
    noticeably faster."""
    cpio = b"".join(_records(_with_parents(contents).items()))
    return gzip.compress(cpio, compresslevel=6, mtime=0)


def _with_parents(contents: Contents) -> dict[str, ArchiveEntry]:
    parents = {str(p) for path in contents for p in Path(path).parents if str(p) != "."}
    full = {path: ArchiveEntry(stat.S_IFDIR | 0o755) for path in parents} | dict(contents)
    return dict(sorted(full.items()))


def _records(items: Iterable[tuple[str, ArchiveEntry]]) -> Iterator[bytes]:
    for number, (path, entry) in enumerate([*items, ("TRAILER!!!", ArchiveEntry(0))], start=1):
        name = path.encode() + b"\0"
        fields = (number, entry.mode, 0, 0, 1, 0, len(entry.data), 0, 0, *entry.device, len(name), 0)
        head = b"070701" + b"".join(b"%08x" % value for value in fields) + name
        yield head + bytes(-len(head) % 4) + entry.data + bytes(-len(entry.data) % 4)
