"""What cloud-init in a guest is told: NoCloud's files, and the image of a disk that has them. Pure.

They are JSON, which is YAML too, but for user-data, which is handed on as it is. The network's configuration is of
version 2, by MAC address: what the guest's kernel calls its NICs does not matter.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from libvirt_guestnet.guest import iso9660
from libvirt_guestnet.guest.config import gateways, routes
from libvirt_guestnet.model.hostnames import mapped
from libvirt_guestnet.model.network import IPAddress, Network
from libvirt_guestnet.model.port_address import Assignment
from libvirt_guestnet.model.topology import AddressWord, Guest, Port, Topology

LABEL = "cidata"
META_DATA, USER_DATA, VENDOR_DATA, NETWORK_CONFIG = "meta-data", "user-data", "vendor-data", "network-config"
_DEFAULT = {4: "0.0.0.0/0", 6: "::/0"}

# cloud-init would else configure NICs at an instance's first start only, and never see a change of the file.
_VENDOR_DATA = "#cloud-config\nupdates: { network: { when: [boot-new-instance, boot] } }\n"


def seed_files(topology: Topology, guest: Guest) -> dict[str, str]:
    """The files by their names."""
    return {
        META_DATA: _json(meta_data(guest)),
        USER_DATA: guest.cloud_init.user_data if guest.cloud_init else "",
        VENDOR_DATA: _VENDOR_DATA,
        NETWORK_CONFIG: _json(network_config(topology, guest)),
    }


def seed_image(topology: Topology, guest: Guest) -> bytes:
    """The same as the disk that cloud-init looks for."""
    return iso9660.image(LABEL, {name: text.encode() for name, text in seed_files(topology, guest).items()})


def instance_id(guest: Guest) -> str:
    """By what cloud-init knows whether it has configured this guest before."""
    return guest.uuid or guest.name


def host_name(guest: Guest) -> str:
    """What the guest calls itself."""
    return guest.hostname or mapped(guest.name)


def meta_data(guest: Guest) -> dict[str, object]:
    """NoCloud's meta-data."""
    found: dict[str, object] = {"instance-id": instance_id(guest), "local-hostname": host_name(guest)}
    if guest.cloud_init and guest.cloud_init.ssh_keys:
        found["public-keys"] = list(guest.cloud_init.ssh_keys)
    return found


def network_config(topology: Topology, guest: Guest) -> dict[str, object]:
    """The network's configuration, version 2."""
    nics = {f"net{index}": dict(_nic(topology, guest, port)) for index, port in enumerate(guest.ports)}
    return {"version": 2, "ethernets": nics}


def _nic(topology: Topology, guest: Guest, port: Port) -> Iterator[tuple[str, object]]:
    """IPv4 is asked for where the host's DHCP server answers; all else the guest is told outright, IPv6 too: what it
    would form itself differs from image to image. A router's advertisement counts where no address is known."""
    network = topology.network(port.network)
    any_address = port.address_word is AddressWord.ANY
    asks = any_address or any(_asked(each.assignment, each.ip) for each in port.addresses)
    yield "match", {"macaddress": port.mac}
    yield "dhcp4", asks
    yield "dhcp6", False
    yield "accept-ra", any_address
    if asks and not (port.default_route and _host_is_gateway(network)):
        yield "dhcp4-overrides", {"use-routes": False}
    if port.address_word is AddressWord.NONE:
        yield "link-local", []
    told = [f"{each.ip}/{each.prefix_length}" for each in port.addresses if not _asked(each.assignment, each.ip)]
    if told := [*told, *(f"{ip}/{ip.max_prefixlen}" for ip in port.untranslated)]:
        yield "addresses", told
    if ways := [*_default_routes(network, port, asks), *_other_routes(topology, guest, port)]:
        yield "routes", ways
    if servers := [] if asks else _name_servers(network):
        yield "nameservers", {"addresses": servers}
    if size := port.card.mtu or network.mtu:
        yield "mtu", size
    if not port.link_up or not (asks or told):
        yield "optional", True  # else the guest's start waits for it


def _asked(assignment: Assignment, ip: IPAddress) -> bool:
    return assignment is Assignment.DHCP and ip.version == 4


def _host_is_gateway(network: Network) -> bool:
    return any(subnet.gateway is not None and subnet.gateway == subnet.host for subnet in network.subnets)


def _default_routes(network: Network, port: Port, asks: bool) -> Iterator[dict[str, object]]:
    for gateway in gateways(network, port):
        if gateway.version == 4 and asks and _host_is_gateway(network):
            continue
        way: dict[str, object] = {"to": _DEFAULT[gateway.version], "via": str(gateway)}
        if network.routed or gateway.is_link_local:
            way["on-link"] = True
        yield way


def _other_routes(topology: Topology, guest: Guest, port: Port) -> Iterator[dict[str, object]]:
    for prefix, via in routes(topology, guest, port):
        yield {"to": str(prefix), "via": str(via)}


def _name_servers(network: Network) -> list[str]:
    """Who answers DNS there: libvirt's server on the host, or the network's virtual router."""
    if network.router:
        return [str(subnet.gateway) for subnet in network.subnets if subnet.gateway]
    return [str(subnet.host) for subnet in network.subnets if subnet.host and network.external is None]


def _json(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"
