"""libvirt's own records of running domains, with their metadata."""

from __future__ import annotations

import os

from libvirt_guestnet import xmlread
from libvirt_guestnet.hook.read.domain import Domain
from libvirt_guestnet.light_typing import NamedTuple
from libvirt_guestnet.xmlread import Node

# While a domain starts, its record does not exist yet; when a NIC is plugged in, it does.
STATUS = "/run/libvirt/qemu/{}.xml"
_NETWORK = "/run/libvirt/network/{}.xml"
_GIVEN = ("vlan", "virtualport")


def status(name: str) -> Node | None:
    """libvirt's record of a domain, <domstatus>; None while it starts or does not run."""
    try:
        with open(_path(name), "rb") as file:
            return xmlread.parse(file.read(xmlread.MAX_BYTES + 1))
    except (FileNotFoundError, NotADirectoryError):
        return None


def network(name: str) -> Node | None:
    """The <network> in libvirt's record of an active one; None if there is none. Raises GuestnetError."""
    try:
        with open(_file(name, _NETWORK), "rb") as file:
            return xmlread.parse(file.read(xmlread.MAX_BYTES + 1)).one("network")
    except (FileNotFoundError, NotADirectoryError):
        return None


def _path(name: str) -> str:
    return _file(name, STATUS)


def _file(name: str, records: str) -> str:
    """The path of a record; "", which no file has, if the name is too long for a file's."""
    return records.format(name) if 0 < len(name.encode()) <= 250 and not {"/", "\0"} & set(name) else ""


class Record(NamedTuple):
    """A running domain as a hook would see it. Its `version` changes whenever libvirt writes the record again."""

    domain: Node
    version: tuple[int, int]


def record(name: str, before: Record | None = None) -> Record | None:
    """A domain's record; `before` if unchanged; None while it does not run. Raises GuestnetError."""
    try:
        with open(_path(name), "rb") as file:
            stat = os.fstat(file.fileno())
            version = stat.st_ino, stat.st_mtime_ns
            if before is not None and before.version == version:
                return before
            domain = xmlread.parse(file.read(xmlread.MAX_BYTES + 1)).one("domain")
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Record(_with_given(domain), version) if domain is not None else None


def record_size(name: str) -> int:
    """The octets of libvirt's record of a domain; 0 while it does not run."""
    try:
        return os.stat(_path(name)).st_size
    except (FileNotFoundError, NotADirectoryError):
        return 0


def version(name: str) -> tuple[int, int]:
    """The `version` of a domain's record, without reading it; (0, 0) while it does not run."""
    try:
        found = os.stat(_path(name))
    except (FileNotFoundError, NotADirectoryError):
        return 0, 0
    return found.st_ino, found.st_mtime_ns


def _with_given(domain: Node) -> Node:
    """The domain with each NIC as a hook sees it on stdin: libvirt's record keeps apart what a network gave a NIC."""
    for nic in domain.all("devices/interface"):
        given, source = nic.one("actual"), nic.one("source")
        if given is not None and source is not None:
            nic.attributes.update(given.attributes)  # its type
            source.attributes.update(of.attributes if (of := given.one("source")) else {})
            nic.children = [*(child for child in given.children if child.tag in _GIVEN), *nic.children]
    return domain


def running(name: str, uuid: str) -> Node | None:
    """The <domain> in libvirt's record, with its metadata; None while the domain starts or does not run."""
    found = status(name)
    domain = found.one("domain") if found else None
    return domain if domain is not None and domain.text_of("uuid") == uuid else None


def port_of(name: str, uuid: str, tap: str) -> str:
    """The UUID of the network's port for a running domain's tap, by libvirt's record; "" if there is none."""
    domain = running(name, uuid)
    nics = Domain(domain).nics if domain is not None else ()
    return next((nic.portid for nic in nics if nic.has_tap and nic.tap == tap), "")
