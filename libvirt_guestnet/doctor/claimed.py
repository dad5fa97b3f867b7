"""What domains claim by their metadata, although it is another's by that one's, or a network's, definition. Whoever may
edit a domain writes that; a start is refused only while the other one runs. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from libvirt_guestnet.doctor.host_facts import Claimed
from libvirt_guestnet.libvirtd.nics import interfaces
from libvirt_guestnet.libvirtd.snapshot import DomainState, Element, NetworkState, Snapshot
from libvirt_guestnet.metadata.policy import PortPolicy
from libvirt_guestnet.parse import Prefix, shown

_Link = tuple[str, str]  # "network" or "bridge", and its name


class _Port(NamedTuple):
    domain: str
    link: _Link
    policy: PortPolicy


def claimed(snapshot: Snapshot) -> Iterator[Claimed]:
    """Addresses that two domains list on one network or bridge, or that a network reserves for another NIC; and
    prefixes behind a domain that are public, or overlap with those behind another."""
    ports = [port for state in snapshot.domains for port in _ports(state)]
    yield from _addresses(ports, snapshot)
    yield from _behind(ports)


def _ports(state: DomainState) -> Iterator[_Port]:
    """Those of its next start, and of what runs."""
    found: dict[tuple[str, _Link], PortPolicy] = {}
    for root in (state.config, *([] if state.live is None else [state.live])):
        nics = interfaces(root)
        for policy in DomainState(state.name, state.uuid, root).policies:
            if policy.mac in nics and (link := _link(nics[policy.mac])):
                found[policy.mac, link] = policy
    return (_Port(state.name, link, policy) for (_, link), policy in found.items())


def _link(nic: Element) -> _Link | None:
    source = nic.find("source")
    found = ((kind, source.get(kind, "")) for kind in ("network", "bridge") if source is not None)
    return next(((kind, name) for kind, name in found if name), None)


def _addresses(ports: list[_Port], snapshot: Snapshot) -> Iterator[Claimed]:
    holders: dict[tuple[_Link, str], dict[str, None]] = {}
    for port in ports:
        for own in port.policy.addresses:
            holders.setdefault((port.link, str(own)), {})[port.domain] = None
    for ((_, name), ip), domains in holders.items():
        if len(domains) > 1:
            said = " and ".join(map(shown, domains))
            found = f"{ip} on {shown(name)} is claimed by {said} in their metadata: whichever runs first has it"
            yield Claimed(" ".join(domains), found)
    by_network = {("network", state.name): _reserved(state) for state in snapshot.networks}
    for port in ports:
        reserved = by_network.get(port.link, {})
        for ip in map(str, port.policy.addresses):
            if reserved.get(ip, port.policy.mac) != port.policy.mac:
                found = f"{ip}, which it claims, is reserved for {reserved[ip]} by network {shown(port.link[1])}"
                yield Claimed(port.domain, found)


def _reserved(network: NetworkState) -> dict[str, str]:
    hosts = network.current.iterfind("ip/dhcp/host")
    return {host.get("ip", ""): mac for host in hosts if (mac := host.get("mac", "").lower())}


def _behind(ports: list[_Port]) -> Iterator[Claimed]:
    behind = [(port.domain, prefix) for port in ports for prefix in port.policy.behind]
    for domain, prefix in dict.fromkeys(behind):
        if prefix.is_global:
            yield Claimed(domain, f"{prefix}, which it says is behind it, is public: the host reaches it there alone")
    around: list[tuple[str, Prefix]] = []  # prefixes are in each other, or apart
    for domain, prefix in sorted(dict.fromkeys(behind), key=_from_outside):
        while around and not _is_in(prefix, around[-1][1]):
            around.pop()
        other = next(((name, each) for name, each in reversed(around) if name != domain), None)
        if other is not None:
            found = f"{prefix} behind {shown(domain)} is in {other[1]} behind {shown(other[0])}, and goes to the former"
            yield Claimed(f"{domain} {other[0]}", found)
        around.append((domain, prefix))


def _from_outside(behind: tuple[str, Prefix]) -> tuple[int, int, int]:
    prefix = behind[1]
    return prefix.version, int(prefix.network_address), prefix.prefixlen


def _is_in(inner: Prefix, outer: Prefix) -> bool:
    return inner.version == outer.version and inner.network_address in outer
