"""What calls of libvirt's network hook do here for networks that have their bridge, by operation.

docs/lifecycle.md names the tests of each row.
"""

from __future__ import annotations

from libvirt_guestnet.hook.call import REPORT, VETO, Call
from libvirt_guestnet.hook.calls import networks

TABLE = {
    "started": Call(
        networks.start_network,
        VETO,
        "defaults for ports without a policy; VLANs on libvirt's own bridge",
    ),
    "updated": Call(networks.remember_network, REPORT, "reservations may have changed"),
    "stopped": Call(networks.forget_network, REPORT, "remove our bridge; guests on it stay guarded"),
}
