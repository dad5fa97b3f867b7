"""The systemd service that runs `hook/watch`: installed with the hooks, where systemd runs."""

from __future__ import annotations

import subprocess
from pathlib import Path

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.install.hook_files import filled_in

NAME = "libvirt-guestnet.service"
_SECONDS = 60


def install(root: Path = Path("/")) -> None:
    """Writes the unit, starts it now and at boot. Idempotent; without systemd nothing is done. Raises GuestnetError."""
    unit, text = _unit(root), filled_in(NAME).replace("%", "%%")
    if not _systemd_runs(root) or (unit.exists() and unit.read_text() == text):
        return
    unit.parent.mkdir(parents=True, exist_ok=True)
    draft = unit.with_name(f".{NAME}")
    draft.write_text(text)
    draft.replace(unit)
    _systemctl("daemon-reload")
    _systemctl("enable", NAME)
    _systemctl("restart", NAME)  # one of an older version may run


def uninstall(root: Path = Path("/")) -> None:
    """Stops the service and removes the unit. Raises GuestnetError."""
    if _unit(root).exists():
        if _systemd_runs(root):
            _systemctl("disable", "--now", NAME)
        _unit(root).unlink()


def _unit(root: Path) -> Path:
    return root / "etc/systemd/system" / NAME


def _systemd_runs(root: Path) -> bool:
    return (root / "run/systemd/system").is_dir()  # sd_booted(3)


def _systemctl(*arguments: str) -> None:
    argv = ["systemctl", *arguments]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GuestnetError(f"{' '.join(argv)} failed: {error}") from error
    if done.returncode != 0:
        raise GuestnetError(f"{' '.join(argv)} failed: {done.stderr.strip()}")
