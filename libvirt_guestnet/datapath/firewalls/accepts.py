"""What must pass the host's other firewalls so that guests can be reached, as rules for each place of theirs.

Pure. A reject is final whoever accepted before, so an accept counts only in the table that would reject: libvirt's
catch-all reject behind every nat, route and isolated bridge, Docker's FORWARD DROP. Each place gets one chain of ours,
jumped to from the top of its own forward chain, that holds exact accepts and nothing else; no policy is ever changed.
Host-routed guests have a second one at the end: nobody rejects them, so they only need to pass what refuses the rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

from libvirt_guestnet.datapath.run.names import check_device

CHAIN = "GUESTNET-FORWARD"
LAST_CHAIN = "GUESTNET-ROUTED"
NFT_CHAIN = "guestnet"
Span = tuple[int, int]


class Published(NamedTuple):
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
    published: Published | None = None


class Passage(NamedTuple):
    """Everything between `guest` behind `bridge` and `far` (None: any address) behind `other`, whoever begins.

    Both ends are exact: an accept that left one open would also lead past the rejects of third networks.
    """

    bridge: str
    guest: IPv4Network | IPv6Network
    other: str
    far: IPv4Network | IPv6Network | None = None


class Link(NamedTuple):
    """Everything to and from `guest` on a `tap` that only it is on, whoever begins, unless somebody has refused it.
    What comes from a tap in a `vrf` has the VRF as its input device (and its tap still as output device)."""

    tap: str
    guest: IPv4Network | IPv6Network
    vrf: str = ""


Wanted = Accept | Passage | Link

_JUMP = {chain: f"-A FORWARD -j {chain}" for chain in (CHAIN, LAST_CHAIN)}
# What lets nothing through that gets to it. The last two are ufw's, where its policy for routed traffic is "reject".
_REFUSES_ALL = tuple(f"-A FORWARD -j {to}" for to in ("DROP", "REJECT", "ufw-reject-forward", "ufw6-reject-forward"))


def iptables_batch(wanted: Iterable[Wanted], forward: list[str]) -> str:
    """Input of `iptables-restore --noflush`: our chains hold exactly these and are jumped to first and last, or are
    gone.

    `forward` is what `iptables -S FORWARD` says. Empty when nothing has to be done.
    """
    ours: dict[str, list[str]] = {CHAIN: [], LAST_CHAIN: []}
    for each in wanted:
        chain = LAST_CHAIN if isinstance(each, Link) else CHAIN
        ours[chain] += [f"-A {chain} {rule}" for rule in _iptables_rules(each)]
    there = _rules(forward)
    known = [chain for chain, rules in ours.items() if rules or _JUMP[chain] in there]
    lines = [line for chain in known for line in (f":{chain} - [0:0]", *ours[chain])]
    lines += _moves(there, {chain for chain in known if ours[chain]})
    lines += [f"-X {chain}" for chain in known if not ours[chain]]
    return "\n".join(["*filter", *lines, "COMMIT", ""]) if lines else ""


def _rules(forward: list[str]) -> list[str]:
    return [line for line in forward if line.startswith("-A ")]


def _moves(there: list[str], ours: set[str]) -> list[str]:
    """What makes the jumps to these chains of ours, and no others, stand where they belong."""
    others = [rule for rule in there if rule not in _JUMP.values()]
    end = _end(others)
    jumps = {chain: [_JUMP[chain]] if chain in ours else [] for chain in _JUMP}
    if there == [*jumps[CHAIN], *others[:end], *jumps[LAST_CHAIN], *others[end:]]:
        return []
    gone = [f"-D{rule[2:]}" for rule in there if rule in _JUMP.values()]
    places = {LAST_CHAIN: end + 1, CHAIN: 1}
    return [*gone, *(f"-I FORWARD {place} -j {chain}" for chain, place in places.items() if chain in ours)]


def _end(others: list[str]) -> int:
    return next((place for place, rule in enumerate(others) if rule.startswith(_REFUSES_ALL)), len(others))


def leads_last(forward: list[str]) -> bool:
    """Whether the jump to our last chain stands where it belongs."""
    rules = [rule for rule in _rules(forward) if rule != _JUMP[CHAIN]]
    others = [rule for rule in rules if rule != _JUMP[LAST_CHAIN]]
    return rules.index(_JUMP[LAST_CHAIN]) == _end(others) if _JUMP[LAST_CHAIN] in rules else False


def _iptables_rules(accept: Wanted) -> tuple[str, str]:
    if isinstance(accept, Link):
        tap, from_ = check_device(accept.tap), check_device(accept.vrf or accept.tap)
        return f"-o {tap} -d {accept.guest} -j ACCEPT", f"-i {from_} -s {accept.guest} -j ACCEPT"
    if isinstance(accept, Passage):
        near, other = check_device(accept.bridge), check_device(accept.other)
        to, by = (f" -d {accept.far}", f" -s {accept.far}") if accept.far else ("", "")
        return (
            f"-i {other}{by} -o {near} -d {accept.guest} -j ACCEPT",
            f"-i {near} -s {accept.guest} -o {other}{to} -j ACCEPT",
        )
    # By what conntrack knows of the flow, not by the packet's own header: its ICMP errors must pass too.
    bridge, match = check_device(accept.bridge), " -m conntrack"
    if accept.protocol:
        match += f" --ctproto {accept.protocol} --ctreplsrc {accept.guest}"
        match += f" --ctreplsrcport {_span(accept.ports, ':')}" if accept.ports else ""
    match += _iptables_origin(accept.published)
    return (
        f"-o {bridge} -d {accept.guest}{match} --ctdir ORIGINAL -j ACCEPT",
        f"-i {bridge} -s {accept.guest}{match} --ctdir REPLY -j ACCEPT",
    )


def _iptables_origin(published: Published | None) -> str:
    if published is None:
        return ""
    address = f" --ctorigdst {published.address}" if published.address else ""
    ports = f" --ctorigdstport {_span(published.ports, ':')}" if published.ports else ""
    return f" --ctstate DNAT{address}{ports}"


def _span(ports: Span, between: str) -> str:
    first, last = ports
    return str(first) if first == last else f"{first}{between}{last}"


def nft_batch(accepts: Iterable[Accept | Passage], table: str, forward: list[str]) -> str:
    """The nft batch with which our chain in somebody's `table` (of family ip or ip6) holds exactly these and is jumped
    to first from its chain `forward`, or is gone.

    `forward` is what `nft -a list chain TABLE forward` says. Empty when nothing has to be done.
    """
    version = 6 if table.startswith("ip6 ") else 4
    rules = [rule for accept in accepts for rule in _nft_rules(accept, version)]
    handles = [line.rpartition(" ")[2] for line in forward if line.strip().startswith(f"jump {NFT_CHAIN} #")]
    if not rules and not handles:
        return ""
    stays = bool(rules) and nft_leads(forward)
    gone = [] if stays else [f"delete rule {table} forward handle {handle}" for handle in handles]
    lines = [
        f"add chain {table} {NFT_CHAIN}",
        f"flush chain {table} {NFT_CHAIN}",
        *(f"add rule {table} {NFT_CHAIN} {rule}" for rule in rules),
        *gone,
        *([f"insert rule {table} forward jump {NFT_CHAIN}"] if rules and not stays else []),
        *([] if rules else [f"delete chain {table} {NFT_CHAIN}"]),
    ]
    return "\n".join([*lines, ""])


def nft_leads(forward: list[str]) -> bool:
    """Whether the first rule of a forward chain jumps to ours: libvirt inserts its own at the head when it makes its
    table anew, one by one."""
    lines = (line.strip() for line in forward if " # handle " in line)
    rules = [line for line in lines if not line.startswith(("table ", "chain "))]
    return bool(rules) and rules[0].startswith(f"jump {NFT_CHAIN} #")


def _nft_rules(accept: Accept | Passage, version: int) -> tuple[str, str]:
    bridge, ip, match = check_device(accept.bridge), "ip" if version == 4 else "ip6", ""
    if isinstance(accept, Passage):
        other = check_device(accept.other)
        to, by = (f" {ip} daddr {accept.far}", f" {ip} saddr {accept.far}") if accept.far else ("", "")
        return (
            f'iifname "{other}"{by} oifname "{bridge}" {ip} daddr {accept.guest} accept',
            f'iifname "{bridge}" {ip} saddr {accept.guest} oifname "{other}"{to} accept',
        )
    if accept.protocol:
        match += f" ct protocol {accept.protocol} ct reply {ip} saddr {accept.guest}"
        match += f" ct reply proto-src {_span(accept.ports, '-')}" if accept.ports else ""
    match += _nft_origin(accept.published, ip)
    return (
        f'oifname "{bridge}" {ip} daddr {accept.guest}{match} ct direction original accept',
        f'iifname "{bridge}" {ip} saddr {accept.guest}{match} ct direction reply accept',
    )


def _nft_origin(published: Published | None, ip: str) -> str:
    if published is None:
        return ""
    address = f" ct original {ip} daddr {published.address}" if published.address else ""
    ports = f" ct original proto-dst {_span(published.ports, '-')}" if published.ports else ""
    return f" ct status dnat{address}{ports}"
