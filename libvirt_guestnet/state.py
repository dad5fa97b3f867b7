"""What the hooks applied, kept so that teardown works when the XML has changed or the tap is gone.

::

    /run/libvirt-guestnet/          0700 root, gone at boot like everything it describes
    ├── bridges.json                the bridges under the bridge guard, or why the kernel cannot guard them
    ├── domains/UUID.json           the taps guarded for a running domain
    ├── lock                        held while receipts and chains change
    ├── networks/NAME.json          what an active network's XML said: defaults for ports without a policy of their own
    ├── plugging/PORTID.json        a NIC being plugged into a running domain: its helper still waits for the tap
    ├── vlans/TAP.json              the VLANs of one tagged tap
    ├── reconnect/NAME              a guest for the one process that repairs all after a restart of the daemon
    ├── reconnect.lock              held by that process
    ├── shared                      the part of the nft table that is the same for all ports, as it was last written
    ├── reach/TAP.json              the routes and published neighbours that lead to one tap
    ├── uplinks/NIC.json            the VLANs that we made a bridge's port to the outside a member of
    ├── ways/TAP.json               the ways in to one port: claimed when its guest starts, active once it is there
    ├── settled/ways.json           the ways that the kernel has; says so when they are just being changed
    └── ports/TAP.json              the receipt of one guarded tap: whose it is and what it may send

Every file is written whole and renamed into place. A tap's receipt is written before its chain and removed after it, a
domain's file is written after its receipts and removed before them: so whatever is in the kernel has a receipt,
whoever was killed when. A receipt without a tap is garbage that the next call sweeps up. bridges.json says that it is
not settled while the kernel may differ from it.

The lock stops hooks of different domains, plug helpers, `guestnet` and the nft processes of killed hooks from seeing
each other's half-made changes. A receipt names its domain and its tap's index in the kernel, so that a late `release`
of an old domain leaves a reused tap name alone.
"""

from __future__ import annotations

import json
import os
import time
from fcntl import LOCK_EX, flock
from typing import Any, NamedTuple

from libvirt_guestnet.errors import GuestnetError

ROOT = "/run/libvirt-guestnet"


class PortReceipt(NamedTuple):
    """One guarded tap. Addresses and prefixes are text as in `ipaddress`; `portid` is libvirt's network port UUID;
    `ifindex` is the tap's in the kernel; `own` says that the policy is the port's own, not its network's default.

    `pairs` are (MAC or "", prefix). `dhcp` are the addresses of the host's DHCP server if the port's own address is
    what that one acknowledges of its `dynamic` ones; `dhcp_mac` and `bridge` are its MAC and bridge, `lease` and
    `lease6` how long an answer holds, in seconds. A port with VLANs in `trunk` tags its frames (with 802.1ad's tags if
    `service`), but those of its `native` VLAN, if there is one. A `trusted` port has no chains: it is only let through
    the bridge guard.
    """

    tap: str
    mac: str
    domain: str
    uuid: str
    network: str = ""
    portid: str = ""
    owned: tuple[str, ...] = ()
    routed: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    ifindex: int = 0
    own: bool = False
    pairs: tuple[tuple[str, str], ...] = ()
    roles: tuple[str, ...] = ()
    privacy: bool = False
    log: bool = False
    dhcp: tuple[str, ...] = ()
    dynamic: tuple[str, ...] = ()
    dhcp_mac: str = ""
    bridge: str = ""
    lease: int = 0
    lease6: int = 0
    trunk: tuple[tuple[int, int], ...] = ()
    service: bool = False
    native: bool = False
    trusted: bool = False


class NetworkReceipt(NamedTuple):
    """One active network that carries our metadata.

    `reservations` are pairs of a MAC (or "") and its address; `dynamic` are the first and last address of each DHCP
    range; `hosts` are the host's own addresses in it, `mac` its MAC, `lease` and `lease6` its DHCP server's longest
    lease in seconds, by IP version; `privacy` and `log` are defaults for ports; `made_bridge` says that our hook made
    the bridge, and `overlay` names the VXLAN device or VLAN subinterface that it made for it. On a VLAN-aware bridge
    `vlan` is the access VLAN of its ports (0: none), `vlan_uplink` the bridge's port to the outside, and `service` says
    that its tags are 802.1ad's. `outside` is the device that a routed network's traffic leaves through ("": any), and
    `nat_outside` that of a nat network.

    `managed` says that the bridge is libvirt's own or ours, so that all its ports are to be guarded; `uplink` is the
    port to the outside that our hook put into it.
    """

    name: str
    topology: str
    guarded: bool
    bridge: str
    subnets: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    reservations: tuple[tuple[str, str], ...] = ()
    dynamic: tuple[tuple[str, str], ...] = ()
    made_bridge: bool = False
    mac: str = ""
    lease: int = 0
    lease6: int = 0
    privacy: bool = False
    log: bool = False
    overlay: str = ""
    vlan: int = 0
    vlan_uplink: str = ""
    service: bool = False
    outside: str = ""
    managed: bool = False
    uplink: str = ""
    nat_outside: str = ""


class Bridges(NamedTuple):
    """The managed bridges, each with the network whose defaults hold on it; `settled` once the kernel has it so.

    `cannot` is what the kernel said if it cannot keep unguarded ports silent.
    """

    networks: dict[str, str]
    settled: bool = False
    cannot: str = ""


class Plugging(NamedTuple):
    """A NIC being plugged in: libvirt's port UUID, and the domain and MAC it is for."""

    portid: str
    uuid: str
    mac: str


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
    """The directory tree above. Reading what is not there gives None or nothing; a damaged file is an error."""

    def __init__(self, root: str = ROOT) -> None:
        self.root = root

    def lock(self) -> Lock:
        """Everything below that changes something wants this held. Waits; hooks have a deadline of their own."""
        os.makedirs(self.root, 0o700, exist_ok=True)
        return Lock(f"{self.root}/lock")

    def network(self, name: str) -> NetworkReceipt | None:
        fields = self._read("networks", name)
        if fields is None:
            return None
        pairs = {key: tuple(map(tuple, fields.get(key, ()))) for key in ("reservations", "dynamic")}
        plain = {key: tuple(fields.get(key, ())) for key in ("subnets", "hosts")}
        return NetworkReceipt(**_known(NetworkReceipt._fields, {**fields, **pairs, **plain}))

    def networks(self) -> list[NetworkReceipt]:
        return [r for name in _names(f"{self.root}/networks") if (r := self.network(name))]

    def put_network(self, receipt: NetworkReceipt) -> None:
        self._write("networks", receipt.name, receipt._asdict())

    def confirm_network(self, name: str) -> None:
        """The receipt, if there is one, is as good as new: the hook file compares its age with libvirt's record."""
        try:
            os.utime(self._path("networks", name))
        except FileNotFoundError:
            return

    def drop_network(self, name: str) -> None:
        self._remove("networks", name)

    def bridges(self) -> Bridges | None:
        """None where no bridge is managed."""
        fields = self._read(".", "bridges")
        return None if fields is None else Bridges(**_known(Bridges._fields, fields))

    def put_bridges(self, bridges: Bridges) -> None:
        self._write(".", "bridges", bridges._asdict())

    def drop_bridges(self) -> None:
        self._remove(".", "bridges")

    def port(self, tap: str) -> PortReceipt | None:
        fields = self._read("ports", tap)
        if fields is None:
            return None
        lists = {key: tuple(fields.get(key, ())) for key in ("owned", "routed", "excluded", "roles", "dhcp", "dynamic")}
        pairs = {key: tuple(map(tuple, fields.get(key, ()))) for key in ("pairs", "trunk")}
        return PortReceipt(**_known(PortReceipt._fields, {**fields, **lists, **pairs}))

    def ports(self) -> list[PortReceipt]:
        return [r for tap in _names(f"{self.root}/ports") if (r := self.port(tap))]

    def tapnames(self) -> set[str]:
        """The taps that have a receipt."""
        return set(_names(f"{self.root}/ports"))

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
        fields = self._read("domains", uuid) or {}
        receipts = ((str(tap), self.port(str(tap))) for tap in fields.get("taps", ()))
        return [tap for tap, receipt in receipts if receipt is not None and receipt.uuid == uuid]

    def drop_ports(self, taps: list[str]) -> None:
        """Forgets taps, whosever they are."""
        for tap in taps:
            receipt = self.port(tap)
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

    def prune(self, seconds: float) -> None:
        """Removes domains without taps, and what plug helpers left that have been killed `seconds` ago or earlier."""
        for uuid in self.domains():
            self._list(uuid, set(self.taps(uuid)))
        for plugging in self.pluggings():
            if time.time() - os.stat(self._path("plugging", plugging.portid)).st_mtime > seconds:
                self.drop_plugging(plugging.portid)

    def plugging(self, portid: str) -> Plugging | None:
        fields = self._read("plugging", portid)
        return None if fields is None else Plugging(**_known(Plugging._fields, fields))

    def pluggings(self) -> list[Plugging]:
        return [p for name in _names(f"{self.root}/plugging") if (p := self.plugging(name))]

    def put_plugging(self, plugging: Plugging) -> None:
        self._write("plugging", plugging.portid, plugging._asdict())

    def drop_plugging(self, portid: str) -> None:
        self._remove("plugging", portid)

    def shared(self) -> str:
        """What `put_shared` noted, or ""."""
        try:
            with open(f"{self.root}/shared") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def put_shared(self, batch: str) -> None:
        self._replace(f"{self.root}/shared", batch)

    def tap_vlans(self) -> list[dict[str, Any]]:
        """The fields of every tagged tap's receipt."""
        return [f for tap in _names(f"{self.root}/vlans") if (f := self._read("vlans", tap))]

    def put_tap_vlans(self, fields: dict[str, Any]) -> None:
        self._write("vlans", fields["tap"], fields)

    def drop_tap_vlans(self, tap: str) -> None:
        self._remove("vlans", tap)

    def reaches(self) -> list[dict[str, Any]]:
        """The fields of every receipt of routes to a tap."""
        return [f for tap in _names(f"{self.root}/reach") if (f := self._read("reach", tap))]

    def put_reach(self, fields: dict[str, Any]) -> None:
        self._write("reach", fields["tap"], fields)

    def drop_reach(self, tap: str) -> None:
        self._remove("reach", tap)

    def joined(self, uplink: str) -> set[int]:
        """The VLANs that we made an uplink a member of."""
        return set((self._read("uplinks", uplink) or {}).get("vlans", ()))

    def put_joined(self, uplink: str, vlans: set[int]) -> None:
        if vlans:
            self._write("uplinks", uplink, {"vlans": sorted(vlans)})
        else:
            self._remove("uplinks", uplink)

    def ways(self) -> list[dict[str, Any]]:
        """The fields of every receipt of ways in."""
        return [f for tap in _names(f"{self.root}/ways") if (f := self._read("ways", tap))]

    def put_ways(self, fields: dict[str, Any]) -> None:
        self._write("ways", fields["tap"], fields)

    def drop_ways(self, tap: str) -> None:
        self._remove("ways", tap)

    def settled(self) -> Any:
        """What the kernel has by all these receipts, as `hook.ways` wrote it; None for nothing."""
        fields = self._read("settled", "ways")
        return None if fields is None else fields.get("is")

    def put_settled(self, value: Any) -> None:
        if value is None:
            self._remove("settled", "ways")
        else:
            self._write("settled", "ways", {"is": value})

    def _path(self, kind: str, name: str) -> str:
        if not name or "/" in name or "\0" in name or len(name.encode()) > 250:
            raise GuestnetError(f"{kind[:-1]} name {name!r} cannot be kept under {self.root}: shorten it")
        return f"{self.root}/{kind}/{name}.json"

    def _read(self, kind: str, name: str) -> dict[str, Any] | None:
        try:
            with open(self._path(kind, name), "rb") as file:
                fields = json.loads(file.read(16 << 20))
        except FileNotFoundError:
            return None
        except ValueError:
            fields = None
        if not isinstance(fields, dict):
            raise GuestnetError(f"{self._path(kind, name)} is damaged: remove it and run `guestnet hooks sync`")
        return fields

    def _write(self, kind: str, name: str, fields: dict[str, Any]) -> None:
        path = self._path(kind, name)
        os.makedirs(self.root, 0o700, exist_ok=True)
        os.makedirs(f"{self.root}/{kind}", 0o700, exist_ok=True)
        self._replace(path, json.dumps(fields))

    def _replace(self, path: str, text: str) -> None:
        draft = f"{self.root}/.draft"  # under the lock; one that a killed hook left is simply overwritten
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "w") as file:
            file.write(text)
        os.replace(draft, path)

    def _remove(self, kind: str, name: str) -> None:
        try:
            os.unlink(self._path(kind, name))
        except FileNotFoundError:
            return


def _known(names: tuple[str, ...], fields: dict[str, Any]) -> dict[str, Any]:
    """Without what another version of guestnet wrote, so that an upgrade can take over running guests."""
    return {key: value for key, value in fields.items() if key in names}


def _names(directory: str) -> list[str]:
    try:
        return sorted(name[:-5] for name in os.listdir(directory) if name.endswith(".json"))
    except FileNotFoundError:
        return []
