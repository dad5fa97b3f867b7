"""What calls of libvirt's network hook do here for single ports, by operation.

docs/lifecycle.md names the tests of each row.
"""

from __future__ import annotations

from libvirt_guestnet.hook import ports
from libvirt_guestnet.hook.call import REPORT, VETO, Call

TABLE = {
    "port-created": Call(ports.create_port, VETO, "in a running guest a tap follows, and no other call"),
    "port-deleted": Call(ports.release_port, REPORT, "a NIC was unplugged; its chain would stay"),
}
