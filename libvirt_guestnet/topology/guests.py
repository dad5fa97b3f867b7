"""Guests and their ports: names, devices and addresses, given or derived."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from libvirt_guestnet.metadata.policy import OBSERVE, STRICT
from libvirt_guestnet.model.network import Mode
from libvirt_guestnet.model.slaac import VIRTUAL_ROUTERS
from libvirt_guestnet.model.topology import AddressPair, AddressWord, Guest, Port, PortKind

from . import (
    addressing,
    cards,
    dhcp,
    external,
    forwards,
    host_routed,
    hostnames,
    impairments,
    next_hops,
    routers,
    vlans,
)
from .addresses import Addresses
from .card_kinds import LinkState
from .guest_keys import GuestDecl, PortDecl
from .kinds import Image
from .networks import bandwidth
from .report import Report
from .scope import HOST, Placed, Scope, Segment
from .spec import At, Everything, Word, value, values

_DEFAULT_MEMORY_MIB = 128


class Guests:
    """Turns guest declarations into guests, one after the other."""

    def __init__(self, scope: Scope, segments: Mapping[str, Segment], addresses: Addresses, report: Report) -> None:
        self._scope = scope
        self._segments = segments
        self._addresses = addresses
        self._report = report
        self.placed: list[Placed] = []
        self._names = hostnames.Names(segments, report)

    def build(self, at: At[str], decl: GuestDecl) -> Guest:
        """The guest, complete."""
        name, image = at.value, value(decl.image)
        self._check(at, decl)
        leaves = self._default_port(decl)
        ports = tuple(self._port(name, decl, index, index == leaves) for index in range(len(decl.ports)))
        uuid = value(decl.uuid) or (addressing.guest_uuid(self._scope.topology, name) if image else None)
        guest = Guest(
            name=name,
            ports=ports,
            image=str(image) if image else None,
            uuid=uuid,
            memory_mib=value(decl.memory) or _DEFAULT_MEMORY_MIB,
            router=routers.router(self._scope, self._segments, name, decl, self._report),
            autostart=decl.autostart.value,
            hostname=value(decl.hostname) or "",
            host=value(decl.host),
        )
        self._names.check(at, decl, guest)
        return guest

    def _check(self, at: At[str], decl: GuestDecl) -> None:
        if decl.image is None and "image" not in decl.bad:
            for key, given in (
                ("memory", decl.memory),
                ("uuid", decl.uuid),
                ("autostart", decl.autostart if decl.autostart.value else None),
            ):
                if given:
                    self._report.add(given.where, f"{key} is for guests with an image; '{at.value}' is your own domain")
        cards.check(decl, self._report)
        names: set[str] = set()
        for port in decl.ports:
            self._check_port(decl, port)
            name = port.name or port.network
            if name.value in names:
                message = f"guest '{at.value}' has two ports named '{name.value}'; give one of them another name:"
                self._report.add(name.where, message)
            names.add(name.value)

    def _check_port(self, guest: GuestDecl, decl: PortDecl) -> None:
        network = decl.network
        if network.value not in self._scope.networks:
            self._report.unknown(network.where, "network", network.value, self._scope.networks)
        seg = self._segments.get(network.value)
        if seg and isinstance(decl.addresses, Word) and (problem := _cannot_ask(guest, seg)):
            self._report.add(decl.addresses.at, problem)
            return
        if seg and seg.network.take_over and guest.image is None and decl.tap is not None:
            message = (
                f"a NIC on network '{network.value}', which is taken over, keeps the tap that its domain's XML names"
            )
            self._report.add(decl.tap.where, f"{message}: leave it out")
        if seg and seg.network.routed:
            host_routed.check_port(decl, self._report)
        elif seg and seg.network.external:
            external.check_port(guest, decl, seg.network, self._report)
            return
        elif seg is None or seg.network.mode is not Mode.BRIDGE or value(guest.image) is not Image.TINY:
            return
        if seg.derives:
            return
        if decl.addresses is None and "addresses" not in decl.bad and seg.prefixes:
            subnets = ", ".join(map(str, seg.prefixes))
            none = "" if seg.network.routed else ", or addresses: []"
            message = f"a port on {seg.network.mode} network '{network.value}' needs addresses from {subnets}{none}"
            self._report.add(network.where, message)

    def _default_port(self, decl: GuestDecl) -> int | None:
        chosen = [i for i, port in enumerate(decl.ports) if value(port.default_route)]
        for index in chosen:
            self._check_default(decl, decl.ports[index], first=index == chosen[0])
        if chosen:
            return chosen[0]
        free = [i for i, port in enumerate(decl.ports) if port.default_route is None]
        return next((i for i in free if self._has_gateway(decl, decl.ports[i])), None)

    def _check_default(self, guest: GuestDecl, port: PortDecl, *, first: bool) -> None:
        seg = self._segments.get(port.network.value)
        where = port.default_route.where if port.default_route else port.at
        if not first:
            self._report.add(where, "a guest has one default-route; another port has it already")
        elif seg and seg.network.gateway is None:
            self._report.add(where, f"default-route: network '{seg.network.name}' has no gateway")
        elif seg and not self._has_gateway(guest, port):
            self._report.add(where, f"default-route: the guest is itself the gateway of '{seg.network.name}'")

    def _has_gateway(self, decl: GuestDecl, port: PortDecl) -> bool:
        seg = self._segments.get(port.network.value)
        gateway = seg.network.gateway if seg else None
        return gateway == HOST or (gateway is not None and self._scope.guests.get(gateway) is not decl)

    def _port(self, guest: str, decl: GuestDecl, index: int, default_route: bool) -> Port:
        given = decl.ports[index]
        name = (given.name or given.network).value
        seg = self._segments.get(given.network.value)
        mac = value(given.mac) or addressing.mac(self._scope.topology, guest, name)
        routed, onlink = routers.sources(self._scope, self._segments, guest, decl, given)
        port = Port(
            name=name,
            network=given.network.value,
            kind=_kind(given, seg),
            mac=mac,
            tap=value(given.tap) or addressing.tap(self._scope.topology, guest, name),
            addresses=self._addresses.of(guest, name, given, mac, seg) if seg else (),
            address_word=_word(given),
            sources=routed,
            onlink=onlink,
            default_route=default_route,
            link_up=value(given.link) is not LinkState.DOWN,
            given=tuple(tag for tag, said in _outright(given) if said),
            isolated=given.isolated.value if given.isolated else bool(seg and seg.network.isolated_ports),
            bandwidth=bandwidth(given.bandwidth, self._report),
            impairment=impairments.impairment(given, self._report),
            guarded=_guarded(given, seg, self._report),
            observed=_observed(given, seg),
            pairs=tuple(_pairs(given)),
            lent=tuple(_lent(given, seg, self._report)),
            roles=values(given.roles),
            privacy_addresses=_privacy(given, True, bool(seg and seg.network.privacy_addresses)),
            strict_addresses=_privacy(given, STRICT, bool(seg and seg.network.strict_addresses)),
            log_drops=_flag(given.log_drops, bool(seg and seg.network.log_drops)),
            vlan=value(given.vlan),
            trunk=vlans.trunk(given),
            native_vlan=value(given.native_vlan),
            hostname=value(given.hostname) or "",
            duid=value(given.duid) or "",
            dhcp_options=dhcp.options(given.dhcp_options, 4, self._report),
            probe=given.probe.value,
            card=cards.card(given),
            note=value(given.note) or "",
            behind=next_hops.behind(given, routed),
            where=given.at,
        )
        port = self._with_forwards(given, port, f"port '{guest}.{name}'", seg)
        if not (seg and seg.network.routed):
            vlans.check_port(given, port, seg, self._report)
        cards.check_mtu(given, seg, self._scope, self._report)
        if seg:
            hostnames.check_port(given, port, seg, self._report)
        self.placed.append(Placed(guest, given, port))
        return port

    def _with_forwards(self, decl: PortDecl, port: Port, title: str, seg: Segment | None) -> Port:
        floating = forwards.floating(decl, port, seg, lambda at: self._addresses.own(at, title), self._report)
        return replace(
            port,
            forwards=forwards.forwards(decl, port, seg, self._report),
            floating=floating.translated,
            untranslated=floating.untranslated,
        )


def _kind(decl: PortDecl, seg: Segment | None) -> PortKind:
    if seg and seg.network.routed:
        return PortKind.ETHERNET
    return PortKind.BRIDGE if seg and seg.network.external and seg.network.external.bridge else decl.kind.value


def _outright(decl: PortDecl) -> tuple[tuple[str, object], ...]:
    """The tags of an <interface> of which a port may say what it wants."""
    return ("mac", decl.mac), ("link", decl.link), ("port", decl.isolated), ("model", decl.model), ("mtu", decl.mtu)


def _guarded(decl: PortDecl, seg: Segment | None, report: Report) -> bool:
    if decl.guarded is None:
        return seg is None or seg.network.guarded
    if decl.guarded.value is not True and seg and seg.network.guard_required:
        report.add(decl.guarded.where, f"network '{seg.network.name}' says guarded: required, and so for all its ports")
    return decl.guarded.value is not False


def _observed(decl: PortDecl, seg: Segment | None) -> bool:
    if decl.guarded is None:
        return seg is not None and seg.network.observed
    return decl.guarded.value == OBSERVE


def _word(decl: PortDecl) -> AddressWord | None:
    if isinstance(decl.addresses, Everything):
        return AddressWord.ANY
    if isinstance(decl.addresses, Word):
        return AddressWord.DHCP
    return AddressWord.NONE if decl.addresses == () else None


def _privacy(decl: PortDecl, word: bool | str, default: bool) -> bool:
    return default if decl.privacy_addresses is None else decl.privacy_addresses.value == word


def _cannot_ask(guest: GuestDecl, seg: Segment) -> str:
    """Why a port cannot leave its address to the host's DHCP server; "" if it can."""
    if seg.network.router:
        return f"addresses: dhcp: router '{seg.network.router}' tells each port a fixed address: leave the key out"
    served = seg.network.external or any(subnet.dhcp or subnet.range6 for subnet in seg.network.subnets)
    if not served and not seg.decl.bad & {"subnets", "dhcp", "dhcp6"}:
        problem = f"addresses: dhcp: the host has no DHCP server on network '{seg.network.name}'"
        if seg.network.mode is Mode.HOST_ROUTED:
            return f"{problem}, as on none of mode host-routed: list the port's addresses"
        if seg.network.mode is Mode.BRIDGE:
            return f"{problem}, as on none of mode bridge: list the port's addresses, or say addresses: any"
        return f"{problem}: give it dhcp: {{}}"
    if guest.image is not None:
        return "addresses: dhcp is for guests of your own: a lab guest is told its addresses, so leave the key out"
    return ""


def _pairs(decl: PortDecl) -> Iterator[AddressPair]:
    for pair in decl.allowed_pairs or ():
        yield from (AddressPair(prefix, value(pair.mac)) for prefix in value(pair.address) or ())


def _lent(decl: PortDecl, seg: Segment | None, report: Report) -> Iterator[str]:
    """The MAC addresses for which no address is listed: each asks the host's DHCP server."""
    for pair in (pair for pair in decl.allowed_pairs or () if pair.address is None and not pair.bad):
        if pair.mac is None:
            report.add(pair.at, "an allowed pair has an address, a mac, or both")
        elif why := _why_not_lent(pair.mac.value, decl, seg):
            report.add(pair.mac.where, f"mac without address: {why}")
        else:
            yield pair.mac.value


def _why_not_lent(mac: str, decl: PortDecl, seg: Segment | None) -> str:
    if mac.startswith(VIRTUAL_ROUTERS):
        return "a virtual router's MAC address, which several ports have, asks for none: list its address"
    if decl.trunk:
        return "a guarded trunk learns no address: list it"
    if seg and not (seg.network.external or any(each.dhcp for each in seg.network.subnets)):
        return f"the host has no DHCP server on network '{seg.network.name}': list its address"
    return ""


def _flag(given: At[bool] | None, default: bool) -> bool:
    return given.value if given else default
