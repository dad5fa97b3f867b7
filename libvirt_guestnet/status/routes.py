"""The rows of `status` on what the host routes to guests: what their domains ask for, and whether it is there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

from libvirt_guestnet import parse
from libvirt_guestnet.datapath.netlink.rtnl import MAIN_TABLE
from libvirt_guestnet.datapath.routing.routes import Published, Reach, Route
from libvirt_guestnet.libvirtd.snapshot import DOMAIN_MARK, PORT_MARK, DomainState, Element, interfaces, tap
from libvirt_guestnet.model.metadata import NAMESPACE

_ADDRESS, _SOURCE, _BEHIND, _FLOATING, _ROUTED = (
    f"{{{NAMESPACE}}}{tag}" for tag in ("address", "source", "behind", "floating", "routed")
)


@dataclass(frozen=True)
class RouteRow:
    """What leads to a port: the host's route to `prefix`, by way of the guest's address `via` ("": on the link),
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
class Led:
    """The hooks' receipts of what leads to guests, and what the kernel has of such things."""

    reaches: tuple[Reach, ...] = ()
    there: frozenset[Route | Published] = frozenset()


NOTHING_LED = Led()


class _Asked(NamedTuple):
    """A route that a port asks for, and whether its address is to be published: on `uplink`, as far as is known."""

    prefix: str
    via: str = ""
    table: int = MAIN_TABLE
    vrf: str = ""
    publish: bool = False
    uplink: str = ""


def route_rows(domains: Iterable[DomainState], led: Led) -> Iterator[RouteRow]:
    """What these domains ask for; of translated addresses those that the hooks found on a LAN of the host's."""
    for domain in domains:
        current = domain.config if domain.live is None else domain.live
        nics = interfaces(current, domain.marked_networks)
        for port in current.iterfind(f"{DOMAIN_MARK}/{PORT_MARK}"):
            nic = nics.get(port.get("mac", "").lower())
            device = _device(nic) if nic is not None and domain.live is not None else ""
            reach = _receipt(domain, nic, led)
            uplinks = {each.address: each.device for each in reach.published}
            for asked in (*_host_routed(port, reach, uplinks), *_behind(port, _BEHIND), *_floating(port, uplinks)):
                yield _row(domain, port, asked, device, led)


def _receipt(domain: DomainState, nic: Element | None, led: Led) -> Reach:
    """What leads to a NIC of a domain; a receipt of nothing where there is none."""
    name = "" if nic is None else tap(nic) or ""
    found = (reach for reach in led.reaches if (reach.uuid, reach.tap) == (domain.uuid, name))
    return next(found, Reach(name, domain.uuid, domain.name))


def _row(domain: DomainState, port: Element, asked: _Asked, device: str, led: Led) -> RouteRow:
    runs, address = domain.live is not None, asked.prefix.partition("/")[0]
    return RouteRow(
        topology=domain.topology or "",
        guest=domain.name,
        port=port.get("name", ""),
        prefix=asked.prefix,
        via=asked.via,
        device=device,
        table=f"vrf {asked.vrf}" if asked.vrf else "main" if asked.table == MAIN_TABLE else str(asked.table),
        routed=Route(asked.prefix, device, asked.via, asked.table) in led.there if runs else None,
        uplink=asked.uplink,
        published=Published(address, asked.uplink) in led.there if runs and asked.publish else None,
    )


def _device(nic: Element) -> str:
    """What the host reaches a running guest's port through: the bridge, or a tap that is in none."""
    source = nic.find("source")
    return ("" if source is None else source.get("bridge", "")) or tap(nic) or ""


def _host_routed(port: Element, reach: Reach, uplinks: Mapping[str, str]) -> Iterator[_Asked]:
    routed = port.find(_ROUTED)
    if routed is None:
        return
    table, vrf, publish = _table(routed, reach), routed.get("vrf", ""), routed.get("publish") != "no"
    for prefix in _prefixes(port, _ADDRESS, "ip"):
        uplink = uplinks.get(str(prefix.network_address), routed.get("device", "")) if publish else ""
        yield _Asked(str(prefix), "", table, vrf, publish, uplink)
    for asked in _behind(port, _SOURCE):
        yield asked._replace(table=table, vrf=vrf)


def _behind(port: Element, tag: str) -> Iterator[_Asked]:
    """By way of the port's first address of the family."""
    for prefix in _prefixes(port, tag, "prefix"):
        own = (a for a in _prefixes(port, _ADDRESS, "ip") if a.version == prefix.version)
        via = next((str(address.network_address) for address in own), "")
        if prefix.prefixlen:  # the host's default route is no guest's
            yield _Asked(str(prefix), via)


def _floating(port: Element, uplinks: Mapping[str, str]) -> Iterator[_Asked]:
    for each in port.iterfind(_FLOATING):
        prefix, via = _prefix(each.get("ip", "")), each.get("via", "")
        uplink = uplinks.get(str(prefix.network_address)) if prefix else None
        if prefix is not None and (via or uplink):
            yield _Asked(str(prefix), via, publish=uplink is not None, uplink=uplink or "")


def _prefixes(port: Element, tag: str, attribute: str) -> Iterator[IPv4Network | IPv6Network]:
    found = (_prefix(each.get(attribute, "")) for each in port.iterfind(tag))
    return (prefix for prefix in found if prefix)


def _prefix(text: str) -> IPv4Network | IPv6Network | None:
    with suppress(ValueError):  # what the hooks refuse leads nowhere
        return parse.prefix(text)
    return None


def _table(routed: Element, reach: Reach) -> int:
    """That of a VRF is known from what was done."""
    if routed.get("vrf"):
        return next((route.table for route in reach.routes), 0)
    text = routed.get("table", "")
    with suppress(parse.TextError):
        return parse.number(text, 1, (1 << 32) - 1)
    return MAIN_TABLE
