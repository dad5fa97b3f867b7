"""What a file may have a great many of is compared without each being held against each of the others."""

from __future__ import annotations

from steps import steps

from libvirt_guestnet.errors import TopologyError
from libvirt_guestnet.topology import loads

HEAD = """
name: t
physical-networks: { lan: { subnets: [198.18.0.0/16] } }
networks:
  public: { mode: bridge, physical-network: lan }
  web: { mode: isolated, subnets: [10.0.0.0/8] }
  again: { mode: isolated, subnets: [10.0.0.0/8] }
guests:
"""
ROUTER = """
routers:
  edge:
    tiers: { web: { egress: deny } }
    public: { public: { addresses: [198.18.0.2] } }
    balancers:
"""


def balanced(*services: str) -> str:
    each = "".join(f"      - {{ at: 198.18.0.2, services: [{service}], members: [a] }}\n" for service in services)
    return f"{HEAD}  a: {{ ports: [{{ network: web }}] }}{ROUTER}{each}"


def ports(*networks: str) -> str:
    listed = ", ".join(f"{{ network: {network}, name: p{number} }}" for number, network in enumerate(networks))
    return f"{HEAD}  a: {{ ports: [{listed}] }}\n"


def problems(text: str) -> list[str]:
    try:
        loads(text, "t.yaml")
    except TopologyError as error:
        return [line.partition(": ")[2] for line in str(error).splitlines()]
    return []


def test_a_port_is_balanced_once() -> None:
    assert problems(balanced("tcp/80", "tcp/81-90", "tcp/91")) == []
    again = [
        each for each in problems(balanced("tcp/100-200", "tcp/10", "tcp/90-100", "tcp/300")) if "balanced" in each
    ]
    assert len(again) == 1
    assert again[0].startswith("tcp/90-100 at 198.18.0.2 is balanced (line ")
    inside = problems(balanced("tcp/100-200", "tcp/150"))
    assert [each.partition(" is ")[0] for each in inside] == ["tcp/150 at 198.18.0.2"]


def test_many_balanced_ports() -> None:
    few, many = (balanced(*(f"tcp/{number}" for number in range(1, count))) for count in (101, 301))
    assert problems(few) == problems(many) == []
    assert steps(problems, many) < 4 * steps(problems, few)


def test_a_guest_with_one_subnet_twice_is_told_for_each_port() -> None:
    both = "and both have 10.0.0.0/8: it could not tell them apart"
    assert problems(ports("web", "again")) == [f"guest 'a' is on network 'web', too, {both}"]
    assert problems(ports("web", "web")) == []
    assert problems(ports("again", "web", "again")) == [
        f"guest 'a' is on network '{name}', too, {both}" for name in ("again", "web")
    ]


def test_many_ports_of_one_guest() -> None:
    few, many = (ports(*("web", "again") * count) for count in (50, 150))
    assert steps(problems, many) < 4 * steps(problems, few)
