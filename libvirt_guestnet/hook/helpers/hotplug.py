"""NICs that anybody plugs into running guests: libvirt calls `port-created` before the tap exists, and does not name
it.

So `port-created` leaves a helper behind that is notified of every new device, and guards the tap as soon as it joins
its bridge. That takes milliseconds, while a guest needs a tenth of a second to find its new NIC. The helper is a fork
of the hook, with everything imported and its rtnetlink socket open; if it cannot be made, the attach is refused.
Decision 14 says why nothing simpler is enough.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from libvirt_guestnet import log
from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.admission import taps
from libvirt_guestnet.hook.calls import repair
from libvirt_guestnet.hook.processes import detached
from libvirt_guestnet.hook.processes.notes import Promise
from libvirt_guestnet.hook.read import libvirt_records
from libvirt_guestnet.hook.read.domain import Domain
from libvirt_guestnet.light_typing import NamedTuple
from libvirt_guestnet.metadata.attributes import of_child
from libvirt_guestnet.state.folder import State
from libvirt_guestnet.state.locked import LockedState, UnlockedState
from libvirt_guestnet.state.receipts import Plugging
from libvirt_guestnet.xmlread import Node

HELPER_SECONDS = 10
_LOOK_SECONDS = 0.3
_RIVAL_SECONDS = 0.02  # short, as the NIC is not guarded meanwhile
_TAPS = ("network", "bridge")
# A stand-in for the tap's name, to check a policy before the real name is known.
_NO_TAP_YET = "guestnet-new"


class Plug:
    """A NIC that is being plugged into a running domain."""

    def __init__(self, domain: Node, port: Node, network: str) -> None:
        plug = port.one("plug")
        self.domain, self.port, self.network = Domain(domain), port, network
        self.uuid, self.mac = self.domain.uuid, of_child(port, "mac", "address").lower()
        self.portid = port.text_of("uuid")
        self.type = (plug.get("type") if plug else "").removesuffix("-pci")  # of <interface>: hostdev
        self.bridge = plug.get("bridge") if plug else ""
        self.qdisc = _qdisc(port)

    def domain_with(self, tap: str = _NO_TAP_YET) -> Node:
        """The domain with this NIC alone, as a later hook call would show it."""
        kind = "network" if self.type in _TAPS else self.type
        nic = Node("interface", {"type": kind})
        nic.children = [
            *(child for child in self.port.children if child.tag not in ("uuid", "owner", "plug")),
            Node("source", {"network": self.network, "portid": self.portid, "bridge": self.bridge}),
            Node("target", {"dev": tap}),
        ]
        devices, domain = Node("devices", {}), Node("domain", {})
        devices.children = [nic]
        tags = ("name", "uuid", "metadata") if self._has_policy(nic) else ("name", "uuid")
        domain.children = [*(c for c in self.domain.xml.children if c.tag in tags), devices]
        return domain

    def _has_policy(self, nic: Node) -> bool:
        """Whether the metadata's policy for this MAC address is not that of another NIC with a tap that has it."""
        devices, domain = Node("devices", {}), Node("domain", {})
        devices.children = [nic, *self.domain.xml.all("devices/interface")]
        domain.children = [*self.domain.xml.all("metadata"), devices]
        new = Domain(domain).nics[0]
        return new.has_tap or new.policy is not None


def _qdisc(port: Node) -> str:
    """The kind of the last qdisc that libvirt will make for a NIC's bandwidth limits; "" if it has none."""
    if port.one("bandwidth/outbound"):
        return "ingress"
    return "htb" if port.one("bandwidth/inbound") else ""


def plug(hook_data: Node) -> Plug | None:
    """The NIC being plugged, or None where the call is part of a start or of a restart of the daemon."""
    network, port = hook_data.one("network"), hook_data.one("networkport")
    if network is None or port is None:
        return None
    domain = libvirt_records.running(port.text_of("owner/name"), port.text_of("owner/uuid"))
    if domain is None or _plugged(domain, port.text_of("uuid")):
        return None
    return Plug(domain, port, network.text_of("name"))


def _plugged(domain: Node, portid: str) -> bool:
    # If the port is on record already, the daemon is just restarting, and `reconnect` follows.
    return any(source.get("portid") == portid for source in domain.all("devices/interface/source"))


class Staying(NamedTuple):
    """The tap of an attached NIC that is on the bridge already, so that perhaps no new one joins it; "" if there is
    none. `moves`: the NIC moves from another network of the same bridge."""

    tap: str = ""
    moves: bool = False


def staying(found: Plug) -> Staying:
    """The NIC with that MAC address which is attached already and may be the one for which libvirt calls."""
    for nic in found.domain.nics:
        if nic.mac == found.mac and nic.has_tap and nic.tap and links.is_on(nic.tap, found.bridge):
            return Staying(nic.tap, nic.network != found.network)
    return Staying()


def forget_others(found: Plug, stays: Staying, locked: LockedState) -> None:
    """Removes marks of earlier moves of this NIC within the bridge, not those of others with its MAC address."""
    others = {nic.portid for nic in found.domain.nics if not (nic.has_tap and nic.tap == stays.tap)}
    for mark in locked.pluggings():
        if (mark.uuid, mark.mac) == (found.uuid, found.mac) and mark.portid not in {found.portid, *others}:
            locked.drop_plugging(mark.portid)


Guard = Callable[[str], bool]


def promised(found: Plug, state: UnlockedState) -> Promise:
    """Writes the mark that the NIC is being plugged in. The promise is its lock, which says that a process waits."""
    with state.lock() as locked:
        name = found.domain.name
        locked.put_plugging(Plugging(found.portid, found.uuid, found.mac, name, found.network))
        return Promise(locked.plugging_path(found.portid), locked)


def leave_helper(found: Plug, state: UnlockedState, guard: Guard, stays: Staying, promise: Promise) -> None:
    """Leaves a process behind that calls `guard` with the tap's name; `guard` returns whether the NIC was there. If the
    NIC may be the one that `stays`, it waits until libvirt's record says which one it is: that one has a new port then,
    and perhaps another VLAN. Raises OSError when the process cannot be made."""
    watch = links.Watch()
    why = "guard the new NIC"
    try:
        detached.leave(lambda: _help(watch, found, state, guard, stays), 2 * HELPER_SECONDS, why, promise)
    finally:
        watch.close()


def _candidates(watch: links.Watch, found: Plug, state: State, stays: Staying) -> Iterator[tuple[str, bool]]:
    """Taps that may be the NIC's, each with whether that is certain, for HELPER_SECONDS.

    When a NIC moves within its bridge, libvirt 9.0 takes the tap out and puts it in again; other versions leave it
    there. Then it is certain only once libvirt's record has it. So it is while another guest's NIC with the same MAC
    address is being plugged in.
    """

    def fits(tap: str) -> bool:
        return (stays.moves or tap != stays.tap) and not taps.owner_but(found.uuid, tap, state)

    end = time.monotonic() + HELPER_SECONDS
    while (left := end - time.monotonic()) > 0:
        alone = not _has_rival(found, state)
        tap = watch.tap(found.mac, found.bridge, min(left, _LOOK_SECONDS if alone else _RIVAL_SECONDS), fits)
        if tap and not _has_rival(found, state):
            yield tap, not stays.moves
        given = _recorded_tap(found, state)
        if given and (given == stays.tap or not taps.owner_but(found.uuid, given, state)):
            yield given, True
        if given != "":
            return


def _recorded_tap(found: Plug, state: State) -> str | None:
    """The NIC's tap by libvirt's record; "" while it has none, None if it will have none."""
    try:
        domain = libvirt_records.running(found.domain.name, found.uuid)
    except GuestnetError:  # the record cannot be read now
        return ""
    if domain is None or state.plugging(found.portid) is None:
        return None
    return next((nic.tap for nic in Domain(domain).nics if nic.portid == found.portid and nic.has_tap), "")


def _has_rival(found: Plug, state: State) -> bool:
    """Whether another guest's NIC with its MAC address is plugged in: a tap alone does not say whose it is."""
    return any(mark.mac == found.mac and mark.uuid != found.uuid for mark in state.pluggings())


def _help(watch: links.Watch, found: Plug, state: UnlockedState, guard: Guard, stays: Staying) -> None:
    for tap, for_good in _candidates(watch, found, state, stays):
        if _guarded(tap, found, guard) and for_good:
            if stays.moves and tap != stays.tap:
                _guard_as_recorded(found)
            with state.lock() as locked:
                locked.drop_plugging(found.portid)
            return
    _give_up(found, state)


def _guard_as_recorded(found: Plug) -> None:
    """Guards a NIC as recorded, since the call was for another one with its MAC address. Never fails."""
    repair.repair([found.domain.name], "after another NIC with the MAC address of one of its own came")


def _guarded(tap: str, found: Plug, guard: Guard) -> bool:
    """Guards a NIC, if the tap is still its own. Returns whether nothing is left to do. Never fails."""
    name = found.domain.name
    try:
        return guard(tap)
    except taps.OthersTapError as error:  # the other domain's guard stays
        log.complain(f"domain {name}: new NIC {found.mac} is not guarded: {error}")
    except Exception as error:  # after any bug the tap must be down: nothing else will guard this NIC
        links.set_down(tap)
        log.complain(f"domain {name}: new NIC {found.mac} cannot be guarded, {tap} is down: {error}")
    return True


def _give_up(found: Plug, state: UnlockedState) -> None:
    """Gives up waiting: `plug_marks` guards the NIC if its tap appears after all."""
    with state.lock() as locked:
        mark = locked.plugging(found.portid)
        if mark is None:
            return  # unplugged again
        locked.put_plugging(mark._replace(alone=True))
    log.complain(
        f"domain {mark.domain}: the tap of new NIC {found.mac} on network {found.network} has not come within "
        f"{HELPER_SECONDS} s: libvirt-guestnet.service, a later hook call or `guestnet hooks sync` guards it then"
    )
