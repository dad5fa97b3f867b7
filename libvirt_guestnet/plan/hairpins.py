"""Forwards and floating addresses of an isolated port from which its neighbours get no answer. If bridged frames pass
iptables (br_netfilter), the kernel sends a translated frame back over the bridge, from one isolated port to the other,
and drops it. Pure.

Without br_netfilter the same frame goes to the host, which routes it, and is answered (decision 52).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

from libvirt_guestnet.model.topology import Expect, Guest, Port, Topology

SYSCTLS = {4: "net.bridge.bridge-nf-call-iptables", 6: "net.bridge.bridge-nf-call-ip6tables"}


def problems(topology: Topology, bridged: Collection[int]) -> Iterator[str]:
    """The lines of `expect:` that this host cannot fulfil, as bridged frames of these IP versions pass iptables."""
    for line in topology.expect:
        version = line.at.version if line.at else 0
        if version in bridged and line.can and (port := _isolated_target(topology, line)):
            yield (
                f"{line.source} can not reach {line.destination} at {line.at}: both are on isolated ports of network "
                f"{port.network!r}, and {_do(version)}"
            )


def notes(topology: Topology, bridged: Collection[int]) -> Iterator[str]:
    """The ports whose neighbours get no answer, one a line, with what to do."""
    isolated = Counter(port.network for guest in topology.guests for port in guest.ports if port.isolated)
    for guest in topology.guests:
        for port in guest.ports:
            if topology.network(port.network).router:
                continue  # forwarded by its virtual router, which is isolated from nobody
            versions = [version for version in (4, 6) if version in bridged and _is_forwarded_to(port, version)]
            if versions and isolated[port.network] > 1:
                yield (
                    f"port '{guest.name}.{port.name}' is isolated from its neighbours on network {port.network!r}: "
                    f"they get no answer from its forwards and floating addresses, since {_do(versions[0])}"
                )


def _do(version: int) -> str:
    sysctl = SYSCTLS[version]
    return f"{sysctl} is on: sysctl -w {sysctl}=0, or take isolated-ports out"


def _isolated_target(topology: Topology, line: Expect) -> Port | None:
    """The isolated port that a line reaches by a forward or a floating address, from an isolated port beside it."""
    sources, targets = (_ports(topology, name) for name in (line.source, line.destination or ""))
    version = line.at.version if line.at else 0
    by_host = (port for port in targets if topology.network(port.network).router is None)
    found = (port for port in by_host if _is_forwarded_to(port, version) and any(_is_near(o, port) for o in sources))
    return next(found, None)


def _ports(topology: Topology, endpoint: str) -> list[Port]:
    """Those of a guest, or of "guest.port"."""
    ports = ((guest, port) for guest in topology.guests for port in guest.ports)
    return [port for guest, port in ports if endpoint in _names(guest, port)]


def _names(guest: Guest, port: Port) -> tuple[str, str]:
    return guest.name, f"{guest.name}.{port.name}"


def _is_forwarded_to(port: Port, version: int) -> bool:
    forwarded = any(each.version == version for each in port.forwards)
    return port.isolated and (forwarded or any(each.version == version for each in port.floating))


def _is_near(other: Port, port: Port) -> bool:
    return other is not port and other.isolated and other.network == port.network
