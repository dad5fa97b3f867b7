"""<domain> of a virtual router."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.model.topology import Guest, Topology
from libvirt_guestnet.router import disks, folder
from libvirt_guestnet.router.client import CHANNEL
from libvirt_guestnet.xmlgen.domain import boot, cpu
from libvirt_guestnet.xmlgen.element import Element, maybe, node
from libvirt_guestnet.xmlgen.interface import interface
from libvirt_guestnet.xmlgen.policy import domain_metadata

if TYPE_CHECKING:
    from libvirt_guestnet.guest.image import TinyImage


def router_domain(topology: Topology, guest: Guest, hostmap: HostMap, image: TinyImage, virt_type: str) -> Element:
    """The complete <domain> of a virtual router; `virt_type` is "kvm" or "qemu" (emulated). What it does is on its disk
    `config`, which is no part of the domain.

    Raises GuestnetError when a physical network it needs is not mapped, TextError for a name that no folder can have.
    """
    return node(
        "domain",
        node("name", text=guest.name),
        node("uuid", text=guest.uuid) if guest.uuid else None,
        node("metadata", domain_metadata(topology, guest, hostmap)),
        node("memory", unit="MiB", text=str(guest.memory_mib)),
        node("vcpu", text="1"),
        boot(image),
        node("features", node("acpi")),
        cpu(virt_type),
        node("clock", offset="utc"),
        # A router that is told to power off stays off. If its kernel panics it reboots, and comes back by its disks.
        node("on_poweroff", text="destroy"),
        node("on_reboot", text="restart"),
        node("on_crash", text="restart"),
        node("devices", _devices(topology, guest, hostmap)),
        # libvirt would make QEMU's user the owner of the document that a router only reads, and of the image that all
        # routers boot from: `router.folder` gives each disk to whom it is for.
        node("seclabel", type="none", model="dac"),
        type=virt_type,
    )


def _devices(topology: Topology, guest: Guest, hostmap: HostMap) -> Iterator[Element]:
    yield _disk(guest.name, disks.CONFIG, "vda", readonly=True)
    yield _disk(guest.name, disks.LEASES, "vdb", readonly=False)
    yield node("controller", type="usb", model="none")
    for port in guest.ports:
        yield interface(topology, guest, port, hostmap)
    yield node("serial", type="pty")
    yield node("channel", node("target", type="virtio", name=CHANNEL), type="unix")
    yield node("memballoon", model="none")


def _disk(router: str, which: str, device: str, *, readonly: bool) -> Element:
    return node(
        "disk",
        node("driver", name="qemu", type="raw"),
        node("source", file=folder.disk(router, which)),
        node("target", dev=device, bus="virtio"),
        maybe(readonly, "readonly"),
        node("serial", text=which),
        type="file",
        device="disk",
    )
