"""An address of a port, and how its guest comes to it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from libvirt_guestnet.model.network import IPAddress


class Assignment(StrEnum):
    """How the guest itself comes to a port's address."""

    STATIC = "static"
    DHCP = "dhcp"
    SLAAC = "slaac"


@dataclass(frozen=True)
class PortAddress:
    """An address that belongs to a port: the guest may use it as source, and nobody else may."""

    ip: IPAddress
    prefix_length: int
    assignment: Assignment
