"""<domain>, for guests with an image file: a disk that stands on it, the seed, and what the user adds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from copy import deepcopy

from lxml import etree

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.guest import files
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.model.disk_image import DiskImage, ImageFormat, Seed
from libvirt_guestnet.model.topology import Guest, Topology
from libvirt_guestnet.xmlgen.element import Element, maybe, node
from libvirt_guestnet.xmlgen.interface import interface
from libvirt_guestnet.xmlgen.policy import domain_metadata

ASKS_ROUTER = "ds=nocloud-net;s=http://169.254.169.254/"
"""In the serial number that a machine's firmware tells: cloud-init takes it for where to ask."""

USERS_TAG = "{https://libvirt-guestnet.org/xmlns/users/1}xml"
"""In a domain's <metadata>: its `sha256` is that of the XML of the user's that it was defined with."""


def disk_domain(topology: Topology, guest: Guest, hostmap: HostMap, virt_type: str, emulated_cpu: Element) -> Element:
    """The complete <domain>. Raises GuestnetError when a physical network it needs is not mapped."""
    assert guest.disk is not None
    made = _ours(topology, guest, hostmap, virt_type, emulated_cpu)
    return _with_users(made, guest.disk.domain_xml)


def _ours(topology: Topology, guest: Guest, hostmap: HostMap, virt_type: str, emulated_cpu: Element) -> Element:
    assert guest.disk is not None
    return node(
        "domain",
        node("name", text=guest.name),
        maybe(guest.uuid, "uuid", text=guest.uuid),
        node("metadata", domain_metadata(topology, guest, hostmap)),
        node("memory", unit="MiB", text=str(guest.memory_mib)),
        node("vcpu", text=str(guest.disk.vcpus)),
        *_identity(topology, guest),
        node("features", node("acpi"), node("apic")),
        emulated_cpu,
        node("clock", offset="utc"),
        node("on_poweroff", text="destroy"),
        node("on_reboot", text="restart"),
        node("on_crash", text="destroy"),
        node("devices", _devices(topology, guest, hostmap)),
        type=virt_type,
    )


def _identity(topology: Topology, guest: Guest) -> Iterator[Element]:
    asks = topology.asks_router(guest)
    if asks:
        serial = node("system", node("entry", name="serial", text=ASKS_ROUTER))
        yield node("sysinfo", serial, type="smbios")
    machine = node("type", arch="x86_64", machine="pc", text="hvm")
    yield node("os", machine, node("boot", dev="hd"), maybe(asks, "smbios", mode="sysinfo"))


def _devices(topology: Topology, guest: Guest, hostmap: HostMap) -> Iterator[Element]:
    assert guest.disk is not None
    at = files.place(guest.name)
    yield _disk(str(at.disk), guest.disk)
    if guest.disk.seed is Seed.DISK:
        yield _seed(str(at.seed))
    for port in guest.ports:
        yield interface(topology, guest, port, hostmap)
    yield node("serial", type="pty")
    yield node("rng", node("backend", text="/dev/urandom", model="random"), model="virtio")


def _disk(path: str, image: DiskImage) -> Element:
    """All that QEMU opens is named here, each with what it is, and the chain ends: nobody looks into a file for more.
    The image is not given to QEMU's user, as it is not this guest's alone."""
    not_given = node("seclabel", model="dac", relabel="no")
    below = node(
        "backingStore",
        node("format", type=image.format),
        node("source", not_given, file=image.file),
        node("backingStore"),
        type="file",
    )
    return node(
        "disk",
        node("driver", name="qemu", type=ImageFormat.QCOW2),
        node("source", file=path),
        below,
        node("target", dev="vda", bus="virtio"),
        type="file",
        device="disk",
    )


def _seed(path: str) -> Element:
    """A virtio disk and no CD: the kernels of cloud images have no driver for every kind of those."""
    return node(
        "disk",
        node("driver", name="qemu", type=ImageFormat.RAW),
        node("source", file=path),
        node("target", dev="vdb", bus="virtio"),
        node("readonly"),
        type="file",
        device="disk",
    )


def _with_users(made: Element, text: str) -> Element:
    """With what the user's <domain> has: its devices beside ours, everything else in the place of ours."""
    if not text:
        return made
    metadata = made.find("metadata")
    assert metadata is not None
    noted = etree.SubElement(metadata, USERS_TAG, nsmap={"users": USERS_TAG[1:].partition("}")[0]})
    noted.set("sha256", hashlib.sha256(text.encode()).hexdigest())
    users = _parsed(text)
    for each in users.iterchildren(etree.Element):
        ours = made.find(str(each.tag))
        if each.tag == "devices" and ours is not None:
            ours.extend(list(each))
        elif ours is not None:
            made.replace(ours, each)
            if (tells := ours.find("smbios")) is not None and each.find("smbios") is None:
                each.append(tells)
        else:
            made.append(each)
    return made


def without_users(made: Element, text: str) -> Element:
    """A <domain> without what the user's has: libvirt writes that in other words, of which a plan knows too little."""
    result, users = deepcopy(made), _parsed(text)
    for each in users.iterchildren(etree.Element):
        ours = result.find(str(each.tag))
        if ours is None:
            continue
        if each.tag == "devices":
            for device in list(ours)[len(ours) - len(each) :]:
                ours.remove(device)
        else:
            result.remove(ours)
    return result


def _parsed(text: str) -> Element:
    parser = etree.XMLParser(resolve_entities=False, no_network=True, remove_blank_text=True, remove_comments=True)
    try:
        return etree.fromstring(text.encode(), parser)
    except etree.XMLSyntaxError as error:
        raise GuestnetError(f"domain-xml cannot be read: {error}") from error
