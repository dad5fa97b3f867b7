"""What a topology says that a virtual router is to do, in the topology's words: networks and guests by their names.

`router.config` makes a `model.router.RouterConfig` of it, in the appliance's words.
"""

from __future__ import annotations

from dataclasses import dataclass

from libvirt_guestnet.model.balancing import Balancer
from libvirt_guestnet.model.network import IPAddress
from libvirt_guestnet.model.port_address import PortAddress
from libvirt_guestnet.model.services import Forwarder
from libvirt_guestnet.model.traffic import Rule, Verdict


@dataclass(frozen=True)
class Tier:
    """A guest network of the router, whose gateway it is: DHCP, DNS and names are what the network says. `egress` is
    what becomes of connections to the public side, but for `exceptions`, for which the opposite is done. `source_nat`
    are public addresses, at most one of a family, that its guests go out with."""

    network: str
    egress: Verdict
    exceptions: tuple[Rule, ...] = ()
    source_nat: tuple[IPAddress, ...] = ()


@dataclass(frozen=True)
class PublicLink:
    """A network on the router's public side, with the default gateway of each family there."""

    network: str
    gateways: tuple[IPAddress, ...] = ()


@dataclass(frozen=True)
class TierAllow:
    """New connections that guests of one tier may open towards another one, both by their networks' names."""

    source: str
    destination: str
    rule: Rule


@dataclass(frozen=True)
class PairLink:
    """A network to guests or to the public side: the MAC address and the addresses that the router of a pair has there
    that serves."""

    network: str
    mac: str
    addresses: tuple[PortAddress, ...]


@dataclass(frozen=True)
class RouterPair:
    """One of two routers that stand in for each other, by the name that the file has for both: number 0 or 1."""

    router: str
    number: int
    links: tuple[PairLink, ...]

    def link(self, network: str) -> PairLink | None:
        """None for a network that is each router's own."""
        return next((each for each in self.links if each.network == network), None)


@dataclass(frozen=True)
class VirtualRouter:
    """What a virtual router does. Its NICs are its guest's ports, in this order: the first tier's, the control NIC,
    those of `public`, those of all other tiers. Port forwards and 1:1 addresses are the `forwards` and `floating`
    of its tiers' ports, where they are at addresses of its public networks. One of a `pair` has a last NIC, towards the
    other one."""

    tiers: tuple[Tier, ...]
    public: tuple[PublicLink, ...]
    allow: tuple[TierAllow, ...] = ()
    ingress: tuple[Rule, ...] = ()
    forwarders: tuple[Forwarder, ...] = ()
    balancers: tuple[Balancer, ...] = ()
    pair: RouterPair | None = None
