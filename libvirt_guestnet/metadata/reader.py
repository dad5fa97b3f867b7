"""Our <metadata> read: what `writer` writes, or somebody by hand. On the hook path.

Everything that a tenant may have written is checked here and nowhere else; all of these raise GuestnetError.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address

from libvirt_guestnet import parse
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.light_typing import TYPE_CHECKING
from libvirt_guestnet.metadata.attributes import (
    address,
    device,
    mac,
    number,
    optional_device,
    prefix,
    prefixes,
    protocol,
    quantity,
    routable,
    span,
    word,
)
from libvirt_guestnet.metadata.policy import (
    ANY,
    LEASE,
    LEASE6,
    NAMESPACE,
    NONE,
    OBSERVE,
    REFUSE,
    REQUIRED,
    STRICT,
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
    Subnet,
    Uplink,
    VlanBridge,
    Vlans,
    Vxlan,
)
from libvirt_guestnet.model import ip_protocols
from libvirt_guestnet.model.claims import MOST_MOVED, MOST_SOURCES
from libvirt_guestnet.parse import Address, Prefix
from libvirt_guestnet.xmlread import Node

if TYPE_CHECKING:
    from libvirt_guestnet.model.impairment import Impairment

# Each may talk to each of other routed networks.
MOST_SUBNETS = 64
_MOST_SECONDS = (1 << 32) - 1
_PRIVACY = ("yes", "no", STRICT)
_LEASES = {LEASE: 4, LEASE6: 6}


class PortError(GuestnetError):
    """What a port's policy says contradicts itself; the message says of which interface."""


def network_mark(network: Node) -> Node | None:
    """<guestnet:network> in a <network>."""
    return network.one(f"metadata|{NAMESPACE} network", "|")


def port_marks(domain: Node) -> list[Node]:
    """Each <guestnet:port> in a <domain>."""
    return list(domain.all(f"metadata|{NAMESPACE} domain|{NAMESPACE} port", "|"))


def read_network(mark: Node) -> NetworkPolicy:
    """<guestnet:network>"""
    subnets = list(_all(mark, "subnet"))
    if len(subnets) > MOST_SUBNETS:
        raise GuestnetError(f"metadata: a network may have {MOST_SUBNETS} subnets at most, not {len(subnets)}")
    return NetworkPolicy(
        topology=mark.get("topology"),
        name=mark.get("name"),
        guarded=word(mark, "guarded", "yes", "no", OBSERVE, REQUIRED) or "yes",
        privacy=word(mark, "privacy", *_PRIVACY),
        log=_said(mark, "log"),
        offload=word(mark, "offload", REFUSE),
        subnets=tuple(map(_subnet, subnets)),
        carrier=_carrier(mark),
        external=word(mark, "external", "yes", "no") == "yes",
        added=tuple(_added(mark)),
        zone=mark.get("zone"),
        dhcp=_dhcp(dhcp) if (dhcp := _one(mark, "dhcp")) is not None else None,
        link=optional_device(mark, "link"),
    )


def _dhcp(dhcp: Node) -> RouterDhcp:
    return RouterDhcp(
        mac=mac(dhcp, "mac"),
        addresses=tuple(_addresses(dhcp, "server")),
        lease=_seconds(dhcp, "lease"),
        lease6=_seconds(dhcp, "lease6"),
        routers=tuple(map(parse.file_name, dhcp.get("routers").split()[:2])),
    )


def _seconds(of: Node, attribute: str) -> int | None:
    return parse.number(of.get(attribute), 0, _MOST_SECONDS) if of.get(attribute) else None


def _added(mark: Node) -> Iterator[Added]:
    for each in _all(mark, "reservation"):
        yield Added(address(each, "ip"), mac(each, "mac"), each.get("name"))
    for each in _all(mark, "dns"):
        yield Added(address(each, "ip"), name=each.get("name"))


def _subnet(subnet: Node) -> Subnet:
    return Subnet(prefix(subnet, "prefix"), address(subnet, "host") if subnet.get("host") else None)


def _carrier(mark: Node) -> Uplink | VlanBridge | Vxlan | None:
    uplink, vlan, vxlan = (_one(mark, tag) for tag in ("uplink", "vlan", "vxlan"))
    if uplink is not None:
        return Uplink(uplink.get("label"), device(uplink, "device"), _vlan(uplink, "vlan"), _yes(uplink, "service"))
    if vlan is not None:
        return VlanBridge(_vlan(vlan, "tag"), _yes(vlan, "service"), vlan.get("label"), optional_device(vlan, "uplink"))
    return _vxlan(vxlan) if vxlan is not None else None


def _vxlan(vxlan: Node) -> Vxlan:
    group = address(vxlan, "group") if vxlan.get("group") else None
    remotes = tuple(_addresses(vxlan, "remote"))
    if not (group or remotes):
        raise GuestnetError("metadata: <guestnet:vxlan> has neither a group nor remotes")
    return Vxlan(
        vni=number(vxlan, "vni", (1 << 24) - 1),
        port=number(vxlan, "port", 65535),
        label=vxlan.get("label"),
        device=device(vxlan, "device"),
        mtu=number(vxlan, "mtu", 65535),
        group=group,
        remotes=remotes,
    )


def read_domain(mark: Node) -> DomainPolicy:
    """<guestnet:domain>"""
    ports = tuple(map(read_port, _all(mark, "port")))
    return DomainPolicy(mark.get("topology"), mark.get("guest"), mark.get("image"), ports)


def read_port(port: Node) -> PortPolicy:
    """<guestnet:port>"""
    addresses, addressing = tuple(_addresses(port, "address")), port.get("addresses")
    if addressing == NONE and addresses:
        raise _refusal(port, f"addresses={addressing!r} contradicts the port's <guestnet:address>")
    if addressing not in ("", NONE, ANY):
        raise _refusal(port, f"addresses={parse.shown(addressing)} is neither {NONE} nor {ANY}")
    return PortPolicy(
        mac=mac(port, "mac"),
        name=port.get("name"),
        network=port.get("network"),
        guarded=port.get("guarded") != "no",
        observed=port.get("guarded") == OBSERVE,
        privacy=word(port, "privacy", *_PRIVACY),
        log=_said(port, "log"),
        offload=word(port, "offload", REFUSE),
        probe=port.get("probe") != "no",
        note=port.get("note"),
        was=port.get("was"),
        addressing=addressing,
        addresses=addresses,
        sources=tuple(_prefixes(port, "source")),
        onlink=tuple(_prefixes(port, "onlink")),
        behind=tuple(map(_behind, _all(port, "behind"))),
        pairs=tuple(map(_pair, _all(port, "pair"))),
        lent=tuple(mac(lent, "mac") for lent in _all(port, "lent")),
        roles=tuple(role.get("name") for role in _all(port, "role")),
        forwards=tuple(map(_forward, _all(port, "forward"))),
        floating=tuple(map(_floating, _all(port, "floating"))),
        vlans=_vlans(vlan) if (vlan := _one(port, "vlan")) else None,
        routed=_routed(routed) if (routed := _one(port, "routed")) else None,
        impairment=_impairment(impaired) if (impaired := _one(port, "impairment")) else None,
    )


def _refusal(port: Node, what: str) -> PortError:
    return PortError(f"interface {parse.mac(port.get('mac'))}: metadata: {what}")


def _behind(behind: Node) -> Prefix:
    if not (found := prefix(behind, "prefix")).prefixlen:
        raise GuestnetError(f"metadata: {found} is behind no guest: the host has a default route of its own")
    return routable(behind, "prefix")


def _pair(pair: Node) -> Pair:
    return Pair(prefix(pair, "prefix"), mac(pair, "mac") if pair.get("mac") else "")


def _forward(forward: Node) -> Forward:
    kind, to = protocol(forward, "protocol"), forward.get("to")
    whole = ip_protocols.is_whole(kind)
    first, last = (0, 0) if whole and not forward.get("ports") else span(forward, "ports", 65535)
    to_first = number(forward, "first", 65535) if forward.get("first") else first
    version = _LEASES.get(to) or address(forward, "to").version
    to = to if to in _LEASES else str(address(forward, "to"))
    at = str(address(forward, "at")) if forward.get("at") else ""
    fits = bool(at) and not to_first if whole else to_first + last - first <= 65535
    # An empty list is refused, too: somebody meant to let fewer in than everybody.
    sources = prefixes(forward, "from", MOST_SOURCES) if "from" in forward.attributes else ()
    crossed = (bool(at) and (6 if ":" in at else 4) != version) or any(each.version != version for each in sources)
    if not fits or crossed or (to_first != first and last - first >= MOST_MOVED):
        raise GuestnetError(
            f"metadata: no forward can be of {ip_protocols.service(kind, first, last)} at {at or 'any'} to {to}"
            + (f" from {', '.join(map(str, sources))}" if sources else "")
        )
    return Forward(kind, first, last, to, to_first, at, _yes(forward, "hide"), sources)


def _floating(floating: Node) -> FloatingAddress:
    ip, kind = address(floating, "ip"), "via" if floating.get("via") else "to"
    end = address(floating, kind)
    if ip.version != end.version:
        raise GuestnetError(f"metadata: floating address {ip} and {end} are not of one family")
    return FloatingAddress(ip, via=end) if kind == "via" else FloatingAddress(ip, to=end)


def _vlans(vlan: Node) -> Vlans:
    if vlan.get("tag"):
        return Vlans(number(vlan, "tag", 4094))
    return Vlans(_vlan(vlan, "native"), tuple(map(_range, vlan.get("trunk").split(","))))


def _range(text: str) -> Span:
    try:
        return parse.span(text, 1, 4094)
    except parse.TextError as error:
        raise GuestnetError(f"metadata: {parse.shown(text)} is neither a VLAN nor a range of them") from error


def _routed(routed: Node) -> HostRouted:
    gateway = address(routed, "gateway")
    if not isinstance(gateway, IPv4Address):
        raise GuestnetError(f"metadata: gateway {str(gateway)!r} is no IPv4 address; for IPv6 it is fe80::1 always")
    return HostRouted(
        gateway=gateway,
        publish=word(routed, "publish", "yes", "no") != "no",
        label=routed.get("label"),
        device=optional_device(routed, "device"),
        table=number(routed, "table", (1 << 32) - 1) if routed.get("table") else 0,
        vrf=optional_device(routed, "vrf"),
    )


def _impairment(impaired: Node) -> Impairment | None:
    from libvirt_guestnet.model.impairment import READERS, Impairment  # few ports have one, and hooks start often

    found = Impairment(**{key: quantity(impaired, key, read) for key, read in READERS.items()})
    key, why = found.contradiction()
    if why:
        raise GuestnetError(f"metadata: <guestnet:impairment> {key}: {why}")
    return found if any(found) else None


def _addresses(node: Node, tag: str) -> Iterator[Address]:
    return (address(each, "ip") for each in _all(node, tag))


def _prefixes(node: Node, tag: str) -> Iterator[Prefix]:
    return (prefix(each, "prefix") for each in _all(node, tag))


def _vlan(node: Node, attribute: str) -> int:
    return number(node, attribute, 4094) if node.get(attribute) else 0


def _yes(node: Node, attribute: str) -> bool:
    return node.get(attribute) == "yes"


def _said(node: Node, attribute: str) -> bool | None:
    return _yes(node, attribute) if node.get(attribute) else None


def _one(node: Node, tag: str) -> Node | None:
    return node.one(f"{NAMESPACE} {tag}", "|")


def _all(node: Node, tag: str) -> Iterator[Node]:
    return node.all(f"{NAMESPACE} {tag}", "|")
