"""What each call of libvirt's network hook does here, by operation. docs/lifecycle.md names the tests of each row."""

from __future__ import annotations

from libvirt_guestnet.hook import ports
from libvirt_guestnet.hook.call import REPORT, VETO, Call
from libvirt_guestnet.hook.calls import networks

TABLE = {
    "start": Call(networks.prepare_network, VETO, "a bridged network's bridge must exist before libvirt looks"),
    "started": Call(
        networks.start_network,
        VETO,
        "defaults for ports without a policy; VLANs on libvirt's own bridge",
    ),
    "updated": Call(networks.remember_network, REPORT, "reservations may have changed"),
    "port-created": Call(ports.create_port, VETO, "in a running guest a tap follows, and no other call"),
    "port-deleted": Call(ports.release_port, REPORT, "a NIC was unplugged; its chain would stay"),
    "stopped": Call(networks.forget_network, REPORT, "remove our bridge; guests on it stay guarded"),
}
