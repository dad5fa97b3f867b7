"""Folders for what root later runs or trusts: only root may have made them, or write there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from libvirt_guestnet.errors import GuestnetError


def ensure_own_folder(path: Path) -> None:
    """Makes a folder, with its parents, unless it exists. Raises GuestnetError if something else is there (such as a
    link), or if the folder is not ours or others may write to it; OSError if it cannot be made."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if not os.path.lexists(path):
        path.mkdir(mode=0o755, exist_ok=True)
        path.chmod(0o755)  # whatever the umask says
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
        raise GuestnetError(
            f"{path} must be a folder of root's to which nobody else can write, as what is in it is trusted: remove "
            f"it, or `chown root` and `chmod go-w` it"
        )
