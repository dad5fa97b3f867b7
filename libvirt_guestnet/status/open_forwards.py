"""Ways in to guests as the kernel has them, for `status`: by the hooks' receipts, of these what is really there."""

from __future__ import annotations

from libvirt_guestnet.datapath.forwards import table
from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.datapath.netlink.kernel import elements_of_ways
from libvirt_guestnet.datapath.netlink.rtnl import HostAddress
from libvirt_guestnet.datapath.routing.gateway import host_addresses
from libvirt_guestnet.hook.enforce import lease_forwards, reachability
from libvirt_guestnet.state.folder import State
from libvirt_guestnet.state.receipts import PortForwards, ProxyEntry, Route


class _Kernel:
    """What it has of ways in, and of what leads to guests."""

    def __init__(self, present: frozenset[Route | ProxyEntry]) -> None:
        self.elements = elements_of_ways()
        self.present = present
        self.host: list[HostAddress] = host_addresses("") if self.elements or present else []

    def opened(self, port: PortForwards) -> PortForwards:
        """Those of a port's ways that it has, whose guest is where they lead."""
        if not links.is_on(port.tap, port.bridge):
            return port._replace(forwards=(), floating=())
        forwards = (f for f in port.forwards if self._holds(port._replace(forwards=(f,), floating=())))
        floating = (f for f in port.floating if self._holds(port._replace(forwards=(), floating=(f,))))
        return port._replace(forwards=tuple(forwards), floating=tuple(floating))

    def _holds(self, way: PortForwards) -> bool:
        receipt = reachability.floats(way, self.host)
        return table.elements(way) <= self.elements and {*receipt.routes, *receipt.published} <= self.present


def opened(state: State, present: frozenset[Route | ProxyEntry]) -> list[PortForwards]:
    """Of every port with ways in those that are open; `led` is what leads to guests. Raises GuestnetError."""
    active = [lease_forwards.followed(each, state) for each in state.forwards() if each.active]
    if not active:
        return []
    kernel = _Kernel(present)
    return [kernel.opened(each) for each in active]
