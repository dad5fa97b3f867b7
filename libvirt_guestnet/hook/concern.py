"""Whether a hook call concerns us, by the text on stdin and by which files exist, in a bare interpreter.

Nothing is imported for a call that ends here: one for a domain that has nothing of ours, nor uses any (decision 4).
"""

import sys

# For mypy alone: importing typing would take as long as all the rest of a call that ends here.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# The namespace of our metadata. A domain without it may be on a network that has it.
_OURS = b"https://libvirt-guestnet.org/xmlns/1"
MAX_STDIN = 8 << 20  # xmlread.MAX_BYTES, which says why

# libvirt holds the domain's lock while a hook runs and has no limit of its own.
SECONDS = 20

# Only for a guest with one of these words in its metadata `started` does anything; the hook file looks for them first.
STARTED_WORDS = ("routed", "behind", "forward", "floating", "router")

_STATE = "/run/libvirt-guestnet"
_LIBVIRTS = "/run/libvirt"
_RUNNING = f"{_LIBVIRTS}/qemu"
# What the host's administrator says of every domain: `hostwide` reads it.
HOSTWIDE = "/etc/libvirt-guestnet/hooks.json"
_LONGEST_NAME = 250  # the longest name of a file, without its ending
# Kinds of receipts by which a call for any domain may concern us: its network, a reused name, a repair that was killed.
_LEFT = ("networks", "ports", "vlans", "host-routes", "forwards", "impaired", "reconnect", "repairing")
_IN_KERNEL = "forwards-in-kernel.json"
# Their names in the version before, until the first call that concerns us renames them (`state.upgrade`).
_OF_BEFORE = ("reach", "ways", "settled")


def read() -> bytes | None:
    """What libvirt writes to stdin, up to one octet more than is allowed; None if it does not end in time."""
    import _signal  # type: ignore[import-not-found]  # what `signal` adds takes a millisecond

    def expired(*_: object) -> None:
        raise TimeoutError

    _signal.signal(_signal.SIGALRM, expired)
    _signal.alarm(SECONDS)
    try:
        return sys.stdin.buffer.read(MAX_STDIN + 1)
    except TimeoutError:
        return None
    finally:
        _signal.alarm(0)


def is_ours(data: bytes) -> bool:
    """Whether it has metadata of ours, as far as that can be told."""
    return _OURS in data or len(data) > MAX_STDIN


def _domain(_name: str, data: bytes) -> bool:
    left = any(_names(f"{_STATE}/{kind}") for kind in (*_LEFT, *_OF_BEFORE))
    return is_ours(data) or left or _exists(f"{_STATE}/{_IN_KERNEL}")


def _starting(name: str, data: bytes) -> bool:
    return _domain(name, data) or _exists(HOSTWIDE)


def _started(_name: str, data: bytes) -> bool:
    waiting = (_names(f"{_STATE}/{kind}") for kind in ("forwards", "ways", "incoming"))
    return any(word.encode() in data for word in STARTED_WORDS) or any(waiting)


def _network(_name: str, data: bytes) -> bool:
    return is_ours(data) or bool(_names(f"{_STATE}/networks")) or _exists(HOSTWIDE)


def _new_port(network: str, data: bytes) -> bool:
    """Whether a port of a running domain concerns us. Its own policy is not on stdin."""
    running = any(name.endswith(".xml") for name in _names(_RUNNING))
    return (is_ours(data) or running) and not _can_wait(network, data)


def _can_wait(network: str, data: bytes) -> bool:
    """The same check of libvirt's records as `port_can_wait` in the hook file, for XML that is too long for a shell."""
    port = data[data.rfind(b"<networkport>") :]
    uuid, owner = _text(port, b"uuid"), _text(port, b"name")
    plain = all(c.isascii() and (c.isalnum() or c in "._-") for c in owner)
    if len(uuid) != 36 or not (plain and 0 < len(owner) <= _LONGEST_NAME):
        return False
    record = _content(f"{_RUNNING}/{owner}.xml")
    if record is not None and f" portid='{uuid}'".encode() not in record:
        return False
    noted, recorded = _age(f"{_STATE}/networks/{network}.json"), _age(f"{_LIBVIRTS}/network/{network}.xml")
    if noted is not None and (recorded is None or noted > recorded):
        return True
    return noted is None and _OURS not in data


def _text(port: bytes, tag: bytes) -> str:
    start, _, rest = port.partition(b"<" + tag + b">")
    return rest.partition(b"</" + tag + b">")[0].decode(errors="replace") if start else ""


def _content(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read(MAX_STDIN)
    except FileNotFoundError:
        return None


def _age(path: str) -> int | None:
    import os

    try:
        return os.stat(path).st_mtime_ns
    except OSError:  # there is no file of that name, or there cannot be
        return None


def _exists(file: str) -> bool:
    import os

    return os.path.lexists(file)


def _names(directory: str) -> list[str]:
    import os

    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []
    except NotADirectoryError:  # something else is in its place: what reads the folder reports that
        return [directory]


# The calls of `lifecycle.TABLE` whose failure is a VETO: also where nothing of it can be imported.
VETOED = frozenset(
    {
        ("qemu", "start"),
        ("qemu", "started"),
        ("network", "start"),
        ("network", "started"),
        ("network", "port-created"),
    }
)

# By (hook, operation), as in `lifecycle.TABLE`: whether the object of this name, or this XML, concerns us.
CONCERNS: "dict[tuple[str, str], Callable[[str, bytes], bool]]" = {
    ("qemu", "start"): _starting,
    ("qemu", "started"): _started,
    ("qemu", "migrate"): _domain,
    ("qemu", "reconnect"): _domain,
    ("qemu", "release"): _domain,
    ("network", "start"): _network,
    ("network", "started"): _network,
    ("network", "updated"): _network,
    ("network", "port-created"): _new_port,
    ("network", "port-deleted"): _domain,
    ("network", "stopped"): _network,
}
