"""What a network that is taken over says in other words than guestnet would, or has its own way for no key's sake: it
stays as it was. Of its own, a running network would have to be restarted for it, which interrupts its guests. Pure."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

from libvirt_guestnet.libvirtd.snapshot import Element
from libvirt_guestnet.xmlgen.dnsmasq import DNSMASQ, IGNORE_CLIENT_IDS

_OPTIONS = f"{{{DNSMASQ}}}options"


def leave_as_it_was(network: Element, theirs: Element, meaning: Callable[[Element], object]) -> None:
    """Has a wanted <network> say in their words what means the same by a topology file's keys, and leaves out what no
    key asks for. `meaning` as of WantedNetwork."""
    _bridge(network, theirs)
    if theirs.get("ipv6") and theirs.find("ip[@family='ipv6']") is not None:  # guests speak IPv6 there anyway
        network.set("ipv6", theirs.get("ipv6", ""))
    if not _reworded(network, theirs, meaning):
        _leave_client_ids(network, theirs)


def _bridge(network: Element, theirs: Element) -> None:
    bridge, before = network.find("bridge"), theirs.find("bridge")
    if bridge is not None and before is not None:
        for name in ("stp", "delay"):
            bridge.set(name, before.get(name, bridge.get(name, "")))


def _reworded(network: Element, theirs: Element, meaning: Callable[[Element], object]) -> bool:
    """Gives it their options for dnsmasq, if with these it means what it means with its own."""
    options, other = network.find(_OPTIONS), deepcopy(network)
    before = theirs.find(_OPTIONS)
    for each in other.findall(_OPTIONS):
        other.remove(each)
    if before is not None:
        other.append(deepcopy(before))
    said = meaning(network)
    if said is None or said != meaning(other):
        return False
    if options is not None:
        network.remove(options)
    if before is not None:
        network.append(deepcopy(before))
    return True


def _leave_client_ids(network: Element, theirs: Element) -> None:
    options = network.find(_OPTIONS)
    if options is not None and theirs.find(f"{_OPTIONS}/*[@value='{IGNORE_CLIENT_IDS}']") is None:
        for option in options.findall(f"*[@value='{IGNORE_CLIENT_IDS}']"):
            options.remove(option)
        if len(options) == 0:
            network.remove(options)
