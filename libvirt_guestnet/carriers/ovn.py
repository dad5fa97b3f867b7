"""The integration bridge of OVN: libvirt plugs ports into it, each with the name by which OVN knows it."""

from __future__ import annotations

from libvirt_guestnet.carriers.contract import Carrier, Tag
from libvirt_guestnet.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from libvirt_guestnet.hostmap import HostMap
    from libvirt_guestnet.model.network import Network
    from libvirt_guestnet.model.topology import Port


class Ovn(Carrier):
    """The carrier of logical networks, whose VLANs are OVN's own."""

    def plugs(self, network: Network, hostmap: HostMap) -> bool:
        return bool(network.link)

    def libvirt_network(self, network: Network) -> list[Tag]:
        return [Tag("virtualport", {"type": "openvswitch"})]

    def libvirt_nic(self, port: Port) -> Tag | None:
        return Tag("virtualport", {"type": "openvswitch"}, (Tag("parameters", {"interfaceid": port.logical_port}),))
