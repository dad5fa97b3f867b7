"""The NIC that a port's guest sees, as far as the file says it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

VIRTIO = "virtio"
# libvirt has <driver> and net_failover for these alone; every other model loses them.
VIRTIO_MODELS = frozenset({VIRTIO, "virtio-transitional", "virtio-non-transitional"})
PERSISTENT = "persistent"


@dataclass(frozen=True)
class Card:
    """In libvirt's words; "", 0 and () stand for what the file leaves out. `pci_slot` is BUS:SLOT.FUNCTION, hexadecimal
    as lspci has it; `driver` are the attributes of <driver>."""

    model: str = ""
    mtu: int = 0
    boot_order: int = 0
    pci_slot: str = ""
    alias: str = ""
    teaming: str = ""
    driver: tuple[tuple[str, str], ...] = ()
