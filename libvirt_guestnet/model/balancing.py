"""How a load balancer chooses a member, and when a member is healthy. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


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
