"""Taps of running guests that are in no bridge, although libvirt's records name one; or that are not isolated from each
other there, although they should be.

When a network is stopped, its bridge goes. libvirt puts taps back only when its daemon restarts, and does not isolate
them then; other tools take ports out of bridges. A tap in another bridge stays there: somebody has put it there.
"""

from __future__ import annotations

import time

from libvirt_guestnet import log, parse
from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.datapath.netlink.rtnl import RefusedError, Rtnl
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.read import libvirt_records
from libvirt_guestnet.hook.read.domain import Domain
from libvirt_guestnet.light_typing import NamedTuple
from libvirt_guestnet.state.folder import State
from libvirt_guestnet.state.receipts import NetworkReceipt

# For how long a tap must be out: a NIC that moves is out of both bridges for a moment.
GRACE_SECONDS = 1.0


class TapBridge(NamedTuple):
    """The bridge in which a tap should be; `isolated` from other isolated ports: yes, no, or "" (see its network)."""

    tap: str
    bridge: str
    isolated: str
    network: str


def tap_bridges(domain: Domain) -> list[TapBridge]:
    """The bridges in which the taps of a running domain's NICs should be; not those of Open vSwitch."""
    nics = [nic for nic in domain.nics if nic.has_tap and nic.virtualport is None]
    found = [nic for nic in nics if _is_device(nic.tap) and _is_device(nic.bridge)]
    return [TapBridge(nic.tap, nic.bridge, nic.isolated, nic.network) for nic in found]


def _is_device(name: str) -> bool:
    """Whether a device can have that name."""
    try:
        return parse.device(name) == name
    except parse.TextError:
        return False


def is_off(wanted: TapBridge) -> bool:
    """Whether a tap is in no bridge although its own exists."""
    return not links.master_of(wanted.tap) and links.is_bridge(wanted.bridge) and links.index_of(wanted.tap) > 0


def is_exposed(wanted: TapBridge) -> bool:
    """Whether a tap is in its bridge, but not isolated from its neighbours as it should be."""
    should = wanted.isolated == "yes" and links.master_of(wanted.tap) == wanted.bridge
    return should and not links.is_isolated(wanted.tap)


def join(domain: Domain, state: State) -> None:
    """Puts a domain's taps that are in no bridge back into theirs, and isolates those that should be: also ports of
    guests that have run since before their network began to isolate its ports. Raises GuestnetError."""
    for wanted in _recorded(domain):
        network = state.sound_network(wanted.network) if wanted.network else None
        try:
            _correct(_isolated_by(wanted, network))
        except RefusedError as error:
            raise GuestnetError(
                f"domain {domain.name!r}: {wanted.tap} cannot be put into {wanted.bridge}: {error}"
            ) from error


def _recorded(domain: Domain) -> list[TapBridge]:
    """The bridges of its taps, with `isolated` only where a NIC itself says so. In the XML of a running domain, "no"
    may also be what the network said when the NIC was made; libvirt's record keeps the two apart."""
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
    """Looks for such taps again and again, and reads only those of libvirt's records that have changed."""

    def __init__(self, looks: log.Looks) -> None:
        self._looks = looks
        self._read_before: dict[str, tuple[tuple[int, int], tuple[TapBridge, ...]]] = {}
        self._since: dict[TapBridge, float] = {}
        self.waiting = False  # whether some taps are off, but not yet for GRACE_SECONDS

    def lost(self, names: list[str], state: State) -> dict[str, str]:
        """The taps of these running domains that concern us and have been off for GRACE_SECONDS, each with its domain.
        Never fails: a record that cannot be read is logged."""
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
