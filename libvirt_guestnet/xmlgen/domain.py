"""<domain>, for guests that run the project's own tiny image, or an image file. Users' own domains are never
generated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.guest.config import CHANNEL, CMDLINE, FWCFG, guest_config
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.model.topology import DISK, TINY, Guest, Topology
from libvirt_guestnet.xmlgen.disk_domain import disk_domain
from libvirt_guestnet.xmlgen.element import Element, node
from libvirt_guestnet.xmlgen.interface import interface
from libvirt_guestnet.xmlgen.policy import domain_metadata

if TYPE_CHECKING:
    from libvirt_guestnet.guest.image import TinyImage


def domain(topology: Topology, guest: Guest, hostmap: HostMap, image: TinyImage | None, virt_type: str) -> Element:
    """The complete <domain> of a guest with an image; `virt_type` is "kvm" or "qemu" (emulated). `image` is the tiny
    guest's, which only such a one needs.

    Raises GuestnetError when the guest is the user's own domain, or a physical network it needs is not mapped.
    """
    if guest.image == DISK:
        return disk_domain(topology, guest, hostmap, virt_type, cpu(virt_type))
    if guest.image != TINY or image is None:
        raise GuestnetError(
            f"guest {guest.name!r} has no image, so its domain is yours to define; only its NICs are generated"
        )
    return node(
        "domain",
        node("name", text=guest.name),
        node("uuid", text=guest.uuid) if guest.uuid else None,
        node("metadata", domain_metadata(topology, guest, hostmap)),
        node("memory", unit="MiB", text=str(guest.memory_mib)),
        node("vcpu", text="1"),
        _configuration(topology, guest),
        boot(image),
        node("features", node("acpi")),
        cpu(virt_type),
        node("clock", offset="utc"),
        node("on_poweroff", text="destroy"),
        node("on_reboot", text="restart"),
        node("on_crash", text="destroy"),
        node("devices", _devices(topology, guest, hostmap)),
        # All tiny guests boot from the same two files, which must not become those of QEMU's user.
        node("seclabel", type="none", model="dac"),
        type=virt_type,
    )


def _configuration(topology: Topology, guest: Guest) -> Element:
    """The guest reads its addresses from QEMU's firmware configuration device: no disk, nothing to clean up."""
    return node("sysinfo", node("entry", name=FWCFG, text=guest_config(topology, guest)), type="fwcfg")


def boot(image: TinyImage) -> Element:
    """<os> with an image of ours."""
    return node(
        "os",
        node("type", arch="x86_64", machine="pc", text="hvm"),
        node("kernel", text=str(image.kernel)),
        node("initrd", text=str(image.initrd)),
        node("cmdline", text=CMDLINE),
    )


def cpu(virt_type: str) -> Element:
    """<cpu>"""
    if virt_type == "kvm":
        return node("cpu", mode="host-passthrough")
    # QEMU 7.2 emulates cmpxchg16b with garbage in the flags: guest kernels that use it panic now and then.
    broken = node("feature", policy="disable", name="cx16")
    return node("cpu", node("model", text="qemu64"), broken, mode="custom", match="exact")


def _devices(topology: Topology, guest: Guest, hostmap: HostMap) -> Iterator[Element]:
    yield node("controller", type="usb", model="none")
    for port in guest.ports:
        yield interface(topology, guest, port, hostmap)
    yield node("serial", type="pty")
    yield node("channel", node("target", type="virtio", name=CHANNEL), type="unix")
    yield node("memballoon", model="none")
