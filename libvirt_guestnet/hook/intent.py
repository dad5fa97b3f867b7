"""What a domain's ports may send, by the XML on a hook's stdin: pure reading, no effects."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from ipaddress import IPv6Network, summarize_address_range

from libvirt_guestnet.datapath.filters import PortGuard, Trunk
from libvirt_guestnet.datapath.learning import Address, Server
from libvirt_guestnet.datapath.names import check_mac
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.intent_vlan import vlans
from libvirt_guestnet.hook.values import DOMAIN_PORT, NetworkOf, address, attribute, prefix, tap_of
from libvirt_guestnet.hook.xmlread import Node
from libvirt_guestnet.metadata import NAMESPACE
from libvirt_guestnet.slaac import eui64
from libvirt_guestnet.state import NetworkReceipt, PortReceipt

Leases = tuple[tuple[Address, int], ...]


def port_receipts(domain: Node, network_of: NetworkOf, closed: Collection[str] = ()) -> list[PortReceipt]:
    """The guarded ports of a <domain>, as they must be applied. Raises GuestnetError on anything it cannot guard.

    A NIC's own policy in the domain's metadata wins; without one the defaults of a network that carries our metadata
    apply; a NIC with neither is none of our business. One that is not to be guarded has a receipt too, as trusted,
    where its bridge is among the `closed`.
    """
    policies = {p.get("mac").lower(): p for p in domain.all(DOMAIN_PORT, "|")}
    receipts = (_port_receipt(domain, nic, policies, network_of, closed) for nic in domain.all("devices/interface"))
    return [receipt for receipt in receipts if receipt]


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
    pvid, tagged = vlans(nic, policy) or (0, ())
    if tagged:
        bare = bare._replace(trunk=tagged, native=pvid > 0, service=network is not None and network.service)
    if policy is not None:
        return _with_policy(_by_policy(bare._replace(own=True), policy, network), policy, network)
    return _with_defaults(_by_network(bare, network), network) if network else None


def _with_policy(receipt: PortReceipt, policy: Node, network: NetworkReceipt | None) -> PortReceipt:
    defaulted = _with_defaults(receipt, network) if network else receipt
    pairs = ((p.get("mac").lower(), str(prefix(p.get("prefix")))) for p in policy.all(f"{NAMESPACE} pair", "|"))
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
    asked = [v for v in (4, 6) if not any(prefix(ip).version == v for ip in reserved)]
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
    for subnet in map(prefix, network.subnets):
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
        addresses=tuple(map(prefix, receipt.dhcp)),
        dynamic=tuple(map(prefix, receipt.dynamic)),
        seconds=((4, receipt.lease), (6, receipt.lease6)),
        leases=leases,
        is_new=is_new,
    )
    return PortGuard(
        tap=receipt.tap,
        mac=receipt.mac,
        owned=tuple(map(prefix, receipt.owned)),
        routed=tuple(map(prefix, receipt.routed)),
        excluded=tuple(map(prefix, receipt.excluded)),
        pairs=tuple((mac, prefix(text)) for mac, text in receipt.pairs),
        roles=receipt.roles,
        server=server if receipt.dhcp else None,
        log=receipt.log,
        trunk=Trunk(list(receipt.trunk), receipt.service, receipt.native) if receipt.trunk else None,
    )


def _texts(node: Node, child: str, attribute: str) -> Iterator[str]:
    for element in node.all(f"{NAMESPACE} {child}", "|"):
        yield str(prefix(element.get(attribute)))
