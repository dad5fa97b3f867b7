"""What a virtual router is told, made of a topology. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address

from libvirt_guestnet.model.held_addresses import single
from libvirt_guestnet.model.hostnames import mapped
from libvirt_guestnet.model.router import (
    ControlNic,
    GuestNic,
    NicAddress,
    PortForward,
    PublicNic,
    RouterConfig,
    StaticNat,
    SyncNic,
    TierRule,
)
from libvirt_guestnet.model.topology import Forward, Guest, Port, Topology
from libvirt_guestnet.model.traffic import Protocol, Rule, Service, Verdict
from libvirt_guestnet.model.virtual_router import PublicLink, Tier
from libvirt_guestnet.router import metadata, tier
from libvirt_guestnet.router.health import Wanted
from libvirt_guestnet.topology.router_pairs import SYNC
from libvirt_guestnet.topology.router_rules import rule_name

_GUEST_CONNECTIONS = 32
"""Of one guest for each MiB of the router's memory: a sixth of what it tracks at all (`router/data/init`)."""


def router_config(topology: Topology, guest: Guest) -> RouterConfig:
    """All that a virtual router of the topology does. Never at odds with `checks` for a topology that was loaded."""
    return _Router(topology, guest).config()


def health_wanted(topology: Topology, guest: Guest) -> dict[str, Wanted]:
    """By guest network, what a healthy router gives there: to the guest that nobody has (`tier.health_port`), if its
    network has IPv4. The target is the gateway that the network's packets leave by, if they are translated."""
    return dict(_Router(topology, guest).health())


class _Router:
    def __init__(self, topology: Topology, guest: Guest) -> None:
        assert guest.virtual_router is not None
        self._topology, self._guest, self._router = topology, guest, guest.virtual_router
        pair = guest.virtual_router.pair
        self._name = mapped(pair.router if pair else guest.name)
        self._ports = {port.network: port for port in guest.ports}
        self._nics = {port.network: f"eth{number}" for number, port in enumerate(guest.ports)}

    def config(self) -> RouterConfig:
        networks = [self._topology.network(each.network) for each in self._router.tiers]
        return RouterConfig(
            name=self._name,
            guests=tuple(map(self._tier, self._router.tiers)),
            control=self._control(),
            public=tuple(map(self._public, self._router.public)),
            forwards=tuple(self._forwards()),
            static_nat=tuple(self._static_nat()),
            ingress=self._router.ingress,
            tier_rules=tuple(
                TierRule(self._nics[each.source], self._nics[each.destination], each.rule)
                for each in self._router.allow
            ),
            forwarders=self._router.forwarders,
            services=tuple(each for network in networks for each in tier.services(network)),
            texts=tuple(each for network in networks for each in network.dns.texts),
            wildcards=tuple(each for network in networks for each in network.dns.wildcards),
            balancers=self._router.balancers,
            guest_connections=_GUEST_CONNECTIONS * self._guest.memory_mib,
            local=tuple(name for network in networks for name in network.dns.local),
            metadata=metadata.of_router(self._topology, self._guest),
            sync=self._sync() if self._router.pair else None,
        )

    def _tier(self, said: Tier) -> GuestNic:
        network, port = self._topology.network(said.network), self._ports[said.network]
        return GuestNic(
            name=self._nics[said.network],
            mac=port.mac,
            addresses=tuple(self._own(port)),
            egress=said.egress,
            exceptions=(*said.exceptions, *self._for_health(said)),
            source_nat=said.source_nat,
            dhcp=tier.dhcp(self._topology, network),
            domain=network.domain or "",
            domain_local=network.domain_local,
            names=network.dns_hosts,
            mtu=network.mtu,
            virtual_mac=self._virtual_mac(port),
        )

    def _control(self) -> ControlNic:
        network = next(net for net in map(self._topology.network, self._ports) if net.control)
        port = self._ports[network.name]
        host = next(subnet.host for subnet in network.subnets if isinstance(subnet.host, IPv4Address))
        return ControlNic(port.mac, next(self._own(port)), host, self._nics[network.name])

    def _sync(self) -> SyncNic:
        port = next(port for port in self._guest.ports if port.name == SYNC)
        own = next(self._own(port))
        peer = next(each for each in (own.prefix[1], own.prefix[2]) if each != own.ip)
        assert isinstance(peer, IPv4Address)
        return SyncNic(self._nics[port.network], port.mac, own, peer)

    def _virtual_mac(self, port: Port) -> str:
        link = self._router.pair.link(port.network) if self._router.pair else None
        return link.mac if link else ""

    def _own(self, port: Port) -> Iterator[NicAddress]:
        """Those of which a prefix of the link follows; the others are only translated (`topology.router_policy`)."""
        link = self._router.pair.link(port.network) if self._router.pair else None
        for each in link.addresses if link else port.addresses:
            if each.prefix_length < each.ip.max_prefixlen:
                yield NicAddress(each.ip, each.prefix_length)

    def _public(self, said: PublicLink) -> PublicNic:
        port, mtu = self._ports[said.network], self._topology.network(said.network).mtu
        own, virtual = tuple(self._own(port)), self._virtual_mac(port)
        return PublicNic(self._nics[said.network], port.mac, own, said.gateways, mtu, virtual)

    # ---- guests' own addresses and ports on the public side

    def _behind(self) -> Iterator[tuple[str, Port]]:
        for each in self._router.tiers:
            for guest, port in self._topology.ports_on(each.network):
                yield f"{guest.name}.{port.name}", port

    def _forwards(self) -> Iterator[PortForward]:
        for title, port in self._behind():
            yield from (_forward(title, each) for each in port.forwards)

    def _static_nat(self) -> Iterator[StaticNat]:
        for title, port in self._behind():
            for public in port.floating:
                if guest := port.address(public.version):
                    yield StaticNat(rule_name((title,), public), public, guest)

    # ---- health

    def health(self) -> Iterator[tuple[str, Wanted]]:
        for said in self._router.tiers:
            network, own = self._topology.network(said.network), list(self._own(self._ports[said.network]))
            health = tier.health_port(self._topology, network)
            gateway = next((a.ip for a in own if health and health.address in a.prefix), None)
            if health and isinstance(gateway, IPv4Address):
                name = f"{self._name}.{network.domain}" if network.domain else self._name
                yield said.network, Wanted(health.mac, health.address, gateway, name, self._target(said))

    def _target(self, said: Tier) -> IPv4Address | None:
        """The gateway of the public network whose address a guest network goes out with."""
        leaves = next((each for each in said.source_nat if each.version == 4), None)
        for link in self._router.public if leaves else ():
            if any(leaves in own.prefix for own in self._own(self._ports[link.network])):
                return next((each for each in link.gateways if isinstance(each, IPv4Address)), None)
        return None

    def _for_health(self, said: Tier) -> Iterator[Rule]:
        """What the host's own try needs where nothing leaves otherwise."""
        health, target = tier.health_port(self._topology, self._topology.network(said.network)), self._target(said)
        if said.egress is Verdict.DENY and health and target:
            echo, source, destination = Service(Protocol.ICMP), single(health.address), single(target)
            yield Rule(tier.HEALTH_NAME, (echo,), (source,), (destination,))


def _forward(title: str, said: Forward) -> PortForward:
    public, guest = said.at, said.address
    assert public is not None and guest is not None  # of one behind a router the file says both
    service = Service(said.protocol, said.first, said.last)
    name = rule_name((title, service), public, service)
    return PortForward(name, public, service, guest, said.to_first, said.sources)
