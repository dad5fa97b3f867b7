"""Where a port may claim IPv6 addresses that its guest forms itself, by what its network says: pure reading."""

from __future__ import annotations

from libvirt_guestnet.datapath.port.port_facts import link_local
from libvirt_guestnet.parse import prefix
from libvirt_guestnet.state.receipts import NetworkReceipt, PortReceipt

_LINK_LOCAL = "fe80::/64"
# Where nobody knows what the routers of a LAN announce: global and unique local unicast.
_ANYWHERE = ("2000::/3", "fc00::/7", _LINK_LOCAL)


def with_claims(receipt: PortReceipt, network: NetworkReceipt | None, strict: bool) -> PortReceipt:
    """A port's receipt with that. One that is to have no address claims none; one that may be any needs not; and what a
    trunk claimed in one of its VLANs might be somebody's in the next."""
    opened = any(":" in text and prefix(text).num_addresses > 1 for text in receipt.owned)
    if strict or receipt.bare or opened or receipt.trunk or not receipt.segment:
        return receipt
    return receipt._replace(claims=_claims(network), unclaimed=tuple(_unclaimed(network)) if network else ())


def _claims(network: NetworkReceipt | None) -> tuple[str, ...]:
    if network is None or not (network.hosts or _formed(network)):
        return _ANYWHERE
    if _serves(network):
        return (_LINK_LOCAL,)
    formed = _formed(network)
    return (*formed, _LINK_LOCAL) if formed else ()


def _formed(network: NetworkReceipt) -> list[str]:
    return [text for text in dict.fromkeys([*network.subnets, *network.announced]) if text.endswith("/64")]


def _serves(network: NetworkReceipt) -> bool:
    """Whether guests are told by DHCPv6 which address they have: then nothing is announced to form any of."""
    return any(":" in address for _, address in (*network.dynamic, *network.reservations))


def _unclaimed(network: NetworkReceipt) -> list[str]:
    """What is the host's."""
    own = [str(link_local(network.mac))] if network.mac else []
    return [*(host for host in network.hosts if ":" in host), *own]
