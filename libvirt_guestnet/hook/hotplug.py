"""NICs plugged into running guests by anybody: libvirt calls `port-created` before the tap exists and tells no name.

So `port-created` leaves a helper behind that hears of every new device and guards the tap the moment it joins its
bridge: milliseconds later, where a guest needs a tenth of a second to find its new NIC. The helper is a fork of the
hook, with everything imported and its rtnetlink socket listening; if it cannot be made, the attach is refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from libvirt_guestnet.datapath import links
from libvirt_guestnet.hook import detached, log, xmlread
from libvirt_guestnet.hook.xmlread import Node
from libvirt_guestnet.state import Plugging, State

# libvirt's own record of a running domain: not there yet when a domain starts, there when a NIC is plugged in.
STATUS = "/run/libvirt/qemu/{}.xml"
HELPER_SECONDS = 10
_TAPS = ("network", "bridge")
_GIVEN = ("vlan", "virtualport")
# Only to check a policy before the real name is known.
_NO_TAP_YET = "guestnet-new"


class Plug:
    """A NIC that is being plugged into a running domain."""

    def __init__(self, domain: Node, port: Node, network: str) -> None:
        plug = port.one("plug")
        self.domain, self.port, self.network = domain, port, network
        self.uuid, self.mac = domain.text_of("uuid"), _mac(port)
        self.portid = port.text_of("uuid")
        self.type = plug.get("type") if plug else ""
        self.bridge = plug.get("bridge") if plug else ""

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
        domain.children = [*(c for c in self.domain.children if c.tag in ("name", "uuid", "metadata")), devices]
        return domain


def plug(hook_data: Node) -> Plug | None:
    """The NIC being plugged, or None where the call is part of a start or of a restart of the daemon."""
    network, port = hook_data.one("network"), hook_data.one("networkport")
    if network is None or port is None:
        return None
    domain = running(port.text_of("owner/name"), port.text_of("owner/uuid"))
    if domain is None or _plugged(domain, port.text_of("uuid")):
        return None
    return Plug(domain, port, network.text_of("name"))


def status(name: str) -> Node | None:
    """libvirt's record of a domain, <domstatus>; None while it starts or does not run."""
    try:
        with open(STATUS.format(name), "rb") as file:
            return xmlread.parse(file.read(xmlread.MAX_BYTES + 1))
    except (FileNotFoundError, NotADirectoryError):
        return None


class Record(NamedTuple):
    """A running domain as a hook would see it; its `version` is another when libvirt has written it anew."""

    domain: Node
    version: tuple[int, int]


def record(name: str, known: Record | None = None) -> Record | None:
    """libvirt's record of a domain, `known` itself if that is still it; None while it does not run. Raises
    GuestnetError on one that cannot be read."""
    try:
        with open(STATUS.format(name), "rb") as file:
            stat = os.fstat(file.fileno())
            version = stat.st_ino, stat.st_mtime_ns
            if known is not None and known.version == version:
                return known
            domain = xmlread.parse(file.read(xmlread.MAX_BYTES + 1)).one("domain")
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Record(_with_given(domain), version) if domain is not None else None


def _with_given(domain: Node) -> Node:
    """libvirt's record keeps apart what a network gave a NIC; the XML on a hook's stdin does not."""
    for nic in domain.all("devices/interface"):
        given, source = nic.one("actual"), nic.one("source")
        if given is not None and source is not None:
            nic.attributes.update(given.attributes)  # its type
            source.attributes.update(of.attributes if (of := given.one("source")) else {})
            nic.children = [*(child for child in given.children if child.tag in _GIVEN), *nic.children]
    return domain


def running(name: str, uuid: str) -> Node | None:
    """What libvirt has on record for a running domain, with its metadata; None while it starts or does not run."""
    found = status(name)
    domain = found.one("domain") if found else None
    return domain if domain is not None and domain.text_of("uuid") == uuid else None


def _plugged(domain: Node, portid: str) -> bool:
    # The daemon restarts: the port is an old one, and `reconnect` will come for it.
    return any(source.get("portid") == portid for source in domain.all("devices/interface/source"))


def _mac(port: Node) -> str:
    mac = port.one("mac")
    return mac.get("address").lower() if mac else ""


def staying(found: Plug) -> tuple[str, str]:
    """(tap, network so far) of an attached NIC that is on the bridge already, so that no tap will join it; else ""."""
    for nic in found.domain.all("devices/interface"):
        target, source = nic.one("target"), nic.one("source")
        if _mac(nic) == found.mac and target and links.is_on(target.get("dev"), found.bridge):
            return target.get("dev"), source.get("network") if source else ""
    return "", ""


def leave_helper(found: Plug, state: State, guard: Callable[[str], None]) -> None:
    """Leaves a process behind that calls `guard` with the name of the tap. Raises OSError when it cannot be made."""
    watch = links.Watch()
    with state.lock():
        state.put_plugging(Plugging(found.portid, found.uuid, found.mac))
    try:
        detached.leave(lambda: _help(watch, found, state, guard), 2 * HELPER_SECONDS, "guard the new NIC")
    finally:
        watch.close()


def _help(watch: links.Watch, found: Plug, state: State, guard: Callable[[str], None]) -> None:
    tap = watch.tap(found.mac, found.bridge, HELPER_SECONDS)
    try:
        if tap:
            guard(tap)
    except Exception as error:  # closed, whatever the bug: nobody else will guard this NIC
        links.set_down(tap)
        name = found.domain.text_of("name")
        log.complain(f"domain {name}: new NIC {found.mac} cannot be guarded, {tap} is down: {error}")
    finally:
        with state.lock():
            state.drop_plugging(found.portid)
