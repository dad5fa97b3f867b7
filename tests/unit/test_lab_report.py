"""How results are shown: few lines for people, every check for programs."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from libvirt_guestnet.cli.labs import sandbox_name
from libvirt_guestnet.lab import report, verify
from libvirt_guestnet.lab.checks import Check, Kind
from libvirt_guestnet.lab.verify import CheckResult
from libvirt_guestnet.model.topology import Family
from libvirt_guestnet.sandbox.registry import check_name
from libvirt_guestnet.topology import loads

ADDRESS = {Family.IPV4: ip_address("192.0.2.1"), Family.IPV6: ip_address("2001:db8::1")}


def tried(what: str, family: Family, seen: str, passed: bool = True, allowed: bool = True, **more: Any) -> CheckResult:
    check = Check(Kind.SERVICE, "a", "b", what, allowed, family, ADDRESS[family], **more)
    return CheckResult(check, seen, passed)


def both(what: str, seen: str, **more: Any) -> list[CheckResult]:
    return [tried(what, family, seen, **more) for family in Family]


def lines(results: list[CheckResult]) -> list[str]:
    return [" ".join(line.split()) for line in report.text(results).splitlines()[1:]]


def test_the_forgeries_of_an_observed_port_are_not_tried_and_no_success() -> None:
    text = """
      name: t
      networks: { n: { mode: isolated, subnets: [10.0.0.0/24] } }
      guests: { g: { image: tiny, ports: [{ network: n, guarded: observe }] } }
      expect: [{ from: g, forge: [arp] }]
    """
    (result,) = verify.verify(loads(text, "t.yaml"), {})
    assert (result.passed, "only observed" in result.seen) == (False, True)


def test_what_two_share_is_on_one_line() -> None:
    results = [*both("icmp", "answers"), *both("tcp/80", "answers"), *both("tcp/25", "no answer", allowed=False)]
    assert lines(results) == [
        "ok a b ipv4 ipv6 can icmp tcp/80 answers",
        "ok a b ipv4 ipv6 cannot tcp/25 no answer",
        "",
        "6 of 6 checks as expected",
    ]
    assert len(report.rows(results)) == 6


def test_a_failure_has_a_line_of_its_own() -> None:
    results = [*both("icmp", "answers"), *both("tcp/80", "answers")]
    results[2] = tried("tcp/80", Family.IPV4, "no answer", passed=False)
    assert lines(results) == [
        "ok a b ipv4 can icmp answers",
        "ok a b ipv6 can icmp tcp/80 answers",
        "FAILED a b ipv4 can tcp/80 no answer",
        "",
        "3 of 4 checks as expected, 1 NOT",
    ]


def test_what_was_different_meanwhile_is_told() -> None:
    results = [*both("icmp", "answers"), tried("icmp", Family.IPV4, "answers", without_forwarding="r")]
    assert lines(results)[:2] == [
        "ok a b ipv4 ipv6 can icmp answers",
        "ok a b ipv4 can icmp, r not forwarding answers",
    ]


def test_forgeries_of_a_port_share_a_line() -> None:
    forged = [Check(Kind.FORGE, "a.x", "anywhere", f"forged {f}", False, forgery=f) for f in ("mac", "arp")]
    results = [CheckResult(check, "arrived nowhere", True) for check in forged]
    assert lines(results)[0] == "ok a.x anywhere - forged mac arp: nowhere arrived nowhere"


@pytest.mark.parametrize(
    ("topology", "name"),
    [
        ("archnetwork", "lab-archnetwork"),
        ("two-lans", "lab-two-lans"),
        ("Office_2.net", "lab-office-2-net-"),
        ("a-name-that-is-far-too-long-for-a-sandbox", "lab-a-name-that-is-far-t-"),
    ],
)
def test_every_topology_has_a_sandbox_name(topology: str, name: str) -> None:
    text = f"name: {topology}\nnetworks:\n  one: {{mode: isolated, subnets: [10.0.0.0/24]}}\n"
    found = sandbox_name(loads(text, "test"))
    assert found.startswith(name)
    check_name(found)
