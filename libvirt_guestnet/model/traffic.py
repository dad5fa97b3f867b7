"""What traffic a rule speaks about, and what becomes of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from libvirt_guestnet.model import ip_protocols
from libvirt_guestnet.model.network import IPNetwork


class Protocol(StrEnum):
    """What a policy line or a check speaks about. ICMP means ICMP for IPv4 and ICMPv6 for IPv6. SCTP is forwarded
    alone."""

    ICMP = "icmp"
    TCP = "tcp"
    UDP = "udp"
    SCTP = "sctp"


@dataclass(frozen=True)
class Service:
    """A protocol (a Protocol, or one of `ip_protocols` that has no ports) with, if it has some, an inclusive range of
    destination ports (all when both are None)."""

    protocol: str
    first_port: int | None = None
    last_port: int | None = None

    @property
    def is_whole(self) -> bool:
        """Whether it is forwarded as a whole, since its protocol has no ports."""
        return self.protocol != Protocol.ICMP and ip_protocols.is_whole(self.protocol)

    def __str__(self) -> str:
        return ip_protocols.service(str(self.protocol), self.first_port or 0, self.last_port or 0)


class Verdict(StrEnum):
    """What becomes of packets that no rule of a policy speaks about. There is no default: a file has to say it."""

    ALLOW = "allow"
    DENY = "deny"


@dataclass(frozen=True)
class Rule:
    """New connections of these services, from one of these sources to one of these destinations; a tuple that is empty
    stands for all. `name` is its counter's, so it is unique among its kind."""

    name: str
    services: tuple[Service, ...] = ()
    sources: tuple[IPNetwork, ...] = ()
    destinations: tuple[IPNetwork, ...] = ()
