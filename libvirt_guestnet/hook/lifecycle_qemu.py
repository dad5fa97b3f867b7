"""What each call of libvirt's qemu hook does here, by operation. docs/lifecycle.md names the tests of each row."""

from __future__ import annotations

from libvirt_guestnet.hook.call import REPORT, VETO, Call
from libvirt_guestnet.hook.calls import domain
from libvirt_guestnet.hook.enforce import bridge_ports

TABLE = {
    "prepare": Call(None, REPORT, "no tap and no port yet; a start that fails later calls `release`"),
    "start": Call(domain.guard, VETO, "taps exist, QEMU does not run yet: the only race-free moment"),
    "started": Call(
        domain.connect,
        VETO,
        "QEMU runs: make the routes to the guest, or have that done when its migration to here is over",
    ),
    "restore": Call(None, REPORT, "`start` follows; anything on stdout would replace the domain's XML"),
    "migrate": Call(
        bridge_ports.expect,
        REPORT,
        "the guest runs elsewhere, and answers there, until `started` says otherwise; stdout would replace its XML",
    ),
    "reconnect": Call(domain.repair, REPORT, "libvirt restarted: put back what is missing, never kill the guest"),
    "stopped": Call(None, REPORT, "`release` follows, also after a failed start and after migration away"),
    "release": Call(domain.release, REPORT, "the guest is gone, after a failed start too"),
}
