"""Running guests' taps that are in no bridge any more, although libvirt's records say in which they should be; or that
are not isolated from each other there, although they should be.

A network that is stopped takes its bridge with it. libvirt puts taps back only when its daemon restarts, and then does
not isolate them; other tools take ports out of bridges. What is in another bridge was put there by somebody, and stays.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from libvirt_guestnet import log, parse
from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.datapath.netlink.rtnl import RefusedError, Rtnl
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.read import libvirt_records
from libvirt_guestnet.hook.read.domain import Domain
from libvirt_guestnet.state.folder import State
from libvirt_guestnet.state.receipts import NetworkReceipt

# libvirt itself takes the tap of a NIC that moves out of one bridge before it puts it into another.
GRACE_SECONDS = 1.0


class TapBridge(NamedTuple):
    """Where a tap belongs; `isolated` from other isolated ports of the bridge: yes, no or "", as its network says."""

    tap: str
    bridge: str
    isolated: str
    network: str


def tap_bridges(domain: Domain) -> list[TapBridge]:
    """Where the taps of a running domain's NICs belong; nothing of those that Open vSwitch has."""
    nics = [nic for nic in domain.nics if nic.has_tap and nic.virtualport is None]
    found = [nic for nic in nics if _is_device(nic.tap) and _is_device(nic.bridge)]
    return [TapBridge(nic.tap, nic.bridge, nic.isolated, nic.network) for nic in found]


def _is_device(name: str) -> bool:
    """Whether a device can have that name: no other is in any bridge."""
    try:
        return parse.device(name) == name
    except parse.TextError:
        return False


def is_off(wanted: TapBridge) -> bool:
    """Whether a tap is in no bridge while its own is there."""
    return not links.master_of(wanted.tap) and links.is_bridge(wanted.bridge) and links.index_of(wanted.tap) > 0


def is_exposed(wanted: TapBridge) -> bool:
    """Whether a tap that should be isolated from its neighbours is in its bridge without."""
    should = wanted.isolated == "yes" and links.master_of(wanted.tap) == wanted.bridge
    return should and not links.is_isolated(wanted.tap)


def join(domain: Domain, state: State) -> None:
    """Puts the taps of a domain that are in no bridge back, and isolates those that are to be. A network that isolates
    its ports by now does so with those of guests that have run since before. Raises GuestnetError."""
    for wanted in _recorded(domain):
        network = state.sound_network(wanted.network) if wanted.network else None
        try:
            _correct(_isolated_by(wanted, network))
        except RefusedError as error:
            raise GuestnetError(
                f"domain {domain.name!r}: {wanted.tap} cannot be put into {wanted.bridge}: {error}"
            ) from error


def _recorded(domain: Domain) -> list[TapBridge]:
    """Where its taps belong, with what its NICs say themselves: in the XML that libvirt shows of a running domain, "no"
    may also be what the network said when the NIC came. libvirt's record has the two apart."""
    found = tap_bridges(domain)
    record = libvirt_records.record(domain.name) if any(each.isolated == "no" for each in found) else None
    return tap_bridges(Domain(record.domain)) if record else found


def _isolated_by(wanted: TapBridge, network: NetworkReceipt | None) -> TapBridge:
    return wanted._replace(isolated="yes") if not wanted.isolated and network and network.isolated else wanted


def _correct(wanted: TapBridge) -> None:
    off = is_off(wanted)
    if off or is_exposed(wanted):
        with Rtnl() as netlink:
            if off:
                netlink.set_master(links.index_of(wanted.tap), links.index_of(wanted.bridge))
            netlink.isolate_port(links.index_of(wanted.tap), isolated=wanted.isolated == "yes")


class Strays:
    """Looks for such taps, again and again; keeps of each of libvirt's records what it said."""

    def __init__(self, looks: log.Looks) -> None:
        self._looks = looks
        self._read_before: dict[str, tuple[tuple[int, int], tuple[TapBridge, ...]]] = {}
        self._since: dict[TapBridge, float] = {}
        self.waiting = False  # some have been off for less than a moment

    def lost(self, names: list[str], state: State) -> dict[str, str]:
        """Those of the running domains of these names that concern us and have been off for a moment, each with its
        domain. Never fails: a record that cannot be read is of a guest that whatever repairs it will name."""
        now, networks, taps = time.monotonic(), {each.name: each for each in state.networks()}, state.tapnames()
        self._read_before = {name: found for name in names if (found := self._read(name))}
        domain_of = {
            _isolated_by(wanted, networks.get(wanted.network)): name
            for name, (_, found) in self._read_before.items()
            for wanted in found
            if wanted.network in networks or wanted.tap in taps
        }
        off = {wanted: name for wanted, name in domain_of.items() if is_off(wanted) or is_exposed(wanted)}
        self._since = {wanted: self._since.get(wanted, now) for wanted in off}
        lost = {wanted.tap: off[wanted] for wanted, since in self._since.items() if now - since >= GRACE_SECONDS}
        self.waiting = len(lost) < len(off)
        return lost

    def _read(self, name: str) -> tuple[tuple[int, int], tuple[TapBridge, ...]] | None:
        before = self._read_before.get(name)
        try:
            if before and libvirt_records.version(name) == before[0]:
                return before
            record = libvirt_records.record(name)
        except GuestnetError as error:
            self._looks.complain(f"domain {name}: whether its taps are in their bridges is not known: {error}")
            return before
        return (record.version, tuple(tap_bridges(Domain(record.domain)))) if record else None
