"""What the hooks applied, kept so that teardown works when the XML has changed or the tap is gone.

::

    /run/libvirt-guestnet/          0700 root, gone at boot like everything it describes
    ├── bridges.json                the bridges under the bridge guard, or why the kernel cannot guard them
    ├── checksum                    the checksum guard as it was loaded, or what this host lacks for it
    ├── domains/UUID.json           the taps guarded for a running domain
    ├── incoming/NAME.json          a domain that migrates to this host, until it runs here
    ├── insisting/BRIDGE.json       the network over a bridge that insists on guarded ports
    ├── lock                        held while receipts and chains change
    ├── networks/NAME.json          what an active network's XML said: defaults for ports without a policy of their own
    ├── plugging/PORTID.json        a NIC being plugged into a running domain, which nobody has put under guard yet
    ├── arriving/NAME … syncing/PID what a process is at, while it has their locks: `hook.processes.notes`
    ├── vlans/TAP.json              the VLANs of one tagged tap
    ├── reconnect/NAME              a guest for the one process that repairs all, and has reconnect.lock; in
    │                               repairing/NAME as long as it is at it
    ├── shared                      the part of the nft table that is the same for all ports, as it was last written
    ├── reach/TAP.json              the routes and published neighbours that lead to one tap
    ├── uplinks/NIC.json            the VLANs that we made a bridge's port to the outside a member of
    ├── ways/TAP.json               the ways in to one port: claimed when its guest starts, active once it is there
    ├── settled/ways.json           the ways that the kernel has; says so when they are just being changed
    └── ports/TAP.json              the receipt of one guarded tap: whose it is and what it may send

Every file is written whole and renamed into place. A tap's receipt is written before its chain and removed after it, a
domain's file is written after its receipts and removed before them: so whatever is in the kernel has a receipt, whoever
was killed when. A receipt without a tap is garbage that the next call sweeps up (decision 15). bridges.json says that
it is not settled while the kernel may differ from it.

The lock stops hooks of different domains, plug helpers, `guestnet` and the nft processes of killed hooks from seeing
each other's half-made changes. A receipt names its domain and its tap's index in the kernel, so that a late `release`
of an old domain leaves a reused tap name alone.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from fcntl import LOCK_EX, flock
from typing import Any, NamedTuple, TypeVar

from libvirt_guestnet import parse
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.state import serialiser
from libvirt_guestnet.state.receipts import Bridges, NetworkReceipt, Owner, Plugging, PortReceipt
from libvirt_guestnet.state.serialiser import DamagedError, if_sound, report

R = TypeVar("R", bound=NamedTuple)

ROOT = "/run/libvirt-guestnet"
_OF_TAPS = ("ports", "vlans", "reach", "ways")
# What this process has read: a call asks for the same receipts several times, and those of a network with thousands of
# reservations take long. A file is never changed in place, so a changed receipt is another file.
_READ: dict[tuple[str, type], tuple[serialiser.Identity, Any]] = {}
_MOST_READ = 4096


class _Taps(NamedTuple):
    taps: serialiser.Devices


class _Insisting(NamedTuple):
    network: str


class _Joined(NamedTuple):
    vlans: serialiser.VlanNumbers


class Lock:
    """Held inside a `with`; gives the descriptor to hand on to a process that must finish under it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> int:
        self.file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            flock(self.file, LOCK_EX)
        except BaseException:  # our deadline
            os.close(self.file)
            raise
        return self.file

    def __exit__(self, *_: object) -> None:
        os.close(self.file)


class State:
    """The directory tree above. Reading what is not there gives None or nothing.

    A damaged file is an error (DamagedError) for whoever asks for this one. Where all of a kind are read it is reported
    and left out: what is one guest's shall not be in the way of others.
    """

    def __init__(self, root: str = ROOT) -> None:
        self.root = root

    def lock(self) -> Lock:
        """Everything below that changes something wants this held. Waits; hooks have a deadline of their own."""
        os.makedirs(self.root, 0o700, exist_ok=True)
        return Lock(f"{self.root}/lock")

    def receipts(self, folder: str, kind: type[R], *inside: type[NamedTuple]) -> list[R]:
        """Every sound receipt of a folder; lists in them may be of the kinds `inside`."""
        names = _names(f"{self.root}/{folder}")
        found = (if_sound(lambda name: self._receipt(folder, name, kind, *inside), name) for name in names)
        return [receipt for receipt in found if receipt is not None]

    def _receipt(self, folder: str, name: str, kind: type[R], *inside: type[NamedTuple]) -> R | None:
        path = self._path(folder, name)
        if (file := serialiser.identity(path)) is None:
            return None
        before = _READ.get((path, kind))
        if file and before is not None and before[0] == file:
            known: R = before[1]
            return known
        if (fields := serialiser.load(path)) is None:
            return None
        receipt = serialiser.read(kind, fields, path, *inside)
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
        return self.receipts("networks", NetworkReceipt)

    def insisting(self, bridge: str) -> str:
        """The network over a bridge whose receipt says `required`, or ""."""
        path = self._path("insisting", bridge)
        fields = serialiser.load(path)
        name = serialiser.read(_Insisting, fields, path).network if fields is not None else ""
        receipt = self.network(name) if name else None
        return name if receipt is not None and receipt.required and receipt.bridge == bridge else ""

    def put_network(self, receipt: NetworkReceipt) -> None:
        before = self._insisting_bridges(receipt.name)
        self._write("networks", receipt.name, receipt._asdict())
        self._insist(before | ({receipt.bridge} if receipt.required else set()))

    def _insisting_bridges(self, name: str) -> set[str]:
        """Those on which a network may insist by its receipt: any where that is damaged."""
        try:
            receipt = self.network(name)
        except DamagedError:
            return set(_names(f"{self.root}/insisting"))
        return {receipt.bridge} if receipt is not None and receipt.required else set()

    def _insist(self, bridges: set[str]) -> None:
        """Of few networks, and not of all whenever a domain starts, it is looked up which insist."""
        for bridge in bridges - {""}:
            names = [each.name for each in self.networks() if each.required and each.bridge == bridge]
            if names:
                self._write("insisting", bridge, {"network": names[0]})
            else:
                self._remove("insisting", bridge)

    def confirm_network(self, name: str) -> None:
        """The receipt, if there is one, is as good as new: the hook file compares its age with libvirt's record."""
        with suppress(FileNotFoundError):
            os.utime(self._path("networks", name))

    def drop_network(self, name: str) -> None:
        before = self._insisting_bridges(name)
        self._remove("networks", name)
        self._insist(before)

    def bridges(self) -> Bridges | None:
        """None where no bridge is managed; not settled, and to be found out again, where the file is damaged."""
        path = self._path(".", "bridges")
        try:
            fields = serialiser.load(path)
            return None if fields is None else serialiser.read(Bridges, fields, path)
        except DamagedError as error:
            report(error)
            return Bridges({})

    def put_bridges(self, bridges: Bridges) -> None:
        self._write(".", "bridges", bridges._asdict())

    def drop_bridges(self) -> None:
        self._remove(".", "bridges")

    def checksum(self) -> dict[str, Any]:
        """What `put_checksum` noted; nothing if that is damaged, too: the program can always be loaded anew."""
        try:
            with open(f"{self.root}/checksum", "rb") as file:
                fields = json.load(file)
        except (FileNotFoundError, ValueError):
            return {}
        return fields if isinstance(fields, dict) else {}

    def put_checksum(self, fields: dict[str, Any]) -> None:
        os.makedirs(self.root, 0o700, exist_ok=True)
        self._replace(f"{self.root}/checksum", json.dumps(fields))

    def drop_checksum(self) -> None:
        with suppress(FileNotFoundError):
            os.unlink(f"{self.root}/checksum")

    def port(self, tap: str) -> PortReceipt | None:
        return self._receipt("ports", tap, PortReceipt)

    def sound_port(self, tap: str) -> PortReceipt | None:
        """The same, None too for a damaged one, which is reported."""
        return if_sound(self.port, tap)

    def ports(self) -> list[PortReceipt]:
        return self.receipts("ports", PortReceipt)

    def tapnames(self) -> set[str]:
        """The taps that have a receipt, be it a damaged one."""
        names = _names(f"{self.root}/ports")
        return {name for name in names if if_sound(_device, name) is not None}

    def owners(self, tap: str) -> list[Owner]:
        """Whose a tap is, by each of its receipts."""
        return [owner for kind in _OF_TAPS if (owner := self._owner(kind, tap))]

    def owned(self) -> dict[str, str]:
        """The UUID of every domain that has a receipt of a tap, with its name."""
        names = ((kind, name) for kind in _OF_TAPS for name in _names(f"{self.root}/{kind}"))
        found = [owner for kind, name in names if (owner := self._owner(kind, name))]
        return dict(sorted((owner.uuid, owner.domain) for owner in found))  # one of old may have no name

    def _owner(self, kind: str, tap: str) -> Owner | None:
        """None too for a damaged receipt, which is reported."""
        path = self._path(kind, tap)
        fields = if_sound(serialiser.load, path)
        return if_sound(lambda _: serialiser.read(Owner, fields, path), path) if fields else None

    def put_ports(self, uuid: str, receipts: list[PortReceipt]) -> None:
        """Records guarded taps of a domain, taking them over from whoever had the names before."""
        for receipt in receipts:
            old = self.port(receipt.tap)
            self._write("ports", receipt.tap, receipt._asdict())
            if old is not None and old.uuid != uuid:
                self._list(old.uuid, set(self.taps(old.uuid)))
        self._list(uuid, {*self.taps(uuid), *(r.tap for r in receipts)})

    def taps(self, uuid: str) -> list[str]:
        """The taps recorded for a domain that no other domain has taken over since."""
        found = ((tap, self.sound_port(tap)) for tap in self._listed(uuid))
        return [tap for tap, receipt in found if receipt is not None and receipt.uuid == uuid]

    def _listed(self, uuid: str) -> tuple[str, ...]:
        """What a domain's own file says or, where that is damaged, its taps' receipts."""
        path = self._path("domains", uuid)
        try:
            fields = serialiser.load(path)
            return serialiser.read(_Taps, fields, path).taps if fields is not None else ()
        except DamagedError as error:
            report(error)
            return tuple(receipt.tap for receipt in self.ports() if receipt.uuid == uuid)

    def drop_ports(self, taps: list[str]) -> None:
        """Forgets taps, whosever they are."""
        for tap in taps:
            receipt = self.sound_port(tap)
            if receipt is not None:
                self._list(receipt.uuid, set(self.taps(receipt.uuid)) - {tap})
            self._remove("ports", tap)

    def _list(self, uuid: str, taps: set[str]) -> None:
        if taps:
            self._write("domains", uuid, {"taps": sorted(taps)})
        else:
            self._remove("domains", uuid)

    def forget_ports(self) -> None:
        """Forgets every guarded tap, of every domain."""
        for kind in ("domains", "ports", "plugging"):
            for name in _names(f"{self.root}/{kind}"):
                self._remove(kind, name)

    def domains(self) -> list[str]:
        """The UUIDs of the domains that have guarded taps."""
        return _names(f"{self.root}/domains")

    def forget_domain(self, uuid: str) -> None:
        """What is left of a domain that is gone."""
        for plugging in self.pluggings():
            if plugging.uuid == uuid:
                self.drop_plugging(plugging.portid)
        self._remove("domains", uuid)

    def prune(self) -> None:
        """Removes domains without taps."""
        for uuid in self.domains():
            self._list(uuid, set(self.taps(uuid)))

    def plugging(self, portid: str) -> Plugging | None:
        return self._receipt("plugging", portid, Plugging)

    def pluggings(self) -> list[Plugging]:
        return self.receipts("plugging", Plugging)

    def plugging_age(self, portid: str) -> float:
        """The seconds since it was put there, 0 if it is gone."""
        try:
            return max(0.0, time.time() - os.stat(self.plugging_path(portid)).st_mtime)
        except FileNotFoundError:
            return 0.0

    def plugging_path(self, portid: str) -> str:
        return self._path("plugging", portid)

    def put_plugging(self, plugging: Plugging) -> None:
        self._write("plugging", plugging.portid, plugging._asdict())

    def drop_plugging(self, portid: str) -> None:
        self._remove("plugging", portid)

    def incoming(self, name: str, within: float = float("inf")) -> bool:
        """Whether a domain of that name is on its way to this host, said so many seconds ago at most."""
        try:
            return time.time() - os.stat(self.incoming_path(name)).st_mtime <= within
        except FileNotFoundError:
            return False

    def incoming_path(self, name: str) -> str:
        """The file that says so; who waits for the domain has its lock."""
        return self._path("incoming", name)

    def put_incoming(self, name: str, uuid: str, *, waiting: bool = False) -> None:
        self._write("incoming", name, {"uuid": uuid, "waiting": waiting})

    def drop_incoming(self, name: str) -> None:
        self._remove("incoming", name)

    def shared(self) -> str:
        """What `put_shared` noted, or ""."""
        try:
            with open(f"{self.root}/shared", errors="replace") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def put_shared(self, batch: str) -> None:
        self._replace(f"{self.root}/shared", batch)

    def put_tap_vlans(self, fields: dict[str, Any]) -> None:
        self._write("vlans", fields["tap"], fields)

    def drop_tap_vlans(self, tap: str) -> None:
        self._remove("vlans", tap)

    def put_reach(self, fields: dict[str, Any]) -> None:
        self._write("reach", fields["tap"], fields)

    def drop_reach(self, tap: str) -> None:
        self._remove("reach", tap)

    def joined(self, uplink: str) -> set[int]:
        """The VLANs that we made an uplink a member of."""
        return set(if_sound(self._joined, uplink) or ())

    def _joined(self, uplink: str) -> tuple[int, ...]:
        path = self._path("uplinks", uplink)
        fields = serialiser.load(path)
        return serialiser.read(_Joined, fields, path).vlans if fields is not None else ()

    def put_joined(self, uplink: str, vlans: set[int]) -> None:
        if vlans:
            self._write("uplinks", uplink, {"vlans": sorted(vlans)})
        else:
            self._remove("uplinks", uplink)

    def put_ways(self, fields: dict[str, Any]) -> None:
        self._write("ways", fields["tap"], fields)

    def drop_ways(self, tap: str) -> None:
        self._remove("ways", tap)

    def settled(self) -> Any:
        """What the kernel has by all these receipts, as `hook.enforce.forwards` wrote it; None for nothing."""
        fields = if_sound(serialiser.load, self._path("settled", "ways"), {"is": "damaged"})
        return None if fields is None else fields.get("is")

    def put_settled(self, value: Any) -> None:
        if value is None:
            self._remove("settled", "ways")
        else:
            self._write("settled", "ways", {"is": value})

    def _path(self, kind: str, name: str) -> str:
        if not name or "/" in name or "\0" in name or len(name.encode()) > 250:
            raise GuestnetError(f"the name {parse.shown(name)} cannot be kept in {self.root}/{kind}: shorten it")
        return f"{self.root}/{kind}/{name}.json"

    def _write(self, kind: str, name: str, fields: dict[str, Any]) -> None:
        path = self._path(kind, name)
        os.makedirs(self.root, 0o700, exist_ok=True)
        os.makedirs(f"{self.root}/{kind}", 0o700, exist_ok=True)
        text = json.dumps(fields)
        if len(text) >= serialiser.LARGEST_FILE:
            raise GuestnetError(f"{path} would be larger than {serialiser.LARGEST_FILE >> 20} MiB")
        self._replace(path, text)

    def _replace(self, path: str, text: str) -> None:
        draft = f"{self.root}/.draft"  # under the lock; one that a killed hook left is simply overwritten
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "w") as file:
            file.write(text)
        os.replace(draft, path)

    def _remove(self, kind: str, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._path(kind, name))


def _device(name: str) -> str:
    try:
        return parse.device(name)
    except parse.TextError as error:
        raise DamagedError(f"a receipt in {ROOT}/ports", error) from error


def _names(directory: str) -> list[str]:
    try:
        return sorted(name[:-5] for name in os.listdir(directory) if name.endswith(".json"))
    except FileNotFoundError:
        return []
