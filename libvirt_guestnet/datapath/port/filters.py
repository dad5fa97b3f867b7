"""Port security as nft text: one ingress chain per tap, default drop.

Pure. Every value that reaches the text is an ipaddress object, a number, a checked MAC or a checked device name.

A rule does *not match* where nft cannot evaluate it, such as when a header is truncated or in another fragment. Two
principles keep the filter closed then: every frame that passes is matched positively, and what no rule accepts is
dropped. Every drop is counted, with its reason in the rule's comment.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

from libvirt_guestnet.datapath.port import held_sets, learning, savi
from libvirt_guestnet.datapath.port import shared as same
from libvirt_guestnet.datapath.port.port_facts import PortGuard as PortGuard  # noqa: PLC0414  what filters are of
from libvirt_guestnet.datapath.port.rules import Rules
from libvirt_guestnet.datapath.run.names import TABLE, check_device


def guard(port: PortGuard) -> str:
    """The nft batch that puts exactly this port's chains in place, whatever was there before.

    Addresses learnt by an earlier guard of the same tap stay learnt.
    """
    return shared() + own(port)


def shared() -> str:
    """The part of the batch that is the same for every port."""
    return same.batch()


def own(port: PortGuard, fresh: bool = False, was_observed: bool = False) -> str:
    """The port's own part; the kernel refuses it where the shared one is not there.

    `fresh`: there was no guard of this tap, so nothing of it is deleted. A transaction that deletes takes 10 ms longer:
    nft ends when nobody can be looking at what is gone (nft_rcv_nl_event, Linux 5.18). `was_observed`: what was noted
    of it is to go.
    """
    tap = check_device(port.tap)
    lines = [f"add table {TABLE}"]
    chains = (*_CHAINS, *(("vlan",) if port.trunk else ()))
    lines += [f"add chain {TABLE} {chain}-{tap}" for chain in chains]
    lines.append(_hooked(tap, "drop"))
    lines += [f"flush chain {TABLE} {chain}-{tap}" for chain in ("tap", *chains)]
    lines += [] if port.trunk or fresh else _forget_chain("vlan", tap)
    lines += _without_notes(tap) if was_observed and not port.observed else []
    return "\n".join([*lines, *held_sets.add(port), *Rules(port, fresh).all()]) + "\n"


def opened(taps: Iterable[str]) -> str:
    """The nft batch after which these taps' chains are there, and pass what no rule drops.

    A chain is hooked in before a transaction's rules are in force, and unhooked after they are none: with policy drop,
    frames that come at that moment are lost.
    """
    chains = (_hooked(check_device(tap), "accept") for tap in taps)
    return "\n".join((f"add table {TABLE}", *chains)) + "\n"


def release(taps: Iterable[str], observed: Container[str] = ()) -> str:
    """The nft batch that removes these taps' chains; those that are gone already do not matter. `observed`: those of
    which something may be noted.

    `add` first makes `delete` tolerant on kernels and nft versions without `destroy`.
    """
    lines = [f"add table {TABLE}"]
    for tap in map(check_device, taps):
        # Jumps go first, then what they jump to, then the set that they look into.
        for action in ("add", "flush"):
            lines += [f"{action} chain {TABLE} {chain}-{tap}" for chain in ("tap", *_CHAINS)]
        lines += _forget_chain("vlan", tap)
        lines += [f"delete chain {TABLE} {chain}-{tap}" for chain in ("tap", *_CHAINS)]
        lines += [*learning.forget(tap), *savi.forgotten(tap)]
        lines += _without_notes(tap) if tap in observed else []
    return "\n".join(lines) + "\n"


def remove() -> str:
    """The nft batch that removes our table with every port's chains."""
    return f"add table {TABLE}\ndelete table {TABLE}\n"


# No hyphen in a kind: "KIND-TAP" is then unambiguous whatever a tap is called.
_CHAINS = ("arp", "ip4", "ip4sent", "ip6", "ip6own", "ip6sent")


def _forget_chain(kind: str, tap: str) -> list[str]:
    return [f"{action} chain {TABLE} {kind}-{tap}" for action in ("add", "flush", "delete")]


def _hooked(tap: str, policy: str) -> str:
    return (
        f'add chain {TABLE} tap-{tap} {{ type filter hook ingress device "{tap}" priority filter; policy {policy}; }}'
    )


def _without_notes(tap: str) -> list[str]:
    from libvirt_guestnet.datapath.port import observing  # few are observed, and hooks start often

    return observing.forgotten(tap)
