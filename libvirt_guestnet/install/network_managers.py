"""Keeping network managers, systemd-networkd and NetworkManager, away from guests' devices.

With a `.network` file for a wildcard (`Name=*`), networkd takes every tap off its bridge and every address off bridges,
ours and libvirt's. Of all files that match a device, the first by name counts (decision 57). NetworkManager leaves
devices of others alone, unless a connection matches them.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from libvirt_guestnet.datapath.netlink import links

NETWORKD, NETWORK_MANAGER = "systemd-networkd", "NetworkManager"
_PATTERNS = ("vme*", "vnet*", "gn-*", "virbr*")
# An example device for each pattern, with its type, kind and driver as networkd sees them.
_LIKE = (
    ("vme0", "ether", "tun"),
    ("vnet0", "ether", "tun"),
    ("gn-x", "bridge", "bridge"),
    ("virbr0", "bridge", "bridge"),
)
_HEAD = "# Written by `guestnet hooks install`, removed by `guestnet hooks uninstall`: guests' taps and bridges.\n"
# Its name sorts before others that begin with a digit: networkd takes the first file that matches.
_NETWORK_FILE = "etc/systemd/network/0-libvirt-guestnet.network"
_TEXTS = {
    NETWORKD: (_NETWORK_FILE, f"{_HEAD}[Match]\nName={' '.join(_PATTERNS)}\n\n[Link]\nUnmanaged=yes\n"),
    NETWORK_MANAGER: (
        "etc/NetworkManager/conf.d/99-libvirt-guestnet.conf",
        f"{_HEAD}[keyfile]\nunmanaged-devices+={';'.join(f'interface-name:{each}' for each in _PATTERNS)}\n",
    ),
}
_PROGRAMS = {
    NETWORKD: ("usr/lib/systemd/systemd-networkd", "lib/systemd/systemd-networkd"),
    NETWORK_MANAGER: ("usr/sbin/NetworkManager",),
}
_RELOAD = {NETWORKD: ["networkctl", "reload"], NETWORK_MANAGER: ["nmcli", "general", "reload", "conf"]}
# In this order, a file hides those of the same name in later folders.
_FOLDERS = ("etc", "run", "usr/local/lib", "usr/lib", "lib")
# Keys that match a single device's properties; our devices have none of these, or values that nobody can know before.
_SINGLE = {
    "MACAddress",
    "PermanentMACAddress",
    "Path",
    "OriginalName",
    "Property",
    "SSID",
    "BSSID",
    "WLANInterfaceType",
}
_SECONDS = 60

Call = Callable[[list[str]], bool]


class Claim(NamedTuple):
    """A device of ours, or a pattern of such, that a manager configures by a file."""

    device: str
    manager: str
    file: str


def call(argv: list[str]) -> bool:
    """Whether a program succeeds."""
    try:
        return subprocess.run(argv, capture_output=True, timeout=_SECONDS, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def install(root: Path = Path("/"), calls: Call = call) -> list[str]:
    """Makes the managers on this host leave guests' devices alone; returns what was written, in words. Idempotent.
    Raises OSError."""
    written = []
    for manager, (place, text) in _TEXTS.items():
        path = root / place
        if _is_installed(root, manager) and not (path.exists() and path.read_text() == text):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            _reload(manager, calls)
            written.append(f"{path}: has {manager} leave {' '.join(_PATTERNS)} alone")
    return written


def uninstall(root: Path = Path("/"), calls: Call = call) -> list[str]:
    """Removes what `install` wrote; returns that, in words. Raises OSError."""
    removed = []
    for manager, (place, _) in _TEXTS.items():
        if (root / place).exists():
            (root / place).unlink()
            _reload(manager, calls)
            removed.append(f"{root / place}: removed")
    return removed


def claims(devices: Iterable[str], root: Path = Path("/"), calls: Call = call) -> list[Claim]:
    """The devices of ours that networkd configures, if it runs, and the names of ours that it would."""
    if not _is_installed(root, NETWORKD) or not _runs(NETWORKD, calls):
        return []
    coming = [Claim(pattern, NETWORKD, file) for pattern, file in _coming(root)]
    covered = {each.device for each in coming}
    present = (Claim(device, NETWORKD, file) for device in sorted(devices) if (file := _configured(root, device)))
    return coming + [each for each in present if not any(fnmatchcase(each.device, name) for name in covered)]


def unmanaged_file(root: Path = Path("/")) -> str:
    """Our file for networkd, if it exists; else ""."""
    path = root / _NETWORK_FILE
    return str(path) if path.exists() else ""


def _is_installed(root: Path, manager: str) -> bool:
    return any((root / program).exists() for program in _PROGRAMS[manager])


def _runs(manager: str, calls: Call) -> bool:
    return calls(["systemctl", "is-active", "--quiet", f"{manager}.service"])


def _reload(manager: str, calls: Call) -> None:
    if _runs(manager, calls):
        calls(_RELOAD[manager])


def _coming(root: Path) -> Iterator[tuple[str, str]]:
    """The patterns of names for which the first matching file does not leave them alone, each with that file."""
    files = [(path, _settings(path)) for path in _network_files(root)]
    for pattern, (name, type_, kind) in zip(_PATTERNS, _LIKE, strict=True):
        first = next(((path, said) for path, said in files if _matches(said, name, type_, kind)), None)
        if first is not None and not _leaves_alone(first[1]):
            yield pattern, str(first[0])


def _configured(root: Path, device: str) -> str:
    """The file by which networkd configures a device that is there."""
    said = _text(root / f"run/systemd/netif/links/{links.index_of(device)}").splitlines()
    values = dict(line.split("=", 1) for line in said if "=" in line)
    return "" if values.get("ADMIN_STATE", "unmanaged") == "unmanaged" else values.get("NETWORK_FILE", "")


def _network_files(root: Path) -> list[Path]:
    found: dict[str, Path] = {}
    for folder in reversed(_FOLDERS):
        found.update({path.name: path for path in (root / folder / "systemd/network").glob("*.network")})
    return [found[name] for name in sorted(found)]


def _settings(path: Path) -> list[tuple[str, str, str]]:
    """(section, key, value) of a file and its drop-ins."""
    section, found = "", []
    texts = map(_text, [path, *sorted(path.with_name(f"{path.name}.d").glob("*.conf"))])
    for line in (line.strip() for text in texts for line in f"{text}\n".splitlines()):
        if line.startswith("["):
            section = line.strip("[]")
        elif "=" in line and not line.startswith(("#", ";")):
            key, value = (part.strip() for part in line.split("=", 1))
            found.append((section, key, value))
    return found


def _matches(said: list[tuple[str, str, str]], name: str, type_: str, kind: str) -> bool:
    wanted: dict[str, list[str]] = {}
    for section, key, value in said:
        if section == "Match":
            wanted[key] = [*wanted.get(key, []), *value.split()] if value else []
    wanted = {key: values for key, values in wanted.items() if values}
    ours = {"Name": name, "Type": type_, "Kind": kind, "Driver": kind}
    fits = all(_fits(ours[key], values) for key, values in wanted.items() if key in ours)
    return bool(wanted) and fits and not _SINGLE & set(wanted)


def _fits(value: str, patterns: list[str]) -> bool:
    inverted = patterns[0].startswith("!")
    plain = [patterns[0].removeprefix("!"), *patterns[1:]]
    return inverted != any(fnmatchcase(value, pattern) for pattern in plain)


def _leaves_alone(said: list[tuple[str, str, str]]) -> bool:
    values = [value for section, key, value in said if (section, key) == ("Link", "Unmanaged")]
    return bool(values) and values[-1].lower() in ("yes", "true", "1", "on", "y", "t")


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
