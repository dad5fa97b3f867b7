"""What was set, in words: a line for each port. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from libvirt_guestnet.direct.guard import FOUND
from libvirt_guestnet.direct.subject import DirectPort, Subject
from libvirt_guestnet.importing.facts import Leases
from libvirt_guestnet.libvirtd.nics import interfaces, tap
from libvirt_guestnet.metadata.policy import ANY, LEASE, LEASE6, NONE, Forward, PortPolicy
from libvirt_guestnet.model import ip_protocols
from libvirt_guestnet.parse import Prefix, shown


def place(subject: Subject, port: DirectPort) -> str:
    """Which NIC it is, and where."""
    kind = "bridge" if port.known.network.external and port.known.network.external.bridge else "network"
    name = port.known.network.bridge if kind == "bridge" else port.known.name
    live = interfaces(subject.state.live).get(port.policy.mac)
    device = None if live is None else tap(live)
    where = f"tap {device}" if device else "not running"
    return f"{plain(subject.state.name)}: NIC {port.policy.mac} on {kind} {plain(name)} ({where})"


def plain(name: str) -> str:
    """A name as it is, or quoted where it has what is no character of a word."""
    return name if name.replace("-", "").replace("_", "").replace(".", "").isalnum() else shown(name)


def state(policy: PortPolicy | None, by_network: str) -> str:
    """How it is guarded, by its own policy or its network."""
    if policy is None:
        return {"yes": "guarded, as its network says", "observe": "observed, as its network says"}.get(
            by_network, "not guarded"
        )
    if policy.observed:
        return "observed: what would be dropped is counted, and passes"
    return "guarded" if policy.guarded else "not guarded"


def addresses(port: DirectPort, policy: PortPolicy | None, leases: Leases) -> str:
    """What it may send from."""
    if policy is None:
        return ""
    pairs = ", ".join(listed(pair.prefix) for pair in policy.pairs)
    also = f", and {pairs}" if pairs else ""
    return f"{_own(port, policy, leases)}{also}" + (" (as seen on the network)" if policy.note == FOUND else "")


def listed(prefix: Prefix) -> str:
    """A prefix, or the address that it is."""
    return str(prefix.network_address if prefix.prefixlen == prefix.max_prefixlen else prefix)


def _own(port: DirectPort, policy: PortPolicy, leases: Leases) -> str:
    if policy.addressing:
        return {NONE: "no addresses", ANY: "any address that nobody else has"}.get(policy.addressing, "")
    if policy.addresses:
        return f"addresses {', '.join(map(str, policy.addresses))}"
    facts = port.link.facts
    reserved = [ip for owner, ip in facts.reservations if owner == policy.mac] if facts else []
    if reserved:
        return f"addresses {', '.join(reserved)}, as reserved"
    if any(subnet.dhcp for subnet in port.link.network.subnets):
        now = ", ".join(sorted(leases.get(policy.mac, ())))
        return f"addresses by DHCP, now {now}" if now else "addresses by DHCP"
    return "addresses not known yet"


def forward(each: Forward) -> str:
    """A forward as it is written on the command line, and where it goes to."""
    last = each.to_first + each.last - each.first
    ports = str(each.to_first) if each.first == each.last else f"{each.to_first}-{last}"
    port = f", port {ports}" if each.first else ""
    to = {LEASE: "its IPv4 address by DHCP", LEASE6: "its IPv6 address by DHCP"}.get(each.to, each.to)
    asked = ip_protocols.service(each.protocol, each.first, each.last)
    return f"{asked} at {each.at or 'every address of the host'} to {to}{port}{_clients(each)}"


def _clients(each: Forward) -> str:
    return f", only from {', '.join(map(str, each.sources))}" if each.sources else ""


def lines(
    subject: Subject, policies: tuple[PortPolicy, ...], leases: Leases, by_network: dict[str, str]
) -> Iterator[str]:
    """A line for each port that was meant."""
    new = {policy.mac: policy for policy in policies}
    for port in subject.ports:
        policy = new.get(port.policy.mac)
        said = state(policy, by_network.get(port.known.name, "no"))
        known = addresses(port, policy, leases) if policy is not None and policy.guarded else ""
        yield f"{place(subject, port)}: {said}{f'; {known}' if known else ''}"


def address_line(subject: Subject, port: DirectPort, policy: PortPolicy | None, leases: Leases) -> str:
    """How a port is guarded by now, and which addresses it has."""
    now = policy or port.default
    return f"{place(subject, port)}: {state(now, '')}; {addresses(port, now, leases)}"


def forwards(subject: Subject, port: DirectPort, policy: PortPolicy | None) -> Iterator[str]:
    """A line for each forward that a port has by now."""
    where = place(subject, port)
    yield from (f"{where}: {forward(each)}" for each in (policy.forwards if policy else ()))
    if policy is None or not policy.forwards:
        yield f"{where}: no forwards"
