"""The addresses of a virtual router's public networks that it translates: where each is, and who has it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from libvirt_guestnet.model.network import IPAddress, IPNetwork

from .guest_keys import PortDecl
from .keys import TopologyDecl
from .report import Report
from .router_keys import PublicDecl, VirtualRouterDecl
from .spec import At, values


class _Use(NamedTuple):
    """What an address is used for. `alone`: for nothing else at the same time."""

    at: At[IPAddress]
    what: str
    alone: bool = False


def placed(
    decl: TopologyDecl, router: tuple[At[str], VirtualRouterDecl], report: Report
) -> dict[str, list[At[IPAddress]]]:
    """By public network, the addresses that are translated there beside the router's own."""
    name, said = router
    links = {at.value: _subnets(decl, at.value, public) for at, public in said.public if public}
    own = {each.value for _, public in said.public if public for each in public.addresses}
    found: dict[str, list[At[IPAddress]]] = {}
    seen = {address: _Use(At(address, name.where), "the router's own") for address in own}
    for use in _uses(decl, said):
        address = use.at.value
        known = seen.setdefault(address, use)
        if known is not use:
            _check_shared(known, use, report)
        elif network := next((n for n, subnets in links.items() if any(address in each for each in subnets)), None):
            found.setdefault(network, []).append(use.at)
        elif not any("addresses" in public.bad for _, public in said.public if public):
            report.add(use.at.where, _nowhere(address, name.value, links))
    _check_links(said, links, seen, report)
    return found


def _check_shared(known: _Use, use: _Use, report: Report) -> None:
    if known.alone or use.alone:
        report.add(use.at.where, f"{use.at.value} is {known.what} already: {use.what} is one that nothing else has")


def _nowhere(address: IPAddress, router: str, links: dict[str, list[IPNetwork]]) -> str:
    subnets = ", ".join(str(each) for found in links.values() for each in found) or "it has no address there"
    return f"{address} is in no public network of router '{router}' ({subnets})"


def _subnets(decl: TopologyDecl, name: str, public: PublicDecl) -> list[IPNetwork]:
    """Those of the network that the router has an address of its own in."""
    network = next((each for at, each in decl.networks or () if at.value == name), None)
    label = network.physical_network.value if network and network.physical_network else ""
    lan = next((each for at, each in decl.physical_networks or () if at.value == label), None)
    subnets = values(network.subnets) if network and network.subnets is not None else values(lan.subnets if lan else ())
    return [subnet for subnet in subnets if any(each.value in subnet for each in public.addresses)]


def _uses(decl: TopologyDecl, said: VirtualRouterDecl) -> Iterator[_Use]:
    tiers = {at.value for at, _ in said.tiers}
    for at, tier in said.tiers:
        for address in tier.source_nat or () if tier else ():
            yield _Use(address, f"the source NAT address of '{at.value}'")
    for name, guest in decl.guests or ():
        for port in guest.ports if guest else ():
            if port.network.value in tiers:
                yield from _of_port(f"{name.value}.{(port.name or port.network).value}", port)


def _of_port(title: str, port: PortDecl) -> Iterator[_Use]:
    for forward in port.forwards or ():
        yield from (_Use(at, f"forwarded to '{title}'") for at in forward.addresses or ())
    yield from (_Use(at, f"the floating address of '{title}'", alone=True) for at in port.floating or ())


def _check_links(
    said: VirtualRouterDecl, links: dict[str, list[IPNetwork]], seen: dict[IPAddress, _Use], report: Report
) -> None:
    """Default gateways are somebody else's, on the link; of each family one for each network."""
    for name, public in said.public:
        known: set[int] = set()
        if public and not public.addresses and "addresses" not in public.bad:
            report.add(public.at, f"the router needs an address of its own on network '{name.value}'")
        for at in public.gateways or () if public else ():
            if links[name.value] and not any(at.value in subnet for subnet in links[name.value]):
                subnets = ", ".join(map(str, links[name.value]))
                report.add(at.where, f"gateway {at.value} is not in {subnets}, where the router has an address")
            elif at.value in seen:
                report.add(at.where, f"gateway {at.value} is {seen[at.value].what}: it is somebody else's there")
            elif at.value.version in known:
                report.add(at.where, f"network '{name.value}' has an IPv{at.value.version} gateway already")
            known.add(at.value.version)
