"""What this host's administrator says of every domain, in the form that hooks read.

`guestnet hooks install` and `hooks sync` write it from /etc/libvirt-guestnet/host.yaml, since hooks open no YAML.
If host.yaml says nothing there is no file, and nothing to read (decisions 46 and 64).
"""

from __future__ import annotations

import os

from libvirt_guestnet import light_json
from libvirt_guestnet.errors import NotAdmittedError
from libvirt_guestnet.light_typing import NamedTuple

FILE = "/etc/libvirt-guestnet/hooks.json"  # also in hook/concern.py, which imports nothing
ALLOW, REFUSE = "allow", "refuse"
DECLARED, OBSERVE, ALL = GUARDS = ("declared", "observe", "all")
_LARGEST = 1 << 16


class HostWide(NamedTuple):
    """`unguardable`: whether a domain with a NIC that cannot be guarded may start, ALLOW or REFUSE. `guard`: what
    becomes of a NIC that can be, and of which neither its domain nor its network says anything: nothing (DECLARED),
    OBSERVE, or ALL, a guard."""

    unguardable: str = ALLOW
    guard: str = DECLARED


NOTHING_REQUIRED = HostWide()


def read(file: str = FILE) -> HostWide:
    """What counts for the hooks. Raises NotAdmittedError on a damaged file: what it asked for is not known then. A
    `guard` that this version does not know counts as DECLARED, as it must hold up no guest."""
    try:
        with open(file, "rb") as stream:
            found = light_json.loads(stream.read(_LARGEST))
    except FileNotFoundError:
        return NOTHING_REQUIRED
    except OSError as error:
        raise NotAdmittedError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.get("unguardable", ALLOW) not in (ALLOW, REFUSE):
        raise NotAdmittedError(f"{file} is damaged: run `guestnet hooks install`, which writes it from host.yaml")
    guard = found.get("guard", DECLARED)
    return HostWide(found.get("unguardable", ALLOW), guard if guard in GUARDS else DECLARED)


def write(wanted: HostWide, file: str = FILE) -> None:
    """Writes the file, or removes it if nothing is said. Raises OSError."""
    if wanted == NOTHING_REQUIRED:
        if os.path.lexists(file):
            os.unlink(file)
        return
    os.makedirs(os.path.dirname(file), 0o755, exist_ok=True)
    draft = f"{file}.draft"
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "w") as stream:
        stream.write(light_json.dumps(wanted._asdict()))
    os.replace(draft, file)
