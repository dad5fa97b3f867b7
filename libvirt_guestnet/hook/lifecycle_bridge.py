"""What the call of libvirt's network hook before a network starts does here, by operation.

docs/lifecycle.md names the tests of each row.
"""

from __future__ import annotations

from libvirt_guestnet.hook.call import VETO, Call
from libvirt_guestnet.hook.calls import network_bridge

TABLE = {
    "start": Call(network_bridge.prepare, VETO, "a bridged network's bridge must exist before libvirt looks"),
}
