"""What is asked of the kernel by name is what nft has put there."""

from __future__ import annotations

import subprocess

import pytest

from libvirt_guestnet.datapath.forwards.table import TABLE, batch, sizes
from libvirt_guestnet.datapath.netlink.present import ChainKey, ElementKey, Key, SetKey, index_key, missing, name_key
from libvirt_guestnet.datapath.run.nft import items, listed, numbers, sizes_of, tables
from libvirt_guestnet.state.receipts import Floating, ForwardRule, PortForwards

TABLES = """
table netdev guestnet {
    chain whole { type filter hook ingress device "lo" priority 0; policy drop; counter drop; }
    chain empty { type filter hook ingress device "lo" priority 1; policy drop; }
    chain accepts { type filter hook ingress device "lo" priority 2; policy accept; counter drop; }
    chain plain { counter drop; }
}
table bridge guestnet {
    set bridges { type ifname; elements = { "br-one", "a-name-of-15ch" } }
    set ports { type iface_index; elements = { "lo" } }
    chain prerouting { type filter hook prerouting priority 0; policy accept; iif != @ports counter; }
}
table arp guestnet {
    set gateways { type ipv4_addr; elements = { 169.255.30.1 } }
}
"""
NETDEV, BRIDGE = "netdev guestnet", "bridge guestnet"
THERE: list[Key] = [
    ChainKey(NETDEV, "whole", drops=True),
    ChainKey(NETDEV, "accepts"),
    ChainKey(NETDEV, "plain"),
    ChainKey(BRIDGE, "prerouting"),
    ElementKey(BRIDGE, "bridges", name_key("br-one")),
    ElementKey(BRIDGE, "bridges", name_key("a-name-of-15ch")),
    ElementKey(BRIDGE, "ports", index_key(1)),
    ElementKey("arp guestnet", "gateways", bytes((169, 255, 30, 1))),
    SetKey(BRIDGE, "ports"),
]
ABSENT: list[Key] = [
    ChainKey(NETDEV, "none"),
    ChainKey(NETDEV, "empty", drops=True),
    ChainKey(NETDEV, "accepts", drops=True),
    ChainKey("inet guestnet", "whole"),
    ElementKey(BRIDGE, "bridges", name_key("br-on")),
    ElementKey(BRIDGE, "ports", index_key(2)),
    ElementKey(BRIDGE, "none", index_key(1)),
    ElementKey("inet guestnet", "ports", index_key(1)),
    SetKey(NETDEV, "ports"),
]


@pytest.mark.usefixtures("namespace")
def test_what_is_missing_is_told_from_what_is_there() -> None:
    assert missing(THERE) == THERE
    subprocess.run(["nft", "-f", "-"], input=TABLES, text=True, check=True, timeout=120)
    mixed = [each for pair in zip(THERE, ABSENT, strict=True) for each in pair]
    assert missing(mixed) == ABSENT
    assert missing([]) == []
    assert missing([*mixed * 40]) == ABSENT * 40, "more than are asked for at once"


@pytest.mark.usefixtures("namespace")
def test_forwards_are_as_many_as_they_were_written() -> None:
    """Or the service would put them back for ever."""
    forwards = tuple(
        ForwardRule(protocol, first, first + more, to, first + moved, at, hide)
        for protocol in ("tcp", "udp")
        for first, more, moved, hide in (
            (80, 0, 8000, False),
            (100, 9, 0, True),
            (110, 9, 0, False),
            (200, 3, 50, False),
        )
        for to, at in (("10.61.1.10", ""), ("10.61.1.10", "198.18.1.1"), ("fd61::10", ""), ("fd61::10", "fd61:1::1"))
    )
    floating = Floating("198.18.1.50", "10.61.1.10"), Floating("fd61:1::50", "fd61::10")
    one = PortForwards("vme1", "", "u", "g", "br0", forwards=forwards)
    many = [one, one._replace(bridge="br1", forwards=(), floating=floating), one._replace(forwards=forwards[:1])]
    for ports in (many, many[:1], many[1:2], many[2:]):
        subprocess.run(["nft", "-f", "-"], input=batch(ports), text=True, check=True, timeout=120)
        assert sizes_of(TABLE) == sizes(ports)
    assert sizes_of("inet none") == {}


@pytest.mark.usefixtures("namespace")
def test_what_is_not_there_is_no_error_for_this_nft() -> None:
    """Its words for that are the one failure that is forgiven; the table's namesake must not have it say others."""
    assert (tables(), listed("table", *NETDEV.split()), numbers("ports")) == (set(), [], [])
    subprocess.run(["nft", "-f", "-"], input=TABLES, text=True, check=True, timeout=120)
    assert tables() == {NETDEV, BRIDGE, "arp guestnet"}
    assert (sizes_of("inet guestnet"), sizes_of("netdev guestnest")) == ({}, {})
    absent = [("chain", *NETDEV.split(), "whale"), ("chain", "ip", "none", "forward"), ("set", *BRIDGE.split(), "port")]
    assert [(listed(*each), list(items(*each))) for each in absent] == [([], [])] * len(absent)
