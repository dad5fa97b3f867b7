"""A bridge of Open vSwitch: libvirt plugs ports into it and tags them itself, by elements of its own."""

from __future__ import annotations

from collections.abc import Iterator

from libvirt_guestnet.carriers.contract import CarriedNetwork, Carrier, Tag
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from libvirt_guestnet.hostmap import HostMap
    from libvirt_guestnet.model.network import Network
    from libvirt_guestnet.model.topology import Port


class OpenVSwitch(Carrier):
    """The carrier of a network whose label is mapped to ovs:BRIDGE."""

    def carries(self, wanted: CarriedNetwork) -> bool:
        return wanted.has_vlans and self.plugs(wanted.network, wanted.hostmap)

    def declares(self, wanted: CarriedNetwork) -> None:
        if wanted.network.service_vlan:
            raise GuestnetError(
                f"network {wanted.network.name!r}: libvirt has no service-vlan for Open vSwitch; use a Linux bridge"
            )

    def plugs(self, network: Network, hostmap: HostMap) -> bool:
        label = network.physical_network
        return network.mode == "bridge" and label is not None and hostmap.is_ovs(label)

    def libvirt_network(self, network: Network) -> list[Tag]:
        return [Tag("virtualport", {"type": "openvswitch"}), *_vlan(network.vlan)]

    def libvirt_nic(self, port: Port) -> Tag | None:
        if port.trunk:
            return Tag("vlan", {"trunk": True}, tuple(_trunk_tags(port.trunk, port.native_vlan)))
        return next(_vlan(port.vlan), None)


def _vlan(vlan: int | None) -> Iterator[Tag]:
    if vlan is not None:
        yield Tag("vlan", {}, (Tag("tag", {"id": vlan}),))


def _trunk_tags(trunk: tuple[tuple[int, int], ...], native: int | None) -> Iterator[Tag]:
    tagged = {vlan for first, last in trunk for vlan in range(first, last + 1)}
    for vlan in sorted(tagged | ({native} if native else set())):
        mode = ("tagged" if vlan in tagged else "untagged") if vlan == native else None
        yield Tag("tag", {"id": vlan, "nativeMode": mode})
