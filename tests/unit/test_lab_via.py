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

    def trace(self, _address: str, timeout: float) -> Trace:
        return Trace(self.hops, bool(self.hops) and self.hops[-1] == THERE)

    def call(self, verb: str, timeout: float) -> None:
        assert verb == "hello" and timeout > 10

    def tcp(self, _address: str, port: int, timeout: float) -> Probe:
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
    assert verify._try_via(guest, check, 1.5) == (seen, passed)  # type: ignore[arg-type]
    assert guest.asked == ([] if "tcp" not in seen else [int(seen.rpartition("/")[2])])


@dataclass
class Late(Guest):
    """One that does not run for some seconds: nobody hears of it by then."""

    after: float = 5.0
    waited: list[float] = field(default_factory=list)

    def trace(self, address: str, timeout: float) -> Trace:
        self.waited.append(timeout)
        return super().trace(address, timeout) if timeout > self.after else Trace((), False)


def test_a_guest_that_is_late_is_waited_for_longer_each_time() -> None:
    topology = loads(TOPOLOGY.format(""), "t.yaml")
    planned = [(i, c) for i, c in enumerate(checks.plan(topology)) if c.kind is checks.Kind.VIA]
    guest = Late((VIA, THERE), "open")
    ((_, result),) = verify._run_all(topology, {"a": guest}, planned)  # type: ignore[dict-item]
    assert result.passed
    assert guest.waited == [1.5, 1.5, 1.5, 1.5, 5.0, 15.0]


def test_what_does_not_work_for_many_is_not_waited_for_long() -> None:
    topology = loads(TOPOLOGY.format(""), "t.yaml")
    (check,) = (c for c in checks.plan(topology) if c.kind is checks.Kind.VIA)
    guest = Late((VIA, THERE), "open", after=60.0)
    results = verify._run_all(topology, {"a": guest}, list(enumerate([check] * 13)))  # type: ignore[dict-item]
    assert not any(result.passed for _, result in results)
    assert guest.waited == [1.5] * 4 * 13
