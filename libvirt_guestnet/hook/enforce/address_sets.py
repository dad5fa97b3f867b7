"""What the XML does not say about a port's addresses: leases of the host's DHCP server, and what other ports hold."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, summarize_address_range

from libvirt_guestnet import light_json, log, parse
from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.datapath.port import held_sets, learning, savi
from libvirt_guestnet.datapath.port.ranges import merge, span, without
from libvirt_guestnet.datapath.routing import gateway
from libvirt_guestnet.datapath.run import nft
from libvirt_guestnet.datapath.run.names import TABLE, check_device
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.read.port_receipts import Leases, guard_of, segment
from libvirt_guestnet.light_typing import Any
from libvirt_guestnet.model.slaac import mac_of
from libvirt_guestnet.parse import Address, Prefix, address, ipv4_number, prefix
from libvirt_guestnet.state.folder import State
from libvirt_guestnet.state.locked import LockedState
from libvirt_guestnet.state.receipts import PortReceipt

Numbers = Callable[[str], list[int]]  # from a set's name to its elements in the kernel

# libvirt's own lease helper writes it, from what dnsmasq reports. Guests cannot write it.
_LEASES = "/var/lib/libvirt/dnsmasq/{}.status"
_FEW = 100  # so few exclusions are not worth trimming
_LARGEST = 8 << 20  # as for XML: 20,000 leases
_LATEST = 1 << 40  # seconds since the epoch


def leases(receipt: PortReceipt, numbers: Numbers = nft.numbers, path: str = _LEASES) -> Leases:
    """The port's addresses in the lease file of the host's DHCP server, with the seconds that each has left.

    They are needed when a filter is put back while the guest runs, as it does not ask again before half its lease is
    over. The file also has leases that never reached the port because another port holds the address: these are left
    out.
    """
    found = list(_leases(receipt, path)) if receipt.dhcp else []
    others = _held(receipt, numbers) - set(learnt(receipt, numbers)) if found else set()
    return tuple((address, left) for address, left in found if address not in others)


def written(bridge: str) -> set[Address]:
    """All addresses that the DHCP server of a bridge has leased."""
    found = set()
    for lease in entries(bridge):
        with suppress(parse.TextError):
            found.add(parse.address(str(lease.get("ip-address"))))
    return found


def entries(bridge: str) -> list[dict[str, Any]]:
    """What libvirt keeps of a bridge's leases, old ones too."""
    return _read(_LEASES.format(check_device(bridge))) if bridge else []


def learnt(receipt: PortReceipt, numbers: Numbers = nft.numbers) -> list[Address]:
    """The addresses that a port has learnt, by the kernel's set."""
    return _addresses_in(lambda version: learning.learnt_set(version, receipt.tap), numbers) if receipt.dhcp else []


def claimed(receipt: PortReceipt, numbers: Numbers = nft.numbers) -> list[Address]:
    """The addresses that a port has claimed, by the kernel's set."""
    return _addresses_in(lambda _: savi.claimed_set(receipt.tap), numbers, (6,)) if receipt.claims else []


def _held(receipt: PortReceipt, numbers: Numbers) -> set[Address]:
    return set(_addresses_in(lambda version: learning.held_set(version, _link(receipt)), numbers))


def _addresses_in(name: Callable[[int], str], numbers: Numbers, versions: tuple[int, ...] = (4, 6)) -> list[Address]:
    four = map(IPv4Address, numbers(name(4))) if 4 in versions else ()
    return [*four, *map(IPv6Address, numbers(name(6)))]


def given_back(receipt: PortReceipt, numbers: Numbers = nft.numbers, now: PortReceipt | None = None) -> str:
    """The nft batch that gives free what a port has learnt and claimed, so that other ports may learn or claim it; not
    what the port keeps as it is `now`."""
    kept = keeps(receipt, now) if now else ()
    held = [each for each in learnt(receipt, numbers) if each.version not in kept]
    held += claimed(receipt, numbers) if now is None or not _keeps_claims(receipt, now) else []
    return f"add table {TABLE}\n{learning.give_back(_link(receipt), held)}" if held else ""


def keeps(before: PortReceipt, now: PortReceipt) -> tuple[int, ...]:
    """The IP versions for which a port keeps what it has learnt."""
    return tuple({address(host).version for host in now.dhcp}) if stays(before, now) else ()


def _keeps_claims(before: PortReceipt, now: PortReceipt) -> bool:
    return bool(now.claims) and stays(before, now)


def stays(before: PortReceipt, now: PortReceipt) -> bool:
    """Whether it is the same guarded port, on the same link."""
    return not now.trusted and _port(before) == _port(now)


def _link(receipt: PortReceipt) -> str:
    return receipt.segment or receipt.bridge


def held_as_learnt(state: State) -> str:
    """The nft batch that makes the links' sets of leases and claims agree with what ports have learnt and claimed, in
    case somebody changed them. Addresses for which somebody answered stay blocked."""
    present, wanted = nft.times_of_all(), dict[str, dict[int, int]]()
    for port in (port for port in state.ports() if not port.trusted):
        for version, name in _own_sets(port):
            wanted.setdefault(learning.held_set(version, _link(port)), {}).update(present.get(name, {}))
    held = {name: present.get(name, {}) for name in {*wanted, *filter(learning.is_held_set, present)}}
    for name, now in held.items():
        kind, _, link = name.partition("-")
        tried = present.get(savi.tried_set(link), {}) if kind == "held6" else {}
        wanted.setdefault(name, {}).update({each: left for each, left in tried.items() if each in now})
    lines = [line for name, now in held.items() for line in learning.replace_held(name, now, wanted[name])]
    return "".join(f"{line}\n" for line in (f"add table {TABLE}", *lines)) if lines else ""


def _own_sets(port: PortReceipt) -> Iterator[tuple[int, str]]:
    """The sets with the addresses that a port has learnt and claimed, with their IP versions."""
    if port.dhcp:
        yield from ((version, learning.learnt_set(version, port.tap)) for version in (4, 6))
    if port.claims:
        yield 6, savi.claimed_set(port.tap)


def _leases(receipt: PortReceipt, path: str) -> Iterator[tuple[Address, int]]:
    for ip, expires in (*_by_libvirt(receipt, path), *_by_router(receipt)):
        longest = receipt.lease if ip.version == 4 else receipt.lease6
        left = expires - int(time.time()) if expires else longest
        if min(left, longest) > 0:
            yield ip, min(left, longest)


def _by_libvirt(receipt: PortReceipt, path: str) -> Iterator[tuple[Address, int]]:
    for lease in _read(path.format(check_device(receipt.bridge))):
        if str(lease.get("mac-address", "")).lower() not in (receipt.mac, *receipt.lent):
            continue
        with suppress(parse.TextError):
            expires = parse.number(str(lease.get("expiry-time") or 0), 0, _LATEST)
            yield parse.address(str(lease.get("ip-address"))), expires


def _by_router(receipt: PortReceipt) -> Iterator[tuple[Address, int]]:
    """Of DHCPv6 only clients are known whose DUID is made of a MAC address. What is in none of the network's subnets
    is not learnt, whatever a router's disk says."""
    if receipt.dhcp_routers:
        from libvirt_guestnet import slots  # few ports have one, and hooks start often
        from libvirt_guestnet.hook.read.network_receipts import mac_of_duid

        for lease in (each for router in receipt.dhcp_routers for each in slots.leases_of(router)):
            client = lease.client if lease.address.version == 4 else mac_of_duid(lease.client)
            if client in (receipt.mac, *receipt.lent):
                yield lease.address, lease.expires


def _read(path: str) -> list[dict[str, Any]]:
    try:
        with open(path, "rb") as file:
            found = light_json.loads(file.read(_LARGEST) or b"[]")
    except (FileNotFoundError, ValueError):
        return []
    return [lease for lease in found if isinstance(lease, dict)] if isinstance(found, list) else []


def given_up(before: Iterable[PortReceipt], after: Iterable[PortReceipt], state: State) -> str:
    """The nft batch that gives free what these ports held by policy, unless they or others hold it still."""
    before, after = list(before), list(after)
    lost = _held_by(before) - _held_by(after)
    if not lost:
        return ""
    taps = {receipt.tap for receipt in (*before, *after)}
    lost -= _held_besides(taps, lost, state)
    return "".join(f"{line}\n" for line in (f"add table {TABLE}", *held_sets.give_up(lost)))


def _held_besides(taps: set[str], of: held_sets.Held, state: State) -> held_sets.Held:
    """What of this is held by ports on other taps. The end of a guest waits for it, and there may be a thousand: read
    are those whose receipts name one of the addresses that are left."""
    found: held_sets.Held = frozenset()
    wanted = _names_of(of)
    for tap in sorted(state.tapnames() - taps):
        if not wanted:
            break
        if _may_hold(state.port_fields(tap), wanted) and (other := state.sound_port(tap)):
            found |= of & held_sets.held(guard_of(other))
            wanted = _names_of(of - found)
    return found


def _names_of(addresses: held_sets.Held) -> set[str]:
    """What stands for one of these in a receipt: its text, or the MAC address from which it follows."""
    made = [IPv4Address(number) if version == 4 else IPv6Address(number) for _, version, number in addresses]
    return {*map(str, made), *filter(None, map(mac_of, made))}


def _may_hold(fields: dict[str, Any], wanted: set[str]) -> bool:
    """Whether a receipt that nobody has looked through may hold one of these: it names it, or a range, or is odd."""
    try:
        more = [text for pairs in (fields["pairs"], fields["beside"]) for _, text in pairs]
        names = [text.partition("/")[0] for text in (*fields["owned"], *fields["unclaimed"], *more)]
        return not wanted.isdisjoint((fields["mac"], *names)) or any(map(_is_range, (*fields["unclaimed"], *more)))
    except (AttributeError, KeyError, TypeError, ValueError):
        return True


def _is_range(text: str) -> bool:
    return "/" in text and not text.endswith("/128" if ":" in text else "/32")


def spread(before: Iterable[PortReceipt], after: Iterable[PortReceipt], state: State) -> str:
    """The nft batch that writes the links' sets of ranges again, if these ports have large pairs."""
    before, after = list(before), list(after)
    accounts = {account for r in (*before, *after) if large_of(r) for account in held_sets.kept_on(r.segment)}
    if not accounts:
        return ""
    taps = {receipt.tap for receipt in (*before, *after)}
    holders = [*after, *(other for other in state.ports() if other.tap not in taps)]
    lines = [f"add table {TABLE}"]
    for account in sorted(accounts):
        ports = (r for r in holders if account in held_sets.kept_on(r.segment))
        lines += held_sets.spread(account, (pair for r in ports for pair in large_of(r)))
    return "".join(f"{line}\n" for line in lines)


def large_of(receipt: PortReceipt) -> list[Prefix]:
    """The port's own prefixes that are in its link's set of ranges."""
    if not receipt.pairs and len(receipt.owned) < held_sets.MOST_OF_A_PORT:
        return []  # most ports: nothing is large
    return held_sets.large(guard_of(receipt))


def _held_by(receipts: Iterable[PortReceipt]) -> held_sets.Held:
    return frozenset().union(*(held_sets.held(guard_of(receipt)) for receipt in receipts))


def completed(receipt: PortReceipt, numbers: Numbers = nft.numbers) -> PortReceipt:
    """A port's receipt without useless exclusions, with what it holds on other links. Raises GuestnetError."""
    if receipt.claims or is_open(receipt):
        receipt = _without_hosts(receipt, numbers)
    return _trimmed(_with_beside(receipt))


def _with_beside(receipt: PortReceipt) -> PortReceipt:
    """With the addresses that the host answers for on other bridges, where no other guest may take them."""
    if not receipt.reached:
        return receipt
    host = gateway.host_addresses(receipt.vrf)
    near = ((link, text) for text in receipt.reached for link in gateway.lans_of(prefix(text).network_address, host))
    return receipt._replace(beside=tuple((link, text) for device, text in near if (link := _link_of(device))))


def _link_of(device: str) -> str:
    """The link's name of a device that is a bridge or a VLAN of one; "" for other devices."""
    if links.is_bridge(device):
        return device
    bridge, _, vlan = device.rpartition(".")
    with suppress(parse.TextError):  # a device that only has such a name
        return segment(bridge, parse.number(vlan, 1, 4094)) if links.is_bridge(bridge) else ""
    return ""


def update_beside(locked: LockedState) -> str:
    """The nft batch that makes ports hold their addresses on the links where the host answers for them by now."""
    batch = ""
    for port in locked.ports():
        try:
            batch += _moved(port, _with_beside(port), locked)
        except GuestnetError as error:  # one port's damaged receipt must not keep the others from it
            log.report(f"domain {port.domain!r}: addresses of tap {port.tap} on other links are not held: {error}")
    return f"add table {TABLE}\n{batch}" if batch else ""


def _moved(before: PortReceipt, now: PortReceipt, locked: LockedState) -> str:
    if now == before:
        return ""
    batch = given_up([before], [now], locked)
    locked.put_ports(now.uuid, [now])
    return batch + "".join(f"{line}\n" for line in held_sets.add(guard_of(now)))


def _without_hosts(receipt: PortReceipt, numbers: Numbers) -> PortReceipt:
    """A port's receipt that excludes the host's own addresses on its link, whatever the network says of them. Addresses
    of the host's routers there are only kept from claims: a port with any address may be that router itself, and what a
    port has claimed already is its own."""
    chooses = receipt.privacy or bool(receipt.claims)
    own, routers = gateway.on_link(bridge_of(receipt), routers=chooses)
    if is_open(receipt):
        hosts = (*own, *(routers if receipt.privacy else ()))
        receipt = receipt._replace(excluded=(*receipt.excluded, *map(str, hosts)))
    if receipt.claims:
        unclaimed = [str(each) for each in (*own, *_unclaimed(routers, receipt, numbers)) if each.version == 6]
        receipt = receipt._replace(unclaimed=tuple(dict.fromkeys((*receipt.unclaimed, *unclaimed))))
    return receipt


def bridge_of(receipt: PortReceipt) -> str:
    """The device that has the host's addresses on a port's link: of Open vSwitch's, not the tap's master."""
    master = links.master_of(receipt.tap)
    return master if links.is_bridge(master) else receipt.segment.partition("/")[0] or master


def _unclaimed(routers: Iterable[Address], receipt: PortReceipt, numbers: Numbers) -> list[Address]:
    """Those of these routers' addresses that the port could claim, and that nobody has claimed."""
    wanted = [each for each in routers if any(each in prefix(text) for text in receipt.claims)]
    claimed = set(numbers(learning.held_set(6, _link(receipt)))) if wanted else ()
    return [each for each in wanted if int(each) not in claimed]


def is_open(receipt: PortReceipt) -> bool:
    """Whether a port has a range in which it may use any address that nobody holds."""
    return any(prefix(text).num_addresses > 1 for text in receipt.owned)


def _trimmed(receipt: PortReceipt) -> PortReceipt:
    """A port's receipt with fewer exclusions, as a network's reservations may be thousands: without those outside of
    the port's ranges, and with neighbouring addresses as one range."""
    if len(receipt.excluded) <= _FEW:
        return receipt
    texts = map(prefix, (*receipt.owned, *receipt.routed, *receipt.dynamic))
    wide = [each for each in texts if each.num_addresses > 1]
    excluded: list[str] = []
    for version, kind in ((4, IPv4Address), (6, IPv6Address)):
        spans = merge(span(each) for each in wide if each.version == version)
        holes = [_span(text) for text in receipt.excluded if (":" in text) == (version == 6)] if spans else []
        for first, last in without(spans, without(spans, holes)):
            many = summarize_address_range(kind(first), kind(last)) if first != last else [kind(first)]
            excluded += map(str, many)
    return receipt._replace(excluded=tuple(excluded))


def _span(text: str) -> tuple[int, int]:
    """The first and the last address. Most are single addresses, which parse ten times as fast without a network."""
    if "/" in text:
        return span(prefix(text))
    number = int(address(text)) if ":" in text else ipv4_number(text)
    return number, number


def is_new(receipt: PortReceipt, state: State) -> bool:
    """Whether the tap's earlier receipt is of another port: then this one must not inherit what that one learnt."""
    before = state.port(receipt.tap)
    return before is None or _port(before) != _port(receipt)


def _port(receipt: PortReceipt) -> tuple[str, str, int, str, str]:
    # A tap that moves to another network or VLAN keeps its index, but nothing that it has learnt and claimed.
    return receipt.uuid, receipt.mac, receipt.ifindex, receipt.network, _link(receipt)
