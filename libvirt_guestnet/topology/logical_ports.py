"""What ports on networks of OVN cannot have."""

from __future__ import annotations

from collections.abc import Iterator

from libvirt_guestnet.model.network import Mode, Network
from libvirt_guestnet.model.topology import AddressWord, Forward, PortKind
from libvirt_guestnet.ovn.options import NAMES

from ..errors import Where
from .guest_keys import ForwardDecl
from .scope import Placed
from .spec import Word

MOST_PORTS = 1000
_PROTOCOLS = ("tcp", "udp", "sctp")
_Found = Iterator[tuple[Where, str]]


def problems(placed: Placed, network: Network) -> _Found:
    """A line for each, with its place."""
    decl, port = placed.decl, placed.port
    trunk = "OVN's ports have no VLANs of their own: give the guest a port on each network"
    for given, message in (
        (decl.vlan and decl.vlan.where, trunk),
        (decl.trunk and decl.trunk[0].where, trunk),
        (decl.native_vlan and decl.native_vlan.where, trunk),
        (decl.untranslated and decl.untranslated[0].where, "OVN translates floating addresses: say floating"),
    ):
        if given:
            yield given, message
    if decl.kind.value is not PortKind.NETWORK:
        yield decl.kind.where, "OVN's ports are of kind network: leave kind out"
    if port.address_word is AddressWord.DHCP and isinstance(decl.addresses, Word):
        yield decl.addresses.at, "OVN gives no address of its own choice: leave addresses out, and one is derived"
    for name, _values in decl.dhcp_options or ():
        if name.value not in NAMES[4]:
            yield name.where, f"OVN has no DHCP option {name.value}: it has {', '.join(sorted(NAMES[4]))}"
    if decl.floating and network.mode not in (Mode.NAT, Mode.ROUTE):
        yield decl.floating[0].where, f"a network of mode {network.mode} has no router for floating addresses: say nat"
    for number, forward in enumerate(decl.forwards or ()):
        yield from _forward(forward, network, port.forwards, number)


def _forward(decl: ForwardDecl, network: Network, forwards: tuple[Forward, ...], number: int) -> _Found:
    if network.mode not in (Mode.NAT, Mode.ROUTE):
        yield decl.at, f"a network of mode {network.mode} has no router that could forward: say nat"
    elif number == 0 and any(forward.hide for forward in forwards):
        yield decl.at, "OVN cannot forward to a port that is not its guest's default route by the network's own gateway"
    if decl.sources and network.mode is Mode.ROUTE:
        yield decl.sources[0].where, "OVN forwards on networks of mode route whoever asks: say nat, or leave from out"
    for at in decl.services:
        service = at.value
        if str(service.protocol) not in _PROTOCOLS:
            yield at.where, f"OVN forwards {', '.join(_PROTOCOLS)} only: give the guest a floating address"
    if any(forward.last - forward.first >= MOST_PORTS for forward in forwards) and number == 0:
        yield decl.at, f"OVN needs an entry for each port: {MOST_PORTS} at most in a range; say floating"
