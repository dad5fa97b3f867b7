"""What must pass the host's other firewalls so that guests can be reached.

A reject is final whoever accepted before, so an accept counts only in the table that would reject: libvirt's catch-all
reject behind every nat, route and isolated bridge, Docker's FORWARD DROP. Each forward chain that may refuse something
gets one chain of ours, jumped to from its top, that holds exact accepts and nothing else; no policy is ever changed.
Host-routed guests have a second one at the end: nobody rejects them, so they only need to pass what refuses the rest.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

Span = tuple[int, int]


class OriginalDestination(NamedTuple):
    """Where a flow was going before its destination was translated; None stands for any."""

    address: IPv4Network | IPv6Network | None = None
    ports: Span | None = None


class Accept(NamedTuple):
    """Flows that others open towards `guest` behind `bridge`, with what belongs to them in both directions.

    `protocol` is "tcp", "udp" or "" for everything; `ports` are the guest's own, first and last (None: all). With
    `published` only flows that were translated from there.
    """

    bridge: str
    guest: IPv4Network | IPv6Network
    protocol: str = ""
    ports: Span | None = None
    published: OriginalDestination | None = None


class Passage(NamedTuple):
    """Everything between `guest` behind `bridge` and `far` (None: any address) behind `other`, whoever begins.

    Both ends are exact: an accept that left one open would also lead past the rejects of third networks.
    """

    bridge: str
    guest: IPv4Network | IPv6Network
    other: str
    far: IPv4Network | IPv6Network | None = None


class RoutedLink(NamedTuple):
    """Everything to and from `guest` on a `tap` that only it is on, whoever begins, unless somebody has refused it.
    What comes from a tap in a `vrf` has the VRF as its input device (and its tap still as output device)."""

    tap: str
    guest: IPv4Network | IPv6Network
    vrf: str = ""


Wanted = Accept | Passage | RoutedLink


def span(ports: Span, between: str) -> str:
    """Ports as a rule has them, with what stands between the first and the last."""
    first, last = ports
    return str(first) if first == last else f"{first}{between}{last}"
