"""What each libvirt hook call does here: the one table, and the way from it to the work.

libvirt calls the hooks with `OBJECT OPERATION SUBOPERATION EXTRA` and the object's XML on stdin. An operation that is
not in the table, or an object that carries nothing of ours, costs a bare interpreter: nothing is imported for it.
"""

import sys

# Under this namespace our metadata lives; a domain without it may still sit on a network that has it.
_OURS = b"https://libvirt-guestnet.org/xmlns/1"
_MAX_STDIN = 16 << 20

# What a failure does. VETO: exit 1, libvirt undoes the operation. REPORT: exit 0 and a line on stderr: libvirt would
# kill a running guest (reconnect) or ignore us anyway.
VETO, REPORT = "veto", "report"

# (hook, operation): (function in `hook.entry`, on failure, why here)
TABLE = {
    ("qemu", "start"): ("guard", VETO, "taps exist, QEMU does not run yet: the only race-free moment"),
    ("qemu", "reconnect"): ("guard", REPORT, "the daemon restarted: repair what is missing, never kill the guest"),
    ("qemu", "release"): ("release", REPORT, "the guest is gone, after a failed start too"),
    ("network", "start"): ("prepare_network", VETO, "the bridge of a bridged network must exist before libvirt looks"),
    ("network", "started"): ("remember_network", VETO, "defaults for ports without a policy of their own"),
    ("network", "updated"): ("remember_network", REPORT, "reservations may have changed"),
    ("network", "port-created"): ("remember_network", VETO, "the freshest XML, just before the domain's `start`"),
    ("network", "port-deleted"): ("release_port", REPORT, "a NIC was unplugged; its chain would outlive the tap"),
    ("network", "stopped"): ("forget_network", REPORT, "remove the bridge that we made"),
}


def run(hook: str, argv: list[str]) -> int:
    """Runs one hook call; returns its exit status. argv is that of the hook: [file, object, operation, …]."""
    operation = argv[2] if len(argv) > 2 else ""
    row = TABLE.get((hook, operation))
    if row is None:
        return 0
    data = sys.stdin.buffer.read(_MAX_STDIN + 1)
    if not _concerns_us(hook, operation, data):
        return 0
    from libvirt_guestnet.hook import entry

    return entry.call(hook, argv, row[0], row[1] == VETO, data)


def _concerns_us(hook: str, operation: str, data: bytes) -> bool:
    if _OURS in data or len(data) > _MAX_STDIN:
        return True
    import os

    known = "networks" if hook == "qemu" and operation != "release" else "domains"
    try:
        return bool(os.listdir(f"/run/libvirt-guestnet/{known}"))
    except FileNotFoundError:
        return False
