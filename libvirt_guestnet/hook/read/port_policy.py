"""What a domain's ports may send, by the XML on a hook's stdin: pure reading, no effects."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network, summarize_address_range

from libvirt_guestnet import parse
from libvirt_guestnet.datapath.port.dhcp_requests import usual_addresses
from libvirt_guestnet.datapath.port.learning import Server
from libvirt_guestnet.datapath.port.port_facts import ROLES, PortGuard, Trunk
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.read import savi_prefixes, values
from libvirt_guestnet.hook.read.values import NetworkOf, attribute, tap_of
from libvirt_guestnet.hook.read.vlan_membership import vlans
from libvirt_guestnet.hook.read.xmlread import Node
from libvirt_guestnet.model.metadata import NAMESPACE, STRICT
from libvirt_guestnet.model.slaac import eui64
from libvirt_guestnet.parse import Address, Prefix, address, prefix
from libvirt_guestnet.state.receipts import NetworkReceipt, PortReceipt

# So many reservations are told to each port of a network; what is more, once to all.
FEW_RESERVED = 100
REFUSE = "refuse"  # the one word of `offload`

Leases = tuple[tuple[Address, int], ...]


def port_receipts(domain: Node, network_of: NetworkOf, closed: Collection[str] = ()) -> list[PortReceipt]:
    """The guarded ports of a <domain>, as they must be applied. Raises GuestnetError on anything it cannot guard.

    A NIC's own policy in the domain's metadata wins; without one the defaults of a network that carries our metadata
    apply; a NIC with neither is none of our business. One that is not to be guarded has a receipt too, as trusted,
    where its bridge is among the `closed`.
    """
    policies = values.Policies(domain)
    receipts = (_port_receipt(domain, nic, policies, network_of, closed) for nic in domain.all("devices/interface"))
    return [receipt for receipt in receipts if receipt]


def _port_receipt(
    domain: Node, nic: Node, policies: values.Policies, network_of: NetworkOf, closed: Collection[str]
) -> PortReceipt | None:
    mac = attribute(nic, "mac", "address").lower()
    name = attribute(nic, "source", "network")
    policy, network = policies.of(nic), network_of(name) if name else None
    guarded = is_guarded(policy, network)
    if not guarded and attribute(nic, "source", "bridge") not in closed:
        return None
    bare = PortReceipt(
        tap=tap_of(domain, nic, mac),
        mac=parse.mac(mac),
        domain=domain.text_of("name"),
        uuid=domain.text_of("uuid"),
        network=name or (policy.get("network") if policy else ""),
        portid=attribute(nic, "source", "portid"),
        offload=_offload(policy, network),
    )
    bare = _reached(bare, policy) if policy is not None else bare
    pvid, tagged = vlans(nic, policy) or (0, ())
    bare = bare._replace(segment=_segment(nic, network, 0 if tagged else pvid or (network.vlan if network else 0)))
    if not guarded:
        return _trusted(bare, policy)
    if tagged:
        bare = bare._replace(trunk=tagged, native=pvid > 0, service=network is not None and network.service)
    bare = _served(bare, network) if network else bare
    if policy is not None:
        known = _with_policy(_by_policy(bare._replace(own=True), policy, network), policy, network)
        return savi_prefixes.with_claims(known, network, _choice(policy, network))
    if network is None:
        return None
    return savi_prefixes.with_claims(
        _with_defaults(_by_network(bare, network), network), network, _choice(None, network)
    )


def _choice(policy: Node | None, network: NetworkReceipt | None) -> bool:
    """Whether the guest forms no address itself."""
    said = values.word(policy, "privacy", "yes", "no", STRICT) if policy is not None else ""
    return said == STRICT if said else network is not None and network.strict


def _trusted(bare: PortReceipt, policy: Node | None) -> PortReceipt:
    """It may send anything; what its policy names is nobody else's all the same."""
    if policy is None:
        return bare._replace(trusted=True)
    owned = tuple(_texts(policy, "address", "ip"))
    return bare._replace(own=True, trusted=True, owned=owned, pairs=_pairs(policy))


def _reached(bare: PortReceipt, policy: Node) -> PortReceipt:
    """With the addresses for which the host answers on other links."""
    floating = tuple(_texts(policy, "floating", "ip"))
    routed = policy.one(f"{NAMESPACE} routed", "|")
    if routed is None or routed.get("publish") == "no":
        return bare._replace(reached=floating)
    published = tuple(_texts(policy, "address", "ip"))
    return bare._replace(reached=(*floating, *published), vrf=values.optional_device(routed, "vrf"))


def _offload(policy: Node | None, network: NetworkReceipt | None) -> str:
    """No port's own policy takes back what its network insists on."""
    said = (values.word(policy, "offload", REFUSE) if policy else "", network.offload if network else "")
    return REFUSE if REFUSE in said else ""


def _served(bare: PortReceipt, network: NetworkReceipt) -> PortReceipt:
    """What the host's DHCP server gives the port is counted, also where its addresses are known."""
    starts = [address(start) for start, _ in network.dynamic]
    six = [start for start in starts if isinstance(start, IPv6Address)]
    counted = ((4, int(len(starts) > len(six))), (6, usual_addresses(six, bare.mac, network.mac)))
    served = tuple((version, count) for version, count in counted if count and _serves(network, version))
    return bare._replace(served=served, dhcp_mac=network.mac, lease=network.lease, lease6=network.lease6)


def _segment(nic: Node, network: NetworkReceipt | None, vlan: int) -> str:
    bridge = attribute(nic, "source", "bridge") or (network.bridge if network else "")
    with suppress(GuestnetError):  # no name that could be written: nobody keeps account there
        return segment(parse.device(bridge), vlan)
    return ""


def segment(bridge: str, vlan: int) -> str:
    """What the link of a bridge is called, or a VLAN of it."""
    return f"{bridge}/{vlan}" if vlan else bridge


def _with_policy(receipt: PortReceipt, policy: Node, network: NetworkReceipt | None) -> PortReceipt:
    defaulted = _with_defaults(receipt, network) if network else receipt
    roles = (role.get("name") for role in policy.all(f"{NAMESPACE} role", "|"))
    receipt = defaulted._replace(
        pairs=_pairs(policy),
        roles=tuple(role for role in roles if role in ROLES),
        log=policy.get("log") == "yes" if policy.get("log") else defaulted.log,
    )
    if policy.get("privacy"):
        return receipt._replace(privacy=policy.get("privacy") == "yes")
    return receipt


def _pairs(policy: Node) -> tuple[tuple[str, str], ...]:
    return tuple(map(_pair, policy.all(f"{NAMESPACE} pair", "|")))


def _pair(pair: Node) -> tuple[str, str]:
    return values.mac(pair, "mac") if pair.get("mac") else "", str(values.prefix(pair, "prefix"))


def _with_defaults(receipt: PortReceipt, network: NetworkReceipt) -> PortReceipt:
    return receipt._replace(privacy=network.privacy, log=network.log)


def is_guarded(policy: Node | None, network: NetworkReceipt | None) -> bool:
    """Whether a NIC is to be guarded, by its policy and its network."""
    if network is not None and network.required:
        return True
    if policy is not None:
        return policy.get("guarded") != "no"
    return network is not None and network.guarded


def _by_policy(bare: PortReceipt, policy: Node, network: NetworkReceipt | None) -> PortReceipt:
    receipt = bare._replace(
        owned=tuple(_texts(policy, "address", "ip")),
        routed=tuple(_texts(policy, "source", "prefix")),
        excluded=tuple(_texts(policy, "onlink", "prefix")),
    )
    said = policy.get("addresses")
    if said == "any":
        return _anything(receipt, network)
    if said == "none" and not receipt.owned:
        return receipt._replace(bare=True)
    if said:
        problem = "is neither none nor any" if said != "none" else "contradicts the port's <guestnet:address>"
        raise GuestnetError(f"domain {bare.domain!r}: interface {bare.mac}: metadata: addresses={said!r} {problem}")
    if receipt.owned and network is not None:
        return receipt._replace(owned=(*receipt.owned, *_slaac(bare.mac, network, receipt.owned)))
    return receipt if receipt.owned or network is None else _by_network(receipt, network)


def _by_network(bare: PortReceipt, network: NetworkReceipt) -> PortReceipt:
    """What the network knows of a port: a reservation, what its host's server will tell, what follows from the MAC.

    A port of which nobody knows more than that may ask by DHCP, and use no answer that cannot be believed.
    """
    reserved = tuple(ip for mac, ip in network.reservations if mac == bare.mac)
    asked = [v for v in (4, 6) if not any(prefix(ip).version == v for ip in reserved)]
    learns = [v for v in asked if _learns(network, v)]
    if bare.trunk and learns:
        if not reserved:
            raise GuestnetError(
                f"domain {bare.domain!r}: interface {bare.mac}: a guarded trunk learns no address from the DHCP server "
                f"of network {network.name!r}: give its port addresses, or a reservation in the network"
            )
        learns = []
    known = _without_reserved(bare, network)._replace(owned=(*reserved, *_slaac(bare.mac, network, reserved)))
    return _learning(known, network, learns) if learns else known


def _learns(network: NetworkReceipt, version: int) -> bool:
    """Whether the host's server can be told from others, and so its answers be believed."""
    ranged = next(_dynamic(network, version), "")
    return bool(_serves(network, version) and ranged and network.bridge and (network.mac or version == 4))


def _serves(network: NetworkReceipt, version: int) -> bool:
    return any(address(host).version == version for host in network.hosts)


def _learning(known: PortReceipt, network: NetworkReceipt, versions: list[int]) -> PortReceipt:
    return known._replace(
        dhcp=tuple(host for host in network.hosts if address(host).version in versions),
        dynamic=tuple(text for version in versions for text in _dynamic(network, version)),
        # The host's own addresses are nobody else's, whatever its server says.
        excluded=(*known.excluded, *network.hosts),
        bridge=network.bridge,
    )


def _anything(bare: PortReceipt, network: NetworkReceipt | None) -> PortReceipt:
    """Any address of the network's, or any at all, but never the host's or a reserved one, nor what another holds."""
    subnets = network.subnets if network and network.subnets else ("0.0.0.0/0", "::/0")
    if network:
        bare = _without_reserved(bare._replace(excluded=(*bare.excluded, *network.hosts)), network)
    return bare._replace(owned=(*bare.owned, *subnets))


def _without_reserved(bare: PortReceipt, network: NetworkReceipt) -> PortReceipt:
    """What is reserved is nobody's by chance. Sources are carved out for each port, as no set is looked into there."""
    if len(network.reservations) > FEW_RESERVED and network.bridge and not bare.routed:
        return bare._replace(reserved=segment(network.bridge, network.vlan))
    return bare._replace(excluded=(*bare.excluded, *(ip for _, ip in network.reservations)))


def _slaac(mac: str, network: NetworkReceipt, known: Collection[str]) -> Iterator[str]:
    """What a guest forms without asking, but for what it has and what is somebody's."""
    others = {*network.hosts, *(ip for owner, ip in network.reservations if owner != mac)}
    for subnet in map(prefix, dict.fromkeys([*network.subnets, *network.announced])):
        if isinstance(subnet, IPv6Network) and subnet.prefixlen == 64:
            formed = str(eui64(subnet, mac))
            if formed not in others and f"{formed}/128" not in known and formed not in known:
                yield formed


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
        bridge=receipt.segment or receipt.bridge,
        mac=receipt.dhcp_mac,
        addresses=tuple(map(prefix, receipt.dhcp)),
        dynamic=tuple(map(prefix, receipt.dynamic)),
        seconds=((4, receipt.lease), (6, receipt.lease6)),
        leases=leases,
        is_new=is_new,
        served=receipt.served,
    )
    return PortGuard(
        tap=receipt.tap,
        mac=receipt.mac,
        owned=tuple(map(prefix, receipt.owned)),
        routed=tuple(map(prefix, receipt.routed)),
        excluded=_prefixes(receipt.excluded),
        pairs=tuple((mac, prefix(text)) for mac, text in receipt.pairs),
        roles=receipt.roles,
        server=server if receipt.dhcp or receipt.served else None,
        log=receipt.log,
        trunk=Trunk(list(receipt.trunk), receipt.service, receipt.native) if receipt.trunk else None,
        bare=receipt.bare,
        segment=receipt.segment,
        beside=tuple((link, prefix(text)) for link, text in receipt.beside),
        claims=tuple(map(prefix, receipt.claims)),
        unclaimed=tuple(map(prefix, receipt.unclaimed)),
        by_use=receipt.privacy,
        is_new=is_new,
        reserved=receipt.reserved,
    )


@lru_cache(8)
def _prefixes(texts: tuple[str, ...]) -> tuple[Prefix, ...]:
    """Thousands on a network with as many reservations, and one call asks several times."""
    return tuple(map(prefix, texts))


def _texts(node: Node, child: str, attribute: str) -> Iterator[str]:
    for element in node.all(f"{NAMESPACE} {child}", "|"):
        yield str(values.prefix(element, attribute))
