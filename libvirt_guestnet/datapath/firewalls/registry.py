"""Every firewall that we know, by the contract. A new one is a file beside this one and a name in a tuple below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from libvirt_guestnet.datapath.firewalls.accepts import Wanted
from libvirt_guestnet.datapath.firewalls.contract import Change, Firewall
from libvirt_guestnet.datapath.firewalls.docker import Docker
from libvirt_guestnet.datapath.firewalls.firewalld import Firewalld
from libvirt_guestnet.datapath.firewalls.iptables import Iptables
from libvirt_guestnet.datapath.firewalls.libvirt_nftables import LibvirtNftables
from libvirt_guestnet.datapath.firewalls.ufw import Ufw

if TYPE_CHECKING:
    from libvirt_guestnet.datapath.firewalls.chains import Guests, RefusingChain

IN_IPTABLES = (Docker(), Ufw())
"""Those whose rules stand in iptables' chains: the first is named where several do."""
IN_NFTABLES = (LibvirtNftables(), Firewalld())
"""Those that have tables of their own."""
IPTABLES = Iptables(IN_IPTABLES)
ALL: tuple[Firewall, ...] = (IPTABLES, *IN_IPTABLES, *IN_NFTABLES)
"""All in which something can be arranged, in the order in which it is."""


def surveyed() -> tuple[Firewall, ...]:
    """All whose chains doctor knows: these, and what stands in nftables whoever wrote it."""
    from libvirt_guestnet.datapath.firewalls.nftables import Nftables

    return (Nftables(IN_NFTABLES), *ALL)


def named(tool: str) -> Firewall:
    """The one whose a chain is."""
    return next(each for each in surveyed() if each.tool == tool)


def check(wanted: Sequence[Wanted]) -> None:
    """Raises GuestnetError if this could be written for none."""
    for each in ALL:
        each.check(wanted)


def arrange(change: Change) -> list[str]:
    """Has every firewall of the host let pass what is wanted. Goes on past failures and returns them."""
    return [failure for each in ALL for failure in each.arrange(change)]


def missing(wanted: Sequence[Wanted]) -> list[str]:
    """Where something of that was taken away again. Raises GuestnetError where that cannot be told."""
    return [place for each in ALL for place in each.missing(wanted)]


def sources(wanted: Sequence[Wanted]) -> list[str]:
    """What some have to be told of it, and to be told when it is gone. Pure."""
    return sorted({source for each in ALL for source in each.sources(wanted)})


def survey(wanted: Sequence[Wanted]) -> list[RefusingChain]:
    """Every chain of the host that refuses something. Needs root. Raises GuestnetError where that cannot be told."""
    found = [chain for each in surveyed() for chain in each.survey()]
    knows = {tool: named(tool).knows(wanted) for tool in {chain.tool for chain in found}}
    return [chain._replace(ours=chain.ours or knows[chain.tool]) for chain in found]


def managed(chains: Sequence[RefusingChain]) -> tuple[str, ...]:
    """The programs that have made some of these."""
    return tuple(sorted({chain.tool for chain in chains if named(chain.tool).managed}))


def advice(chain: RefusingChain, guests: Guests) -> str:
    """What a person does so that a chain lets guests' traffic pass, in the words of the tool whose it is."""
    return named(chain.tool).advice(chain, guests)
