"""What the hooks applied, kept so that teardown works when the XML has changed or the tap is gone.

::

    /run/libvirt-guestnet/          0700 root, gone at boot like everything it describes
    ├── domains/UUID.json           the taps guarded for a running domain
    ├── networks/NAME.json          what an active network's XML said: defaults for ports without a policy of their own
    └── ports/TAP.json              the receipt of one guarded tap: whose it is and what it may send

Every file is written whole and renamed into place, one per object: hooks of different domains never share a file, and
libvirt runs the hooks of one domain one after another, so nothing here needs a lock. A tap's receipt names its domain,
so a late `release` of an old domain leaves a reused tap name alone.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import Any, NamedTuple

from libvirt_guestnet.errors import GuestnetError

ROOT = "/run/libvirt-guestnet"


class PortReceipt(NamedTuple):
    """One guarded tap. Addresses and prefixes are text as in `ipaddress`; `portid` is libvirt's network port UUID."""

    tap: str
    mac: str
    domain: str
    uuid: str
    network: str = ""
    portid: str = ""
    owned: tuple[str, ...] = ()
    routed: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()


class NetworkReceipt(NamedTuple):
    """One active network that carries our metadata.

    `reservations` maps a MAC to its addresses; `dynamic` are the first and last address of each DHCP range;
    `hosts` are the host's own addresses in it; `made_bridge` says that our hook made the bridge, and `overlay` names
    the VXLAN device in it.
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
    overlay: str = ""


class State:
    """The directory tree above. Reading what is not there gives None or nothing; a damaged file is an error."""

    def __init__(self, root: str = ROOT) -> None:
        self.root = root

    def network(self, name: str) -> NetworkReceipt | None:
        fields = self._read("networks", name)
        if fields is None:
            return None
        pairs = {key: tuple(map(tuple, fields.get(key, ()))) for key in ("reservations", "dynamic")}
        plain = {key: tuple(fields.get(key, ())) for key in ("subnets", "hosts")}
        return NetworkReceipt(**{**fields, **pairs, **plain})

    def networks(self) -> list[NetworkReceipt]:
        return [r for name in _names(f"{self.root}/networks") if (r := self.network(name))]

    def put_network(self, receipt: NetworkReceipt) -> None:
        self._write("networks", receipt.name, receipt._asdict())

    def drop_network(self, name: str) -> None:
        self._remove("networks", name)

    def port(self, tap: str) -> PortReceipt | None:
        fields = self._read("ports", tap)
        if fields is None:
            return None
        lists = {key: tuple(fields.get(key, ())) for key in ("owned", "routed", "excluded")}
        return PortReceipt(**{**fields, **lists})

    def ports(self) -> list[PortReceipt]:
        return [r for tap in _names(f"{self.root}/ports") if (r := self.port(tap))]

    def put_ports(self, uuid: str, receipts: list[PortReceipt]) -> None:
        """Records the guarded taps of a domain, in an order that a kill at any moment leaves removable."""
        known = {*self.taps(uuid), *(r.tap for r in receipts)}
        self._write("domains", uuid, {"taps": sorted(known)})
        for receipt in receipts:
            self._write("ports", receipt.tap, receipt._asdict())

    def has_domain(self, uuid: str) -> bool:
        """Whether anything is recorded for a domain."""
        return self._read("domains", uuid) is not None

    def taps(self, uuid: str) -> list[str]:
        """The taps recorded for a domain that no other domain has taken over since."""
        fields = self._read("domains", uuid) or {}
        receipts = ((str(tap), self.port(str(tap))) for tap in fields.get("taps", ()))
        return [tap for tap, receipt in receipts if receipt is None or receipt.uuid == uuid]

    def drop_ports(self, uuid: str, taps: list[str]) -> None:
        """Forgets taps of a domain; the domain itself with the last one."""
        left = sorted(set(self.taps(uuid)) - set(taps))
        for tap in taps:
            self._remove("ports", tap)
        if left:
            self._write("domains", uuid, {"taps": left})
        else:
            self._remove("domains", uuid)

    def forget_ports(self) -> None:
        """Forgets every guarded tap, of every domain."""
        for kind in ("domains", "ports"):
            for name in _names(f"{self.root}/{kind}"):
                self._remove(kind, name)

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
        if not isinstance(fields, dict):
            raise GuestnetError(f"{self._path(kind, name)} is damaged: remove it and run `guestnet hooks sync`")
        return fields

    def _write(self, kind: str, name: str, fields: dict[str, Any]) -> None:
        path = self._path(kind, name)
        os.makedirs(self.root, 0o700, exist_ok=True)
        os.makedirs(f"{self.root}/{kind}", 0o700, exist_ok=True)
        draft = f"{self.root}/.{kind}-{os.getpid()}"
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "w") as file:
            json.dump(fields, file)
        os.replace(draft, path)

    def _remove(self, kind: str, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._path(kind, name))


def _names(directory: str) -> list[str]:
    try:
        return sorted(name[:-5] for name in os.listdir(directory) if name.endswith(".json"))
    except FileNotFoundError:
        return []
