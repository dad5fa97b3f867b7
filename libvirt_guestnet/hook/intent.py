"""What the XML on a hook's stdin wants: pure reading of libvirt's XML and our metadata, no effects."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network, summarize_address_range
from typing import NamedTuple

from libvirt_guestnet.datapath.filters import PortGuard, Trunk
from libvirt_guestnet.datapath.learning import Address, Server
from libvirt_guestnet.datapath.names import check_device, check_mac
from libvirt_guestnet.datapath.overlay import Overlay
from libvirt_guestnet.datapath.ranges import Prefix
from libvirt_guestnet.datapath.subinterface import Subinterface
from libvirt_guestnet.datapath.vlan import TapVlans
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.xmlread import Node
from libvirt_guestnet.metadata import NAMESPACE
from libvirt_guestnet.slaac import eui64
from libvirt_guestnet.state import NetworkReceipt, PortReceipt

_TAPS = ("network", "bridge", "ethernet")
Leases = tuple[tuple[Address, int], ...]
NetworkOf = Callable[[str], NetworkReceipt | None]


class AwareBridge(NamedTuple):
    """A bridge that must tell VLANs apart; `existing` is false for libvirt's own, which our hook turns on.

    `tag` is the network's access VLAN (0: none), `uplink` the port that leads outside ("": none known).
    """

    bridge: str
    existing: bool
    tag: int
    service: bool
    uplink: str


class Uplink(NamedTuple):
    """Mode bridge: the bridge our hook makes and the NIC it puts behind it."""

    bridge: str
    device: str


def network_receipt(network: Node) -> NetworkReceipt | None:
    """What a <network> element says, or None when it carries nothing of ours. Raises GuestnetError on bad values."""
    ours = network.one(f"metadata|{NAMESPACE} network", "|")
    if ours is None:
        return None
    bridge = network.one("bridge")
    return NetworkReceipt(
        name=network.text_of("name"),
        topology=ours.get("topology"),
        guarded=ours.get("guarded") != "no",
        bridge=bridge.get("name") if bridge else "",
        subnets=tuple(str(_prefix(s.get("prefix"))) for s in ours.all(f"{NAMESPACE} subnet", "|")),
        hosts=tuple(ip.get("address") for ip in network.all("ip")),
        reservations=tuple(_reservations(network)),
        dynamic=tuple((r.get("start"), r.get("end")) for r in network.all("ip/dhcp/range")),
        mac=attribute(network, "mac", "address").lower(),
        lease=_longest_lease(network, 4),
        lease6=_longest_lease(network, 6),
        privacy=ours.get("privacy") == "yes",
        log=ours.get("log") == "yes",
        outside=_outside(network, "route"),
        nat_outside=_outside(network, "nat"),
    )


def _outside(network: Node, mode: str) -> str:
    forward = network.one("forward")
    dev = forward.get("dev") if forward and (forward.get("mode") or "nat") == mode else ""
    return check_device(dev) if dev else ""


_UNITS = {"seconds": 1, "minutes": 60, "hours": 3600}
_DNSMASQ_LEASE = {4: 3600, 6: 86400}
_FOREVER = 10 * 365 * 86400  # <lease expiry='0'/>


def _longest_lease(network: Node, version: int) -> int:
    """Seconds; 0 without a range of that IP version."""
    listed = network.all("ip/dhcp/range")
    return max((_lease(r, version) for r in listed if (":" in r.get("start")) == (version == 6)), default=0)


def _lease(dhcp_range: Node, version: int) -> int:
    """Seconds; libvirt's <lease expiry= unit=> counts minutes unless told otherwise."""
    lease = dhcp_range.one("lease")
    if lease is None or not lease.get("expiry").isdigit():
        return _DNSMASQ_LEASE[version]
    return int(lease.get("expiry")) * _UNITS.get(lease.get("unit") or "minutes", 60) or _FOREVER


def uplink(network: Node) -> Uplink | None:
    """The bridge to make for a network of mode bridge whose label is mapped to a NIC, else None."""
    ours = network.one(f"metadata|{NAMESPACE} network|{NAMESPACE} uplink", "|")
    bridge = network.one("bridge")
    if ours is None or bridge is None or ours.get("vlan"):
        return None
    return Uplink(bridge.get("name"), ours.get("device"))


def subinterface(network: Node) -> Subinterface | None:
    """The bridge and the VLAN of a NIC to make for a network, else None. Raises GuestnetError on bad values."""
    ours = network.one(f"metadata|{NAMESPACE} network|{NAMESPACE} uplink", "|")
    bridge = network.one("bridge")
    if ours is None or bridge is None or not ours.get("vlan"):
        return None
    nic, service = check_device(ours.get("device")), ours.get("service") == "yes"
    return Subinterface(check_device(bridge.get("name")), nic, number(ours, "vlan", 4094), service)


def is_libvirts_bridge(network: Node) -> bool:
    """Whether libvirt makes the network's bridge, and removes it: in every mode but those that use what is there."""
    forward = network.one("forward")
    return network.one("bridge") is not None and (forward is None or forward.get("mode") in _LIBVIRTS_BRIDGE)


_LIBVIRTS_BRIDGE = ("", "nat", "route", "open")


def aware_bridge(network: Node) -> AwareBridge | None:
    """The VLAN-aware bridge of a network, else None. Raises GuestnetError on bad values."""
    ours = network.one(f"metadata|{NAMESPACE} network|{NAMESPACE} vlan", "|")
    bridge = network.one("bridge")
    if ours is None or bridge is None:
        return None
    return AwareBridge(
        bridge=check_device(bridge.get("name")),
        existing=bool(ours.get("label")),
        tag=number(ours, "tag", 4094) if ours.get("tag") else 0,
        service=ours.get("service") == "yes",
        uplink=check_device(ours.get("uplink")) if ours.get("uplink") else "",
    )


def tap_vlans(domain: Node, network_of: NetworkOf) -> list[TapVlans]:
    """The VLANs of a domain's taps: a port's own, libvirt's <vlan>, or those of its network; none for the others.

    Raises GuestnetError on anything that cannot be carried out.
    """
    own = {p.get("mac").lower(): p for p in domain.all(DOMAIN_PORT, "|")}
    found = (_tap_vlans(domain, nic, own, network_of) for nic in domain.all("devices/interface"))
    return [vlans for vlans in found if vlans]


def _tap_vlans(domain: Node, nic: Node, own: dict[str, Node], network_of: NetworkOf) -> TapVlans | None:
    mac, name = attribute(nic, "mac", "address").lower(), attribute(nic, "source", "network")
    network, policy = network_of(name) if name else None, own.get(mac)
    if attribute(nic, "virtualport", "type") == "openvswitch":
        return None  # libvirt itself tells Open vSwitch
    if network is None and (policy is None or policy.one(f"{NAMESPACE} vlan", "|") is None):
        return None  # nothing of ours
    pvid, tagged = _vlans(nic, policy) or (network.vlan if network else 0, ())
    if not (pvid or tagged):
        return None
    return TapVlans(
        tap=tap_of(domain, nic, mac),
        uuid=domain.text_of("uuid"),
        bridge=check_device(attribute(nic, "source", "bridge") or (network.bridge if network else "")),
        uplink=network.vlan_uplink if network else "",
        pvid=pvid,
        tagged=tagged,
    )


_Vlans = tuple[int, tuple[tuple[int, int], ...]]


def _vlans(nic: Node, policy: Node | None) -> _Vlans | None:
    """The VLAN of the NIC's untagged frames (0: none) and its tagged ones, where they are not those of its network."""
    ours, libvirts = policy.one(f"{NAMESPACE} vlan", "|") if policy else None, nic.one("vlan")
    if ours is not None:
        return _own_vlans(ours)
    return _libvirts_vlans(libvirts) if libvirts is not None else None


def _own_vlans(policy: Node) -> _Vlans:
    if policy.get("tag"):
        return number(policy, "tag", 4094), ()
    native = number(policy, "native", 4094) if policy.get("native") else 0
    return native, tuple(map(_range, policy.get("trunk").split(",")))


def _range(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    ends = [int(end) for end in (low, high or low) if end.isascii() and end.isdigit() and len(end) < 5]
    if len(ends) == 2 and 1 <= ends[0] <= ends[1] <= 4094:
        return ends[0], ends[1]
    raise GuestnetError(f"metadata: {text!r} is neither a VLAN nor a range of them")


def _libvirts_vlans(vlan: Node) -> _Vlans:
    """libvirt 11 tags the tap itself, but leaves the uplink, and a default PVID other than 1, as they are."""
    tags = list(vlan.all("tag"))
    trunk = vlan.get("trunk") == "yes" or len(tags) > 1
    native = [tag for tag in tags if not trunk or tag.get("nativeMode")]
    tagged = [tag for tag in tags if trunk and tag.get("nativeMode") != "untagged"]
    ids = [number(tag, "id", 4094) for tag in tagged]
    return (number(native[0], "id", 4094) if native else 0), tuple((vid, vid) for vid in ids)


def overlay(network: Node) -> Overlay | None:
    """The bridge and the VXLAN device to make for a network, else None. Raises GuestnetError on bad values."""
    ours = network.one(f"metadata|{NAMESPACE} network|{NAMESPACE} vxlan", "|")
    bridge = network.one("bridge")
    if ours is None or bridge is None:
        return None
    group = (ours.get("group"),) if ours.get("group") else ()
    ends = (*group, *(remote.get("ip") for remote in ours.all(f"{NAMESPACE} remote", "|")))
    if not ends:
        raise GuestnetError("metadata: <guestnet:vxlan> has neither a group nor remotes")
    return Overlay(
        bridge=check_device(bridge.get("name")),
        underlay=check_device(ours.get("device")),
        vni=number(ours, "vni", (1 << 24) - 1),
        port=number(ours, "port", 65535),
        mtu=number(ours, "mtu", 65535),
        ends=tuple(address(end) for end in ends),
    )


def number(node: Node, attribute: str, highest: int) -> int:
    """The number from 1 on that an attribute is. Raises GuestnetError."""
    text = node.get(attribute)
    if text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= highest:
        return int(text)
    raise GuestnetError(f"metadata: {attribute} {text!r} is not a number from 1 to {highest}")


def address(text: str) -> IPv4Address | IPv6Address:
    """Raises GuestnetError."""
    try:
        return ip_address(text)
    except ValueError as error:
        raise GuestnetError(f"metadata: {error}") from error


def port_receipts(domain: Node, network_of: NetworkOf, closed: Collection[str] = ()) -> list[PortReceipt]:
    """The guarded ports of a <domain>, as they must be applied. Raises GuestnetError on anything it cannot guard.

    A NIC's own policy in the domain's metadata wins; without one the defaults of a network that carries our metadata
    apply; a NIC with neither is none of our business. One that is not to be guarded has a receipt too, as trusted,
    where its bridge is among the `closed`.
    """
    policies = {p.get("mac").lower(): p for p in domain.all(DOMAIN_PORT, "|")}
    receipts = (_port_receipt(domain, nic, policies, network_of, closed) for nic in domain.all("devices/interface"))
    return [receipt for receipt in receipts if receipt]


DOMAIN_PORT = f"metadata|{NAMESPACE} domain|{NAMESPACE} port"


def _port_receipt(
    domain: Node, nic: Node, policies: dict[str, Node], network_of: NetworkOf, closed: Collection[str]
) -> PortReceipt | None:
    mac = attribute(nic, "mac", "address").lower()
    name = attribute(nic, "source", "network")
    policy, network = policies.get(mac), network_of(name) if name else None
    guarded = _guarded(policy, network)
    if not guarded and attribute(nic, "source", "bridge") not in closed:
        return None
    bare = PortReceipt(
        tap=tap_of(domain, nic, mac),
        mac=check_mac(mac),
        domain=domain.text_of("name"),
        uuid=domain.text_of("uuid"),
        network=name or (policy.get("network") if policy else ""),
        portid=attribute(nic, "source", "portid"),
    )
    if not guarded:
        return bare._replace(own=policy is not None, trusted=True)
    pvid, tagged = _vlans(nic, policy) or (0, ())
    if tagged:
        bare = bare._replace(trunk=tagged, native=pvid > 0, service=network is not None and network.service)
    if policy is not None:
        return _with_policy(_by_policy(bare._replace(own=True), policy, network), policy, network)
    return _with_defaults(_by_network(bare, network), network) if network else None


def _with_policy(receipt: PortReceipt, policy: Node, network: NetworkReceipt | None) -> PortReceipt:
    defaulted = _with_defaults(receipt, network) if network else receipt
    pairs = ((p.get("mac").lower(), str(_prefix(p.get("prefix")))) for p in policy.all(f"{NAMESPACE} pair", "|"))
    receipt = defaulted._replace(
        pairs=tuple(pairs),
        roles=tuple(role.get("name") for role in policy.all(f"{NAMESPACE} role", "|")),
        log=policy.get("log") == "yes" if policy.get("log") else defaulted.log,
    )
    if policy.get("privacy"):
        return receipt._replace(privacy=policy.get("privacy") == "yes")
    return receipt


def _with_defaults(receipt: PortReceipt, network: NetworkReceipt) -> PortReceipt:
    return receipt._replace(privacy=network.privacy, log=network.log)


def _guarded(policy: Node | None, network: NetworkReceipt | None) -> bool:
    if policy is not None:
        return policy.get("guarded") != "no"
    return network is not None and network.guarded


def tap_of(domain: Node, nic: Node, mac: str) -> str:
    """The tap behind a NIC. Raises GuestnetError where there is none."""
    where = f"domain {domain.text_of('name')!r}: interface {mac}"
    if nic.get("type") not in _TAPS:
        raise GuestnetError(f"{where}: type {nic.get('type')!r} has no tap to guard; use type 'network' or 'bridge'")
    tap = attribute(nic, "target", "dev")
    if not tap:
        raise GuestnetError(f"{where}: no <target dev> in the live XML, so nothing to guard")
    return tap


def _by_policy(bare: PortReceipt, policy: Node, network: NetworkReceipt | None) -> PortReceipt:
    owned = tuple(_texts(policy, "address", "ip"))
    receipt = bare._replace(
        owned=owned,
        routed=tuple(_texts(policy, "source", "prefix")),
        excluded=tuple(_texts(policy, "onlink", "prefix")),
    )
    if owned or network is None:
        return receipt if owned else _unknown(receipt, network)
    return _by_network(receipt, network)


def _by_network(bare: PortReceipt, network: NetworkReceipt) -> PortReceipt:
    reserved = tuple(ip for mac, ip in network.reservations if mac == bare.mac)
    if not reserved and not network.dynamic:
        return _unknown(bare, network)
    asked = [v for v in (4, 6) if not any(_prefix(ip).version == v for ip in reserved)]
    learns = [v for v in asked if _learns(network, v)]
    if bare.trunk and learns:
        if not reserved:
            raise GuestnetError(
                f"domain {bare.domain!r}: interface {bare.mac}: a guarded trunk learns no address from the DHCP server "
                f"of network {network.name!r}: give its port addresses, or a reservation in the network"
            )
        asked, learns = [], []
    ranges = (text for v in asked if v not in learns for text in _dynamic(network, v))
    known = bare._replace(
        owned=(*reserved, *_slaac(bare.mac, network), *ranges),
        excluded=(*bare.excluded, *(ip for _, ip in network.reservations)),
    )
    return _learning(known, network, learns) if learns else known


def _learns(network: NetworkReceipt, version: int) -> bool:
    """Whether the host's server can be told from others, and so its answers be believed."""
    served = any(address(host).version == version for host in network.hosts)
    ranged = next(_dynamic(network, version), "")
    return bool(served and ranged and network.bridge and (network.mac or version == 4))


def _learning(known: PortReceipt, network: NetworkReceipt, versions: list[int]) -> PortReceipt:
    return known._replace(
        dhcp=tuple(host for host in network.hosts if address(host).version in versions),
        dynamic=tuple(text for version in versions for text in _dynamic(network, version)),
        # The host's own addresses are nobody else's, whatever its server says.
        excluded=(*known.excluded, *network.hosts),
        dhcp_mac=network.mac,
        bridge=network.bridge,
        lease=network.lease,
        lease6=network.lease6,
    )


def _unknown(bare: PortReceipt, network: NetworkReceipt | None) -> PortReceipt:
    """Nobody knows this port's address: any of the network's, or any at all, but never the host's or a reserved one."""
    subnets = network.subnets if network and network.subnets else ("0.0.0.0/0", "::/0")
    taken = (*network.hosts, *(ip for _, ip in network.reservations)) if network else ()
    return bare._replace(owned=(*bare.owned, *subnets), excluded=(*bare.excluded, *taken))


def _slaac(mac: str, network: NetworkReceipt) -> Iterator[str]:
    for subnet in map(_prefix, network.subnets):
        if isinstance(subnet, IPv6Network) and subnet.prefixlen == 64:
            yield str(eui64(subnet, mac))


def _dynamic(network: NetworkReceipt, version: int) -> Iterator[str]:
    for start, end in network.dynamic:
        first, last = address(start), address(end)
        if first.version == version:
            yield from map(str, summarize_address_range(first, last))


def guard_of(receipt: PortReceipt, leases: Leases = (), is_new: bool = True) -> PortGuard:
    """The filter's terms for a receipt; `leases` are what the host's DHCP server says the port has already. A port
    that is new forgets what another learnt on its tap.

    Raises GuestnetError on text that is no address or prefix.
    """
    server = Server(
        bridge=receipt.bridge,
        mac=receipt.dhcp_mac,
        addresses=tuple(map(_prefix, receipt.dhcp)),
        dynamic=tuple(map(_prefix, receipt.dynamic)),
        seconds=((4, receipt.lease), (6, receipt.lease6)),
        leases=leases,
        is_new=is_new,
    )
    return PortGuard(
        tap=receipt.tap,
        mac=receipt.mac,
        owned=tuple(map(_prefix, receipt.owned)),
        routed=tuple(map(_prefix, receipt.routed)),
        excluded=tuple(map(_prefix, receipt.excluded)),
        pairs=tuple((mac, _prefix(prefix)) for mac, prefix in receipt.pairs),
        roles=receipt.roles,
        server=server if receipt.dhcp else None,
        log=receipt.log,
        trunk=Trunk(list(receipt.trunk), receipt.service, receipt.native) if receipt.trunk else None,
    )


def _reservations(network: Node) -> Iterator[tuple[str, str]]:
    """MAC and address of each; "" for one that is only known by a name or a DUID, which anybody can claim."""
    for host in network.all("ip/dhcp/host"):
        if host.get("ip"):
            mac = host.get("mac").lower() or _mac_of(host.get("id"))
            yield mac, str(_prefix(host.get("ip")).network_address)


def _mac_of(duid: str) -> str:
    """The MAC in a DUID that is made of an Ethernet address, alone or with a time (RFC 8415, 11.2 and 11.4)."""
    octets = [pair.zfill(2) for pair in duid.lower().split(":")]
    made_of_mac = {10: ["00", "03", "00", "01"], 14: ["00", "01", "00", "01"]}.get(len(octets))
    return ":".join(octets[-6:]) if octets[:4] == made_of_mac else ""


def _texts(node: Node, child: str, attribute: str) -> Iterator[str]:
    for element in node.all(f"{NAMESPACE} {child}", "|"):
        yield str(_prefix(element.get(attribute)))


def _prefix(text: str) -> Prefix:
    try:
        return ip_network(text)
    except ValueError as error:
        raise GuestnetError(f"metadata or network XML: {error}") from error


def attribute(node: Node, child: str, attribute: str) -> str:
    """An attribute of the first child at a path, "" where there is none."""
    found = node.one(child)
    return found.get(attribute) if found else ""
