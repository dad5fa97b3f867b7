"""Whether AppArmor lets libvirt's daemons run the hooks' Python, and the rule that allows it.

Debian's profile of libvirtd allows programs in /bin, /sbin, /usr/bin and /usr/sbin, and below /etc/libvirt/hooks. The
kernel judges a file by its path with all symbolic links resolved. The Python of scripts/setup's virtual environment is
a link to one in /usr/bin; those of `venv --copies`, pipx and uv, and those in /opt or /usr/local, are not allowed. `[
-x ]` sees nothing of this (decision 56).
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from libvirt_guestnet.errors import GuestnetError

DAEMONS = ("libvirtd", "virtqemud", "virtnetworkd")
_BEGIN, _END = "# begin libvirt-guestnet: the Python of libvirt's hooks", "# end libvirt-guestnet"
_OURS = re.compile(rf"{_BEGIN}\n(.*?){_END}\n", re.DOTALL)
# Paths that can be written into a rule: without characters that have a meaning in AppArmor's rules.
_WRITABLE = re.compile(r"[A-Za-z0-9 /._+~:=-]+")
_ALLOWED = re.compile(r"/(?:usr/)?s?bin/[^/]+|/etc/libvirt/hooks/.+")
_ENFORCED = re.compile(r"(.+) \((?:enforce|kill)\)")
_SECONDS = 60
# What a hook does: a shell under the profile executes Python. A denial is status 126, and so is a shell that cannot
# read it.
_ASK = 'printf %s "changeprofile $1" >"$3" || exit 77; exec "$2" -IS -c ""'

Executes = Callable[[str, str], bool | None]
Load = Callable[[Path], str]


class Confined(NamedTuple):
    """A daemon of libvirt's, the profile that the kernel enforces on it, and the Python in question."""

    daemon: str
    profile: str
    python: str


def executes(profile: str, program: str) -> bool | None:
    """Whether a process under a profile may run a Python, by the kernel's own answer; None if it cannot be asked."""
    attribute = next((path for path in _attributes(Path("/"), "self") if path.exists()), None)
    if attribute is None:
        return None
    argv = ["sh", "-c", _ASK, "sh", profile, program, str(attribute)]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return {0: True, 126: False, 127: False}.get(done.returncode)


def load(profile_file: Path) -> str:
    """Makes the kernel enforce a file's profiles, for running processes too; returns the error, or ""."""
    argv = ["apparmor_parser", "-r", "-T", "-W", str(profile_file)]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except FileNotFoundError:
        return "there is no apparmor_parser (package apparmor)"
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if done.returncode == 0 else (done.stderr or done.stdout).strip() or f"exit status {done.returncode}"


def denied(root: Path = Path("/"), python: str = "", query: Executes = executes) -> list[Confined]:
    """The daemons whose profile forbids the hooks' Python."""
    program = python or interpreter()
    found = (Confined(daemon, profile, program) for daemon in DAEMONS if (profile := _profile(root, daemon)))
    return [each for each in found if not _may(root, each, query)]


def interpreter() -> str:
    """The path of the hooks' Python, with all symbolic links resolved."""
    return str(Path(sys.executable).resolve())


def allow(root: Path = Path("/"), python: str = "", query: Executes = executes, loads: Load = load) -> list[str]:
    """Makes every daemon's profile allow the hooks' Python; returns what was written, in words. Raises GuestnetError if
    that is not possible; then nothing was changed."""
    program = python or interpreter()
    taken = [path for path, rules in _written(root) if rules != _rule(program)]
    done = [_take_back(root, path, loads) for path in taken]
    return done + [_allow(root, each, query, loads) for each in denied(root, program, query)]


def take_back(root: Path = Path("/"), loads: Load = load) -> list[str]:
    """Removes what `allow` wrote; returns that, in words. Raises GuestnetError."""
    return [_take_back(root, path, loads) for path, _ in _written(root)]


def _may(root: Path, each: Confined, query: Executes) -> bool:
    may = query(each.profile, each.python)
    if may is None:  # such as from within a container's own profile
        return bool(_ALLOWED.fullmatch(each.python)) or (
            _local(root, each.daemon),
            _rule(each.python),
        ) in _written(root)
    return may


def _profile(root: Path, daemon: str) -> str:
    """The profile of a daemon; if it does not run, the one that it will have."""
    try:
        pid = int((root / f"run/{daemon}.pid").read_text())
        current = [_text(path) for path in _attributes(root, str(pid))]
    except (OSError, ValueError):
        current = []
    if any(current):
        found = _ENFORCED.fullmatch(next(filter(None, current)))
        return found[1] if found else ""
    loaded = map(_ENFORCED.fullmatch, _text(root / "sys/kernel/security/apparmor/profiles").splitlines())
    return next((each[1] for each in loaded if each and each[1] in (daemon, f"/usr/sbin/{daemon}")), "")


def _attributes(root: Path, pid: str) -> list[Path]:
    """The files in which the kernel shows a process's profile; the second is shared with other security modules."""
    return [root / f"proc/{pid}/attr/{name}" for name in ("apparmor/current", "current")]


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip("\0\n")
    except OSError:
        return ""


def _local(root: Path, daemon: str) -> Path:
    """The file for an administrator's own rules for a daemon."""
    return root / "etc/apparmor.d/local" / f"usr.sbin.{daemon}"


def _rule(program: str) -> str:
    # In lower case: with upper case the loader ignores $ORIGIN, by which such a Python may look for its own library.
    return f'"{program}" pux,\n'


def _written(root: Path) -> list[tuple[Path, str]]:
    """The files that have something of ours in them, and what."""
    files = (_local(root, daemon) for daemon in DAEMONS)
    return [(path, found[1]) for path in files if (found := _OURS.search(_text(path) + "\n"))]


def _allow(root: Path, each: Confined, query: Executes, loads: Load) -> str:
    local, program = _local(root, each.daemon), each.python
    base = local.parent.parent / local.name
    if not _WRITABLE.fullmatch(program) or f"local/{local.name}" not in _text(base):
        raise _refusal(each, f"no rule for it can be written into {local}")
    before = local.read_text() if local.exists() else None
    between = "\n" if before and not before.endswith("\n") else ""
    local.parent.mkdir(exist_ok=True)
    local.write_text(f"{before or ''}{between}{_BEGIN}\n{_rule(program)}{_END}\n")
    wrong = loads(base) or ("it is forbidden all the same" if query(each.profile, program) is False else "")
    if wrong:
        _restore(local, before)
        loads(base)
        raise _refusal(each, f"a rule for it in {local} does not help: {wrong}")
    return f"{local}: lets {each.daemon} run {program}, which AppArmor's profile {each.profile} forbade"


def _restore(path: Path, text: str | None) -> None:
    if text is None:
        path.unlink(missing_ok=True)
    else:
        path.write_text(text)


def _refusal(each: Confined, why: str) -> GuestnetError:
    return GuestnetError(
        f"AppArmor's profile {each.profile} forbids {each.daemon} to run {each.python}, and so every hook; {why}: "
        "install libvirt-guestnet for /usr/bin/python3 (python3 -m venv without --copies; pipx and uv with --python "
        "/usr/bin/python3)"
    )


def _take_back(root: Path, local: Path, loads: Load) -> str:
    base = local.parent.parent / local.name
    left = _OURS.sub("", local.read_text())
    # Debian 12's profile cannot be loaded without the file.
    _restore(local, left if left or f"if exists <local/{local.name}>" not in _text(base) else None)
    if base.exists() and (root / "sys/kernel/security/apparmor").is_dir() and (wrong := loads(base)):
        raise GuestnetError(f"{local}: what was written there is removed, but {base} is not loaded again: {wrong}")
    return f"{local}: the rule for the hooks' Python is removed"
