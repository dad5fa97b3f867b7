"""What each libvirt hook call does here: the one table, and the way from it to the work.

libvirt calls the hooks with `OBJECT OPERATION SUBOPERATION EXTRA` and the object's XML on stdin. An operation without a
function costs a shell, an object that carries nothing of ours a bare interpreter: nothing is imported for it.
"""

import sys

# Under this namespace our metadata lives; a domain without it may still sit on a network that has it.
_OURS = b"https://libvirt-guestnet.org/xmlns/1"
MAX_STDIN = 8 << 20  # xmlread.MAX_BYTES, which says why

# libvirt holds the domain's lock while a hook runs and has no limit of its own.
SECONDS = 20

# What a failure does. VETO: exit 1, libvirt undoes the operation. REPORT: exit 0 and a line on stderr: libvirt would
# kill a running guest (reconnect) or ignore us anyway.
VETO, REPORT = "veto", "report"

# (hook, operation): (one of `entry.FUNCTIONS` or None, on failure, why). docs/lifecycle.md names the tests of each row.
TABLE: dict[tuple[str, str], tuple[str | None, str, str]] = {
    ("qemu", "prepare"): (None, REPORT, "no tap and no port yet; a start that fails later calls `release`"),
    ("qemu", "start"): ("guard", VETO, "taps exist, QEMU does not run yet: the only race-free moment"),
    ("qemu", "started"): (
        "arrive",
        VETO,
        "QEMU runs: lead to the guest, or have that done when its migration to here is over",
    ),
    ("qemu", "restore"): (None, REPORT, "`start` follows; anything on stdout would replace the domain's XML"),
    ("qemu", "migrate"): (
        "expect",
        REPORT,
        "the guest runs elsewhere, and answers there, until `started` says otherwise; stdout would replace its XML",
    ),
    ("qemu", "reconnect"): ("repair", REPORT, "the daemon restarted: repair what is missing, never kill the guest"),
    ("qemu", "stopped"): (None, REPORT, "`release` follows, also after a failed start and after migration away"),
    ("qemu", "release"): ("release", REPORT, "the guest is gone, after a failed start too"),
    ("network", "start"): ("prepare_network", VETO, "the bridge of a bridged network must exist before libvirt looks"),
    ("network", "started"): (
        "start_network",
        VETO,
        "defaults for ports without a policy; VLANs on libvirt's own bridge",
    ),
    ("network", "updated"): ("remember_network", REPORT, "reservations may have changed"),
    ("network", "port-created"): ("create_port", VETO, "in a running guest a new tap follows, and no other call"),
    ("network", "port-deleted"): ("release_port", REPORT, "a NIC was unplugged; its chain would outlive the tap"),
    ("network", "stopped"): ("forget_network", REPORT, "remove the bridge that we made; guests on it stay guarded"),
}

# Words of which a guest has one that `started` does anything for; the hook file looks for them before Python starts.
ARRIVALS = ("routed", "behind", "forward", "floating")

_STATE = "/run/libvirt-guestnet"
_LIBVIRTS = "/run/libvirt"
_RUNNING = f"{_LIBVIRTS}/qemu"
# What the host's administrator asks of every domain: `hostwide` reads it.
HOSTWIDE = "/etc/libvirt-guestnet/hooks.json"
_LONGEST_NAME = 250  # of a file, with what is behind it


def run(hook: str, argv: list[str]) -> int:
    """Runs one hook call; returns its exit status. argv is that of the hook: [file, object, operation, …]."""
    operation = argv[2] if len(argv) > 2 else ""
    function, on_failure, _ = TABLE.get((hook, operation), (None, REPORT, ""))
    if function is None:
        return 0
    data = _read()
    if data is not None and (
        not _concerns_us(function, data) or (function == "create_port" and _can_wait(argv[1], data))
    ):
        return 0
    from libvirt_guestnet.hook import dispatch
    from libvirt_guestnet.hook.helpers import unfinished

    status = dispatch.call(hook, argv, function, on_failure == VETO, data)
    unfinished.see_to()
    return status


def _read() -> bytes | None:
    """What libvirt says, up to one octet too many; None if it does not end in time."""
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


def _can_wait(network: str, data: bytes) -> bool:
    """What the hook file asks of libvirt's records (`port_can_wait`), for networks that are too long for a shell."""
    port = data[data.rfind(b"<networkport>") :]
    uuid, owner = _text(port, b"uuid"), _text(port, b"name")
    plain = all(c.isascii() and (c.isalnum() or c in "._-") for c in owner)
    if len(uuid) != 36 or not (plain and 0 < len(owner) <= _LONGEST_NAME):
        return False
    record = _content(f"{_RUNNING}/{owner}.xml")
    if record is not None and f" portid='{uuid}'".encode() not in record:
        return False
    noted, known = _age(f"{_STATE}/networks/{network}.json"), _age(f"{_LIBVIRTS}/network/{network}.xml")
    if noted is not None and (known is None or noted > known):
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
    except OSError:  # there is no file, or can be none of that name
        return None


def _concerns_us(function: str, data: bytes) -> bool:
    """Whether the object carries something of ours, or may be on or in something that does."""
    if function == "arrive":
        waiting = (_names(f"{_STATE}/{kind}") for kind in ("ways", "incoming"))
        return any(word.encode() in data for word in ARRIVALS) or any(waiting)
    if _OURS in data or len(data) > MAX_STDIN:
        return True
    if function == "create_port":
        # A running domain's own policy is not on stdin, and its network may have none.
        return any(name.endswith(".xml") for name in _names(_RUNNING))
    if function in ("prepare_network", "start_network", "remember_network", "forget_network"):
        return bool(_names(f"{_STATE}/networks"))
    if function == "guard" and _is_there(HOSTWIDE):
        return True
    # A plain domain may be on a marked network, or reuse the name of a tap whose `release` was killed; and any call
    # finishes what a killed repair was at.
    kinds = ("networks", "ports", "vlans", "reach", "ways", "settled", "reconnect", "repairing")
    return any(_names(f"{_STATE}/{kind}") for kind in kinds)


def _is_there(file: str) -> bool:
    import os

    return os.path.lexists(file)


def _names(directory: str) -> list[str]:
    import os

    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []
