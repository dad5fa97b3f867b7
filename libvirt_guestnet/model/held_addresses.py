"""Whether the addresses that a guest requests are in use already. Pure; on the hook path.

Addresses in different VRFs are different. On a bridge, a guest's own address is only compared with the host's if the
host is on that bridge.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from libvirt_guestnet.light_typing import NamedTuple

Address = IPv4Address | IPv6Address
Prefix = IPv4Network | IPv6Network

OWN, NEXT_HOP, SERVER, GUEST, FORWARD = "own", "next hop", "server", "guest", "forward"
"""Kinds of owners: the host, a router that it uses, a DHCP server or resolver that it uses, a running guest by an
address of its own, and one by a forward or a floating address."""


class HeldAddress(NamedTuple):
    """An address in use or, for a guest, also a prefix. `who` completes "is …", `do` says what to do about it; `device`
    is where it is ("": that does not matter)."""

    prefix: Prefix
    kind: str
    who: str
    do: str
    vrf: str = ""
    device: str = ""


class RequestedAddress(NamedTuple):
    """An address that a guest asks for. `what` and `owner` are for messages. `bridge`: it is the guest's own address
    there.

    `forwarded`: the host forwards it to the guest; `part`: only some of its ports. `published`: the host would answer
    for it on a LAN, on the device `uplink` if no other is nearer, and has to `probe` that LAN first.
    """

    prefix: Prefix
    what: str
    owner: str
    vrf: str = ""
    bridge: str = ""
    forwarded: bool = False
    part: bool = False
    published: bool = False
    uplink: str = ""
    probe: bool = True


class Refusal(NamedTuple):
    """Why a guest cannot have something, and what to do."""

    owner: str
    found: str
    do: str

    def __str__(self) -> str:
        return f"{self.owner}: {self.found}: {self.do}"


def single(address: Address) -> Prefix:
    """An address as a prefix."""
    return IPv4Network(address) if isinstance(address, IPv4Address) else IPv6Network(address)


def refusals(
    requested: Iterable[RequestedAddress], held: Iterable[HeldAddress], subnets: Iterable[tuple[Prefix, str]] = ()
) -> Iterator[Refusal]:
    """One for each request that is refused. `subnets` are those that the host is on, each with its VRF."""
    others, on = list(held), list(subnets)
    for each in requested:
        met = next((other for other in others if _meets(each, other, on)), None)
        if met is not None:
            yield refusal(each, met)


def refusal(requested: RequestedAddress, held: HeldAddress) -> Refusal:
    """The message for the two."""
    text = address_of(held.prefix)
    holder = "" if requested.prefix == held.prefix else f", which holds {text},"
    return Refusal(requested.owner, f"{requested.what} {address_of(requested.prefix)}{holder} is {held.who}", held.do)


def address_of(prefix: Prefix) -> str:
    """A prefix as people write it: one address without its length."""
    return str(prefix.network_address if prefix.prefixlen == prefix.max_prefixlen else prefix)


def suspects(requested: Iterable[RequestedAddress], held: Iterable[HeldAddress]) -> list[RequestedAddress]:
    """Guests' own addresses on a bridge that the host routes by. The guest may be that very router: who answers for
    the address while it does not run is another."""
    hops = {(each.prefix, each.device) for each in held if each.kind == NEXT_HOP}
    return [each for each in requested if each.bridge and (each.prefix, each.bridge) in hops]


def _meets(requested: RequestedAddress, held: HeldAddress, subnets: list[tuple[Prefix, str]]) -> bool:
    if requested.bridge:
        return (held.kind, held.device, held.prefix) == (OWN, requested.bridge, requested.prefix)
    if requested.vrf != held.vrf or _shared(requested, held):
        return False
    return requested.prefix == held.prefix or (held.kind != SERVER and _captures(requested, held, subnets))


def _shared(requested: RequestedAddress, held: HeldAddress) -> bool:
    """Of two forwards the ports are compared (`claims`); and a forward may take some ports of the host's address."""
    return (requested.forwarded and held.kind == FORWARD) or (requested.part and held.kind == OWN)


def _captures(requested: RequestedAddress, held: HeldAddress, subnets: list[tuple[Prefix, str]]) -> bool:
    """Whether a route to a prefix would divert packets from the holder of an address in it: it is more specific than
    the host's subnet."""
    if held.prefix.prefixlen != held.prefix.max_prefixlen or not _within(held.prefix, requested.prefix):
        return False
    return not any(
        vrf == held.vrf and subnet.prefixlen > requested.prefix.prefixlen and _within(held.prefix, subnet)
        for subnet, vrf in subnets
    )


def _within(inner: Prefix, outer: Prefix) -> bool:
    return inner.version == outer.version and inner.network_address in outer and inner.prefixlen >= outer.prefixlen
