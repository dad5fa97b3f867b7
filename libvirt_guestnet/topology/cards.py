"""What a port says of the NIC that its guest sees."""

from __future__ import annotations

from collections.abc import Iterator

from libvirt_guestnet.model.card import VIRTIO_MODELS, Card
from libvirt_guestnet.model.network import Mode
from libvirt_guestnet.model.topology import TINY

from ..errors import Where
from .guest_keys import DriverDecl, GuestDecl, PortDecl
from .networks import IPV6_MIN_MTU
from .report import Report
from .scope import Scope, Segment
from .spec import value

_ETHERNET = 1500  # the MTU of a bridge of libvirt's that says nothing of it
_OWN_BRIDGE = (Mode.NAT, Mode.ROUTE, Mode.OPEN, Mode.ISOLATED)
_ON_OFF = {True: "on", False: "off"}


def card(decl: PortDecl) -> Card:
    """What is said."""
    return Card(
        model=value(decl.model) or "",
        mtu=value(decl.mtu) or 0,
        boot_order=value(decl.boot_order) or 0,
        pci_slot=value(decl.pci_slot) or "",
        alias=value(decl.alias) or "",
        teaming=str(value(decl.teaming) or ""),
        driver=tuple(_driver(decl)),
    )


def _driver(decl: PortDecl) -> Iterator[tuple[str, str]]:
    said = decl.driver
    if said and said.name:
        yield "name", str(said.name.value)
    if decl.queues:
        yield "queues", str(decl.queues.value)
    if said and said.rx_queue_size:
        yield "rx_queue_size", str(said.rx_queue_size.value)
    for name, switch in (("iommu", said.iommu), ("packed", said.packed)) if said else ():
        if switch:
            yield name, _ON_OFF[switch.value]


def check(guest: GuestDecl, report: Report) -> None:
    """Report what a guest's NICs cannot be, each by itself and beside the others."""
    tiny = value(guest.image) == TINY
    for port in guest.ports:
        _check_driver(port, report)
        for where, name in _for_users(port) if tiny else ():
            report.add(where, f"{name} is not for image: tiny: nothing in such a guest makes use of it")
        if tiny and port.model and port.model.value not in VIRTIO_MODELS:
            report.add(
                port.model.where, f"a guest with image: tiny has no driver but virtio's, not {port.model.value}'s"
            )
    for key in ("boot_order", "pci_slot", "alias"):
        _check_unique(guest, key, report)


def _for_users(port: PortDecl) -> Iterator[tuple[Where, str]]:
    for key in ("boot_order", "pci_slot", "alias", "teaming"):
        if said := getattr(port, key):
            yield said.where, key.replace("_", "-")


def _check_driver(port: PortDecl, report: Report) -> None:
    if port.driver and not any((*_said(port.driver), port.driver.bad)):
        report.add(port.driver.at, "driver: say name, rx-queue-size, packed or iommu")
    if port.teaming and not port.alias and "alias" not in port.bad:
        report.add(port.teaming.where, "teaming needs an alias, by which the other NIC of the pair names this one")
    model = value(port.model)
    for where, name in _of_virtio(port) if model and model not in VIRTIO_MODELS else ():
        report.add(where, f"{name} is for virtio, not for model {model}")


def _said(driver: DriverDecl) -> tuple[object, ...]:
    return driver.name, driver.rx_queue_size, driver.packed, driver.iommu


def _of_virtio(port: PortDecl) -> Iterator[tuple[Where, str]]:
    if port.queues:
        yield port.queues.where, "queues"
    if port.driver:
        yield port.driver.at, "driver"
    if port.teaming:
        yield port.teaming.where, "teaming"


def _check_unique(guest: GuestDecl, key: str, report: Report) -> None:
    seen = set()
    for said in filter(None, (getattr(port, key) for port in guest.ports)):
        if said.value in seen:
            report.add(said.where, f"another port of this guest has {key.replace('_', '-')} {said.value}")
        seen.add(said.value)


def check_mtu(decl: PortDecl, seg: Segment | None, scope: Scope, report: Report) -> None:
    """Report an MTU of which the network, or what carries it, would drop packets without a word."""
    if decl.mtu is None or seg is None or seg.network.external:
        return
    size = decl.mtu.value
    carried, by = _carried(seg, scope)
    if carried and size > carried:
        message = f"MTU {size} does not fit: {by} carries {carried}, and what is larger would vanish; at most {carried}"
        report.add(decl.mtu.where, message)
    if size < IPV6_MIN_MTU and any(prefix.version == 6 for prefix in seg.prefixes):
        report.add(decl.mtu.where, f"MTU {size} is too small for IPv6, which needs {IPV6_MIN_MTU}")


def _carried(seg: Segment, scope: Scope) -> tuple[int, str]:
    """The largest packet that passes, and where; 0 where only the host knows."""
    network, label = seg.network, seg.network.physical_network
    if network.mtu:
        return network.mtu, f"network '{network.name}'"
    outside = scope.physicals.get(label) if label and network.mode is Mode.BRIDGE else None
    if outside and outside.mtu:
        return outside.mtu.value, f"'{label}'"
    usual = network.mode in _OWN_BRIDGE and "mtu" not in seg.decl.bad
    return (_ETHERNET, f"network '{network.name}', which says no mtu,") if usual else (0, "")
