"""All firewalls that we know. A new one is a file beside this one (see `contract`) and a name in a tuple below."""

from __future__ import annotations

from collections.abc import Sequence

from libvirt_guestnet.datapath.firewalls.accepts import Wanted
from libvirt_guestnet.datapath.firewalls.contract import Change, Firewall
from libvirt_guestnet.datapath.firewalls.docker import Docker
from libvirt_guestnet.datapath.firewalls.firewalld import Firewalld
from libvirt_guestnet.datapath.firewalls.iptables import Iptables
from libvirt_guestnet.datapath.firewalls.libvirt_nftables import LibvirtNftables
from libvirt_guestnet.datapath.firewalls.ufw import Ufw
from libvirt_guestnet.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from libvirt_guestnet.datapath.firewalls.chains import Guests, RefusingChain

IN_IPTABLES = (Docker(), Ufw())
"""Those whose rules are in iptables' chains: where several are, messages name the first."""
IN_NFTABLES = (LibvirtNftables(), Firewalld())
"""Those that have tables of their own."""
IPTABLES = Iptables(IN_IPTABLES)
ALL: tuple[Firewall, ...] = (IPTABLES, *IN_IPTABLES, *IN_NFTABLES)
"""All in which something can be arranged, in this order."""


def surveyed() -> tuple[Firewall, ...]:
    """All whose chains doctor knows: those in ALL, and base chains of nftables that anybody wrote."""
    from libvirt_guestnet.datapath.firewalls.nftables import Nftables

    return (Nftables(IN_NFTABLES), *ALL)


def named(tool: str) -> Firewall:
    """The firewall of that name."""
    return next(each for each in surveyed() if each.tool == tool)


def check(wanted: Sequence[Wanted]) -> None:
    """Raises GuestnetError if one of them could never write this, whatever rules are there."""
    for each in ALL:
        each.check(wanted)


def arrange(change: Change) -> list[str]:
    """Makes every firewall of the host accept what is wanted. Goes on past failures and returns them."""
    return [failure for each in ALL for failure in each.arrange(change)]


def missing(wanted: Sequence[Wanted]) -> list[str]:
    """The places in which something of that is missing. Raises GuestnetError if that cannot be found out."""
    return [place for each in ALL for place in each.missing(wanted)]


def sources(wanted: Sequence[Wanted]) -> list[str]:
    """The addresses that some of them must be given for it (see `contract`). Pure."""
    return sorted({source for each in ALL for source in each.sources(wanted)})


def survey(wanted: Sequence[Wanted]) -> list[RefusingChain]:
    """Every chain of the host that refuses something. Needs root. Raises GuestnetError if that cannot be found out."""
    found = [chain for each in surveyed() for chain in each.survey()]
    knows = {tool: named(tool).knows(wanted) for tool in {chain.tool for chain in found}}
    return [chain._replace(ours=chain.ours or knows[chain.tool]) for chain in found]


def managed(chains: Sequence[RefusingChain]) -> tuple[str, ...]:
    """The programs that have made some of these."""
    return tuple(sorted({chain.tool for chain in chains if named(chain.tool).managed}))


def advice(chain: RefusingChain, guests: Guests) -> str:
    """What a person does so that a chain lets guests' traffic pass, in the words of the tool whose it is."""
    return named(chain.tool).advice(chain, guests)
