"""A virtual router's load balancers: who serves, how a member is chosen, and when it is healthy. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from libvirt_guestnet.model.network import IPAddress
from libvirt_guestnet.model.traffic import Service

MOST_MEMBERS = 64


class Method(StrEnum):
    """Which member gets a new connection: each in turn, by the client's address, or that with the fewest open ones."""

    ROUND_ROBIN = "round-robin"
    SOURCE = "source"
    LEAST_CONNECTIONS = "least-connections"


@dataclass(frozen=True)
class HealthCheck:
    """A TCP connection to `port` of each member every `interval` seconds, which is also how long its answer may take.
    A member that failed `fall` times in a row is left out until it has answered `rise` times in a row; a new one until
    it has answered once."""

    port: int
    interval: int = 2
    rise: int = 2
    fall: int = 3


@dataclass(frozen=True)
class BalancerMember:
    """One of the guests that a balancer shares connections among; `name` is its counter's, unique in its balancer."""

    name: str
    address: IPAddress


@dataclass(frozen=True)
class Balancer:
    """Ports of a public address that several guests serve, from `port` on. Members see the client's own address, and
    without `check` each is taken to be healthy."""

    name: str
    public: IPAddress
    service: Service
    members: tuple[BalancerMember, ...]
    port: int
    method: Method = Method.ROUND_ROBIN
    check: HealthCheck | None = None
