"""The prefixes in which a port may claim IPv6 addresses that its guest forms itself: pure reading."""

from __future__ import annotations

from libvirt_guestnet.datapath.port.port_facts import link_local
from libvirt_guestnet.parse import prefix
from libvirt_guestnet.state.receipts import NetworkReceipt, PortReceipt

_LINK_LOCAL = "fe80::/64"
# The prefixes on a LAN, whose routers' announcements are not known: global and unique local unicast.
_ANYWHERE = ("2000::/3", "fc00::/7", _LINK_LOCAL)


def with_claims(receipt: PortReceipt, network: NetworkReceipt | None, strict: bool) -> PortReceipt:
    """A port's receipt with these prefixes. A port without addresses claims none; one with any address need not; and a
    trunk may not, as an address that it claims in one VLAN may be somebody else's in another."""
    opened = any(":" in text and prefix(text).num_addresses > 1 for text in receipt.owned)
    if strict or receipt.bare or opened or receipt.trunk or not receipt.segment:
        return receipt
    # Where this host's default asks, a guest has its link-local address on a network that gives only IPv4, too.
    claims = claimable(network) or (_ANYWHERE if receipt.by_host else ())
    return receipt._replace(claims=claims, unclaimed=tuple(_unclaimed(network)) if network else ())


def claimable(network: NetworkReceipt | None) -> tuple[str, ...]:
    """Those in which guests on it form addresses, or on a LAN that nothing is known of may form them."""
    if network is None or not (network.hosts or _formed(network)):
        return _ANYWHERE
    if _serves(network):
        return (_LINK_LOCAL,)
    formed = _formed(network)
    return (*formed, _LINK_LOCAL) if formed else ()


def _formed(network: NetworkReceipt) -> list[str]:
    return [text for text in dict.fromkeys([*network.subnets, *network.announced]) if text.endswith("/64")]


def _serves(network: NetworkReceipt) -> bool:
    """Whether guests get their addresses by DHCPv6: then no prefix is announced to form addresses in."""
    return any(":" in address for _, address in (*network.dynamic, *network.reservations))


def _unclaimed(network: NetworkReceipt) -> list[str]:
    """The host's addresses, which nobody can claim."""
    own = [str(link_local(network.mac))] if network.mac else []
    return [*(host for host in network.hosts if ":" in host), *own]
