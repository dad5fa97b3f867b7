"""Our <metadata> as elements: what `reader` reads, in the order that xml/metadata.rng wants."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from lxml import etree

from libvirt_guestnet.metadata.policy import (
    NAMESPACE,
    OBSERVE,
    PREFIX,
    Added,
    DomainPolicy,
    FloatingAddress,
    Forward,
    HostRouted,
    NetworkPolicy,
    Pair,
    PortPolicy,
    RouterDhcp,
    Span,
    Uplink,
    VlanBridge,
    Vlans,
    Vxlan,
)

Element: TypeAlias = etree._Element


def network_element(policy: NetworkPolicy) -> Element:
    """<guestnet:network>"""
    return _element(
        "network",
        *(_element("subnet", prefix=subnet.prefix, host=subnet.host) for subnet in policy.subnets),
        *_carrier(policy.carrier),
        *map(_added, policy.added),
        *([_dhcp(policy.dhcp)] if policy.dhcp else []),
        topology=policy.topology,
        name=policy.name,
        guarded=policy.guarded,
        privacy=policy.privacy,
        log=_yes_or_no(policy.log),
        offload=policy.offload,
        external=_yes(policy.external),
        zone=policy.zone,
        link=policy.link,
    )


def _dhcp(dhcp: RouterDhcp) -> Element:
    return _element(
        "dhcp",
        *(_element("server", ip=ip) for ip in dhcp.addresses),
        mac=dhcp.mac,
        routers=" ".join(dhcp.routers),
        lease=None if dhcp.lease is None else str(dhcp.lease),
        lease6=None if dhcp.lease6 is None else str(dhcp.lease6),
    )


def _added(added: Added) -> Element:
    return _element("reservation" if added.mac else "dns", mac=added.mac, ip=added.ip, name=added.name)


def _carrier(carrier: Uplink | VlanBridge | Vxlan | None) -> list[Element]:
    if isinstance(carrier, Uplink):
        service = _yes(carrier.service)
        return [_element("uplink", label=carrier.label, device=carrier.device, vlan=carrier.vlan, service=service)]
    if isinstance(carrier, VlanBridge):
        service = _yes(carrier.service)
        return [_element("vlan", tag=carrier.tag, service=service, label=carrier.label, uplink=carrier.uplink)]
    return [_vxlan(carrier)] if isinstance(carrier, Vxlan) else []


def _vxlan(vxlan: Vxlan) -> Element:
    return _element(
        "vxlan",
        *(_element("remote", ip=remote) for remote in vxlan.remotes),
        vni=vxlan.vni,
        port=vxlan.port,
        label=vxlan.label,
        device=vxlan.device,
        group=vxlan.group,
        mtu=vxlan.mtu,
    )


def domain_element(policy: DomainPolicy) -> Element:
    """<guestnet:domain>"""
    ports = map(_port, policy.ports)
    return _element("domain", *ports, topology=policy.topology, guest=policy.guest, image=policy.image)


def _port(port: PortPolicy) -> Element:
    return _element(
        "port",
        *(_element("address", ip=ip) for ip in port.addresses),
        *_prefixes("source", port.sources),
        *_prefixes("onlink", port.onlink),
        *_prefixes("behind", port.behind),
        *map(_pair, port.pairs),
        *(_element("lent", mac=mac) for mac in port.lent),
        *(_element("role", name=role) for role in port.roles),
        *map(_forward, port.forwards),
        *map(_floating, port.floating),
        *_vlans(port.vlans),
        *_routed(port.routed),
        *([_element("impairment", **port.impairment.words())] if port.impairment else []),
        mac=port.mac,
        name=port.name,
        network=port.network,
        guarded=OBSERVE if port.observed else _yes_or_no(port.guarded),
        addresses=port.addressing,
        privacy=port.privacy,
        log=_yes_or_no(port.log),
        probe=None if port.probe else "no",
        offload=port.offload,
        note=port.note,
        was=port.was,
    )


def _prefixes(tag: str, prefixes: Iterable[object]) -> list[Element]:
    return [_element(tag, prefix=prefix) for prefix in prefixes]


def _pair(pair: Pair) -> Element:
    return _element("pair", prefix=pair.prefix, mac=pair.mac)


def _forward(forward: Forward) -> Element:
    return _element(
        "forward",
        at=forward.at,
        protocol=forward.protocol,
        ports=_span((forward.first, forward.last)) if forward.first else None,
        to=forward.to,
        first=forward.to_first if forward.to_first != forward.first else None,
        hide=_yes(forward.hide),
        **{"from": ",".join(map(str, forward.sources))},
    )


def _floating(floating: FloatingAddress) -> Element:
    return _element("floating", ip=floating.ip, to=floating.to, via=floating.via)


def _vlans(vlans: Vlans | None) -> list[Element]:
    if vlans is None:
        return []
    if not vlans.tagged:
        return [_element("vlan", tag=vlans.untagged)]
    return [_element("vlan", trunk=",".join(map(_span, vlans.tagged)), native=vlans.untagged)]


def _span(span: Span) -> str:
    first, last = span
    return str(first) if first == last else f"{first}-{last}"


def _routed(routed: HostRouted | None) -> list[Element]:
    if routed is None:
        return []
    return [
        _element(
            "routed",
            gateway=routed.gateway,
            publish=_yes_or_no(routed.publish),
            label=routed.label,
            device=routed.device,
            table=routed.table,
            vrf=routed.vrf,
        )
    ]


def _yes(wanted: bool) -> str | None:
    return "yes" if wanted else None


def _yes_or_no(said: bool | None) -> str | None:
    return None if said is None else "yes" if said else "no"


def _element(tag: str, /, *children: Element, **attributes: object) -> Element:
    """What is None, "" or 0 is not said."""
    element = etree.Element(etree.QName(NAMESPACE, tag), nsmap={PREFIX: NAMESPACE})
    for name, value in attributes.items():
        if value not in (None, "", 0):
            element.set(name, str(value))
    element.extend(children)
    return element
