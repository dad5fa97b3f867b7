"""Rows of address translation: what guests go out with, floating addresses, and port forwards. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from libvirt_guestnet.model.network import IPAddress, Mode, Network
from libvirt_guestnet.model.topology import Forward, Guest, Port
from libvirt_guestnet.ovn import names
from libvirt_guestnet.ovn.places import Layout, Place
from libvirt_guestnet.ovn.rows import BALANCER, NAT, Pairs, Ref, Row, pairs, row


def rows(layout: Layout) -> Iterator[Row]:
    """Of every network that leads outside."""
    for place in (each for each in layout.on if each.label):
        for network in layout.on[place]:
            yield from _outward(layout, network, place)
            for guest, port in layout.topology.ports_on(network.name):
                yield from _floating(layout, place, guest, port)
        yield from balancers(layout, place)


def balancers(layout: Layout, place: Place) -> Iterator[Row]:
    """A router's port forwards: a balancer without a choice for each guest's port and protocol."""
    for network in layout.on[place] if place.label else ():
        for guest, port in layout.topology.ports_on(network.name):
            for protocol in dict.fromkeys(forward.protocol for forward in port.forwards):
                yield _balancer(layout, place, guest, port, protocol)


def _outward(layout: Layout, network: Network, place: Place) -> Iterator[Row]:
    if network.mode is not Mode.NAT:
        return
    for prefix in (subnet.prefix for subnet in network.subnets):
        if prefix.version in layout.own[place]:
            outer, _ = layout.own[place][prefix.version]
            key = Ref(NAT, f"{place.name}/{prefix}")
            yield row(key, place.ref, type="snat", external_ip=str(outer), logical_ip=str(prefix))


def _floating(layout: Layout, place: Place, guest: Guest, port: Port) -> Iterator[Row]:
    """On the chassis of its guest where every chassis reaches the physical network, else by the router's gateway."""
    distributed = len(layout.chassis(place.label)) == len(layout.topology.hosts)
    for outer in port.floating:
        inner = port.address(outer.version)
        if inner is None:
            continue
        where: dict[str, tuple[str, ...]] = {}
        if distributed:
            where["logical_port"] = (names.logical_port(layout.topology.name, guest.name, port.name),)
            where["external_mac"] = (names.mac(layout.topology.name, "floating", str(outer)),)
        key = Ref(NAT, f"{place.name}/{outer}")
        addresses = {"external_ip": str(outer), "logical_ip": str(inner)}
        yield row(key, place.ref, type="dnat_and_snat", **addresses, **where)


def _balancer(layout: Layout, place: Place, guest: Guest, port: Port, protocol: str) -> Row:
    found = (forward for forward in port.forwards if forward.protocol == protocol)
    vips = pairs({vip: to for forward in found for vip, to in _vips(layout, place, port, forward)})
    title = f"{guest.name}/{port.name}"
    name = f"{layout.topology.name}/forward/{title}/{protocol}"
    return row(Ref(BALANCER, f"{title}/{protocol}"), name=name, protocol=(str(protocol),), vips=vips)


def _vips(layout: Layout, place: Place, port: Port, forward: Forward) -> Pairs:
    inner = forward.address or port.address(forward.version)
    if inner is None:
        return ()
    own = layout.own[place].get(inner.version)
    outer = [forward.at] if forward.at else ([own[0]] if own else [])
    span = range(forward.last - forward.first + 1)
    return tuple((_at(ip, forward.first + n), _at(inner, forward.to_first + n)) for ip in outer for n in span)


def _at(ip: IPAddress, port: int) -> str:
    return f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"
