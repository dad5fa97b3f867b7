"""What each libvirt hook call does here: the one table, and the way from it to the work.

libvirt calls the hooks with `OBJECT OPERATION SUBOPERATION EXTRA` and the object's XML on stdin. An operation without a
function costs a shell, an object that carries nothing of ours a bare interpreter: nothing is imported for it.
"""

import sys

# Under this namespace our metadata lives; a domain without it may still sit on a network that has it.
_OURS = b"https://libvirt-guestnet.org/xmlns/1"
_MAX_STDIN = 16 << 20

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
    ("qemu", "migrate"): (None, REPORT, "`start` follows; anything on stdout would replace the domain's XML"),
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
_RUNNING = "/run/libvirt/qemu"


def run(hook: str, argv: list[str]) -> int:
    """Runs one hook call; returns its exit status. argv is that of the hook: [file, object, operation, …]."""
    operation = argv[2] if len(argv) > 2 else ""
    function, on_failure, _ = TABLE.get((hook, operation), (None, REPORT, ""))
    if function is None:
        return 0
    data = sys.stdin.buffer.read(_MAX_STDIN + 1)
    if not _concerns_us(function, data):
        return 0
    from libvirt_guestnet.hook import entry

    return entry.call(hook, argv, function, on_failure == VETO, data)


def _concerns_us(function: str, data: bytes) -> bool:
    """Whether the object carries something of ours, or may be on or in something that does."""
    if function == "arrive":
        return any(word.encode() in data for word in ARRIVALS) or bool(_names(f"{_STATE}/ways"))
    if _OURS in data or len(data) > _MAX_STDIN:
        return True
    if function == "create_port":
        # A running domain's own policy is not on stdin, and its network may have none.
        return any(name.endswith(".xml") for name in _names(_RUNNING))
    if function in ("prepare_network", "start_network", "remember_network", "forget_network"):
        return bool(_names(f"{_STATE}/networks"))
    # A plain domain may be on a marked network, or reuse the name of a tap whose `release` was killed.
    return any(_names(f"{_STATE}/{kind}") for kind in ("networks", "ports", "vlans", "reach", "ways", "settled"))


def _names(directory: str) -> list[str]:
    import os

    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []
