"""Guests with an image file: their disk, what they are told, and the XML of the user's."""

from __future__ import annotations

import os
import re
import stat

from libvirt_guestnet import xmlread
from libvirt_guestnet.model.disk_image import CloudInit, DiskImage, ImageFormat, Seed
from libvirt_guestnet.model.topology import DISK, TINY, Guest, Topology

from ..errors import GuestnetError, Where
from .guest_keys import GuestDecl
from .keys import TopologyDecl
from .kinds import DOMAIN_XML_BYTES, USER_DATA_BYTES
from .report import Report
from .spec import At, value, values

_OWN = {
    "name": "it is the guest's name",
    "uuid": "say uuid: of the guest",
    "metadata": "guestnet's metadata is there",
    "memory": "say memory: of the guest",
    "currentMemory": "say memory: of the guest",
    "vcpu": "say vcpus: of the guest",
}
TOLD_BYTES = 600_000
"""What one router has room for in its document, where it is in base64."""
_OF_EACH = 1500
_DISKS = ("vda", "vdb")
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"


def image(decl: GuestDecl) -> str | None:
    """The kind of image that a guest has."""
    said = value(decl.image)
    return DISK if said and said != TINY else said


def disk_image(at: At[str], decl: GuestDecl, report: Report) -> DiskImage | None:
    """The image file of a guest; None where it has none, and then its keys are reported."""
    if image(decl) != DISK:
        if "image" not in decl.bad:
            _check_keys(at, decl, report)
        return None
    assert decl.image is not None
    if not re.fullmatch(_NAME, at.value):
        message = f"a guest with an image file has a folder of its name: '{at.value}' needs another one, of letters"
        report.add(at.where, f"{message}, digits, '.', '_', '-', at most 64 characters")
    return DiskImage(
        file=decl.image.value,
        format=ImageFormat(decl.image.value.rpartition(".")[2]),
        size=value(decl.disk),
        vcpus=value(decl.vcpus) or 1,
        domain_xml=_domain_xml(decl.domain_xml, report) if decl.domain_xml else "",
        seed=value(decl.seed) or Seed.DISK,
    )


def _check_keys(at: At[str], decl: GuestDecl, report: Report) -> None:
    said: list[tuple[str, At[int] | At[str] | At[Seed] | None]] = [("disk", decl.disk), ("vcpus", decl.vcpus)]
    said += [("domain-xml", decl.domain_xml), ("seed", decl.seed), *(_told(decl) if decl.image else ())]
    for key, given in said:
        if given:
            report.add(given.where, f"{key} is for guests with an image file; '{at.value}' has none")


def _told(decl: GuestDecl) -> list[tuple[str, At[str] | None]]:
    """The keys whose values cloud-init is told, each with its first value."""
    return [("ssh-keys", next(iter(decl.ssh_keys or ()), None)), ("user-data", decl.user_data)]


def cloud_init(decl: GuestDecl, report: Report) -> CloudInit | None:
    """What the file says that the guest is told; None where it says nothing."""
    if image(decl) == TINY or (decl.ssh_keys is None and decl.user_data is None):
        return None
    text = _text(decl.user_data, USER_DATA_BYTES, "user-data", report) if decl.user_data else ""
    return CloudInit(values(decl.ssh_keys), text)


def check_told(decl: TopologyDecl, found: Topology, report: Report) -> None:
    """Report what nobody would tell a guest: only a seed of its own does, and a virtual router, which has room for so
    much."""
    for name, guest in decl.guests or ():
        made = _made(found, name.value) if guest else None
        if guest is None or made is None or made.cloud_init is None or (made.disk and made.disk.seed is Seed.DISK):
            continue
        if not found.asks_router(made):
            message = (
                f"nobody would tell '{name.value}' that: it has no seed, and none of its gateways is a virtual router"
            )
            for where in (given.where for _, given in _told(guest) if given):
                report.add(where, message)
    for name, _ in decl.routers or ():
        if (size := _told_by(found, name.value)) > TOLD_BYTES:
            message = (
                f"guests would be told about {size} bytes by router '{name.value}', which has room for {TOLD_BYTES}"
            )
            report.add(name.where, f"{message}: have some of them told by a seed (seed: disk)")


def _made(found: Topology, name: str) -> Guest | None:
    return next((guest for guest in found.guests if guest.name == name), None)


def _told_by(found: Topology, router: str) -> int:
    """About how much that is in its document (`router.metadata`): user-data that several are told is there once."""
    tiers = [network.name for network in found.networks if network.router == router]
    guests = {guest.name: guest for tier in tiers for guest, _ in found.ports_on(tier) if found.asks_router(guest)}
    said = [each.cloud_init for each in guests.values() if each.cloud_init]
    texts = sum(len(text.encode()) for text in {each.user_data for each in said})
    keys = sum(len(key) for each in said for key in each.ssh_keys)
    return _OF_EACH * len(guests) + 3 * keys + texts * 4 // 3


def _domain_xml(at: At[str], report: Report) -> str:
    text = _text(at, DOMAIN_XML_BYTES, "domain-xml", report)
    try:
        root = xmlread.parse(text.encode()) if text else None
    except GuestnetError as error:
        report.add(at.where, f"domain-xml: {error}")
        return ""
    for problem in _problems(root) if root else ():
        report.add(at.where, f"domain-xml: {problem}")
    return text


def _problems(root: xmlread.Node) -> list[str]:
    if root.tag != "domain":
        return [f"<{root.tag}> stands there, not <domain>"]
    found = [f"leave <{each.tag}> out: {_OWN[each.tag]}" for each in root.children if each.tag in _OWN]
    # QEMU's own arguments could be a NIC that nobody guards.
    found += [f"<{each.tag.split()[-1]}> of another namespace cannot be handed on" for each in _foreign(root)]
    found += ["leave <interface> out: NICs are the guest's ports" for _ in root.all("devices/interface")]
    targets = {target.get("dev") for target in root.all("devices/disk/target")}
    found += [f"disk {name} is guestnet's own: choose another" for name in _DISKS if name in targets]
    return list(dict.fromkeys(found))


def _foreign(node: xmlread.Node) -> list[xmlread.Node]:
    return [each for child in node.children for each in ([child] if " " in child.tag else _foreign(child))]


def _text(at: At[str], most: int, what: str, report: Report) -> str:
    """The value itself, or what is in the file that it names; a mistake is reported at its place."""
    if not at.value.startswith("/"):
        return at.value
    try:
        return _read(at.value, most)
    except OSError as error:
        _complain(at.where, what, at.value, error.strerror or "it cannot be read", report)
    except ValueError as error:
        _complain(at.where, what, at.value, str(error), report)
    return ""


def _complain(where: Where, what: str, path: str, why: str, report: Report) -> None:
    report.add(where, f"{what}: {path}: {why}")


def _read(path: str, most: int) -> str:
    """A file's text. It may be anything: a pipe, a device, endless."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is no regular file")
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it has {max(found.st_size, len(data))} bytes, more than {most}")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None
    if "\0" in text:
        raise ValueError("it has a zero byte")
    return text
