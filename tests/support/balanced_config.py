"""A router with load balancers of each kind, of both IP versions, in front of three guests."""

from __future__ import annotations

from dataclasses import replace

from libvirt_guestnet import parse
from libvirt_guestnet.model.balancing import Balancer, BalancerMember, HealthCheck, Method
from support.router_config import ROUTER, tcp, udp

CHECK = HealthCheck(8080, interval=1, rise=2, fall=2)
WEBS = {f"web{number}": f"1{number}" for number in (1, 2, 3)}
"""Members, and the ends of their addresses."""


def members(prefix: str, *names: str) -> tuple[BalancerMember, ...]:
    return tuple(BalancerMember(name, parse.address(f"{prefix}{WEBS[name]}")) for name in names or WEBS)


def balancer(name: str, public: str, method: Method = Method.ROUND_ROBIN, **changes: object) -> Balancer:
    prefix = "fd13:1::" if ":" in public else "10.1.1."
    plain = Balancer(name, parse.address(public), tcp(80), members(prefix), 8080, method, CHECK)
    return replace(plain, **changes)  # type: ignore[arg-type]


TURNS = balancer("turns", "203.0.113.12")
TURNS6 = balancer("turns6", "2001:db8:113::12")
UDP = balancer("udp", "203.0.113.12", service=udp(53), port=5353)
UDP6 = balancer("udp6", "2001:db8:113::12", service=udp(53), port=5353)
SOURCE = balancer("source", "203.0.113.13", Method.SOURCE)
SOURCE6 = balancer("source6", "2001:db8:113::13", Method.SOURCE)
LEAST = balancer("least", "203.0.113.14", Method.LEAST_CONNECTIONS)
LEAST6 = balancer("least6", "2001:db8:113::14", Method.LEAST_CONNECTIONS)
BALANCED = replace(ROUTER, balancers=(TURNS, TURNS6, UDP, UDP6, SOURCE, SOURCE6, LEAST, LEAST6))
