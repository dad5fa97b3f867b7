"""The rows of `status` on what the host routes to guests: what their domains ask for, and whether it is there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import NamedTuple

from libvirt_guestnet.datapath.netlink.rtnl import MAIN_TABLE
from libvirt_guestnet.libvirtd.nics import interfaces, tap
from libvirt_guestnet.libvirtd.snapshot import DomainState, Element
from libvirt_guestnet.metadata.policy import HostRouted, PortPolicy
from libvirt_guestnet.parse import Prefix
from libvirt_guestnet.state.receipts import HostRoutes, ProxyEntry, Route


@dataclass(frozen=True)
class RouteRow:
    """A host route to a port: to `prefix`, by way of the guest's address `via` ("": on the link),
    through `device` (known while the guest runs), in routing table `table` ("vrf NAME": in that of the VRF).

    `routed` is whether the route is there. `published` is whether the host answers for the address on its device
    `uplink`; None where it is not to. Both are None while the guest does not run.
    """

    topology: str
    guest: str
    port: str
    prefix: str
    via: str
    device: str
    table: str
    routed: bool | None
    uplink: str
    published: bool | None

    def json(self) -> dict[str, object]:
        return {"kind": "route", **asdict(self)}


@dataclass(frozen=True)
class RouteFacts:
    """The hooks' receipts of routes and published addresses, and what the kernel has."""

    receipts: tuple[HostRoutes, ...] = ()
    present: frozenset[Route | ProxyEntry] = frozenset()


NO_ROUTE_FACTS = RouteFacts()


class _Requested(NamedTuple):
    """A route that a port asks for, and whether its address is to be published, on `uplink` if that is known."""

    prefix: str
    via: str = ""
    table: int = MAIN_TABLE
    vrf: str = ""
    publish: bool = False
    uplink: str = ""


def route_rows(domains: Iterable[DomainState], facts: RouteFacts) -> Iterator[RouteRow]:
    """What these domains ask for; floating addresses only if the hooks found them on a LAN of the host."""
    for domain in domains:
        nics = interfaces(domain.current, domain.marked_networks)
        for port in domain.policies:
            nic = nics.get(port.mac)
            device = _device(nic) if nic is not None and domain.live is not None else ""
            receipt = _receipt(domain, nic, facts)
            uplinks = {each.address: each.device for each in receipt.published}
            for requested in (
                *_host_routed(port, receipt, uplinks),
                *_via_port(port, port.behind),
                *_floating(port, uplinks),
            ):
                yield _row(domain, port, requested, device, facts)


def _receipt(domain: DomainState, nic: Element | None, facts: RouteFacts) -> HostRoutes:
    """The receipt of a NIC's routes; one without routes if there is none."""
    name = "" if nic is None else tap(nic) or ""
    found = (receipt for receipt in facts.receipts if (receipt.uuid, receipt.tap) == (domain.uuid, name))
    return next(found, HostRoutes(name, domain.uuid, domain.name))


def _row(domain: DomainState, port: PortPolicy, requested: _Requested, device: str, facts: RouteFacts) -> RouteRow:
    runs, address = domain.live is not None, requested.prefix.partition("/")[0]
    return RouteRow(
        topology=domain.topology or "",
        guest=domain.name,
        port=port.name,
        prefix=requested.prefix,
        via=requested.via,
        device=device,
        table=_table_name(requested),
        routed=Route(requested.prefix, device, requested.via, requested.table) in facts.present if runs else None,
        uplink=requested.uplink,
        published=ProxyEntry(address, requested.uplink) in facts.present if runs and requested.publish else None,
    )


def _table_name(requested: _Requested) -> str:
    if requested.vrf:
        return f"vrf {requested.vrf}"
    return "main" if requested.table == MAIN_TABLE else str(requested.table)


def _device(nic: Element) -> str:
    """The device by which the host reaches a running guest's port: the bridge, or a tap that is in none."""
    source = nic.find("source")
    return ("" if source is None else source.get("bridge", "")) or tap(nic) or ""


def _host_routed(port: PortPolicy, receipt: HostRoutes, uplinks: Mapping[str, str]) -> Iterator[_Requested]:
    routed = port.routed
    if routed is None:
        return
    table = _table(routed, receipt)
    for ip in port.addresses:
        uplink = uplinks.get(str(ip), routed.device) if routed.publish else ""
        yield _Requested(f"{ip}/{ip.max_prefixlen}", "", table, routed.vrf, routed.publish, uplink)
    for requested in _via_port(port, port.sources):
        yield requested._replace(table=table, vrf=routed.vrf)


def _via_port(port: PortPolicy, prefixes: Iterable[Prefix]) -> Iterator[_Requested]:
    """By way of the port's first address of the family."""
    for prefix in prefixes:
        via = next((str(ip) for ip in port.addresses if ip.version == prefix.version), "")
        if prefix.prefixlen:  # the host's default route is no guest's
            yield _Requested(str(prefix), via)


def _floating(port: PortPolicy, uplinks: Mapping[str, str]) -> Iterator[_Requested]:
    for each in port.floating:
        uplink = uplinks.get(str(each.ip))
        if each.via or uplink:
            prefix, via = f"{each.ip}/{each.ip.max_prefixlen}", str(each.via or "")
            yield _Requested(prefix, via, publish=uplink is not None, uplink=uplink or "")


def _table(routed: HostRouted, receipt: HostRoutes) -> int:
    """The routing table; a VRF's is known from the receipt."""
    if routed.vrf:
        return next((route.table for route in receipt.routes), 0)
    return routed.table or MAIN_TABLE
