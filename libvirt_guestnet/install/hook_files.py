"""Installing the hooks under /etc/libvirt/hooks, and finding out whether libvirt will run them."""

from __future__ import annotations

import compileall
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from libvirt_guestnet import hostmap
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.read import hostwide
from libvirt_guestnet.install import apparmor, network_managers

HOOKS = ("qemu", "network")
FILE_NAME = "50-guestnet"
# Drop-in directories beside the one hook file per driver: libvirt 6.5.0.
OLDEST_LIBVIRT = (6, 5, 0)
# What to do about `HookStatus.run_by`.
RUN_TWICE = "take that out of it, as libvirt runs every file in there by itself, with the XML on its stdin"
_VERSION_SECONDS = 60  # a tenth of one is enough where the host is not overloaded
_DAEMONS = {"qemu": ("libvirtd", "virtqemud"), "network": ("libvirtd", "virtnetworkd")}


@dataclass(frozen=True)
class HookStatus:
    """One hook file: whether it exists and is current, and whether the running daemon has to be restarted for it.
    `run_by` is another hook script that also runs it."""

    hook: str
    path: str
    installed: bool
    current: bool
    restart_needed: bool
    run_by: str = ""


def install(
    root: Path = Path("/"), any_owner: bool = False, tell: Callable[[str], None] = lambda _text: None
) -> list[HookStatus]:
    """Writes both hook files, what they need of host.yaml, and the settings by which AppArmor and network managers let
    them work, which are printed. Idempotent. Raises GuestnetError if libvirt is too old or may not run our Python,
    host.yaml cannot be read, or others than root could change the code that libvirt would run as root (unless
    `any_owner`)."""
    _check_libvirt()
    if not any_owner:
        check_owner()
    take_over(root)
    for line in (*apparmor.allow(root), *network_managers.install(root), *default_note(root)):
        tell(line)
    compile_library()
    for hook in HOOKS:
        path, text = _path(root, hook), filled_in(hook)
        if not path.exists() or path.read_text() != text:
            _write(path, text)
    return status(root)


def take_over(root: Path = Path("/")) -> None:
    """Writes what host.yaml says of every domain for the hooks. Raises GuestnetError if it cannot be read."""
    hostwide.write(hostmap.load_hostwide(root / hostmap.HOST_FILE.relative_to("/")), f"{root}{hostwide.FILE}")


def default_note(root: Path) -> Iterator[str]:
    """What to know of this host's default for guests, if there is one."""
    guard = hostwide.read(f"{root}{hostwide.FILE}").guard
    if guard != hostwide.DECLARED:
        yield f"guard: {guard} holds for guests that start from now on; `guestnet hooks sync` covers those that run"


@cache
def compile_library() -> None:
    """Writes the library's missing bytecode, if possible: a hook that has to compile takes three times as long."""
    compileall.compile_dir(_library() / "libvirt_guestnet", quiet=2)


def uninstall(root: Path = Path("/"), tell: Callable[[str], None] = lambda _text: None) -> list[HookStatus]:
    """Removes both hook files and everything that `install` wrote besides, which is printed, and folders of that which
    are empty then; other people's hooks stay."""
    for hook in HOOKS:
        _path(root, hook).unlink(missing_ok=True)
    hostwide.write(hostwide.NOTHING_REQUIRED, f"{root}{hostwide.FILE}")
    for folder in (*(_path(root, hook).parent for hook in HOOKS), Path(f"{root}{hostwide.FILE}").parent):
        with suppress(OSError):  # there is more in it, or it is not there
            folder.rmdir()
    for line in (*network_managers.uninstall(root), *apparmor.take_back(root)):
        tell(line)
    return status(root)


def status(root: Path = Path("/")) -> list[HookStatus]:
    """The state of both hook files."""
    result = []
    for hook in HOOKS:
        path = _path(root, hook)
        installed = path.exists()
        current = installed and path.read_text() == filled_in(hook)
        restart_needed, run_by = installed and _restart_needed(root, hook), _run_by(root, hook)
        result.append(HookStatus(hook, str(path), installed, current, restart_needed, run_by if installed else ""))
    return result


# A pattern for scripts that run every file of a folder ending in .d, or that name such a folder and go through folders.
# A script that runs only a guest's own file in it (`qemu.d/$1/…`) does not match.
_EVERY = re.compile(r"\.d[\"'})]*/[\"']?\*|" + re.escape(FILE_NAME))
_FOLDER = re.compile(r"\.d[\"'})]*/?[\"']?(?=[\s;)]|$)", re.MULTILINE)
_THROUGH = re.compile(r"run-parts|\bfind\b|\bls\b|listdir|scandir|iterdir|glob|/[\"']?\*")
_LARGEST_SCRIPT = 1 << 20


def _run_by(root: Path, hook: str) -> str:
    """A script among libvirt's hooks that runs every file in our hook's folder, as libvirt itself does already."""
    hooks = root / "etc/libvirt/hooks"
    for path in (hooks / hook, *sorted((hooks / f"{hook}.d").glob("*"))):
        if path.name != FILE_NAME and path.is_file() and os.access(path, os.X_OK):
            with path.open("rb") as file:
                code = file.read(_LARGEST_SCRIPT).decode(errors="replace")
            if _runs_all("\n".join(line for line in code.splitlines() if not line.lstrip().startswith("#"))):
                return str(path)
    return ""


def _runs_all(code: str) -> bool:
    return bool(_EVERY.search(code) or (_FOLDER.search(code) and _THROUGH.search(code)))


def _path(root: Path, hook: str) -> Path:
    return root / "etc/libvirt/hooks" / f"{hook}.d" / FILE_NAME


def _library() -> Path:
    return Path(__file__).resolve().parents[2]


def filled_in(hook: str) -> str:
    """The text of a file in hooks/, for this installation. Raises GuestnetError when the file is missing."""
    from libvirt_guestnet.hook.concern import CONCERNS, SECONDS, STARTED_WORDS
    from libvirt_guestnet.hook.read import nics

    wanted = [operation for of, operation in CONCERNS if of == hook]
    values = {
        "@OPERATIONS@": " | ".join(wanted),
        "@STARTED_WORDS@": " | ".join(f"*{word}*" for word in STARTED_WORDS),
        "@UNGUARDABLE@": "|".join(dict.fromkeys(k.type for k in nics.TABLE if nics.of(k.type).guarded == nics.NO)),
        "@SECONDS@": str(SECONDS),
        "@PYTHON@": shlex.quote(sys.executable),
        "@MAIN@": shlex.quote(str(_library() / "libvirt_guestnet/hook/main.py")),
    }
    text = _template(hook).read_text()
    for placeholder, value in values.items():
        text = text.replace(placeholder, value)
    return text


def _template(hook: str) -> Path:
    for folder in (_library() / "hooks", Path(sys.prefix) / "share/libvirt-guestnet/hooks"):
        if (folder / hook).is_file():
            return folder / hook
    raise GuestnetError(f"the hook template {hook!r} is missing from this installation: reinstall libvirt-guestnet")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # libvirt runs every executable in the folder, so the draft is made executable only where it is not yet visible.
    draft = path.parent.parent / f".{path.parent.name}-{path.name}"
    draft.write_text(text)
    draft.chmod(0o755)
    if path.exists():  # the daemon calls a hook of whatever text, if the file was there when it started
        os.utime(draft, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    draft.replace(path)


def _check_libvirt() -> None:
    version = libvirt_version()
    if version is None:
        raise GuestnetError("no libvirt daemon found: install the package libvirt-daemon-system")
    if version < OLDEST_LIBVIRT:
        found, wanted = (".".join(map(str, v)) for v in (version, OLDEST_LIBVIRT))
        raise GuestnetError(
            f"libvirt {found} does not run hooks from /etc/libvirt/hooks/qemu.d: upgrade to {wanted} or later"
        )


@cache
def libvirt_version() -> tuple[int, ...] | None:
    """The version of the installed libvirt daemon, or None. Raises GuestnetError if it takes too long to say it."""
    for daemon in ("libvirtd", "virtqemud"):
        binary = shutil.which(daemon, path="/usr/sbin:/usr/bin:/sbin:/bin")
        if binary and (found := re.search(r"(\d+)\.(\d+)\.(\d+)", _said([binary, "--version"]))):
            return tuple(map(int, found.groups()))
    return None


def _said(argv: list[str]) -> str:
    try:
        return subprocess.run(argv, capture_output=True, text=True, timeout=_VERSION_SECONDS, check=False).stdout
    except subprocess.TimeoutExpired as error:
        raise GuestnetError(
            f"{' '.join(argv)} took more than {_VERSION_SECONDS} s: is the host overloaded? Try again"
        ) from error


def check_owner(library: Path | None = None) -> None:
    """Raises GuestnetError if others than root could change the code that libvirt runs as root."""
    package = (library or _library()) / "libvirt_guestnet"
    for path in (Path(sys.executable).resolve(), package / "hook/main.py", package, *package.parents):
        mode = path.stat()
        others = stat.S_IWOTH | (stat.S_IWGRP if mode.st_gid else 0)
        loose = mode.st_mode & others and not mode.st_mode & stat.S_ISVTX
        if mode.st_uid != 0 or loose:
            raise GuestnetError(
                f"{path} can be changed by others than root, and libvirt would run it as root: install "
                f"libvirt-guestnet in a folder owned by root, or say --any-owner if that is what you want"
            )


def _restart_needed(root: Path, hook: str) -> bool:
    """Whether the daemon must be restarted: it looks for a driver's hooks when it starts, so only the very first one
    needs that."""
    files = [root / "etc/libvirt/hooks" / hook, *(root / "etc/libvirt/hooks" / f"{hook}.d").glob("*")]
    seen = min((_present_since(file) for file in files if file.is_file()), default=0.0)
    return any(started < seen for started in map(_started, _DAEMONS[hook]) if started is not None)


def _present_since(file: Path) -> float:
    """Since when a hook file exists: by the change time for ours, which a rewrite keeps, as others may have been copied
    with an older time."""
    return file.stat().st_mtime if file.name == FILE_NAME else file.stat().st_ctime


def restart_command() -> str:
    """How the daemons that run here are restarted; guests go on."""
    running = dict.fromkeys(name for names in _DAEMONS.values() for name in names if _started(name) is not None)
    return f"systemctl restart {' '.join(running) or 'libvirtd'}"


def unseen() -> str:
    """What to do before hooks guard guests that start, or ""."""
    states = status()
    if not all(state.installed for state in states):
        return "no hook guards guests that start from now on: guestnet hooks install"
    if any(state.restart_needed for state in states):
        return f"libvirt's daemon does not see the hooks yet, so guests that start are not guarded: {restart_command()}"
    return ""


def _started(daemon: str) -> float | None:
    """When a running daemon was started, in seconds since the epoch, or None if it does not run."""
    try:
        pid = int(Path(f"/run/{daemon}.pid").read_text())
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError):
        return None
    # /proc/stat has the time of boot in whole seconds only, which is too coarse for a hook installed just before.
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    # The kernel rounds down, and the daemon looks for hooks only some time after it has started.
    return booted + (ticks + 1) / os.sysconf("SC_CLK_TCK")
