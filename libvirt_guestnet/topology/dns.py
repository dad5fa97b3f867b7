"""What a network's DNS server answers, and whom it asks."""

from __future__ import annotations

from collections.abc import Iterator

from libvirt_guestnet.model.network import DnsHost, IPAddress
from libvirt_guestnet.model.services import Dns, DnsService, DnsText, Forwarder

from ..errors import Where
from .network_keys import NetworkDecl
from .report import Report
from .service_keys import DnsServiceDecl
from .spec import value, values


def hosts(decl: NetworkDecl) -> tuple[DnsHost, ...]:
    """The names of `dns`, by address."""
    names: dict[IPAddress, list[str]] = {}
    for name, addresses in decl.dns or ():
        for address in addresses or ():
            names.setdefault(address.value, []).append(name.value)
    return tuple(DnsHost(address, tuple(found)) for address, found in names.items())


def dns(decl: NetworkDecl, report: Report) -> Dns:
    """The rest."""
    _check(decl, report)
    return Dns(
        forwarders=tuple(Forwarder(value(f.address), value(f.domain)) for f in decl.dns_forwarders or ()),
        services=tuple(_service(each, report) for each in decl.dns_services or ()),
        texts=tuple(DnsText(each.name.value, each.text.value) for each in decl.dns_texts or ()),
        wildcards=tuple((name.value, ip) for name, ips in decl.dns_wildcards or () for ip in values(ips)),
        local=values(decl.dns_local),
    )


def said(decl: NetworkDecl) -> Iterator[tuple[Where, str]]:
    """Each of these keys that is there, with its place."""
    firsts = (
        ("dns", decl.dns and decl.dns[0][0].where),
        ("domain", decl.domain and decl.domain.where),
        ("domain-local", decl.domain_local and decl.domain_local.where),
        ("dns-forwarders", decl.dns_forwarders and decl.dns_forwarders[0].at),
        ("dns-services", decl.dns_services and decl.dns_services[0].at),
        ("dns-texts", decl.dns_texts and decl.dns_texts[0].at),
        ("dns-wildcards", decl.dns_wildcards and decl.dns_wildcards[0][0].where),
        ("dns-local", decl.dns_local and decl.dns_local[0].where),
    )
    yield from ((where, name) for name, where in firsts if where)


def _service(decl: DnsServiceDecl, report: Report) -> DnsService:
    for name, at in (("port", decl.port), ("priority", decl.priority), ("weight", decl.weight)):
        if at and not decl.target:
            report.add(at.where, f"{name} needs target: the host that serves it")
    return DnsService(
        decl.service.value,
        decl.protocol.value,
        value(decl.domain),
        value(decl.target),
        value(decl.port),
        value(decl.priority),
        value(decl.weight),
    )


def _check(decl: NetworkDecl, report: Report) -> None:
    if decl.domain_local and not decl.domain:
        report.add(decl.domain_local.where, "domain-local is about domain, which is not said")
    if decl.domain_local and decl.domain_local.value is False and decl.domain:
        own = next((at for at in decl.dns_local or () if at.value == decl.domain.value), None)
        if own:
            report.add(own.where, "it is the network's domain, which is not local by domain-local: false")
    for forwarder in decl.dns_forwarders or ():
        if not (forwarder.address or forwarder.domain or forwarder.bad):
            report.add(forwarder.at, "a forwarder has an address, or a domain that whoever the host asks is asked for")
    _check_twice(decl, report)


def _check_twice(decl: NetworkDecl, report: Report) -> None:
    """libvirt tells records apart by this alone when it changes them."""
    keyed: list[tuple[Where, tuple[str | None, ...]]] = [
        (f.at, ("forwarder", str(f.address.value) if f.address else None, value(f.domain)))
        for f in decl.dns_forwarders or ()
    ]
    keyed += [(s.at, ("SRV record", *_identity(s))) for s in decl.dns_services or ()]
    keyed += [(t.at, ("TXT record", t.name.value)) for t in decl.dns_texts or ()]
    keyed += [(at.where, ("local domain", at.value)) for at in decl.dns_local or ()]
    seen = set()
    for where, key in keyed:
        if key in seen:
            report.add(where, f"this {key[0]} is there already: {' '.join(each for each in key[1:] if each)}")
        seen.add(key)


def _identity(decl: DnsServiceDecl) -> tuple[str | None, ...]:
    return decl.service.value, decl.protocol.value, value(decl.domain), value(decl.target)
