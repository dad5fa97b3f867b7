"""What a domain's ports may send, by the XML on a hook's stdin: pure reading, no effects."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network, summarize_address_range

from libvirt_guestnet import parse
from libvirt_guestnet.datapath.port.dhcp_requests import usual_addresses
from libvirt_guestnet.datapath.port.learning import DhcpServer
from libvirt_guestnet.datapath.port.port_facts import ROLES, PortGuard, Trunk
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.read import savi_prefixes
from libvirt_guestnet.hook.read.domain import Domain, Nic
from libvirt_guestnet.hook.read.hostwide import DECLARED
from libvirt_guestnet.metadata.policy import ANY, NONE, REFUSE, STRICT, PortPolicy, Vlans
from libvirt_guestnet.model.slaac import eui64
from libvirt_guestnet.parse import Address, Prefix, address, prefix
from libvirt_guestnet.state.receipts import NetworkReceipt, PortReceipt

# Up to so many reservations of a network are in each port's receipt. More are in a set that all its ports share.
FEW_RESERVED = 100

# A router's range may be parted by names, and each part gives an address: the router itself counts what it gives.
_RANGES = 3

Leases = tuple[tuple[Address, int], ...]


def port_receipts(domain: Domain, closed: Collection[str] = ()) -> list[PortReceipt]:
    """The guarded ports of a domain, as they must be applied. Raises GuestnetError on anything it cannot guard.

    A NIC's own policy in the domain's metadata counts first; without one, the defaults of a network that has our
    metadata, then this host's default; a NIC with none of these is left alone. A port that is not to be guarded has a
    receipt too, as trusted, if its bridge is among the `closed` ones.
    """
    receipts = (_port_receipt(domain, nic, closed) for nic in domain.nics)
    return [receipt for receipt in receipts if receipt]


def _port_receipt(domain: Domain, nic: Nic, closed: Collection[str]) -> PortReceipt | None:
    if not nic.is_guarded and nic.bridge not in closed:
        return None
    if nic.is_observed and not nic.has_tap:
        return None  # nothing to observe, and no reason to refuse it either
    policy, network = nic.policy, nic.receipt
    bare = _bare(domain, nic)
    if not nic.is_guarded:
        return _trusted(bare, policy)
    bare = bare._replace(observed=nic.is_observed, by_host=nic.default != DECLARED)
    bare = _served(bare, network) if network else bare
    if policy is not None:
        receipt = _with_policy(_by_policy(bare._replace(own=True), policy, network), policy, network)
        return savi_prefixes.with_claims(receipt, network, _choice(policy, network))
    if network is None or bare.by_host:
        return _by_host(bare, nic) if bare.by_host else None
    receipt = _with_defaults(_by_network(bare, network), network)
    return savi_prefixes.with_claims(receipt, network, _choice(None, network))


def _by_host(bare: PortReceipt, nic: Nic) -> PortReceipt:
    """The receipt of a port for which only this host's default asks."""
    from libvirt_guestnet.hook.read import host_default  # most hosts have none, and hooks start often

    network = nic.receipt or host_default.unknown(nic.bridge)
    receipt = _with_defaults(_by_network(bare, network), network)
    return savi_prefixes.with_claims(host_default.opened(receipt, network), network, _choice(None, network))


def _bare(domain: Domain, nic: Nic) -> PortReceipt:
    """The part of a receipt that does not depend on what the port may send."""
    policy, network, vlans = nic.policy, nic.receipt, nic.vlans or Vlans()
    bare = PortReceipt(
        tap=nic.checked_tap(),
        mac=parse.mac(nic.mac),
        domain=domain.name,
        uuid=domain.uuid,
        network=nic.network or (policy.network if policy else ""),
        portid=nic.portid,
        offload=_offload(policy, network),
        segment=_segment(nic, 0 if vlans.tagged else vlans.untagged or (network.vlan if network else 0)),
    )
    bare = _reached(bare, policy) if policy is not None else bare
    if not (vlans.tagged and nic.is_guarded):
        return bare
    return bare._replace(trunk=vlans.tagged, native=vlans.untagged > 0, service=network is not None and network.service)


def _choice(policy: PortPolicy | None, network: NetworkReceipt | None) -> bool:
    """Whether only known IPv6 addresses are allowed (`privacy: strict`), by the port's setting, else the network's."""
    if policy is not None and policy.privacy:
        return policy.privacy == STRICT
    return network is not None and network.strict


def _trusted(bare: PortReceipt, policy: PortPolicy | None) -> PortReceipt:
    """The receipt of a trusted port, which may send anything. No other port can use the addresses in its policy."""
    if policy is None:
        return bare._replace(trusted=True)
    return bare._replace(own=True, trusted=True, owned=_singles(policy.addresses), pairs=_pairs(policy))


def _reached(bare: PortReceipt, policy: PortPolicy) -> PortReceipt:
    """The receipt with the addresses for which the host answers on other links."""
    floating = _singles(each.ip for each in policy.floating)
    if policy.routed is None or not policy.routed.publish:
        return bare._replace(reached=floating)
    return bare._replace(reached=(*floating, *_singles(policy.addresses)), vrf=policy.routed.vrf)


def _offload(policy: PortPolicy | None, network: NetworkReceipt | None) -> str:
    """The setting for checksum offload that counts: a port's own policy cannot undo what its network requires."""
    said = (policy.offload if policy else "", network.offload if network else "")
    return REFUSE if REFUSE in said else ""


def _served(bare: PortReceipt, network: NetworkReceipt) -> PortReceipt:
    """The receipt with what it takes to count the leases of the network's DHCP server, even if addresses are listed."""
    mac = network.dhcp_mac or network.mac
    starts = [address(start) for start, _ in network.dynamic]
    six = [start for start in starts if isinstance(start, IPv6Address)] * (_RANGES if network.dhcp_routers else 1)
    counted = ((4, int(len(starts) > len(six))), (6, usual_addresses(six, bare.mac, mac)))
    served = tuple((version, count) for version, count in counted if count and _serves(network, version))
    return bare._replace(served=served, dhcp_mac=mac, lease=network.lease, lease6=network.lease6)


def _segment(nic: Nic, vlan: int) -> str:
    if nic.receipt is not None and nic.receipt.link:
        return nic.receipt.link
    with suppress(GuestnetError):  # a name that nft cannot have: such a link has no sets
        return segment(parse.device(nic.bridge_of_network), vlan)
    return ""


def segment(bridge: str, vlan: int) -> str:
    """The name of a link: a bridge, or one VLAN of it."""
    return f"{bridge}/{vlan}" if vlan else bridge


def link_of(network: NetworkReceipt) -> str:
    """The name of a network's link, that of its ports without VLANs of their own."""
    return network.link or segment(network.bridge, network.vlan)


def _with_policy(receipt: PortReceipt, policy: PortPolicy, network: NetworkReceipt | None) -> PortReceipt:
    receipt = _lending(receipt, policy, network) if policy.lent else receipt
    defaulted = _with_defaults(receipt, network) if network else receipt
    return defaulted._replace(
        pairs=(*_pairs(policy), *receipt.pairs),
        roles=tuple(role for role in policy.roles if role in ROLES),
        log=defaulted.log if policy.log is None else policy.log,
        privacy=policy.privacy == "yes" if policy.privacy else defaulted.privacy,
    )


def _lending(receipt: PortReceipt, policy: PortPolicy, network: NetworkReceipt | None) -> PortReceipt:
    """The receipt with guests inside it that ask for their addresses: each has what is reserved for it, or else learns
    as a port does. Who has addresses listed for it learns none."""
    listed = {pair.mac for pair in policy.pairs}
    lent = tuple(mac for mac in dict.fromkeys(policy.lent) if mac not in listed)
    if network is None:
        return receipt._replace(lent=lent)
    reserved = tuple((mac, ip) for mac, ip in network.reservations if mac in lent and ":" not in ip)
    receipt = receipt._replace(pairs=reserved, lent=tuple(mac for mac in lent if mac not in dict(reserved)))
    is_told = any(":" not in host for host in receipt.dhcp)
    if not receipt.lent or receipt.trunk or not _learns(network, 4) or is_told:
        return receipt
    learning = _learning(receipt, network, [6, 4] if receipt.dhcp else [4])
    return _without_reserved(learning, network)


def _pairs(policy: PortPolicy) -> tuple[tuple[str, str], ...]:
    return tuple((pair.mac, str(pair.prefix)) for pair in policy.pairs)


def _with_defaults(receipt: PortReceipt, network: NetworkReceipt) -> PortReceipt:
    return receipt._replace(privacy=network.privacy, log=network.log)


def _by_policy(bare: PortReceipt, policy: PortPolicy, network: NetworkReceipt | None) -> PortReceipt:
    receipt = bare._replace(
        owned=_singles(policy.addresses),
        routed=tuple(map(str, policy.sources)),
        excluded=tuple(map(str, policy.onlink)),
    )
    if policy.addressing == ANY:
        return _anything(receipt, network)
    if policy.addressing == NONE:
        return receipt._replace(bare=True)
    if receipt.owned and network is not None:
        return receipt._replace(owned=(*receipt.owned, *_slaac(bare.mac, network, receipt.owned)))
    return receipt if receipt.owned or network is None else _by_network(receipt, network)


def _by_network(bare: PortReceipt, network: NetworkReceipt) -> PortReceipt:
    """The receipt of a port without listed addresses: its reservation, what it may learn from the DHCP server that the
    host knows,
    and what follows from its MAC address. If there is neither, it may ask by DHCP, but not use answers, as they may be
    forged."""
    reserved = tuple(ip for mac, ip in network.reservations if mac == bare.mac)
    versions = [v for v in (4, 6) if not any(prefix(ip).version == v for ip in reserved)]
    learns = [v for v in versions if _learns(network, v)]
    if bare.trunk and learns:
        if not (reserved or bare.observed or bare.by_host):
            raise GuestnetError(
                f"domain {bare.domain!r}: interface {bare.mac}: a guarded trunk learns no address from the DHCP server "
                f"of network {network.name!r}: give its port addresses, or a reservation in the network"
            )
        learns = []
    receipt = _without_reserved(bare, network)._replace(owned=(*reserved, *_slaac(bare.mac, network, reserved)))
    return _learning(receipt, network, learns) if learns else receipt


def _learns(network: NetworkReceipt, version: int) -> bool:
    """Whether answers of the network's DHCP server can be distinguished from forged ones: no guarded port but the
    server's own can send from its MAC address."""
    ranged, mac = next(_dynamic(network, version), ""), network.dhcp_mac or network.mac
    return bool(_serves(network, version) and ranged and network.bridge and (mac or version == 4))


def _serves(network: NetworkReceipt, version: int) -> bool:
    return any(address(host).version == version for host in _servers(network))


def _servers(network: NetworkReceipt) -> tuple[str, ...]:
    """The addresses of who serves DHCP: a virtual router, or else the host."""
    return network.dhcp_hosts or network.hosts


def _learning(receipt: PortReceipt, network: NetworkReceipt, versions: list[int]) -> PortReceipt:
    return receipt._replace(
        dhcp=tuple(host for host in _servers(network) if address(host).version in versions),
        dynamic=tuple(text for version in versions for text in _dynamic(network, version)),
        # The server's own addresses are never learnt, even if it gives them, nor are the host's.
        excluded=(*receipt.excluded, *dict.fromkeys((*network.hosts, *network.dhcp_hosts))),
        bridge=network.bridge,
        dhcp_routers=network.dhcp_routers,
    )


def _anything(bare: PortReceipt, network: NetworkReceipt | None) -> PortReceipt:
    """The receipt of a port with any address, except the host's, reserved ones, and those of other ports."""
    subnets = network.subnets if network and network.subnets else ("0.0.0.0/0", "::/0")
    if network:
        bare = _without_reserved(bare._replace(excluded=(*bare.excluded, *network.hosts)), network)
    return bare._replace(owned=(*bare.owned, *subnets))


def _without_reserved(bare: PortReceipt, network: NetworkReceipt) -> PortReceipt:
    """The receipt without reserved addresses. For `sources` these are excluded one by one, as no set is looked into."""
    if len(network.reservations) > FEW_RESERVED and network.bridge and not bare.routed:
        return bare._replace(reserved=link_of(network))
    return bare._replace(excluded=(*bare.excluded, *(ip for _, ip in network.reservations)))


def _slaac(mac: str, network: NetworkReceipt, owned: Collection[str]) -> Iterator[str]:
    """The addresses that a guest forms from its MAC address, except those that it has and those of others."""
    others = {*network.hosts, *(ip for owner, ip in network.reservations if owner != mac)}
    for subnet in map(prefix, dict.fromkeys([*network.subnets, *network.announced])):
        if isinstance(subnet, IPv6Network) and subnet.prefixlen == 64:
            formed = str(eui64(subnet, mac))
            if formed not in others and f"{formed}/128" not in owned and formed not in owned:
                yield formed


def _dynamic(network: NetworkReceipt, version: int) -> Iterator[str]:
    for start, end in network.dynamic:
        first, last = address(start), address(end)
        if first.version == version:
            yield from map(str, summarize_address_range(first, last))


def guard_of(receipt: PortReceipt, leases: Leases = (), is_new: bool = True) -> PortGuard:
    """The facts for a port's filter, from its receipt. `leases` are the port's in the file of the host's DHCP server.
    With `is_new`, what an earlier port learnt on this tap is forgotten.

    Raises GuestnetError on text that is no address or prefix.
    """
    server = DhcpServer(
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
        observed=receipt.observed,
        lent=receipt.lent,
    )


@lru_cache(8)
def _prefixes(texts: tuple[str, ...]) -> tuple[Prefix, ...]:
    """The texts as prefixes. Cached: there may be thousands, and one call needs them several times."""
    return tuple(map(prefix, texts))


def _singles(addresses: Iterable[Address]) -> tuple[str, ...]:
    """The addresses as prefixes of one address each."""
    return tuple(f"{each}/{each.max_prefixlen}" for each in addresses)
