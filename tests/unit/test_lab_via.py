"""`via:`, as a guest's trace shows it: also to a destination that drops pings."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from libvirt_guestnet.guest.agent import Probe, Trace
from libvirt_guestnet.lab import checks, verify
from libvirt_guestnet.topology import loads

TOPOLOGY = """
name: t
networks:
  one: {{ mode: isolated, subnets: [10.1.0.0/24], gateway: r }}
  two: {{ mode: isolated, subnets: [10.2.0.0/24], gateway: r }}
guests:
  r: {{ image: tiny, router: {{ allow: [{{ from: one, to: two, services: [tcp] }}] }}, ports: [
    {{ network: one, addresses: [10.1.0.2] }}, {{ network: two, addresses: [10.2.0.2] }}] }}
  a: {{ image: tiny, ports: [{{ network: one, addresses: [10.1.0.5] }}] }}
  b: {{ image: tiny, ports: [{{ network: two, addresses: [10.2.0.5] }}] }}
expect:
  - {{ from: a, to: b, via: [r]{} }}
"""
VIA, THERE = "10.1.0.2", "10.2.0.5"


@dataclass
class Guest:
    """An agent that sees these hops, and whose probes end like this."""

    hops: tuple[str | None, ...]
    outcome: str
    asked: list[int] = field(default_factory=list)

    def trace(self, _address: str) -> Trace:
        return Trace(self.hops, bool(self.hops) and self.hops[-1] == THERE)

    def tcp(self, _address: str, port: int) -> Probe:
        self.asked.append(port)
        return Probe(self.outcome)


@pytest.mark.parametrize(
    ("hops", "can", "outcome", "seen", "passed"),
    [
        ((VIA, THERE), "", "timeout", f"{VIA} > {THERE}", True),
        ((VIA,), "", "refused", f"{VIA} > * that answers tcp/80", True),
        ((VIA,), ", can: [tcp/22]", "open", f"{VIA} > * that answers tcp/22", True),
        ((VIA,), "", "timeout", f"{VIA} > * not even tcp/80", False),
        ((VIA,), ", can: [tcp/22]", "refused", f"{VIA} > * not even tcp/22", False),
        (("10.1.0.9",), "", "open", "10.1.0.9", False),
        ((VIA, VIA), "", "open", f"{VIA} > {VIA}", False),
        ((), "", "open", "nothing", False),
    ],
)
def test_the_way_is_right_and_somebody_is_at_its_end(
    hops: tuple[str | None, ...], can: str, outcome: str, seen: str, passed: bool
) -> None:
    planned = checks.plan(loads(TOPOLOGY.format(can), "t.yaml"))
    (check,) = (check for check in planned if check.kind is checks.Kind.VIA)
    guest = Guest(hops, outcome)
    assert verify._try_via(guest, check) == (seen, passed)  # type: ignore[arg-type]
    assert guest.asked == ([] if "tcp" not in seen else [int(seen.rpartition("/")[2])])
