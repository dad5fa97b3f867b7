"""What a topology's external networks are on this host, and which NICs of the user's domains its ports on them are, and
on those that it takes over. Pure: the snapshot says it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Network

from libvirt_guestnet import parse
from libvirt_guestnet.datapath.devices.host_devices import Outlet, too_wide
from libvirt_guestnet.errors import GuestnetError, Problem, Where
from libvirt_guestnet.hook.read import network_receipts, nics
from libvirt_guestnet.libvirtd.snapshot import (
    DomainState,
    Element,
    NetworkState,
    Snapshot,
    interfaces,
    source_network,
)
from libvirt_guestnet.metadata import reader
from libvirt_guestnet.metadata.elements import node_of
from libvirt_guestnet.metadata.policy import Added
from libvirt_guestnet.model.network import DhcpRange, External, IPAddress, IPNetwork, Mode, Network, Subnet
from libvirt_guestnet.model.port_address import Assignment, PortAddress
from libvirt_guestnet.model.slaac import eui64
from libvirt_guestnet.model.topology import DIRECT, AddressWord, Guest, Port, Topology
from libvirt_guestnet.parse import shown
from libvirt_guestnet.plan.problems import PlanError
from libvirt_guestnet.state.receipts import NetworkReceipt
from libvirt_guestnet.topology.dhcp import why_unusable
from libvirt_guestnet.topology.next_hops import overlap

_ROUTED = (Mode.NAT, Mode.ROUTE, Mode.OPEN)
_START = Where("", 1, 1)
_ETHERNET = 1500  # the MTU of a bridge of libvirt's that says nothing of it


def resolved(found: Topology, snapshot: Snapshot) -> Topology:
    """The topology with all of that filled in. Raises PlanError with everything that this host has otherwise."""
    if not any(network.external or network.take_over for network in found.networks):
        return found
    host = _Host(found, snapshot)
    networks = tuple(host.network(n, n.external) if n.external else n for n in found.networks)
    by_name = {network.name: network for network in networks}
    guests = tuple(host.guest(guest, by_name) for guest in found.guests)
    if host.problems:
        raise PlanError([str(problem) for problem in sorted(host.problems)])
    return replace(found, networks=networks, guests=guests)


def there(found: Topology, snapshot: Snapshot) -> Topology:
    """The topology of one of several hosts without the external networks that it neither has nor needs."""
    needed = {port.network for guest in found.guests for port in guest.ports}
    known = set(snapshot.network) | set(snapshot.links)
    networks = (n for n in found.networks if n.external is None or n.name in needed or _of_host(n) in known)
    return replace(found, networks=tuple(networks))


def _of_host(network: Network) -> str:
    return (network.external.bridge if network.external else None) or network.name


@dataclass
class _Host:
    """What the host says, and what does not fit it."""

    found: Topology
    snapshot: Snapshot
    problems: list[Problem] = field(default_factory=list)
    facts: dict[str, NetworkReceipt] = field(default_factory=dict)
    foreign: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """By network, reservations that are not guestnet's: MAC and address."""

    def network(self, network: Network, external: External) -> Network:
        where = external.where or _START
        if external.bridge:
            return self._bridge(network, external.bridge, where)
        state = self.snapshot.network.get(network.name)
        if state is None:
            self._add(where, _no_network(network.name, self.snapshot))
            return network
        if why := unfit(state, self.found.name) or self._read(state):
            self._add(where, f"network {shown(network.name)} {why}")
            return network
        return filled(network, state)

    def guest(self, guest: Guest, networks: dict[str, Network]) -> Guest:
        taken = {port.mac for port in guest.ports if "mac" in port.given}
        return replace(
            guest, ports=tuple(self._placed(guest, port, networks[port.network], taken) for port in guest.ports)
        )

    def _placed(self, guest: Guest, port: Port, network: Network, taken: set[str]) -> Port:
        if not (network.external or network.take_over) or network.mode is Mode.EXTERNAL:  # of that one nothing is known
            return port
        place = self._port if network.external else self._named
        found = place(guest, port, network, taken)
        taken.add(found.mac)
        return found

    def _named(self, guest: Guest, port: Port, network: Network, taken: set[str]) -> Port:
        """The port with the MAC address of the NIC that its domain has there, and what addresses follow from that."""
        state = None if guest.image else self.snapshot.domain.get(guest.name)
        if state is None or "mac" in port.given:
            return port
        mac = self._mac(state, port, network, taken)
        formed: dict[IPAddress, IPAddress] = {}
        formed |= {eui64(p, port.mac): eui64(p, mac) for each in network.subnets if (p := _formed_in(each.prefix))}
        addresses = tuple(replace(each, ip=formed.get(each.ip, each.ip)) for each in port.addresses)
        return replace(port, mac=mac, addresses=addresses)

    def _add(self, where: Where | None, message: str) -> None:
        self.problems.append(Problem(where or _START, message))

    def _bridge(self, network: Network, bridge: str, where: Where) -> Network:
        if self.snapshot.links and bridge not in self.snapshot.links:
            self._add(where, f"this host has no bridge {bridge}: make it before, or name another one")
        return replace(network, mode=Mode.BRIDGE, gateway=None)

    def _read(self, state: NetworkState) -> str:
        """Why nothing can be made of what it says; "" if it can."""
        facts, ours = read_facts(state, self.found.name), _added(state)
        if isinstance(facts, str):
            return facts
        mine = set() if isinstance(ours, str) else {(each.mac, str(each.ip)) for each in ours}
        self.facts[state.name] = facts
        # What is only defined counts from the network's next start on.
        reserved = dict.fromkeys([*facts.reservations, *network_receipts.reservations(node_of(state.config))])
        self.foreign[state.name] = [pair for pair in reserved if pair not in mine]
        return ""

    def _port(self, guest: Guest, port: Port, network: Network, taken: set[str]) -> Port:
        state = None if guest.image else self.snapshot.domain.get(guest.name)
        if state is not None and "mac" not in port.given:
            port = replace(port, mac=self._mac(state, port, network, taken))
        port = replace(
            port,
            isolated=port.isolated if "port" in port.given else network.isolated_ports,
            default_route=port.default_route and network.gateway is not None,
            forwards=tuple(replace(each, hide=each.hide or network.gateway is None) for each in port.forwards),
            addresses=tuple(self._addresses(port, network)),
        )
        problems = (*self._unknown(port, network), *self._unreached(port, network), *self._too_wide(port, network))
        for problem in problems:
            self._add(port.where, problem)
        return port

    def _mac(self, state: DomainState, port: Port, network: Network, taken: set[str]) -> str:
        """The MAC address of the one NIC that the port can be: before all the one that it was."""
        here = [mac for mac, nic in _nics(state).items() if is_on(nic, network) and mac not in taken]
        known = [p.mac for p in state.policies if (p.name, p.network) == (port.name, network.name)]
        known = [mac for mac in (*known, port.mac) if mac in here]
        if not known and len(here) > 1:
            message = f"domain {shown(state.name)} has {len(here)} NICs on network {shown(network.name)}"
            self._add(port.where, f"{message}: say with mac: which this is, of {', '.join(here)}")
        return (*known, *here, port.mac)[0]

    def _addresses(self, port: Port, network: Network) -> Iterator[PortAddress]:
        told = False
        for ip in (address.ip for address in port.addresses):
            subnet = next((each for each in network.subnets if ip in each.prefix), None)
            if problem := self._misplaced(ip, port, network, subnet):
                self._add(port.where, problem)
            by_dhcp = subnet is not None and subnet.dhcp is not None and ip.version == 4 and not told
            told = told or by_dhcp
            length = subnet.prefix.prefixlen if subnet else ip.max_prefixlen
            yield PortAddress(ip, length, Assignment.DHCP if by_dhcp else Assignment.STATIC)

    def _misplaced(self, ip: IPAddress, port: Port, network: Network, subnet: Subnet | None) -> str:
        name = shown(network.name)
        if subnet is None:
            here = ", ".join(str(each.prefix) for each in network.subnets)
            return f"{ip} is outside the subnets of network {name} ({here})" if here else ""
        if ip == subnet.host:
            return f"{ip} is the host's own address on network {name}"
        if why := why_unusable(subnet.prefix, ip):
            return why
        for mac, reserved in self.foreign.get(network.name, ()):
            if reserved == str(ip) and mac != port.mac:
                return f"network {name} reserves {ip} for {mac or 'another guest'}: choose another address"
            if mac == port.mac and subnet.dhcp and parse.address(reserved) in subnet.prefix and reserved != str(ip):
                return f"network {name} reserves {reserved} for {mac}: give the port that address, or leave it out"
        return ""

    def _unknown(self, port: Port, network: Network) -> Iterator[str]:
        """A guest that runs would be cut off; while it is only observed, it is not."""
        facts = self.facts.get(network.name)
        served = facts is not None and any(mac == port.mac for mac, _ in facts.reservations)
        served = served or any(subnet.dhcp for subnet in network.subnets)
        listed = port.addresses or port.pairs or port.sources
        if (
            port.guarded
            and not port.observed
            and not listed
            and port.address_word in (None, AddressWord.DHCP)
            and not served
        ):
            yield (
                f"this host has no DHCP server on network {shown(network.name)}, so nobody knows the port's addresses: "
                f"list them, or say addresses: any"
            )

    def _unreached(self, port: Port, network: Network) -> Iterator[str]:
        if port.forwards and not any(subnet.host for subnet in network.subnets):
            yield f"the host has no address on network {shown(network.name)}, so it cannot forward there"
        if problem := self._unrouted(port, network):
            yield f"next-hop: {problem}"
        if port.floating and network.mode not in _ROUTED:
            yield f"network {shown(network.name)} is {network.mode}: floating addresses are for nat, route and open"

    def _too_wide(self, port: Port, network: Network) -> Iterator[str]:
        """What is larger would vanish in the network's bridge, or on the way out of it."""
        size = port.card.mtu
        if network.mode is not Mode.BRIDGE and size > (carried := network.mtu or _ETHERNET):
            yield f"its MTU is {size}, and network {shown(network.name)} carries {carried}: say mtu: {carried}"
        for device, link in self.snapshot.links.items() if network.mode is Mode.BRIDGE and size else ():
            if link.is_outside and link.master == network.bridge and 0 < link.mtu < size:
                yield too_wide(size, Outlet(device, link.mtu), network.bridge)

    def _unrouted(self, port: Port, network: Network) -> str:
        """Why the host cannot route to what is behind a port; "" if it can."""
        facts, name = self.facts.get(network.name), shown(network.name)
        if not port.behind or facts is None:
            return ""
        if not any(subnet.host for subnet in network.subnets):
            return f"the host has no address on network {name}, so it routes nothing there"
        if network.mode is Mode.ROUTE and not facts.outside:
            return f"network {name} names no device that its traffic leaves through (<forward dev=…>)"
        return next((why for each in port.behind if (why := _not_behind(each, port, network, facts))), "")


def _formed_in(prefix: IPNetwork) -> IPv6Network | None:
    return prefix if isinstance(prefix, IPv6Network) and prefix.prefixlen == 64 else None


def _not_behind(prefix: IPNetwork, port: Port, network: Network, facts: NetworkReceipt) -> str:
    name, version = shown(network.name), prefix.version
    if network.mode is Mode.NAT and version not in facts.translates:
        return f"network {name} does not translate IPv{version}, so {prefix} would have no way outside"
    if not any(address.ip.version == version for address in port.addresses):
        return f"the port has no IPv{version} address that {prefix} could be routed to"
    near = (subnet.prefix for subnet in network.subnets if subnet.prefix.version == version)
    taken = next((each for each in near if overlap(each, prefix)), None)
    return f"{prefix} cannot be behind the guest: network {name} has {taken}" if taken else ""


def is_on(nic: Element, network: Network) -> bool:
    """Whether a domain's NIC is on an external network."""
    source = nic.find("source")
    if network.external and network.external.bridge:
        return nic.get("type") == "bridge" and source is not None and source.get("bridge") == network.external.bridge
    return source_network(nic) == network.name


def _nics(state: DomainState) -> dict[str, Element]:
    return {**interfaces(state.live), **interfaces(state.config)}


def _no_network(name: str, snapshot: Snapshot) -> str:
    known = ", ".join(shown(each.name) for each in snapshot.networks[:12]) or "none"
    return f"libvirt has no network {shown(name)}, which is said to be external: it has {known}"


def unfit(state: NetworkState, topology: str) -> str:
    """Why that topology cannot adopt a network, without the name before; "" if it can, by all but what `read_facts`
    says."""
    if state.topology not in (None, topology) and not (state.topology == DIRECT and state.is_external):
        whose = "is adopted by" if state.is_external else "is of"
        return f"{whose} topology {shown(state.topology)}: put both into one file, or destroy that first"
    if state.topology is not None and not state.is_external:
        return "was made by guestnet for this topology, so it is not external: say what it is"
    if not state.persistent:
        return "is transient, and would lose what guestnet says of it: define it (virsh net-define)"
    return ""


def read_facts(state: NetworkState, topology: str) -> NetworkReceipt | str:
    """What the hooks would know of the network once the topology has adopted it; or why nothing can be made of what it
    says, without the name before."""
    node, ours = node_of(state.current), _added(state)
    if isinstance(ours, str):
        return ours
    if (kind := nics.of_network(node)).guarded != nics.YES:
        return f"gives NICs that nobody can guard: {nics.because(kind)}"
    try:
        return network_receipts.external_receipt(NetworkReceipt(state.name, topology, True, ""), node)
    except GuestnetError as error:
        return f"cannot be read: {error}"


def _added(state: NetworkState) -> tuple[Added, ...] | str:
    """What of the network is ours, or what is wrong with our metadata there."""
    if state.mark is None:
        return ()
    try:
        read = reader.read_network(node_of(state.mark))
    except GuestnetError as error:
        return _damaged(str(error))
    return read.added if read.topology else _damaged("it names no topology")


def _damaged(why: str) -> str:
    return (
        f"has metadata of guestnet's that cannot be read, somebody changed it ({why}): take the element "
        f"guestnet:network out with virsh net-edit"
    )


def filled(network: Network, state: NetworkState) -> Network:
    """An external network with what its host says that it is."""
    xml = state.current
    forward, port = xml.find("forward"), xml.find("port")
    mode = Mode.ISOLATED if forward is None else Mode(forward.get("mode", "nat"))
    size = xml.find("mtu")
    return replace(
        network,
        mode=mode,
        bridge=state.bridge or "",
        gateway=network.gateway if mode in _ROUTED else None,
        subnets=tuple(_subnet(ip, mode) for ip in xml.iterfind("ip") if ip.get("address")),
        mtu=None if size is None or mode is Mode.BRIDGE else int(size.get("size", "0")) or None,
        isolated_ports=port is not None and port.get("isolated") == "yes",
    )


def _subnet(ip: Element, mode: Mode) -> Subnet:
    node = node_of(ip)
    host = parse.address(node.get("address"))
    prefix = parse.prefix(network_receipts.subnet_of(node))
    return Subnet(prefix, host if mode in _ROUTED else None, host, _range(ip) if host.version == 4 else None)


def _range(ip: Element) -> DhcpRange | None:
    """The first range; one with reservations alone serves these."""
    for pool in ip.iterfind("dhcp/range"):
        return DhcpRange(_ipv4(pool.get("start", "")), _ipv4(pool.get("end", "")))
    for host in ip.iterfind("dhcp/host"):
        if host.get("ip"):
            return DhcpRange(_ipv4(host.get("ip", "")), _ipv4(host.get("ip", "")))
    return None


def _ipv4(text: str) -> IPv4Address:
    found = parse.address(text)
    if not isinstance(found, IPv4Address):
        raise parse.TextError(f"{shown(text)} is no IPv4 address")
    return found
