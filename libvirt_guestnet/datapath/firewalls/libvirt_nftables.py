"""libvirt's own tables of nftables: since libvirt 10.4, where its firewall_backend is that. On the hook path.

These tables reject only packets of libvirt's own bridges, so doctor does not have to look at their chains.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from libvirt_guestnet.datapath.firewalls import forward_chain
from libvirt_guestnet.datapath.firewalls.accepts import (
    Accept,
    Masqueraded,
    OriginalDestination,
    Passage,
    RoutedLink,
    Wanted,
    span,
)
from libvirt_guestnet.datapath.firewalls.contract import Change, Firewall
from libvirt_guestnet.datapath.firewalls.forward_chain import ForwardChain
from libvirt_guestnet.datapath.run.names import check_device
from libvirt_guestnet.datapath.run.nft import listed, nft

CHAIN = "guestnet"
_INTO_NETWORKS = "guest_input"  # libvirt's chain that keeps each of its networks from what is not for it


class LibvirtNftables(Firewall):
    """libvirt's tables: each forward chain jumps to a chain of ours first. Host-routed guests need none."""

    tool, tables = "libvirt", ("libvirt_network",)
    refuses_others = False

    def __init__(self) -> None:
        self._forward = [_chain("ip", 4), _chain("ip6", 6)]

    def arrange(self, change: Change) -> list[str]:
        return forward_chain.arrange(self._forward, change)

    def missing(self, wanted: Sequence[Wanted]) -> list[str]:
        return forward_chain.missing(self._forward, wanted)


def _chain(family: str, version: int) -> ForwardChain:
    table = f"{family} libvirt_network"

    def plan(wanted: list[Wanted], forward: list[str]) -> str:
        return batch([each for each in wanted if not isinstance(each, RoutedLink)], table, forward)

    def is_in_place(wanted: list[Wanted], forward: list[str]) -> bool:
        needed = any(not isinstance(each, RoutedLink) for each in wanted)
        return not needed or is_first(forward)

    def read() -> list[str] | None:
        return listed("chain", *table.split(), "forward") or None

    return ForwardChain(f"nftables {table}", version, read, is_in_place, plan, nft)


def batch(accepts: Iterable[Accept | Passage | Masqueraded], table: str, forward: list[str]) -> str:
    """The nft batch with which our chain in somebody's `table` (of family ip or ip6) holds exactly these and is jumped
    to first from its chain `forward`, or is gone.

    `forward` is what `nft -a list chain TABLE forward` says. Empty when nothing has to be done. Pure.
    """
    version = 6 if table.startswith("ip6 ") else 4
    rules = [rule for accept in accepts for rule in _rules(accept, version)]
    handles = [line.rpartition(" ")[2] for line in forward if line.strip().startswith(f"jump {CHAIN} #")]
    if not rules and not handles:
        return ""
    stays = bool(rules) and is_first(forward)
    gone = [] if stays else [f"delete rule {table} forward handle {handle}" for handle in handles]
    lines = [
        f"add chain {table} {CHAIN}",
        f"flush chain {table} {CHAIN}",
        *(f"add rule {table} {CHAIN} {rule}" for rule in rules),
        *gone,
        *([f"insert rule {table} forward jump {CHAIN}"] if rules and not stays else []),
        *([] if rules else [f"delete chain {table} {CHAIN}"]),
    ]
    return "\n".join([*lines, ""])


def is_first(forward: list[str]) -> bool:
    """Whether a forward chain begins with the jump to ours: libvirt inserts its own rules before it."""
    lines = (line.strip() for line in forward if " # handle " in line)
    rules = [line for line in lines if not line.startswith(("table ", "chain "))]
    return bool(rules) and rules[0].startswith(f"jump {CHAIN} #")


def _masqueraded(each: Masqueraded, ip: str) -> tuple[str, ...]:
    bridge, answers = check_device(each.bridge), "ct state established,related accept"
    out, back = f'iifname "{bridge}" {ip} saddr {each.guest}', f'oifname "{bridge}" {ip} daddr {each.guest} {answers}'
    if each.other:
        other = check_device(each.other)
        return f'{out} oifname "{other}" accept', f'iifname "{other}" {back}'
    return f"{out} jump {_INTO_NETWORKS}", f"{out} accept", back


def _rules(accept: Accept | Passage | Masqueraded, version: int) -> tuple[str, ...]:
    bridge, ip, match = check_device(accept.bridge), "ip" if version == 4 else "ip6", ""
    if isinstance(accept, Masqueraded):
        return _masqueraded(accept, ip)
    if isinstance(accept, Passage):
        other = check_device(accept.other)
        to, by = (f" {ip} daddr {accept.far}", f" {ip} saddr {accept.far}") if accept.far else ("", "")
        return (
            f'iifname "{other}"{by} oifname "{bridge}" {ip} daddr {accept.guest} accept',
            f'iifname "{bridge}" {ip} saddr {accept.guest} oifname "{other}"{to} accept',
        )
    if accept.protocol:
        match += f" ct protocol {accept.protocol} ct reply {ip} saddr {accept.guest}"
        match += f" ct reply proto-src {span(accept.ports, '-')}" if accept.ports else ""
    match += _origin(accept.published, ip)
    return (
        f'oifname "{bridge}" {ip} daddr {accept.guest}{match} ct direction original accept',
        f'iifname "{bridge}" {ip} saddr {accept.guest}{match} ct direction reply accept',
    )


def _origin(published: OriginalDestination | None, ip: str) -> str:
    if published is None:
        return ""
    address = f" ct original {ip} daddr {published.address}" if published.address else ""
    ports = f" ct original proto-dst {span(published.ports, '-')}" if published.ports else ""
    return f" ct status dnat{address}{ports}"
