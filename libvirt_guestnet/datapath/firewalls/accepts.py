"""What must pass the host's other firewalls so that guests can be reached.

If any table rejects a packet, no other table's accept saves it. So an accept has to be in the table that would reject:
libvirt's, which rejects whatever it does not know behind each nat, route and isolated bridge, or Docker's, with FORWARD
DROP. Each forward chain that may refuse guests' packets gets a jump at its top to one chain of ours, which has exact
accepts and nothing else. No policy is ever changed. For host-routed guests there is a second chain at the end: no rule
rejects them by name, so they only have to pass before what refuses all the rest.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

from libvirt_guestnet.light_typing import NamedTuple

Span = tuple[int, int]


class OriginalDestination(NamedTuple):
    """Where a flow was going before its destination was translated; None stands for any."""

    address: IPv4Network | IPv6Network | None = None
    ports: Span | None = None


class Accept(NamedTuple):
    """Connections that others open to `guest` behind `bridge`, and their packets in both directions.

    `protocol` is "tcp", "udp", "sctp", a number in IP or "" for everything; `ports` are the guest's own, first and last
    (None: all). With `published`, only connections whose destination was translated from there.
    """

    bridge: str
    guest: IPv4Network | IPv6Network
    protocol: str = ""
    ports: Span | None = None
    published: OriginalDestination | None = None


class Passage(NamedTuple):
    """Everything between `guest` behind `bridge` and `far` (None: any address) behind `other`, whoever begins.

    Both devices are named: otherwise the accept would also let packets to and from third networks pass.
    """

    bridge: str
    guest: IPv4Network | IPv6Network
    other: str
    far: IPv4Network | IPv6Network | None = None


class Masqueraded(NamedTuple):
    """What `guest` behind `bridge` begins towards `other` ("": wherever libvirt lets guests of a nat network go), with
    the host as client, and the answers to that."""

    bridge: str
    guest: IPv4Network | IPv6Network
    other: str = ""


class RoutedLink(NamedTuple):
    """Everything to and from `guest` on its own `tap`, whoever begins, unless another rule refuses it before. Packets
    from a tap in a `vrf` have the VRF as their input device; packets to it still have the tap as output device."""

    tap: str
    guest: IPv4Network | IPv6Network
    vrf: str = ""


Wanted = Accept | Passage | Masqueraded | RoutedLink


def span(ports: Span, between: str) -> str:
    """Ports as a rule has them, with what stands between the first and the last."""
    first, last = ports
    return str(first) if first == last else f"{first}{between}{last}"
