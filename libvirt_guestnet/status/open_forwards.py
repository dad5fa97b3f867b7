"""The forwards that are open, for `status`: those of the hooks' receipts that the kernel really has."""

from __future__ import annotations

from libvirt_guestnet.datapath.forwards import table
from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.datapath.netlink.kernel import forward_elements
from libvirt_guestnet.datapath.netlink.rtnl import HostAddress
from libvirt_guestnet.datapath.routing.gateway import host_addresses
from libvirt_guestnet.hook.enforce import lease_forwards, reachability
from libvirt_guestnet.state.folder import State
from libvirt_guestnet.state.receipts import PortForwards, ProxyEntry, Route


class _Kernel:
    """The kernel's forwards, routes and published addresses."""

    def __init__(self, present: frozenset[Route | ProxyEntry]) -> None:
        self.elements = forward_elements()
        self.present = present
        self.host: list[HostAddress] = host_addresses("") if self.elements or present else []

    def opened(self, port: PortForwards) -> PortForwards:
        """Those of a port's forwards that the kernel has; none if the guest's tap is not on their bridge, or there."""
        if not (links.index_of(port.tap) if port.tap == port.bridge else links.is_on(port.tap, port.bridge)):
            return port._replace(forwards=(), floating=())
        forwards = (f for f in port.forwards if self._has(port._replace(forwards=(f,), floating=())))
        floating = (f for f in port.floating if self._has(port._replace(forwards=(), floating=(f,))))
        return port._replace(forwards=tuple(forwards), floating=tuple(floating))

    def _has(self, port: PortForwards) -> bool:
        receipt = reachability.floats(port, self.host)
        return table.elements(port) <= self.elements and {*receipt.routes, *receipt.published} <= self.present


def opened(state: State, present: frozenset[Route | ProxyEntry]) -> list[PortForwards]:
    """The forwards of every port that are open. `present` are the kernel's routes and published addresses. Raises
    GuestnetError."""
    active = [lease_forwards.followed(each, state) for each in state.forwards() if each.active]
    if not active:
        return []
    kernel = _Kernel(present)
    return [kernel.opened(each) for each in active]
