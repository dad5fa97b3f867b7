"""What a plan says of forwards between isolated ports, by whether bridged frames pass iptables."""

from __future__ import annotations

import pytest

from libvirt_guestnet.plan import hairpins
from libvirt_guestnet.topology import loads

TEXT = """
name: isohair
physical-networks: {{ lan: {{ subnets: [198.18.1.0/24, "fd61:11::/64"], host: [198.18.1.2, "fd61:11::2"] }} }}
networks:
  web: {{ mode: nat, physical-network: lan, subnets: [10.3.0.0/24, "fd66:3::/64"], isolated-ports: {isolated} }}
guests:
  a: {{ image: tiny, ports: [{{ network: web, {forwards} }}] }}
  b: {{ image: tiny, ports: [{{ network: web }}] }}
expect:
  - {{ from: lan, to: a, at: 198.18.1.2, can: [tcp/8080] }}
  - {{ from: b, to: a, at: 198.18.1.2, can: [tcp/8080] }}
  - {{ from: b.web, to: a, at: "fd61:11::2", can: [tcp/8080] }}
  - {{ from: b, to: a, cannot: [icmp, layer2] }}
"""
FORWARD = "forwards: [{ services: [tcp/8080], to: 80 }]"


def said(versions: set[int], isolated: str = "true", forwards: str = FORWARD) -> tuple[list[str], list[str]]:
    found = loads(TEXT.format(isolated=isolated, forwards=forwards), "t")
    return list(hairpins.problems(found, versions)), list(hairpins.notes(found, versions))


def test_what_the_file_expects_and_the_host_cannot_give_is_refused_by_name() -> None:
    problems, notes = said({4})
    assert problems == [
        "b can not reach a at 198.18.1.2: both are on isolated ports of network 'web', and "
        "net.bridge.bridge-nf-call-iptables is on: sysctl -w net.bridge.bridge-nf-call-iptables=0, or take "
        "isolated-ports out"
    ]
    assert len(notes) == 1
    assert notes[0].startswith("port 'a.web' is isolated from its neighbours on network 'web': they get no answer")
    problems, _ = said({4, 6})
    assert [line.split(":")[0] for line in problems] == [
        "b can not reach a at 198.18.1.2",
        "b.web can not reach a at fd61",
    ]


@pytest.mark.parametrize(("versions", "isolated"), [(set(), "true"), ({4, 6}, "false")])
def test_otherwise_nothing_is_said(versions: set[int], isolated: str) -> None:
    assert said(versions, isolated) == ([], [])
