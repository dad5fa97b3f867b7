"""The nft ruleset of a guest that routes. Pure: every line is built from typed values.

No line has a comma: libvirt 9.0 hands the text to QEMU's -fw_cfg without doubling them, and the guest would not start.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from libvirt_guestnet.model.network import IPNetwork
from libvirt_guestnet.model.topology import Allow, Guest, Router, Topology
from libvirt_guestnet.model.traffic import Protocol, Service

# ICMPv6 is 58: the guest has no /etc/protocols. No commas and quotes: libvirt hands fw_cfg text to QEMU as it is, where
# a comma ends it, and leaves quotes escaped as in XML.
FORWARD = """
    chain forward {
        type filter hook forward priority filter; policy drop;
        ct state established accept
        ct state related accept
        ct state invalid drop
"""

INPUT = """
    chain input {
        type filter hook input priority filter; policy accept;
        ct state established accept
        ct state related accept
        meta l4proto icmp accept
        meta l4proto 58 accept
"""

NAT = """
    chain postrouting {
        type nat hook postrouting priority srcnat; policy accept;
"""


def ruleset(topology: Topology, guest: Guest, nics: Mapping[str, str]) -> Iterator[str]:
    """The lines of the ruleset; `nics` maps port names to the guest's NIC names."""
    assert guest.router is not None
    yield "table inet guestnet {"
    yield from _chain(FORWARD, (rule for allow in guest.router.allow for rule in _allow(guest, allow, nics)))
    yield from _chain(INPUT, _input(guest, nics))
    yield from _chain(NAT, _masquerade(guest, guest.router, nics))
    yield "}"


def _chain(head: str, rules: Iterator[str]) -> Iterator[str]:
    yield from (line for line in head.splitlines() if line)
    yield from (f"        {rule}" for rule in rules)
    yield "    }"


def _allow(guest: Guest, allow: Allow, nics: Mapping[str, str]) -> Iterator[str]:
    sources = [nics[port.name] for port in guest.ports if port.network == allow.source]
    for nic in sources:
        for towards, version in _destinations(guest, allow, nics):
            for service in allow.services:
                yield f"iifname {nic} {towards} {_service(service, version)} accept"


def _destinations(guest: Guest, allow: Allow, nics: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    """What a packet must be going to: the destination's prefixes; for one without known prefixes the NIC towards it."""
    for prefix in allow.destination_prefixes:
        yield _towards(prefix), prefix.version
    if not allow.destination_prefixes:
        attached = [port for port in guest.ports if port.network == allow.destination]
        for port in attached or [port for port in guest.ports if port.default_route]:
            for version in (4, 6):
                yield f"oifname {nics[port.name]} meta nfproto ipv{version}", version


def _towards(prefix: IPNetwork) -> str:
    return f"{'ip' if prefix.version == 4 else 'ip6'} daddr {prefix}"


def _service(service: Service, version: int) -> str:
    if service.protocol is Protocol.ICMP:
        return f"meta l4proto {'icmp' if version == 4 else '58'}"
    if service.first_port is None:
        return f"meta l4proto {service.protocol}"
    span = "" if service.last_port == service.first_port else f"-{service.last_port}"
    return f"{service.protocol} dport {service.first_port}{span}"


def _input(guest: Guest, nics: Mapping[str, str]) -> Iterator[str]:
    """A network reaches the router at the router's address there, not at its addresses on other networks."""
    for port in guest.ports:
        for other in guest.ports:
            for address in other.addresses if other is not port else ():
                family = "ip" if address.ip.version == 4 else "ip6"
                yield f"iifname {nics[port.name]} {family} daddr {address.ip} drop"


def _masquerade(guest: Guest, router: Router, nics: Mapping[str, str]) -> Iterator[str]:
    for port in guest.ports:
        if port.network == router.masquerade:
            yield f"oifname {nics[port.name]} masquerade"
