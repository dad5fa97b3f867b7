"""The rows that a topology needs in OVN's northbound database. Pure.

A network is a logical switch; those of modes nat and route are on a logical router for each physical network and zone,
which has the address there that the file calls the host's, and leads to the stand-in. An isolated network whose gateway
is the host has a router of its own, which leads nowhere. A network of mode bridge has a localnet port.
"""

from __future__ import annotations

from collections.abc import Iterator

from libvirt_guestnet.model.network import Mode, Network
from libvirt_guestnet.model.topology import Topology
from libvirt_guestnet.ovn import outside, policy, ports, services, translation
from libvirt_guestnet.ovn.places import Layout, place_of
from libvirt_guestnet.ovn.rows import SWITCH, Ref, Row, row


def wanted(topology: Topology) -> tuple[Row, ...]:
    """All of them; none where no network is OVN's."""
    layout = Layout(topology)
    rows = [each for network in layout.networks for each in _network(layout, network)]
    return (*rows, *outside.rows(layout), *translation.rows(layout))


def _network(layout: Layout, network: Network) -> Iterator[Row]:
    topology, switch = layout.topology, Ref(SWITCH, network.name)
    named = list(services.dns(topology, network))
    yield row(switch, name=f"{topology.name}/{network.name}", dns_records=tuple(each.ref for each in named))
    yield from named
    yield from services.dhcp(topology, network)
    yield from ports.rows(topology, network)
    yield from policy.rows(topology, network)
    if network.mode is Mode.BRIDGE:
        yield outside.localnet(topology, network.physical_network or "", switch, network)
    elif (place := place_of(network)) is not None:
        yield from outside.attached(layout, network, place)
