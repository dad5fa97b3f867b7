"""Networks that would share a device of this host with what they are to be kept from: another zone, or the hosts' own
traffic. The file cannot tell, as only the host knows what is behind a label. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from libvirt_guestnet.datapath.devices.host_devices import Device
from libvirt_guestnet.hostmap import MAPPED_BY, HostMap
from libvirt_guestnet.libvirtd.snapshot import NETWORK_MARK, NetworkState
from libvirt_guestnet.metadata.policy import NAMESPACE
from libvirt_guestnet.model.network import HOSTS_OWN, Mode, Network
from libvirt_guestnet.model.topology import Topology

_VLAN = f"{NETWORK_MARK}/{{{NAMESPACE}}}vlan"
_MAP = f"map one of them to another device {MAPPED_BY}"
Links = Mapping[str, Device]


def problems(topology: Topology, hostmap: HostMap, links: Links, others: Iterable[NetworkState]) -> Iterator[str]:
    """A line for each. `others` are the host's networks, of whomever."""
    bridged = [n for n in topology.networks if n.mode is Mode.BRIDGE and n.physical_network]
    yield from _with_hosts_own(topology, bridged, hostmap, links)
    if topology.zones:
        yield from _with_zones(bridged, hostmap, links)
        yield from _with_strangers(topology, bridged, hostmap, others)


def _with_hosts_own(topology: Topology, bridged: list[Network], hostmap: HostMap, links: Links) -> Iterator[str]:
    """Guests in a VLAN over a NIC have a bridge of their own, which the NIC's untagged frames are not in."""
    owned = [each for each in topology.physical_networks if set(each.traffic) & set(HOSTS_OWN)]
    mapped = [each for each in owned if each.label in hostmap.devices]
    for network in bridged:
        for physical in mapped:
            shared = _guests_devices(network, hostmap, links) & _devices(physical.label, hostmap, links)
            if shared:
                kinds = " and ".join(each for each in physical.traffic if each in HOSTS_OWN)
                label, device = physical.label, sorted(shared)[0]
                yield (
                    f"network {network.name!r}: its guests would share {device} with physical network {label!r}, which "
                    f"is for {kinds}: {_MAP}"
                )


def _guests_devices(network: Network, hostmap: HostMap, links: Links) -> set[str]:
    label = network.physical_network or ""
    if hostmap.uplink(network) is not None and network.vlan:
        return set()
    return _devices(label, hostmap, links) | {hostmap.bridge(network)}


def _devices(label: str, hostmap: HostMap, links: Links) -> set[str]:
    """The device behind a label, its port to the outside, and the bridge that it is in."""
    named = {hostmap.device(label), hostmap.vlan_uplink(label) or ""}
    masters = {links[name].master for name in named if name in links}
    return (named | masters) - {""}


def _with_zones(bridged: list[Network], hostmap: HostMap, links: Links) -> Iterator[str]:
    """Of one label, the file has told."""
    first: dict[tuple[str, int], Network] = {}
    for network in bridged:
        label = network.physical_network or ""
        for device in sorted(_devices(label, hostmap, links)):
            other = first.setdefault((device, network.vlan or 0), network)
            if other.zone != network.zone and other.physical_network != label:
                vlan = f" (VLAN {network.vlan})" if network.vlan else ""
                yield (
                    f"network {network.name!r}, in {_said(network.zone)}, would share {device}{vlan} with network "
                    f"{other.name!r}, in {_said(other.zone)}: {_MAP}"
                )
                break


def _with_strangers(
    topology: Topology, bridged: list[Network], hostmap: HostMap, others: Iterable[NetworkState]
) -> Iterator[str]:
    """What somebody else has on a bridge is in none of our zones."""
    found = {(each.bridge, _tag(each)): each for each in others if each.topology != topology.name and each.bridge}
    for network in bridged:
        tag = str(network.vlan or 0) if hostmap.uplink(network) is None else "0"
        other = found.get((hostmap.bridge(network), tag)) if network.zone else None
        if other:
            whose = f"libvirt network {other.name!r}" + (f" of topology {other.topology!r}" if other.topology else "")
            device = hostmap.bridge(network)
            yield f"network {network.name!r}, in zone {network.zone}, would share bridge {device} with {whose}: {_MAP}"


def _tag(network: NetworkState) -> str:
    vlan = network.current.find(_VLAN)
    return "0" if vlan is None else vlan.get("tag") or "0"


def _said(zone: str | None) -> str:
    return f"zone {zone}" if zone else "no zone"
