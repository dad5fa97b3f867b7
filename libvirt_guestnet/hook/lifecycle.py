"""What each libvirt hook call does here: the one table.

libvirt calls the hooks with `OBJECT OPERATION SUBOPERATION EXTRA` and the object's XML on stdin. An operation without a
function costs a shell, an object that carries nothing of ours a bare interpreter (`concern`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from libvirt_guestnet.hook import ports
from libvirt_guestnet.hook.calls import domain, networks
from libvirt_guestnet.hook.enforce import bridge_ports
from libvirt_guestnet.state.folder import State
from libvirt_guestnet.xmlread import Node

# What a failure does. VETO: exit 1, libvirt undoes the operation. REPORT: exit 0 and a line on stderr: libvirt would
# kill a running guest (reconnect) or ignore us anyway.
VETO, REPORT = "veto", "report"


class Call(NamedTuple):
    """What one hook call does with the object's XML; what its `failure` means, and `why` it is so."""

    work: Callable[[Node, State], None] | None
    failure: str
    why: str


# By (hook, operation); docs/lifecycle.md names the tests of each row.
TABLE: dict[tuple[str, str], Call] = {
    ("qemu", "prepare"): Call(None, REPORT, "no tap and no port yet; a start that fails later calls `release`"),
    ("qemu", "start"): Call(domain.guard, VETO, "taps exist, QEMU does not run yet: the only race-free moment"),
    ("qemu", "started"): Call(
        domain.arrive,
        VETO,
        "QEMU runs: lead to the guest, or have that done when its migration to here is over",
    ),
    ("qemu", "restore"): Call(None, REPORT, "`start` follows; anything on stdout would replace the domain's XML"),
    ("qemu", "migrate"): Call(
        bridge_ports.expect,
        REPORT,
        "the guest runs elsewhere, and answers there, until `started` says otherwise; stdout would replace its XML",
    ),
    ("qemu", "reconnect"): Call(
        domain.repair, REPORT, "libvirt restarted: put back what is missing, never kill the guest"
    ),
    ("qemu", "stopped"): Call(None, REPORT, "`release` follows, also after a failed start and after migration away"),
    ("qemu", "release"): Call(domain.release, REPORT, "the guest is gone, after a failed start too"),
    ("network", "start"): Call(
        networks.prepare_network, VETO, "a bridged network's bridge must exist before libvirt looks"
    ),
    ("network", "started"): Call(
        networks.start_network,
        VETO,
        "defaults for ports without a policy; VLANs on libvirt's own bridge",
    ),
    ("network", "updated"): Call(networks.remember_network, REPORT, "reservations may have changed"),
    ("network", "port-created"): Call(ports.create_port, VETO, "in a running guest a tap follows, and no other call"),
    ("network", "port-deleted"): Call(ports.release_port, REPORT, "a NIC was unplugged; its chain would stay"),
    ("network", "stopped"): Call(networks.forget_network, REPORT, "remove our bridge; guests on it stay guarded"),
}
