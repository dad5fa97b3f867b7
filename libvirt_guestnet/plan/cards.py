"""What a user's own domain cannot have of what a topology says of its NICs: libvirt would refuse it. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from libvirt_guestnet.libvirtd.nics import interfaces, mac, source_network
from libvirt_guestnet.libvirtd.snapshot import Element, Snapshot, Wanted
from libvirt_guestnet.plan import driver

_PCI = ("domain", "bus", "slot", "function")


def card_problems(wanted: Wanted, snapshot: Snapshot) -> Iterator[str]:
    """A line for each problem."""
    for guest in wanted.guests:
        state = snapshot.domain.get(guest.name)
        if state is None or guest.definition is not None:
            continue
        there = interfaces(state.config, {mac(nic): source_network(nic) for nic in guest.interfaces})
        said = [(nic, there.get(mac(nic))) for nic in guest.interfaces]
        for nic, actual in said:
            for why in _problems(nic, actual, state.config, said):
                yield f"guest {guest.name!r}: NIC {mac(nic)}: {why}"


_Said = list[tuple[Element, Element | None]]  # a NIC as it is wanted, and as it is


def _problems(wanted: Element, actual: Element | None, domain: Element, said: _Said) -> Iterator[str]:
    if (boot := wanted.find("boot")) is not None:
        yield from _no_turn(boot.get("order", ""), _told("boot", said), domain)
    if (address := wanted.find("address")) is not None:
        yield from _no_slot(address, _told("address", said), domain)
    model = wanted if wanted.find("model") is not None else actual
    asks = any(wanted.find(tag) is not None for tag in (driver.TAG, "teaming"))
    if asks and model is not None and driver.is_dropped(model):
        kind = model.find("model")
        name = "" if kind is None else kind.get("type", "")
        yield f"it is of model {name}, which has neither queues nor driver options nor teaming: say model: virtio, too"


def _told(tag: str, said: _Said) -> set[Element]:
    """The NICs of which the file says that: each may take what another has so far, and no two of them the same."""
    return {actual for wanted, actual in said if actual is not None and wanted.find(tag) is not None}


def _no_turn(order: str, told: set[Element], domain: Element) -> Iterator[str]:
    if domain.find("os/boot") is not None:
        yield (
            "its domain boots by <boot dev=…/> in <os>, and beside that libvirt lets no device have a turn: give its "
            "disks <boot order=…/> instead (virsh edit), or leave boot-order out"
        )
    for boot in domain.iterfind("devices/*/boot"):
        device = boot.getparent()
        if boot.get("order") == order and device is not None and device not in told:
            yield f"boot-order {order} is that of its domain's {device.tag} already"


def _no_slot(wanted: Element, told: set[Element], domain: Element) -> Iterator[str]:
    for address in domain.iterfind("devices/*/address[@type='pci']"):
        device = address.getparent()
        if device is not None and device not in told and slot_of(address) == slot_of(wanted):
            bus, slot, function = slot_of(wanted)[1:]
            yield f"pci-slot {bus:02x}:{slot:02x}.{function:x} is that of its domain's {device.tag} already"


def slot_of(address: Element) -> tuple[int, ...]:
    return tuple(_hexadecimal(address.get(part, "0")) for part in _PCI)


def _hexadecimal(text: str) -> int:
    try:
        return int(text, 16)
    except ValueError:
        return -1
