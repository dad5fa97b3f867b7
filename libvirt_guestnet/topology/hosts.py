"""Hosts and what joins them: defaults filled in, and what makes no sense together refused."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator

from libvirt_guestnet.model.host import BRIDGED, Encapsulation, Fabric, FabricKind, Host, Tls
from libvirt_guestnet.model.network import IPAddress

from .host_keys import FabricDecl, HostDecl
from .keys import TopologyDecl
from .report import Report
from .scope import Scope
from .spec import At, value, values

_Named = tuple[At[str], HostDecl]


def hosts(scope: Scope, decl: TopologyDecl, report: Report) -> tuple[Host, ...]:
    """The file's hosts, in its order; none where it is for the one host that reads it."""
    declared = [(name, each) for name, each in decl.hosts or () if each]
    if decl.hosts == ():
        report.add(decl.at, "hosts: names none: list them, or leave the key out for the one host that reads the file")
    _check_alike(declared, report)
    _check_underlays(decl, declared, report)
    for _, each in declared:
        for label, _ in each.labels or ():
            if label.value not in scope.physicals:
                report.unknown(label.where, "physical network", label.value, scope.physicals)
    return tuple(_host(name, each) for name, each in declared)


def _host(name: At[str], decl: HostDecl) -> Host:
    labels = tuple((label.value, device.value) for label, device in decl.labels or () if device)
    chassis = value(decl.chassis) or name.value
    return Host(name.value, decl.uri.value, value(decl.underlay), chassis, labels, name.where)


def _check_alike(declared: list[_Named], report: Report) -> None:
    """Two that are one, by what must tell them apart."""
    chassis = ((name, decl.chassis or name) for name, decl in declared)
    for what, pairs in (
        ("uri", [(name, decl.uri) for name, decl in declared if "uri" not in decl.bad]),
        ("underlay", [(name, decl.underlay) for name, decl in declared if decl.underlay]),
        ("chassis", list(chassis)),
    ):
        for at, first in _again(pairs):
            report.add(at.where, f"{what} {at.value} is that of host '{first}' already")


def _again(pairs: Iterable[tuple[At[str], At[str] | At[IPAddress]]]) -> Iterator[tuple[At[str] | At[IPAddress], str]]:
    """Each value that an earlier host has, with that host."""
    known: dict[Hashable, str] = {}
    for name, at in pairs:
        first = known.setdefault(at.value, name.value)
        if first != name.value:
            yield at, first


def _check_underlays(decl: TopologyDecl, declared: list[_Named], report: Report) -> None:
    needed = decl.fabric is not None and decl.fabric.kind.value is not FabricKind.BRIDGE
    known = [each.underlay for _, each in declared if each.underlay]
    for at in known:
        if why := _no_underlay(at.value, known[0].value):
            report.add(at.where, f"underlay {at.value} {why}")
    for name, each in declared if needed else ():
        if each.underlay is None and "underlay" not in each.bad:
            message = f"host '{name.value}' needs an underlay: the address where the other hosts' tunnels end"
            report.add(name.where, message)


def _no_underlay(address: IPAddress, first: IPAddress) -> str | None:
    if address.is_multicast or address.is_unspecified or address.is_loopback or address.is_link_local:
        return "is no address by which other hosts reach one"
    if address.version != first.version:
        return f"is not of the same family as {first}; tunnels run over one of the two"
    return None


def fabric(decl: TopologyDecl, report: Report) -> Fabric:
    """What joins the hosts."""
    given = decl.fabric
    if given is None:
        return BRIDGED
    if decl.hosts is None and "hosts" not in decl.bad:
        report.add(given.at, "fabric: what joins hosts needs hosts: list them")
    if given.kind.value is FabricKind.OVN:
        _check_ovn(given, report)
    elif "kind" not in given.bad:
        _refuse_ovns(given, report)
    tls = Tls(given.tls.private_key.value, given.tls.certificate.value, given.tls.ca.value) if given.tls else None
    encapsulation = value(given.encapsulation) or Encapsulation.GENEVE
    return Fabric(given.kind.value, values(given.northbound), tls, encapsulation, given.at)


def _check_ovn(given: FabricDecl, report: Report) -> None:
    if not given.northbound and "northbound" not in given.bad:
        report.add(given.at, "fabric of kind ovn needs northbound: the addresses of OVN's northbound database")
    secured = [at for at in given.northbound or () if at.value.startswith("ssl:")]
    if secured and given.tls is None and "tls" not in given.bad:
        report.add(secured[0].where, f"{secured[0].value} needs tls: the key, certificate and ca files")
    if given.tls and given.northbound and not secured:
        report.add(given.tls.at, "tls is for ssl: addresses, and northbound has none")


def _refuse_ovns(given: FabricDecl, report: Report) -> None:
    said = (
        (given.northbound[0].where if given.northbound else None, "northbound"),
        (given.tls.at if given.tls else None, "tls"),
        (given.encapsulation.where if given.encapsulation else None, "encapsulation"),
    )
    for where, name in said:
        if where:
            report.add(where, f"fabric of kind {given.kind.value} has no {name}: that is OVN's")


def check_places(decl: TopologyDecl, report: Report) -> None:
    """Whether the host of each guest and router is one of the file's, and is said where nothing else could tell."""
    for name, guest in decl.guests or ():
        if guest:
            _check_host(decl, guest.host, report)
        if guest and decl.hosts and guest.image is not None and not (guest.host or guest.bad & {"host", "image"}):
            report.add(
                name.where, f"guest '{name.value}' has an image, so guestnet defines its domain: say on which host:"
            )
    logical = decl.fabric is not None and decl.fabric.kind.value is FabricKind.OVN
    for name, router in decl.routers or ():
        if router:
            _check_host(decl, router.host, report)
        if router and decl.hosts and not (logical or router.host or "host" in router.bad):
            report.add(name.where, f"router '{name.value}' is a domain of guestnet's own: say on which host:")


def _check_host(decl: TopologyDecl, host: At[str] | None, report: Report) -> None:
    known = {name.value for name, _ in decl.hosts or ()}
    if host is not None and decl.hosts is None:
        report.add(host.where, "host: the file has no hosts: list them, or leave this out")
    elif host is not None and host.value not in known:
        report.unknown(host.where, "host", host.value, known)
