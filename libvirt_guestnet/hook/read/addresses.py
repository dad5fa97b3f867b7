"""Addresses and prefixes that a domain's XML wants for its ports: pure reading, no effects."""

from __future__ import annotations

from collections.abc import Iterator

from libvirt_guestnet import parse
from libvirt_guestnet.hook.read import host_routed, values
from libvirt_guestnet.hook.read import wanted_forwards as ways_asked
from libvirt_guestnet.hook.read.xmlread import Node
from libvirt_guestnet.model.held_addresses import Asked, single
from libvirt_guestnet.model.metadata import NAMESPACE


def asked(domain: Node, network_of: values.NetworkOf) -> list[Asked]:
    """All of them. Raises GuestnetError on what cannot be carried out."""
    owner = f"domain {domain.text_of('name')!r}"
    found = [*_routed(domain, owner), *_ways(domain, network_of, owner), *_behind(domain, owner)]
    return [*found, *_bridged(domain, network_of, owner)]


def _routed(domain: Node, owner: str) -> Iterator[Asked]:
    unprobed = _unprobed(domain)
    macs = {values.attribute(nic, "target", "dev"): values.mac_of(nic) for nic in domain.all("devices/interface")}
    for port in host_routed.routed_ports(domain):
        probe = macs[port.tap] not in unprobed
        for ip in port.addresses:
            yield Asked(
                prefix=single(ip),
                what="address",
                owner=owner,
                vrf=port.vrf,
                published=port.publish,
                uplink=port.device,
                probe=probe,
            )
        yield from (Asked(parse.prefix(text), "prefix", owner, port.vrf) for text in port.prefixes)


def _ways(domain: Node, network_of: values.NetworkOf, owner: str) -> Iterator[Asked]:
    unprobed = _unprobed(domain)
    for ways in ways_asked.ways(domain, network_of):
        for each in ways.floating:
            ip, probe = parse.prefix(each.ip), ways.mac not in unprobed
            yield Asked(ip, "floating address", owner, way=True, published=True, probe=probe)
        ats = dict.fromkeys(forward.at for forward in ways.forwards if forward.at)
        yield from (Asked(parse.prefix(at), "forward at", owner, way=True, part=True) for at in ats)


def _behind(domain: Node, owner: str) -> Iterator[Asked]:
    # Not by the routes that they become: a NIC that is still planned is on no bridge yet.
    for port, _ in values.Policies(domain).pairs():
        for behind in port.all(f"{NAMESPACE} behind", "|"):
            yield Asked(values.prefix(behind, "prefix"), "prefix", owner)


def _bridged(domain: Node, network_of: values.NetworkOf, owner: str) -> Iterator[Asked]:
    """The ports' own addresses on bridges, but for those that the host routes to the guest: they are on none."""
    unprobed = _unprobed(domain)
    for port, nic in values.Policies(domain).pairs():
        mac, bridge = values.mac_of(nic), _bridge(nic, network_of)
        led = {values.address(each, "ip") for each in port.all(f"{NAMESPACE} floating", "|")}
        for address in (values.address(each, "ip") for each in port.all(f"{NAMESPACE} address", "|")):
            if bridge and address not in led:
                yield Asked(single(address), "address", owner, bridge=bridge, probe=mac not in unprobed)


def _bridge(nic: Node, network_of: values.NetworkOf) -> str:
    name = values.attribute(nic, "source", "network")
    network = network_of(name) if name else None
    return values.attribute(nic, "source", "bridge") or (network.bridge if network else "")


def _unprobed(domain: Node) -> set[str]:
    """The MAC addresses of ports of which somebody says that no LAN is to be asked."""
    return {port.get("mac").lower() for port in domain.all(values.DOMAIN_PORT, "|") if port.get("probe") == "no"}
