"""What each libvirt hook call does here: one table in parts, of which a call imports only its own.

libvirt calls the hooks with `OBJECT OPERATION SUBOPERATION EXTRA` and the object's XML on stdin. An operation without a
function costs a shell, an object that carries nothing of ours a bare interpreter (`concern`).
"""

from __future__ import annotations

from libvirt_guestnet.hook import lifecycle_bridge, lifecycle_network, lifecycle_port, lifecycle_qemu
from libvirt_guestnet.hook.call import Call

# By (hook, operation).
TABLE: dict[tuple[str, str], Call] = {
    **{("qemu", operation): call for operation, call in lifecycle_qemu.TABLE.items()},
    **{
        ("network", operation): call
        for part in (lifecycle_bridge, lifecycle_network, lifecycle_port)
        for operation, call in part.TABLE.items()
    },
}
