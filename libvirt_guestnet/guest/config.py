"""What a tiny guest is told about its network, as text it reads from QEMU's fw_cfg. Pure.

One fact per line, words separated by one space; `data/net` and `data/agent` in the guest read it. NICs are called
net0, net1, … in port order, whatever the guest's kernel called them::

    guestnet 1
    hostname b
    hosts 10.61.2.1 b b.vlan2
    nic net0 52:54:00:61:0b:01 1500 up          MTU and link, "-" where the guest decides
    dhcp net0 10.61.1.11/24 10.61.1.1           the address it should get; gateway unless the server names one, or -
    slaac net0 fd61:1::5054:ff:fe61:b01/64 ra   the address it should form; "ra": default route from the router too
    static net1 10.61.2.1/24
    gateway net1 10.61.2.254                    default route
    route net1 10.61.3.0/24 10.61.2.7
    router                                      forward, with the nft ruleset that follows
    nft table inet guestnet {
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.guest.ruleset import ruleset
from libvirt_guestnet.model.network import IPAddress, IPNetwork, Network
from libvirt_guestnet.model.port_address import Assignment, PortAddress
from libvirt_guestnet.model.topology import Guest, Port, Topology

CHANNEL = "org.libvirt-guestnet.agent.0"
"""Name of the virtio-serial channel the agent answers on."""

FWCFG = "opt/org.libvirt-guestnet/config"
"""Name of the fw_cfg entry that carries the configuration."""

CMDLINE = (
    "console=ttyS0 quiet panic=-1 mitigations=off nokaslr nolapic_timer noreplace-smp tsc=reliable cryptomgr.notests"
)
"""Kernel command line. All but the first three words only save start-up time under TCG: 1.4 s become 1.0 s."""

# Ports the echo responder answers on in every guest, so that a check finds something to connect to.
TCP_PORTS = (22, 25, 80, 443)
UDP_PORTS = (53, 69, 123)

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


def guest_config(topology: Topology, guest: Guest) -> str:
    """The text for one guest. Raises GuestnetError for a name or MAC address that would be ambiguous in it."""
    text = "\n".join(_lines(topology, guest)) + "\n"
    # libvirt 9.0 hands these to QEMU garbled: commas not doubled, XML entities not resolved.
    if garbled := set(text) & set(",\"'&<>\\"):
        raise GuestnetError(f"guest {guest.name}: its configuration has {sorted(garbled)}, which fw_cfg does not carry")
    return text


def nic_name(index: int) -> str:
    """What the guest calls the NIC of its port number `index`."""
    return f"net{index}"


def _lines(topology: Topology, guest: Guest) -> Iterator[str]:
    yield "guestnet 1"
    yield f"hostname {_name(guest.hostname or guest.name)}"
    yield from _hosts(guest)
    for index, port in enumerate(guest.ports):
        yield from _nic(topology, nic_name(index), port)
    for index, port in enumerate(guest.ports):
        for prefix, via in routes(topology, guest, port):
            yield f"route {nic_name(index)} {prefix} {via}"
    if guest.router is not None:
        yield "router"
        nics = {port.name: nic_name(index) for index, port in enumerate(guest.ports)}
        yield from (f"nft {line}" for line in ruleset(topology, guest, nics))


def _hosts(guest: Guest) -> Iterator[str]:
    """The guest's own names only: another guest joining the topology must not change this one's domain."""
    seen: set[int] = set()
    for port in guest.ports:
        for address in port.addresses:
            short = "" if address.ip.version in seen else f"{_name(guest.name)} "
            seen.add(address.ip.version)
            yield f"hosts {address.ip} {short}{_name(guest.name)}.{_name(port.name)}"


def _nic(topology: Topology, nic: str, port: Port) -> Iterator[str]:
    network = topology.network(port.network)
    yield f"nic {nic} {_mac(port.mac)} {port.card.mtu or network.mtu or '-'} {'up' if port.link_up else 'down'}"
    for address in port.addresses:
        yield _address(network, nic, port, address)
    for ip in port.untranslated:
        yield f"static {nic} {ip}/{ip.max_prefixlen}"
    for gateway in gateways(network, port):
        assignments = {a.assignment for a in port.addresses if a.ip.version == gateway.version}
        learnt = Assignment.SLAAC if gateway.version == 6 else Assignment.DHCP
        if learnt not in assignments or (gateway.version == 6 and not _is_host(network, gateway)):
            yield f"gateway {nic} {gateway}"


def _address(network: Network, nic: str, port: Port, address: PortAddress) -> str:
    six = address.ip.version == 6 and address.assignment is Assignment.DHCP  # it does not ask by DHCPv6
    text = f"{Assignment.STATIC if six else address.assignment} {nic} {address.ip}/{address.prefix_length}"
    gateway = next((g for g in gateways(network, port) if g.version == address.ip.version), None)
    if address.assignment is Assignment.DHCP and not six:
        return f"{text} {gateway or '-'}"
    if address.assignment is Assignment.SLAAC:
        return f"{text} {'ra' if gateway is not None and _is_host(network, gateway) else '-'}"
    return text


def gateways(network: Network, port: Port) -> list[IPAddress]:
    """The default gateways of a port, one per family at most; none unless the default route leaves there."""
    own = {address.ip for address in port.addresses}
    versions = {address.ip.version for address in port.addresses}
    found: dict[int, IPAddress] = {}
    for subnet in network.subnets if port.default_route else ():
        gateway = subnet.gateway
        if gateway is not None and gateway not in own and gateway.version in versions:
            found.setdefault(gateway.version, gateway)
    return list(found.values())


def _is_host(network: Network, gateway: IPAddress) -> bool:
    return any(subnet.host == gateway for subnet in network.subnets)


def routes(topology: Topology, guest: Guest, port: Port) -> Iterator[tuple[IPNetwork, IPAddress]]:
    """Routes to guest networks behind another guest on this port's network: what a router there lets this network
    reach, and what reaches this network through a router that does not masquerade."""
    near = {p.network for p in guest.ports}
    defaults = set(gateways(topology.network(port.network), port))
    for router, router_port in topology.ports_on(port.network):
        if router.router is None or router.name == guest.name:
            continue
        for far in _behind(topology, router, port.network):
            for subnet in far.subnets if far.name not in near else ():
                via = _address_in(router_port, subnet.prefix.version)
                if via is not None and via not in defaults:
                    yield subnet.prefix, via


def _behind(topology: Topology, router: Guest, network: str) -> list[Network]:
    assert router.router is not None
    names = []
    for allow in router.router.allow:
        if allow.source == network:
            names.append(allow.destination)
        elif allow.destination == network and router.router.masquerade != network:
            names.append(allow.source)
    attached = {port.network for port in router.ports}
    return [n for n in topology.networks if n.name in names and n.name in attached]


def _address_in(port: Port, version: int) -> IPAddress | None:
    """The router's own address of a family: the next hop on the link it shares with the guest."""
    return next((address.ip for address in port.addresses if address.ip.version == version), None)


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise GuestnetError(f"guest configuration: {text!r} cannot be a name; use letters, digits, '-', '_' and '.'")
    return text


def _mac(text: str) -> str:
    if not _MAC.fullmatch(text):
        raise GuestnetError(f"guest configuration: {text!r} is not a MAC address like 52:54:00:00:00:01")
    return text
