"""Addresses and prefixes that a domain's XML wants for its ports: pure reading, no effects."""

from __future__ import annotations

from collections.abc import Iterator

from libvirt_guestnet import parse
from libvirt_guestnet.hook.read import host_routed, wanted_forwards
from libvirt_guestnet.hook.read.domain import Domain
from libvirt_guestnet.model.held_addresses import RequestedAddress, single


def requested(domain: Domain) -> list[RequestedAddress]:
    """All of them. Raises GuestnetError on what cannot be carried out."""
    owner = f"domain {domain.name!r}"
    unprobed = {policy.mac for policy, _ in domain.policies() if not policy.probe}
    found = [*_routed(domain, owner, unprobed), *_forwards(domain, owner, unprobed), *_behind(domain, owner)]
    return [*found, *_bridged(domain, owner)]


def _routed(domain: Domain, owner: str, unprobed: set[str]) -> Iterator[RequestedAddress]:
    macs = {nic.tap: nic.mac for nic in domain.nics}
    for port in host_routed.routed_ports(domain):
        probe = macs[port.tap] not in unprobed
        for ip in port.addresses:
            yield RequestedAddress(
                prefix=single(ip),
                what="address",
                owner=owner,
                vrf=port.vrf,
                published=port.publish,
                uplink=port.device,
                probe=probe,
            )
        yield from (RequestedAddress(parse.prefix(text), "prefix", owner, port.vrf) for text in port.prefixes)


def _forwards(domain: Domain, owner: str, unprobed: set[str]) -> Iterator[RequestedAddress]:
    for port in wanted_forwards.port_forwards(domain):
        for each in port.floating:
            ip, probe = parse.prefix(each.ip), port.mac not in unprobed
            yield RequestedAddress(ip, "floating address", owner, forwarded=True, published=True, probe=probe)
        ats = dict.fromkeys(forward.at for forward in port.forwards if forward.at)
        yield from (RequestedAddress(parse.prefix(at), "forward at", owner, forwarded=True, part=True) for at in ats)


def _behind(domain: Domain, owner: str) -> Iterator[RequestedAddress]:
    # By the policy, not by the routes that follow from it: a NIC that is only planned is on no bridge yet.
    return (RequestedAddress(prefix, "prefix", owner) for policy, _ in domain.policies() for prefix in policy.behind)


def _bridged(domain: Domain, owner: str) -> Iterator[RequestedAddress]:
    """The ports' own addresses on bridges, except those that the host routes to the guest, which are on no bridge."""
    for policy, nic in domain.policies():
        bridge, floating = nic.bridge_of_network, {each.ip for each in policy.floating}
        for address in policy.addresses:
            if bridge and address not in floating:
                yield RequestedAddress(single(address), "address", owner, bridge=bridge, probe=policy.probe)
