"""Whether an address that a guest requests is in use already: by the host, its routers or servers, by another running
guest, or by whoever answers for it on a LAN.

This is checked when a guest is about to get it: by `start`, when a NIC is plugged in, by `plan` and `apply`, and for
what a running guest's changed metadata requests; never for what the guest has. Facts are read here, and judged by
`held_addresses`. Decision 42 says why nobody waits for the LAN longer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from ipaddress import IPv4Address

from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.datapath.netlink.rtnl import HostAddress, Rtnl
from libvirt_guestnet.datapath.routing import gateway as kernel
from libvirt_guestnet.errors import GuestnetError, NotAdmittedError
from libvirt_guestnet.hook.read import addresses
from libvirt_guestnet.hook.read.domain import Domain
from libvirt_guestnet.light_typing import TYPE_CHECKING, NamedTuple
from libvirt_guestnet.model import held_addresses
from libvirt_guestnet.model.held_addresses import Address, HeldAddress, Prefix, Refusal, RequestedAddress, single
from libvirt_guestnet.parse import prefix
from libvirt_guestnet.state.folder import State
from libvirt_guestnet.state.locked import LockedState, UnlockedState
from libvirt_guestnet.state.receipts import HostRoutes

if TYPE_CHECKING:
    from libvirt_guestnet.datapath.netlink.probe import Answer, Question

_GIVE = "give the guest another one"


class Facts(NamedTuple):
    """What the host and its routers and servers have, and the subnets that it is on, each with its VRF."""

    held: list[HeldAddress]
    subnets: list[tuple[Prefix, str]]


class Admitted(NamedTuple):
    """What a domain requests, and nobody had when that was checked."""

    requested: list[RequestedAddress]
    facts: Facts
    uuid: str
    taps: frozenset[str]


def admit(domain: Domain, state: UnlockedState, *, ask_lans: bool = True) -> Admitted:
    """Looks whether a domain can have what its XML asks for, and asks LANs where the host is to answer for it, which
    takes half a second. Raises GuestnetError when something is somebody's."""
    requested = addresses.requested(domain)
    taps = frozenset(nic.tap for nic in domain.nics)
    admitted = Admitted(requested, facts_for(requested), domain.uuid, taps)
    _check(admitted, state)
    if ask_lans:
        ask(requested, admitted.facts, state)
    return admitted


def recheck(admitted: Admitted, locked: LockedState) -> None:
    """Checks once more against other guests: of two that start at once, one is refused."""
    _check(admitted, locked)


def _check(admitted: Admitted, state: State) -> None:
    if admitted.requested:
        # Of an address on a bridge only the host's matter (others hold theirs in the kernel's sets), and there may be a
        # thousand guests.
        beside = not all(each.bridge for each in admitted.requested)
        others = running(state, {admitted.uuid}, admitted.taps) if beside else []
        held = [*admitted.facts.held, *others]
        for refusal in held_addresses.refusals(admitted.requested, held, admitted.facts.subnets):
            raise NotAdmittedError(str(refusal))


def check_changes(domains: Iterable[Domain], state: State) -> None:
    """Raises GuestnetError where a running guest requests more than it has, and that is in use."""
    wanted = [(domain.uuid, addresses.requested(domain)) for domain in domains]
    had = _had(state) if any(requested for _, requested in wanted) else {}
    for uuid, requested in wanted:
        new = [each for each in requested if (_kind(each), each.prefix) not in had.get(uuid, ())]
        _check(Admitted(new, facts_for(new), uuid, frozenset()), state)


def _kind(requested: RequestedAddress) -> str:
    if requested.bridge:
        return "bridge"
    return ("at" if requested.part else "floating") if requested.forwarded else "routed"


def _had(state: State) -> dict[str, set[tuple[str, Prefix]]]:
    """What each guest has by its receipts, by UUID."""
    found: dict[str, set[tuple[str, Prefix]]] = {}
    for port in state.ports():
        found.setdefault(port.uuid, set()).update(("bridge", prefix(text)) for text in port.owned)
    for receipt in state.host_routes():
        found.setdefault(receipt.uuid, set()).update(("routed", prefix(route.prefix)) for route in receipt.routes)
    for each in state.forwards():
        of_guest = found.setdefault(each.uuid, set())
        of_guest.update(("floating", prefix(floating.ip)) for floating in each.floating)
        of_guest.update(("at", prefix(forward.at)) for forward in each.forwards if forward.at)
    return found


def facts_for(requested: list[RequestedAddress]) -> Facts:
    """What of the host is needed to judge these."""
    if not requested:
        return Facts([], [])
    host = kernel.host_addresses(every=True)
    with Rtnl() as netlink:
        in_vrf = _VRFs(netlink)
        found = [*_own(requested, host, in_vrf), *_next_hops(requested, netlink, in_vrf)]
        wide = any(not _is_one(each.prefix) for each in requested)
        subnets = [(each.subnet, in_vrf.of(each.ifindex)) for each in host if wide]
    return Facts([*found, *(() if all(each.bridge for each in requested) else _servers())], subnets)


def refused_now(state: State) -> list[Refusal]:
    """What of running guests' addresses has become the host's, a router's or a server's of its since they started."""
    requested = [*_requested_by_routes(state), *_requested_by_forwards(state)]
    facts = facts_for(requested)
    return list(held_addresses.refusals(requested, facts.held, facts.subnets))


def _requested_by_routes(state: State) -> Iterator[RequestedAddress]:
    for receipt in state.host_routes():
        if links.index_of(receipt.tap):
            for what in (prefix(route.prefix) for route in receipt.routes):
                name = "address" if _is_one(what) else "prefix"
                yield RequestedAddress(what, name, f"domain {receipt.domain!r}", receipt.vrf)


def _requested_by_forwards(state: State) -> Iterator[RequestedAddress]:
    """Floating addresses without a host route (that they have only where the host answers for them), and forwards."""
    routed = {route.prefix for receipt in state.host_routes() for route in receipt.routes}
    for each in state.forwards():
        if links.index_of(each.tap) == each.ifindex != 0:
            floating, owner = (prefix(f.ip) for f in each.floating), f"domain {each.domain!r}"
            ips = (ip for ip in floating if str(ip) not in routed)
            yield from (RequestedAddress(ip, "floating address", owner, forwarded=True) for ip in ips)
            ats = dict.fromkeys(f.at for f in each.forwards if f.at)
            yield from (RequestedAddress(prefix(at), "forward at", owner, forwarded=True, part=True) for at in ats)


class _VRFs:
    """The VRFs of devices, each looked for once."""

    def __init__(self, netlink: Rtnl) -> None:
        self._netlink, self._names = netlink, dict[int, str]()

    def of(self, ifindex: int) -> str:
        if ifindex not in self._names:
            self._names[ifindex] = kernel.vrf_of(self._netlink, links.name_of(ifindex))
        return self._names[ifindex]


def _own(requested: list[RequestedAddress], host: list[HostAddress], in_vrf: _VRFs) -> Iterator[HeldAddress]:
    for each in host:
        # A link-local address is one of many of that name, each on its own link.
        link_local = each.address.version == 6 and each.address.is_link_local
        if not link_local and any(each.address in wanted.prefix for wanted in requested):
            device = links.name_of(each.ifindex)
            do = f"{_GIVE}, or take it from the host (`ip address del {each.address} dev {device}`)"
            who = f"this host's own, on device {device}"
            yield HeldAddress(single(each.address), held_addresses.OWN, who, do, in_vrf.of(each.ifindex), device)


def _next_hops(requested: list[RequestedAddress], netlink: Rtnl, in_vrf: _VRFs) -> Iterator[HeldAddress]:
    for address, ifindex in sorted(netlink.next_hops([each.prefix for each in requested]), key=str):
        device, family = links.name_of(ifindex), "ip -6" if address.version == 6 else "ip"
        who = f"a router of this host's, by which it routes on device {device}"
        do = f"{_GIVE}; `{family} route show table all via {address}` says what for"
        yield HeldAddress(single(address), held_addresses.NEXT_HOP, who, do, in_vrf.of(ifindex), device)


def _servers() -> Iterator[HeldAddress]:
    from libvirt_guestnet.datapath.routing import servers

    for address, what, path in servers.servers():
        do = f"{_GIVE}, or have the host use another {what}"
        yield HeldAddress(single(address), held_addresses.SERVER, f"a {what} that this host uses (by {path})", do)


def running(state: State, exempt: Collection[str], taps: Collection[str] = ()) -> list[HeldAddress]:
    """What guests that run have, as far as the host routes there, but for the guests whose UUID or name is in `exempt`.
    `taps` are a starting domain's own: receipts under their names may be of guests that had the taps before."""
    return [*_held_by_routes(state, exempt, taps), *_bridged(state, exempt), *_held_by_forwards(state, exempt)]


def _of_guest(text: str, name: str, how: str, kind: str = held_addresses.GUEST, vrf: str = "") -> HeldAddress:
    return HeldAddress(prefix(text), kind, f"{how} running guest {name!r}", f"{_GIVE}, or stop that guest", vrf)


def _held_by_routes(state: State, exempt: Collection[str], taps: Collection[str]) -> Iterator[HeldAddress]:
    for receipt in state.host_routes():
        if not {receipt.uuid, receipt.domain} & set(exempt) and _is_in_force(receipt, state, taps):
            for route in receipt.routes:
                yield _of_guest(route.prefix, receipt.domain, "already routed to", vrf=receipt.vrf)


def _is_in_force(receipt: HostRoutes, state: State, taps: Collection[str]) -> bool:
    index, port = links.index_of(receipt.tap), state.sound_port(receipt.tap)
    living = port is not None and (port.uuid, port.ifindex) == (receipt.uuid, index)
    return index > 0 and (living or receipt.tap not in taps)


def _bridged(state: State, exempt: Collection[str]) -> Iterator[HeldAddress]:
    """Guests' own addresses, and their pairs', on bridges that the host is on, and on no bridge."""
    with Rtnl() as netlink:
        on = {links.name_of(each.ifindex) for each in netlink.addresses()}
        for port in state.ports():
            if {port.uuid, port.domain} & set(exempt) or links.index_of(port.tap) != port.ifindex:
                continue
            master = links.master_of(port.tap)
            bridge = master if links.is_bridge(master) else ""
            if not bridge or bridge in on:
                vrf = kernel.vrf_of(netlink, bridge or port.tap)
                texts = (*port.owned, *(text for _, text in port.pairs))
                yield from (_of_guest(t, port.domain, "an address of", vrf=vrf) for t in texts if _is_one(prefix(t)))


def _held_by_forwards(state: State, exempt: Collection[str]) -> Iterator[HeldAddress]:
    for each in state.forwards():
        if not {each.uuid, each.domain} & set(exempt) and links.index_of(each.tap) == each.ifindex != 0:
            found = {f.at: "forwarded to" for f in each.forwards if f.at}
            found |= {f.ip: "a floating address of" for f in each.floating}
            yield from (_of_guest(ip, each.domain, how, held_addresses.FORWARD) for ip, how in found.items())


def _is_one(found: Prefix) -> bool:
    return found.prefixlen == found.max_prefixlen


def ask(requested: list[RequestedAddress], facts: Facts, state: State) -> None:
    """Asks the LANs. Raises GuestnetError when somebody answers there."""
    suspects = held_addresses.suspects(requested, facts.held)
    wanted = [each for each in requested if each.probe and (each.published or each in suspects)]
    near = {vrf: kernel.host_addresses(vrf) for vrf in {each.vrf for each in wanted}}
    requests = {question: each for each in wanted if (question := _question(each, near[each.vrf]))}
    if not requests:
        return
    from libvirt_guestnet.datapath.netlink import probe

    if answer := probe.ask(requests):
        raise NotAdmittedError(str(held_addresses.refusal(requests[answer.question], _answering(answer, state))))


def _question(requested: RequestedAddress, near: list[HostAddress]) -> Question | None:
    """Where to ask for an address; nowhere where the host would not answer for it."""
    address = requested.prefix.network_address
    device = requested.bridge or (
        _floats_on(address, near) if requested.forwarded else _published_on(address, requested, near)
    )
    if not device:
        return None
    from libvirt_guestnet.datapath.netlink.probe import Question

    index = links.index_of(device)
    own = (each.address for each in near if each.ifindex == index and address in each.subnet)
    return Question(address, device, next((each for each in own if isinstance(each, IPv4Address)), None))


def _floats_on(address: Address, near: list[HostAddress]) -> str:
    return next(iter(kernel.lans_of(address, near)), "")


def _published_on(address: Address, requested: RequestedAddress, near: list[HostAddress]) -> str:
    with suppress(GuestnetError):  # `started` says so
        return kernel.uplink_of(str(address), requested.uplink, near, requested.vrf)
    return ""


def _answering(answer: Answer, state: State) -> HeldAddress:
    address, device, mac = answer.question.address, answer.question.device, answer.mac
    guest = next((f", which is guest {port.domain!r}" for port in state.ports() if port.mac == mac), "")
    who = f"in use on the LAN of device {device}: {mac}{guest} answers for it"
    do = f"{_GIVE}, or say probe: false for its port if the address is about to move here"
    return HeldAddress(single(address), held_addresses.GUEST, who, do)
