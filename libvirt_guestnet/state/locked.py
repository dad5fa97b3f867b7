"""The state's lock, and what can be done with the state while one has it.

The lock keeps hooks of different domains, plug helpers, `guestnet` and the nft processes of killed hooks from seeing
each other's half-made changes. A function that needs it takes a LockedState, which only the lock gives. One that will
take the lock takes an UnlockedState: it would wait for itself if its caller had it already. One that only reads takes a
State.
"""

from __future__ import annotations

import os
from contextlib import suppress
from fcntl import LOCK_EX, flock

from libvirt_guestnet.datapath.run.program import LockDescriptor
from libvirt_guestnet.light_typing import NamedTuple
from libvirt_guestnet.state import network_map, serialiser
from libvirt_guestnet.state.folder import FORMAT, ROOT, State
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
    Plugging,
    PortForwards,
    PortReceipt,
    Shared,
    TapVlans,
    UplinkVlans,
)
from libvirt_guestnet.state.serialiser import DamagedError

# The folders that only the earlier form has.
OLD = ("reach", "ways", "settled", "arriving")


def is_old(root: str) -> bool:
    """Whether something has the earlier form: by its number, or as a process of that version wrote it later."""
    unnumbered = os.path.lexists(f"{root}/lock") and not os.path.lexists(f"{root}/format")
    return unnumbered or any(os.path.lexists(f"{root}/{name}") for name in OLD)


class LockedState(State):
    """The state, for changing too. Only the holder of the lock can make one, and it is useless once the lock is
    released."""

    def __init__(self, lock: Lock) -> None:
        lock.check()
        self._lock = lock
        super().__init__(lock.root)

    def _changing(self, kind: str, name: str) -> None:
        self._lock.check()
        if kind in network_map.KINDS:
            self._lock.changing(kind, name)

    @property
    def descriptor(self) -> LockDescriptor:
        """The lock's descriptor, for a process that must finish under the lock."""
        return self._lock.descriptor

    def put_network(self, receipt: NetworkReceipt) -> None:
        before = self._insisting_bridges(receipt.name)
        self._write("networks", receipt.name, receipt)
        self._insist(before | ({receipt.bridge} if receipt.required else set()))

    def drop_network(self, name: str) -> None:
        before = self._insisting_bridges(name)
        self._remove("networks", name)
        self._insist(before)

    def _insisting_bridges(self, name: str) -> set[str]:
        """The bridges for which a network may require guarded ports by its receipt: any, if that is damaged."""
        try:
            receipt = self.network(name)
        except DamagedError:
            return set(self._names("insisting"))
        return {receipt.bridge} if receipt is not None and receipt.required else set()

    def _insist(self, bridges: set[str]) -> None:
        """Writes by bridge which networks require guarded ports: a start need not read all receipts."""
        for bridge in bridges - {""}:
            names = [each.name for each in self.networks() if each.required and each.bridge == bridge]
            if names:
                self._write("insisting", bridge, Insisting(names[0]))
            else:
                self._remove("insisting", bridge)

    def put_ports(self, uuid: str, receipts: list[PortReceipt]) -> None:
        """Writes the receipts of a domain's guarded taps, which it takes over from earlier domains of these taps."""
        for receipt in receipts:
            old = self.port(receipt.tap)
            self._write("ports", receipt.tap, receipt)
            if old is not None and old.uuid != uuid:
                self._list(old.uuid, set(self.taps(old.uuid)))
        self._list(uuid, {*self.taps(uuid), *(r.tap for r in receipts)})

    def drop_ports(self, taps: list[str]) -> None:
        """Removes the receipts of taps, of any domain."""
        for tap in taps:
            receipt = self.sound_port(tap)
            if receipt is not None:
                self._list(receipt.uuid, set(self.taps(receipt.uuid)) - {tap})
            self._remove("ports", tap)

    def _list(self, uuid: str, taps: set[str]) -> None:
        if taps:
            self._write("domains", uuid, DomainTaps(tuple(sorted(taps))))
        else:
            self._remove("domains", uuid)

    def forget_guards(self) -> None:
        """Removes the receipts of all guarded taps and all networks, when hooks are uninstalled. VLANs stay recorded,
        as taps and uplinks keep them."""
        for kind in ("domains", "ports", "plugging", "incoming", "networks", "insisting"):
            for name in self._names(kind):
                self._remove(kind, name)
        self.drop_shared()

    def forget_domain(self, uuid: str) -> None:
        """Removes what is left of a domain that is gone."""
        for plugging in self.pluggings():
            if plugging.uuid == uuid:
                self.drop_plugging(plugging.portid)
        self._remove("domains", uuid)

    def prune(self) -> None:
        """Removes domains without taps."""
        for uuid in self.domains():
            self._list(uuid, set(self.taps(uuid)))

    def put_plugging(self, plugging: Plugging) -> None:
        self._write("plugging", plugging.portid, plugging)

    def drop_plugging(self, portid: str) -> None:
        self._remove("plugging", portid)

    def put_incoming(self, name: str, uuid: str, *, waiting: bool = False) -> None:
        self._write("incoming", name, Incoming(uuid, waiting))

    def drop_incoming(self, name: str) -> None:
        self._remove("incoming", name)

    def put_tap_vlans(self, vlans: TapVlans) -> None:
        self._write("vlans", vlans.tap, vlans)

    def drop_tap_vlans(self, tap: str) -> None:
        self._remove("vlans", tap)

    def put_joined(self, uplink: str, vlans: set[int]) -> None:
        if vlans:
            self._write("uplinks", uplink, UplinkVlans(tuple(sorted(vlans))))
        else:
            self._remove("uplinks", uplink)

    def put_impaired_tap(self, impaired: ImpairedTap) -> None:
        self._write("impaired", impaired.tap, impaired)

    def drop_impaired_tap(self, tap: str) -> None:
        self._remove("impaired", tap)

    def put_host_routes(self, routes: HostRoutes) -> None:
        self._write("host-routes", routes.tap, routes)

    def drop_host_routes(self, tap: str) -> None:
        self._remove("host-routes", tap)

    def put_forwards(self, forwards: PortForwards) -> None:
        self._write("forwards", forwards.tap, forwards)

    def drop_forwards(self, tap: str) -> None:
        self._remove("forwards", tap)

    def put_forwards_in_kernel(self, forwards: ForwardsInKernel) -> None:
        self._write_one("forwards-in-kernel.json", forwards)

    def drop_forwards_in_kernel(self) -> None:
        self._remove_one("forwards-in-kernel.json")

    def put_bridges(self, bridges: Bridges) -> None:
        self._write_one("bridges.json", bridges)

    def drop_bridges(self) -> None:
        self._remove_one("bridges.json")

    def put_checksum(self, checksum: Checksum) -> None:
        self._write_one("checksum", checksum)

    def drop_checksum(self) -> None:
        self._remove_one("checksum")

    def put_shared(self, batch: str) -> None:
        self._write_one("shared", Shared(batch))

    def drop_shared(self) -> None:
        self._remove_one("shared")

    def put_format(self) -> None:
        """Writes that the whole folder has this version's form."""
        self._replace(f"{self.root}/format", f"{FORMAT}\n")

    def _write(self, kind: str, name: str, receipt: NamedTuple) -> None:
        path = self._path(kind, name)
        os.makedirs(f"{self.root}/{kind}", 0o700, exist_ok=True)
        self._changing(kind, name)
        self._replace(path, serialiser.text(receipt, path))

    def _write_one(self, name: str, receipt: NamedTuple) -> None:
        path = f"{self.root}/{name}"
        self._replace(path, serialiser.text(receipt, path))

    def _replace(self, path: str, text: str) -> None:
        self._lock.check()
        draft = f"{self.root}/.draft"  # one that a killed hook left is simply overwritten
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "w") as file:
            file.write(text)
        os.replace(draft, path)

    def _remove(self, kind: str, name: str) -> None:
        path = self._path(kind, name)
        self._changing(kind, name)
        self._unlink(path)

    def _remove_one(self, name: str) -> None:
        self._unlink(f"{self.root}/{name}")

    def _unlink(self, path: str) -> None:
        self._lock.check()
        with suppress(FileNotFoundError):
            os.unlink(path)


class Lock:
    """Held inside of a `with`, which gives the LockedState. It waits; hooks have a deadline of their own."""

    def __init__(self, root: str) -> None:
        self.root, self._file = root, -1
        self._changed: dict[tuple[str, str], None] = {}
        self._anew = False

    def __enter__(self) -> LockedState:
        os.makedirs(self.root, 0o700, exist_ok=True)
        self._file = os.open(f"{self.root}/lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            flock(self._file, LOCK_EX)
            return self._opened()
        except BaseException:  # our deadline, or another version's folder
            self.__exit__()
            raise

    def _opened(self) -> LockedState:
        """The state in this version's form: the first process that has the lock converts the earlier form."""
        locked = LockedState(self)
        if is_old(self.root):
            from libvirt_guestnet.state import upgrade

            upgrade.take_over(self.root, locked.put_forwards_in_kernel)
            locked.put_format()
        return locked

    def __exit__(self, *_: object) -> None:
        try:
            self._tell()
        finally:
            file, self._file = self._file, -1
            os.close(file)

    def changing(self, kind: str, name: str) -> None:
        """A receipt is about to change of which `network.json` tells."""
        if not self._changed:
            self._anew = network_map.mark(self.root)
        self._changed[kind, name] = None

    def _tell(self) -> None:
        changed, self._changed = self._changed, {}
        if not changed:
            return
        try:
            network_map.update(LockedState(self), changed, self._anew)
        except OSError as error:  # it is for others to read: no guest waits for it
            from libvirt_guestnet import log

            network_map.remove(self.root)
            log.report(f"{self.root}/{network_map.FILE} cannot be written, and is removed: {error.strerror}")

    @property
    def descriptor(self) -> LockDescriptor:
        """What a process inherits so that the lock lasts until it has ended. Raises RuntimeError as `check`."""
        self.check()
        return LockDescriptor(self._file)

    def check(self) -> None:
        """Raises RuntimeError unless the lock is held."""
        if self._file < 0:
            raise RuntimeError(f"the lock of {self.root} is not held; please report this bug")


class UnlockedState(State):
    """The state without the lock, which it can take."""

    def __init__(self, root: str = ROOT) -> None:
        """Raises GuestnetError as `check_format`. An earlier version's form is converted here, so that nothing else has
        to know it."""
        super().__init__(root)
        if is_old(root):
            with Lock(root):
                pass

    def lock(self) -> Lock:
        return Lock(self.root)

    def finish_map(self) -> None:
        """Writes `network.json` anew if a process was killed while receipts changed."""
        if network_map.is_owed(self.root):
            with self.lock() as locked:
                if network_map.is_owed(self.root):
                    network_map.update(locked, (), anew=True)

    def confirm_network(self, name: str) -> None:
        """Marks the receipt, if there is one, as up to date: the hook file compares its age with libvirt's record."""
        with suppress(FileNotFoundError):
            os.utime(self._path("networks", name))
