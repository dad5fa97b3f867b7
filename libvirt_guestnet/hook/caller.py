"""Which program runs a hook with nothing on its stdin, for the error message: libvirt itself always sends XML."""

from __future__ import annotations

_OURS = "50-guestnet"  # install.hook_files.FILE_NAME
_DAEMONS = ("libvirtd", "virtqemud", "virtnetworkd")


def without_input(hook: str) -> str:
    """The error message: what is wrong, and what to do."""
    folder = f"/etc/libvirt/hooks/{hook}.d"
    who = _who()
    by = f"{who} ran this hook without it" if who else "this hook was run without it"
    return (
        f"nothing on stdin, where libvirt gives the object's XML: {by}. libvirt runs every file in {folder} by itself, "
        f"with the XML: a script of your own ({folder.removesuffix('.d')}?) must not run them again, or has to give "
        f"each a copy of its own stdin"
    )


def _who() -> str:
    """The nearest parent process that is neither this hook file nor libvirt's daemon, as `ps` would show it; or ""."""
    import os

    process = os.getppid()
    for _ in range(3):
        words = _read(process, "cmdline").split("\0")
        if _read(process, "comm").strip() in _DAEMONS:
            return ""
        if not any(_OURS in word for word in words[:2]):
            return f"`{' '.join(words).strip()}` (process {process})"
        process = int(_read(process, "stat").rpartition(")")[2].split()[1])
    return ""


def _read(process: int, what: str) -> str:
    try:
        with open(f"/proc/{process}/{what}", errors="replace") as file:
            return file.read(4096)
    except OSError:  # it has ended meanwhile
        return ") ? 0" if what == "stat" else ""
