"""Accepts in other people's firewalls: exactly ours, first, once, and gone again without a trace."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.box import Box

import libvirt_guestnet
from libvirt_guestnet.datapath.firewalls.libvirt_nftables import is_first

pytestmark = pytest.mark.kernel

LIBRARY = str(Path(libvirt_guestnet.__file__).parents[1])
ARRANGE = """
import json, sys
from ipaddress import ip_network
from libvirt_guestnet.datapath.firewalls.accepts import Accept, OriginalDestination, Passage, RoutedLink
from libvirt_guestnet.datapath.firewalls.contract import Change
from libvirt_guestnet.datapath.firewalls.registry import arrange

def accept(bridge, guest, protocol="", ports=None, published=None, from_ports=None, translated=False, other="", far="",
           link=False):
    if link:
        return RoutedLink(bridge, ip_network(guest))
    if other:
        return Passage(bridge, ip_network(guest), other, ip_network(far) if far else None)
    origin = OriginalDestination(ip_network(published) if published else None, from_ports) if translated else None
    return Accept(bridge, ip_network(guest), protocol, ports, origin)

print(json.dumps(arrange(Change([accept(**fields) for fields in json.loads(sys.argv[1])]))))
"""
FORWARD = {
    "bridge": "gn-x", "guest": "10.0.0.1", "protocol": "tcp", "ports": (80, 80), "published": "198.18.1.1",
    "from_ports": (8080, 8080), "translated": True,
}  # fmt: skip
FORWARD6 = {**FORWARD, "guest": "fd00::1", "published": "fd61::1", "protocol": "udp", "ports": (80, 90), "from_ports": (80, 90)}  # fmt: skip  # noqa: E501
ANY: dict[str, object] = {"bridge": "gn-y", "guest": "10.0.1.0/24"}


@pytest.fixture
def box() -> Iterator[Box]:
    box = Box()
    yield box
    box.close()


def arrange(box: Box, *accepts: dict[str, object]) -> list[str]:
    run = ["env", f"PYTHONPATH={LIBRARY}", "PYTHONDONTWRITEBYTECODE=1", sys.executable, "-c", ARRANGE]
    failures: list[str] = json.loads(box.ok(*run, json.dumps(accepts)))
    return failures


def forward(box: Box, tool: str) -> list[str]:
    return box.ok(tool, "-S").splitlines()


@pytest.mark.parametrize(("tool", "accept"), [("iptables", FORWARD), ("ip6tables", FORWARD6)])
def test_iptables_has_exactly_ours_first_and_once(box: Box, tool: str, accept: dict[str, object]) -> None:
    box.ok(tool, "-P", "FORWARD", "DROP")
    box.ok(tool, "-A", "FORWARD", "-i", "theirs", "-j", "REJECT")
    before = forward(box, tool)
    for _ in range(2):
        assert arrange(box, accept, {**ANY, "guest": "fd00:1::/64"} if tool == "ip6tables" else ANY) == []
        now = forward(box, tool)
        assert [line for line in now if line.startswith("-A FORWARD")] == [
            "-A FORWARD -j GUESTNET-FORWARD", *(line for line in before if line.startswith("-A FORWARD")),
        ]  # fmt: skip
        ours = [line for line in now if line.startswith("-A GUESTNET-FORWARD")]
        assert len(ours) == 4
        assert all(line.endswith("-j ACCEPT") and " gn-" in line for line in ours)
    # Somebody puts himself first, as libvirt does when it makes its chains, and Docker at each of its starts.
    box.ok(tool, "-I", "FORWARD", "-i", "new", "-j", "REJECT")
    assert arrange(box, accept) == []
    now = forward(box, tool)
    assert next(line for line in now if line.startswith("-A FORWARD")) == "-A FORWARD -j GUESTNET-FORWARD"
    assert len([line for line in now if "GUESTNET-FORWARD" in line]) == 2 + 2
    box.ok(tool, "-D", "FORWARD", "-i", "new", "-j", "REJECT")
    assert arrange(box) == []
    assert forward(box, tool) == before, "as we found it, policy and all"


def test_a_host_without_iptables_rules_is_left_without(box: Box) -> None:
    assert arrange(box, FORWARD, FORWARD6, ANY) == []
    assert box.ok("nft", "list", "ruleset") == ""


@pytest.mark.parametrize(("family", "accept"), [("ip", FORWARD), ("ip6", FORWARD6)])
def test_libvirts_nftables_backend(box: Box, family: str, accept: dict[str, object]) -> None:
    table = f"table {family} libvirt_network"
    hook = "type filter hook forward priority filter; policy accept;"
    box.ok("nft", f"add {table}; add chain {family} libvirt_network forward {{ {hook} }}")
    box.ok("nft", f"add rule {family} libvirt_network forward counter reject")
    before = box.ok("nft", "list", "ruleset")
    for _ in range(2):
        assert arrange(box, accept) == []
        chain = box.ok("nft", "list", "chain", family, "libvirt_network", "forward")
        assert chain.index("jump guestnet") < chain.index("reject")
        assert chain.count("jump guestnet") == 1
        ours = box.ok("nft", "list", "chain", family, "libvirt_network", "guestnet")
        assert (ours.count("accept"), ours.count("gn-x")) == (2, 2)
        assert ours.count("ct status dnat") == 2
    assert arrange(box) == []
    assert box.ok("nft", "list", "ruleset") == before


@pytest.mark.parametrize(("family", "accept"), [("ip", FORWARD), ("ip6", FORWARD6)])
def test_ours_come_first_again_where_libvirt_was_not_done(box: Box, family: str, accept: dict[str, object]) -> None:
    """After a flush it makes its table again and inserts its rules one by one; we may come in between."""
    table = f"{family} libvirt_network"
    hook = "type filter hook forward priority filter; policy accept;"
    box.ok("nft", f"add table {table}; add chain {table} forward {{ {hook} }}")
    assert arrange(box, accept) == []
    box.ok("nft", f"insert rule {table} forward counter reject")
    before = box.ok("nft", "list", "chain", *table.split(), "forward")
    assert before.index("reject") < before.index("jump guestnet")
    assert arrange(box, accept) == []
    chain = box.ok("nft", "-a", "list", "chain", *table.split(), "forward")
    assert chain.index("jump guestnet") < chain.index("reject")
    assert chain.count("jump guestnet") == 1
    assert (is_first(chain.splitlines()), is_first(before.splitlines())) == (True, False)


def test_what_cannot_be_arranged_is_named(box: Box) -> None:
    box.ok("iptables", "-P", "FORWARD", "DROP")
    restore = box.ok("readlink", "-f", "/usr/sbin/iptables-restore").strip()
    script = 'test "$(basename "$0")" = iptables || exit 7; echo "-P FORWARD DROP"'
    box.run("sh", "-c", f"printf '#!/bin/sh\\n%s\\n' '{script}' > /run/broken; chmod +x /run/broken")
    box.ok("mount", "--bind", "/run/broken", restore)
    (failure,) = arrange(box, FORWARD)
    assert failure.startswith("iptables FORWARD: iptables refused the change: exit status 7 (Accept(bridge='gn-x'")
    assert arrange(box) == []


PASSAGES = [
    ("ip", "iptables", {"bridge": "gn-a", "guest": "10.0.1.0/24", "other": "wan"}, "wan", ""),
    (
        "ip",
        "iptables",
        {"bridge": "gn-a", "guest": "10.0.1.0/24", "other": "gn-b", "far": "10.0.2.0/24"},
        "gn-b",
        "10.0.2.0/24",
    ),
    (
        "ip6",
        "ip6tables",
        {"bridge": "gn-a", "guest": "fd00:1::/64", "other": "gn-b", "far": "fd00:2::/64"},
        "gn-b",
        "fd00:2::/64",
    ),
]


@pytest.mark.parametrize(("family", "tool", "accept", "other", "far"), PASSAGES)
def test_a_passage_names_both_its_ends(
    box: Box, family: str, tool: str, accept: dict[str, object], other: str, far: str
) -> None:
    """Or packets would get past what protects a third network."""
    near = str(accept["guest"])
    box.ok(tool, "-P", "FORWARD", "DROP")
    box.ok("nft", f"add table {family} libvirt_network; add chain {family} libvirt_network forward {{ type filter hook forward priority filter; }}")  # fmt: skip  # noqa: E501
    assert arrange(box, accept) == []
    to, by = (f" -d {far}", f"-s {far} ") if far else ("", "")
    ours = [line for line in forward(box, tool) if line.startswith("-A GUESTNET-FORWARD")]
    assert ours == [
        f"-A GUESTNET-FORWARD {by}-d {near} -i {other} -o gn-a -j ACCEPT",
        f"-A GUESTNET-FORWARD -s {near}{to} -i gn-a -o {other} -j ACCEPT",
    ]
    chain = box.ok("nft", "list", "chain", family, "libvirt_network", "guestnet")
    to, by = (f" {family} daddr {far}", f" {family} saddr {far}") if far else ("", "")
    assert f'iifname "{other}"{by} oifname "gn-a" {family} daddr {near} accept\n' in chain
    assert f'iifname "gn-a" {family} saddr {near} oifname "{other}"{to} accept\n' in chain
    assert arrange(box) == []


# Rules of others: those that refuse something by name, and those behind which nothing is asked any more.
OTHERS = [
    ([], []),
    (["-i docker0 -j ACCEPT", "-j DOCKER"], []),
    (["-i virbr0 -j REJECT --reject-with icmp-port-unreachable"], ["-j REJECT --reject-with icmp-port-unreachable"]),
    ([], ["-j DROP", "-j ACCEPT"]),
]


@pytest.mark.parametrize(("before", "after"), OTHERS)
def test_a_link_passes_last(box: Box, before: list[str], after: list[str]) -> None:
    """Behind whoever refuses something by name, and before who refuses all the rest."""
    box.ok("iptables", "-N", "DOCKER")
    box.ok("iptables", "-P", "FORWARD", "DROP")
    for rule in (*before, *after):
        box.ok("iptables", "-A", "FORWARD", *rule.split())
    theirs = forward(box, "iptables")
    link = {"bridge": "vme1", "guest": "192.0.2.7/32", "link": True}
    for _ in range(2):
        assert arrange(box, link) == []
        now = forward(box, "iptables")
        jumps = [line for line in now if line.startswith("-A FORWARD")]
        place = len(before)
        assert jumps[place] == "-A FORWARD -j GUESTNET-ROUTED"
        assert [line for line in now if line.startswith("-A GUESTNET")] == [
            "-A GUESTNET-ROUTED -d 192.0.2.7/32 -o vme1 -j ACCEPT",
            "-A GUESTNET-ROUTED -s 192.0.2.7/32 -i vme1 -j ACCEPT",
        ]
    # Who comes later comes before it, and both kinds of ours are told apart.
    box.ok("iptables", "-I" if after else "-A", "FORWARD", "-i", "later", "-j", "REJECT")
    assert arrange(box, link, FORWARD) == []
    jumps = [line for line in forward(box, "iptables") if line.startswith("-A FORWARD")]
    assert jumps[0] == "-A FORWARD -j GUESTNET-FORWARD"
    assert jumps[2 + len(before)] == "-A FORWARD -j GUESTNET-ROUTED"
    assert len(jumps) == 3 + len(before) + len(after)
    assert arrange(box, FORWARD) == []
    assert "GUESTNET-ROUTED" not in box.ok("iptables", "-S")
    box.ok("iptables", "-D", "FORWARD", "-i", "later", "-j", "REJECT")
    assert arrange(box) == []
    assert forward(box, "iptables") == theirs
