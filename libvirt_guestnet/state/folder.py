"""What the hooks applied, kept so that teardown works when the XML has changed or the tap is gone.

::

    /run/libvirt-guestnet/          0700 root, gone at boot like everything it describes
    ├── format                      the number of this tree's form: FORMAT, below
    ├── bridges.json                the bridges under the bridge guard, or why the kernel cannot guard them
    ├── checksum                    the checksum guard as it was loaded, or what this host lacks for it
    ├── domains/UUID.json           the taps guarded for a running domain
    ├── forwards/TAP.json           the forwards to one port: claimed when its guest starts, active once it is there
    ├── forwards-in-kernel.json     the forwards that the kernel has; says so when they are just being changed
    ├── host-routes/TAP.json        the routes and published addresses of one tap
    ├── impaired/TAP.json           what one tap does to packets on their way to its guest, or why it cannot
    ├── incoming/NAME.json          a domain that migrates to this host, until it runs here
    ├── insisting/BRIDGE.json       the network on a bridge that requires guarded ports
    ├── lock                        held while receipts and chains change: `locked`
    ├── network.json                what of all this other programs may read: `network_map`
    ├── networks/NAME.json          what an active network's XML said: defaults for ports without a policy of their own
    ├── plugging/PORTID.json        a NIC being plugged into a running domain, which is not guarded yet
    ├── changing/NAME … syncing/PID work that a process does as long as it has their locks: `hook.processes.notes`
    ├── ports/TAP.json              the receipt of one guarded tap: its domain, and what it may send
    ├── reconnect/NAME              a guest to be repaired, by the one process that has reconnect.lock; in
    │                               repairing/NAME while that is done
    ├── shared                      the part of the nft table that is the same for all ports, as it was last written
    ├── uplinks/NIC.json            the VLANs of which we made a bridge's uplink a member
    └── vlans/TAP.json              the VLANs of one tagged tap

Every file is written whole and renamed into place. A tap's receipt is written before its chain and removed after it, a
domain's file is written after its receipts and removed before them. So everything in the kernel has a receipt, whenever
a process is killed. A receipt without a tap is removed by the next call (decision 15). While the kernel may differ from
bridges.json, that file says that it is not settled.

A receipt names its domain and the index of its tap. So a late `release` of an earlier domain does not affect a tap that
has the same name by now.
"""

from __future__ import annotations

import os
import time

from libvirt_guestnet import parse
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.light_typing import Any, NamedTuple, TypeVar
from libvirt_guestnet.state import serialiser
from libvirt_guestnet.state.receipts import (
    Bridges,
    Checksum,
    DomainTaps,
    ForwardsInKernel,
    HostRoutes,
    ImpairedTap,
    Incoming,
    Insisting,
    NetworkReceipt,
    Owner,
    Plugging,
    PortForwards,
    PortReceipt,
    Shared,
    TapVlans,
    UplinkVlans,
)
from libvirt_guestnet.state.serialiser import DamagedError, if_sound, report

R = TypeVar("R", bound=NamedTuple)

ROOT = "/run/libvirt-guestnet"
# Raise it with every change that an earlier version would misunderstand, and make `upgrade` convert the old form.
FORMAT = 2
_OF_TAPS = ("ports", "vlans", "host-routes", "forwards", "impaired")
# A cache: a call needs the same receipts several times, and those of a network with thousands of reservations take
# long. A file is never changed in place, so a changed receipt is another file.
_READ: dict[tuple[str, type], tuple[serialiser.Identity, Any]] = {}
_MOST_READ = 4096


def check_format(root: str) -> None:
    """Raises GuestnetError if a later version, whose form we cannot know, wrote the folder, or if its version cannot be
    read."""
    path = f"{root}/format"
    try:
        with open(path, "rb") as file:
            number = parse.number(file.read(64).decode().strip(), 1, 1 << 31)
    except (
        FileNotFoundError,
        PermissionError,
    ):  # the first version wrote none; who may not read sees no receipt either
        return
    except (OSError, ValueError) as error:
        raise DamagedError(path, f"it is not a number: this version writes {FORMAT}") from error
    if number > FORMAT:
        raise GuestnetError(
            f"{path} says {number}: a later version of guestnet wrote {root}, and this one reads up to {FORMAT}: "
            f"install that version again, or restart the host, which empties {root} and ends all guests"
        )


class State:
    """The directory tree above, for reading. For what does not exist, methods return None or nothing.

    `locked.LockedState` can change it; `locked.UnlockedState` gives that.

    A damaged file is an error (DamagedError) if that one is asked for. If all of a kind are read, it is reported and
    left out, so that one guest's file does not keep others from anything.
    """

    def __init__(self, root: str = ROOT) -> None:
        """Raises GuestnetError as `check_format`."""
        check_format(root)
        self.root = root

    def _receipts(self, folder: str, kind: type[R]) -> list[R]:
        """Every sound receipt of a folder."""
        found = (if_sound(lambda name: self._receipt(folder, name, kind), name) for name in self._names(folder))
        return [receipt for receipt in found if receipt is not None]

    def _receipt(self, folder: str, name: str, kind: type[R]) -> R | None:
        """A receipt whose first field is its file's name."""
        path = self._path(folder, name)
        if (file := serialiser.identity(path)) is None:
            return None
        before = _READ.get((path, kind))
        if file and before is not None and before[0] == file:
            cached: R = before[1]
            return cached
        if (receipt := serialiser.stored(kind, path)) is None:
            return None
        if receipt[0] != name:
            raise DamagedError(path, f"{kind._fields[0]}: it is of {parse.shown(receipt[0])}")
        if len(_READ) >= _MOST_READ:
            _READ.clear()
        _READ[path, kind] = file, receipt
        return receipt

    def network(self, name: str) -> NetworkReceipt | None:
        return self._receipt("networks", name, NetworkReceipt)

    def sound_network(self, name: str) -> NetworkReceipt | None:
        """The same, None too for a damaged one, which is reported."""
        return if_sound(self.network, name)

    def networks(self) -> list[NetworkReceipt]:
        return self._receipts("networks", NetworkReceipt)

    def insisting(self, bridge: str) -> str:
        """The network on a bridge that requires guarded ports by its receipt, or ""."""
        found = serialiser.stored(Insisting, self._path("insisting", bridge))
        name = found.network if found is not None else ""
        receipt = self.network(name) if name else None
        return name if receipt is not None and receipt.required and receipt.bridge == bridge else ""

    def bridges(self) -> Bridges | None:
        """None if no bridge is managed. A damaged file counts as not settled, so that it is found out again."""
        return self._one("bridges.json", Bridges, Bridges({}))

    def _one(self, name: str, kind: type[R], damaged: R) -> R | None:
        """A receipt of the whole host; `damaged` if it is damaged."""
        return if_sound(lambda path: serialiser.stored(kind, path), f"{self.root}/{name}", damaged)

    def _replaceable(self, name: str, kind: type[R]) -> R | None:
        """A receipt that can always be written again: None for a damaged one too, which is not worth a report."""
        try:
            return serialiser.stored(kind, f"{self.root}/{name}")
        except DamagedError:
            return None

    def checksum(self) -> Checksum:
        return self._replaceable("checksum", Checksum) or Checksum()

    def shared(self) -> str:
        """The shared part of the nft table as it was last written, or ""."""
        found = self._replaceable("shared", Shared)
        return found.batch if found else ""

    def forwards_in_kernel(self) -> ForwardsInKernel | None:
        """None if there are none. If it is damaged, nothing counts as being in the kernel."""
        return self._one("forwards-in-kernel.json", ForwardsInKernel, ForwardsInKernel())

    def forwards(self) -> list[PortForwards]:
        """Every port's forwards, active or not."""
        return self._receipts("forwards", PortForwards)

    def host_routes(self) -> list[HostRoutes]:
        return self._receipts("host-routes", HostRoutes)

    def tap_vlans(self) -> list[TapVlans]:
        return self._receipts("vlans", TapVlans)

    def impaired_taps(self) -> list[ImpairedTap]:
        return self._receipts("impaired", ImpairedTap)

    def of_tap(self, kind: str, tap: str, as_: type[R]) -> R | None:
        """What the receipts of a kind say of one tap; None too for a damaged one, which is reported."""
        return if_sound(lambda name: self._receipt(kind, name, as_), tap)

    def port(self, tap: str) -> PortReceipt | None:
        return self._receipt("ports", tap, PortReceipt)

    def sound_port(self, tap: str) -> PortReceipt | None:
        """The same, None too for a damaged one, which is reported."""
        return if_sound(self.port, tap)

    def port_fields(self, tap: str) -> dict[str, Any]:
        """What a tap's receipt has, not looked through, to choose which to read: that takes ten times as long. Empty
        for a damaged one, which is reported."""
        return if_sound(serialiser.load, self._path("ports", tap)) or {}

    def ports(self) -> list[PortReceipt]:
        return self._receipts("ports", PortReceipt)

    def tapnames(self) -> set[str]:
        """The taps that have a receipt, even a damaged one."""
        return {name for name in self._names("ports") if if_sound(_device, name) is not None}

    def owners(self, tap: str) -> list[Owner]:
        """The domains to which a tap belongs, by each of its receipts."""
        return [owner for kind in _OF_TAPS if (owner := self._owner(kind, tap))]

    def owned(self) -> dict[str, str]:
        """The UUID of every domain that has a receipt of a tap, with its name."""
        names = ((kind, name) for kind in _OF_TAPS for name in self._names(kind))
        found = [owner for kind, name in names if (owner := self._owner(kind, name))]
        return dict(sorted((owner.uuid, owner.domain) for owner in found))  # one of old may have no name

    def _owner(self, kind: str, tap: str) -> Owner | None:
        """None too for a damaged receipt, which is reported."""
        found = if_sound(lambda path: serialiser.stored(Owner, path), self._path(kind, tap))
        return found if found and any(found) else None

    def taps(self, uuid: str) -> list[str]:
        """The taps recorded for a domain that no other domain has taken over since."""
        found = ((tap, self.sound_port(tap)) for tap in self._listed(uuid))
        return [tap for tap, receipt in found if receipt is not None and receipt.uuid == uuid]

    def _listed(self, uuid: str) -> tuple[str, ...]:
        """The taps in a domain's own file or, if that is damaged, by the taps' receipts."""
        try:
            found = serialiser.stored(DomainTaps, self._path("domains", uuid))
            return found.taps if found is not None else ()
        except DamagedError as error:
            report(error)
            return tuple(receipt.tap for receipt in self.ports() if receipt.uuid == uuid)

    def domains(self) -> list[str]:
        """The UUIDs of the domains that have guarded taps."""
        return self._names("domains")

    def plugging(self, portid: str) -> Plugging | None:
        return self._receipt("plugging", portid, Plugging)

    def pluggings(self) -> list[Plugging]:
        return self._receipts("plugging", Plugging)

    def plugging_age(self, portid: str) -> float:
        """The seconds since the mark was written, 0 if it is gone."""
        try:
            return max(0.0, time.time() - os.stat(self.plugging_path(portid)).st_mtime)
        except FileNotFoundError:
            return 0.0

    def plugging_path(self, portid: str) -> str:
        return self._path("plugging", portid)

    def incoming(self, name: str, within: float = float("inf")) -> bool:
        """Whether a domain of that name migrates to this host, by a note at most so many seconds old."""
        try:
            return time.time() - os.stat(self.incoming_path(name)).st_mtime <= within
        except FileNotFoundError:
            return False

    def awaited(self, name: str) -> bool:
        """Whether a process should wait for it."""
        found = if_sound(lambda path: serialiser.stored(Incoming, path), self.incoming_path(name))
        return found is not None and found.waiting

    def incoming_path(self, name: str) -> str:
        """The file that says so; the process that waits for the domain has its lock."""
        return self._path("incoming", name)

    def joined(self, uplink: str) -> set[int]:
        """The VLANs of which we made an uplink a member."""
        found = if_sound(lambda path: serialiser.stored(UplinkVlans, path), self._path("uplinks", uplink))
        return set(found.vlans if found else ())

    def _path(self, kind: str, name: str) -> str:
        if not name or "/" in name or "\0" in name or len(name.encode()) > 250:
            raise GuestnetError(f"the name {parse.shown(name)} cannot be kept in {self.root}/{kind}: shorten it")
        return f"{self.root}/{kind}/{name}.json"

    def _names(self, folder: str) -> list[str]:
        try:
            return sorted(name[:-5] for name in os.listdir(f"{self.root}/{folder}") if name.endswith(".json"))
        except FileNotFoundError:
            return []


def _device(name: str) -> str:
    try:
        return parse.device(name)
    except parse.TextError as error:
        raise DamagedError(f"a receipt in {ROOT}/ports", error) from error
