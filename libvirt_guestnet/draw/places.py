"""What the NICs of a running host are on: networks of libvirt's, bridges without one, and whatever else. Pure."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.libvirtd.snapshot import Element, NetworkState, Snapshot
from libvirt_guestnet.metadata import reader
from libvirt_guestnet.metadata.elements import node_of
from libvirt_guestnet.metadata.policy import HostRouted as RoutedPolicy
from libvirt_guestnet.metadata.policy import Uplink, VlanBridge
from libvirt_guestnet.metadata.policy import Vxlan as VxlanPolicy
from libvirt_guestnet.model.network import HostRouted, Mode, Network, Vxlan
from libvirt_guestnet.plan import external

Place = tuple[str, str, RoutedPolicy | None]
"""The kind ("network", "bridge", "direct", "routed", "type") and its name; of a host-routed port how it is routed."""

_NAMES = {"direct": "macvtap on {}", "type": "NIC of type {}"}


@dataclass
class Places:
    """Each as a network of the picture, under a name of its own, in the order in which they were asked for."""

    snapshot: Snapshot
    networks: dict[tuple[str, str], Network] = field(default_factory=dict)

    def of(self, kind: str, name: str, routed: RoutedPolicy | None = None) -> Network:
        if (kind, name) not in self.networks:
            made = self._made(kind, name, routed)
            self.networks[kind, name] = replace(made, name=self._free(kind, made.name))
        return self.networks[kind, name]

    def bridge_of(self, network: str) -> str:
        return next((each.bridge for each in self.networks.values() if each.name == network), "")

    def _free(self, kind: str, name: str) -> str:
        taken = {network.name for network in self.networks.values()}
        while name in taken:
            name = f"{kind} {name}"
        return name

    def _made(self, kind: str, name: str, routed: RoutedPolicy | None) -> Network:
        if kind == "network" and (state := self.snapshot.network.get(name)) is not None:
            return self._libvirts(state)
        if routed is not None:
            return _routed(name, routed)
        shown = _NAMES.get(kind, "{}").format(name)
        if kind == "bridge":
            return self._on(Network(shown, Mode.BRIDGE, name), "")
        if kind == "direct":
            return Network(shown, Mode.BRIDGE, "", physical_network=name)
        return Network(shown, Mode.EXTERNAL, "")

    def _libvirts(self, state: NetworkState) -> Network:
        found = Network(state.name, Mode.EXTERNAL, state.bridge or "", gateway="host")
        with suppress(GuestnetError, ValueError):  # such as mode hostdev, or what somebody made of its XML
            found = external.filled(found, state)
        forward = state.current.find("forward")
        device = "" if forward is None else forward.get("dev", "")
        tags, _ = vlans_of(state.current)
        found = replace(found, gateway=found.gateway if found.subnets else None, vlan=tags[0] if tags else None)
        return self._on(replace(found, **_carried(state)), device)

    def _on(self, network: Network, device: str) -> Network:
        """With its MTU, and the devices that lead out of it: its bridge's ports, else the one it says."""
        links = self.snapshot.links
        ports = [name for name, link in links.items() if network.bridge and link.master == network.bridge]
        out = sorted(name for name in ports if links[name].is_outside) or [device] * bool(device)
        bridge = links.get(network.bridge)
        mtu = (bridge.mtu or None) if bridge else network.mtu
        return replace(network, mtu=mtu, physical_network=", ".join(out) or None)


def _carried(state: NetworkState) -> dict[str, Any]:
    """Its VLAN or overlay, by our metadata."""
    try:
        carrier = None if state.mark is None else reader.read_network(node_of(state.mark)).carrier
    except GuestnetError:
        return {}
    if isinstance(carrier, VxlanPolicy):
        over = carrier.device or carrier.label
        return {"vxlan": Vxlan(carrier.vni, over, carrier.group, carrier.remotes, carrier.port)}
    vlan = carrier.vlan if isinstance(carrier, Uplink) else carrier.tag if isinstance(carrier, VlanBridge) else 0
    return {"vlan": vlan, "service_vlan": carrier.service} if vlan and carrier is not None else {}


def _routed(name: str, said: RoutedPolicy) -> Network:
    how = HostRouted(said.gateway, said.publish, said.table or None, said.vrf or None)
    device = said.device or said.label
    return Network(name, Mode.HOST_ROUTED, "", physical_network=device or None, routed=how)


def vlans_of(element: Element | None) -> tuple[list[int], int | None]:
    """The tags in a <vlan> of libvirt's, and which of them is the native one; of a trunk with a single VLAN too."""
    tags = [] if element is None else [tag for tag in element.iterfind("vlan/tag") if tag.get("id", "").isdecimal()]
    native = [int(tag.get("id", "0")) for tag in tags if tag.get("nativeMode")]
    return [int(tag.get("id", "0")) for tag in tags], native[0] if native else None
