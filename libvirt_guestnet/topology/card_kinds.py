"""The scalar values of what a guest sees of a port's NIC. `kinds` says how they are read."""

from __future__ import annotations

import re
from enum import StrEnum

from libvirt_guestnet.model.card import PERSISTENT, VIRTIO_MODELS

from .kinds import Kind, choice, integer, pattern
from .report import shown, unknown

_ALIAS, ALIAS_CHARACTERS = "ua-[A-Za-z0-9_-]+", 64
_PCI_SLOT, _LAST_SLOT = r"[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}(\.[0-7])?", 0x1F
_MODELS = (*sorted(VIRTIO_MODELS), "e1000", "e1000e", "igb", "ne2k_pci", "pcnet", "rtl8139", "vmxnet3")
_RINGS = ("256", "512", "1024")


class DriverName(StrEnum):
    """What moves the frames between the guest and the tap."""

    VHOST = "vhost"
    QEMU = "qemu"


class Teaming(StrEnum):
    PERSISTENT = PERSISTENT


class LinkState(StrEnum):
    UP = "up"
    DOWN = "down"


def _read_alias(text: str) -> str:
    if not re.fullmatch(_ALIAS, text) or len(text) > ALIAS_CHARACTERS:
        raise ValueError(
            f"{shown(text)} is no alias such as ua-wan: libvirt takes those of users that start with ua-, of letters, "
            f"digits, '_' and '-' (here at most {ALIAS_CHARACTERS})"
        )
    return text


def _read_pci_slot(text: str) -> str:
    found = re.fullmatch(_PCI_SLOT, text)
    if not found or int(text[3:5], 16) > _LAST_SLOT:
        raise ValueError(
            f"{shown(text)} is no BUS:SLOT such as 00:0a, hexadecimal as lspci has it, with slots up to 1f"
        )
    if text[:5] == "00:00":
        raise ValueError(f"{shown(text)}: the first slot is the machine's own")
    return f"{text[:5].lower()}.{text[6:] or 0}"


def _read_model(text: str) -> str:
    if text not in _MODELS:
        hint = "any other one stays as it is where the key is left out"
        raise ValueError(f"{unknown('model', text, _MODELS)} ({hint})")
    return text


def _read_ring(text: str) -> int:
    if text not in _RINGS:
        raise ValueError(f"rx-queue-size must be {', '.join(_RINGS[:-1])} or {_RINGS[-1]}, not {shown(text)}")
    return int(text)


MODEL = Kind(_read_model, {"enum": list(_MODELS)})
QUEUES = integer(1, 256, "queues")  # MAX_TAP_QUEUES of the kernel's tun
BOOT_ORDER = integer(1, 99, "boot order")
PCI_SLOT = Kind(_read_pci_slot, pattern(_PCI_SLOT))
ALIAS = Kind(_read_alias, pattern(_ALIAS) | {"maxLength": ALIAS_CHARACTERS})
TEAMING = choice(Teaming, "teaming")
DRIVER_NAME = choice(DriverName, "driver")
RING = Kind(_read_ring, {"enum": list(map(int, _RINGS))})
LINK = choice(LinkState, "link state")
