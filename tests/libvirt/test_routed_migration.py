"""A host-routed guest moves between two hosts of one LAN: its route follows it, and computer X is told."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Callable

import pytest
from lxml import etree
from support.libvirt_host import DOMAIN, Host, uuid
from support.libvirt_migration import migrate, migration
from support.libvirt_routed import Routed, expected, nic, policy
from support.sandboxes import HERE

from libvirt_guestnet import xmlgen
from libvirt_guestnet.guest import image
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.topology import loads

TOPOLOGY = """
name: t
physical-networks: { lan: { subnets: [10.61.9.0/24, "fd61:9::/64"] } }
networks: { n: { mode: host-routed, physical-network: lan } }
guests: { a: { image: tiny, ports: [{ network: n, addresses: [10.61.9.50, "fd61:9::50"] }] } }
"""
X = """set -e
ip netns add x
for port in l0 r0; do ip link set $port netns x; done
run() { ip netns exec x ip "$@"; }
run link add eth0 type bridge stp_state 0 forward_delay 0
for port in l0 r0; do run link set $port master eth0 up; done
run link set eth0 up
run address add 10.61.9.9/24 dev eth0
run address add fd61:9::9/64 dev eth0 nodad
"""


@pytest.fixture
def pair(hosts: dict[str, Host]) -> tuple[Routed, Routed]:
    """Two hosts with up0 on a LAN; computer X is in a namespace of the left one."""
    left, right = (Routed(host.sandbox) for host in hosts.values())
    pids = [str(host.sandbox.first.pid) for host in (left, right)]
    for pid, far in zip(pids, ("l0", "r0"), strict=True):
        ends = ["name", "up0", "netns", pid, "type", "veth", "peer", "name", far, "netns", pids[0]]
        subprocess.run(["ip", "link", "add", *ends], check=True, timeout=120)
    left.sandbox.run(["sh", "-c", X])
    for host, number in ((left, 1), (right, 2)):
        for words in (f"address add 10.61.9.{number}/24 dev up0", f"address add fd61:9::{number}/64 dev up0 nodad", "link set up0 up"):  # fmt: skip  # noqa: E501
            host.sandbox.run(["ip", *words.split()])
    return left, right


def known(left: Routed, address: str) -> str:
    """The MAC that computer X has for an address, without asking again."""
    found = left.sandbox.run(["ip", "-n", "x", "-j", "neigh", "show", "to", address]).stdout
    return str(json.loads(found)[0].get("lladdr", ""))


def ask(left: Routed, address: str) -> None:
    """Computer X looks for an address; nobody in this guest answers what it sends then."""
    left.sandbox.run(["ip", "netns", "exec", "x", "busybox", "ping", "-q", "-c", "1", "-W", "1", address], check=False)


def mac_of(host: Routed) -> str:
    return str(json.loads(host.sandbox.run(["ip", "-j", "link", "show", "up0"]).stdout)[0]["address"])


def test_the_route_follows_the_guest_and_x_is_told(pair: tuple[Routed, Routed]) -> None:
    left, right = pair
    left.define("define", DOMAIN.format(name="a", uuid=uuid(1), policy=policy(), nics=nic(0)))
    left.virsh("start", "a")
    for source, target, address in ((left, right, "192.0.2.2"), (right, left, "192.0.2.1")):
        source.exactly(0)
        for guest in ("10.61.9.50", "fd61:9::50"):
            ask(left, guest)
            assert known(left, guest) == mac_of(source)
        assert migrate("a", source, target, address) == ""
        _soon_routed(source, target)
        for guest in ("10.61.9.50", "fd61:9::50"):
            _soon_told(left, guest, target)
        _soon_alone(target)


def _soon_routed(source: Routed, target: Routed) -> None:
    target.soon(lambda: target.tables() == expected(0), "the target routes to it")
    target.exactly(0)
    source.soon(lambda: source.tables() == expected() and not source.files("host-routes"), "withdrawn there")


def _soon_told(left: Routed, guest: str, target: Routed) -> None:
    left.soon(lambda: known(left, guest) == mac_of(target), "X is told")


def _soon_alone(target: Routed) -> None:
    target.soon(lambda: target.helpers() == [], "nobody waits for it any more")


def test_a_target_that_cannot_route_to_the_guest_refuses_and_the_guest_goes_on(pair: tuple[Routed, Routed]) -> None:
    left, right = pair
    left.define("define", DOMAIN.format(name="a", uuid=uuid(1), policy=policy(), nics=nic(0)))
    left.virsh("start", "a")
    right.sandbox.run(["ip", "route", "add", "10.61.9.50", "dev", "up0"])
    assert "routed elsewhere on this host already" in migrate("a", left, right, "192.0.2.2")
    assert (left.running(), right.running()) == (["a"], [])
    left.exactly(0)
    assert left.resolved("10.61.9.50")
    right.exactly()


@pytest.mark.parametrize("hosts", [HERE], indirect=True)
def test_lost_packets_while_a_real_guest_moves(
    pair: tuple[Routed, Routed], record_property: Callable[[str, object], None]
) -> None:
    left, right = pair
    topology = loads(TOPOLOGY, "test")
    tiny = image.ensure_image()
    domain = xmlgen.domain(topology, topology.guest("a"), HostMap({"lan": "up0"}), tiny, "qemu")
    left.define("define", etree.tostring(domain).decode())
    left.virsh("start", "a")
    left.soon_seconds = 60
    left.soon(lambda: left.sandbox.run(_ping(1), check=False).returncode == 0, "the guest answers")
    with subprocess.Popen(pinging(left), stdout=subprocess.PIPE, text=True) as pings:
        with subprocess.Popen(
            migration("a", left, right, "192.0.2.2", "--bandwidth", "1"), stderr=subprocess.PIPE
        ) as moving:
            # Its memory takes half a minute to follow it now: had the target routed to it from `started` on, the
            # guest would not be reached in all that time.
            right.soon(lambda: "paused" in right.virsh("domstate", "a", check=False), "the guest comes")
            assert left.sandbox.run(_ping(5), check=False).returncode == 0, "the source still has it"
            left.virsh("migrate-setspeed", "a", "1000")
            assert moving.communicate(timeout=240)[1] == b""
        left.soon(lambda: left.sandbox.run(_ping(1), check=False).returncode == 0, "it answers where it is now")
        pings.send_signal(signal.SIGINT)
        said = pings.communicate(timeout=60)[0]
    assert right.running() == ["a"]
    sent, received = map(int, re.findall(r"(\d+) packets transmitted, (\d+) packets received", said)[0])
    record_property("lost packets", sent - received)
    print(f"{sent - received} of {sent} packets lost, one every 0.1 s")


def pinging(host: Routed) -> list[str]:
    """Pings the guest from X until it is interrupted."""
    return ["nsenter", "-t", str(host.sandbox.first.pid), "-r", "-m", "-n", *_ping(100_000, "0.1")]


def _ping(count: int, interval: str = "1") -> list[str]:
    return [
        "ip",
        "netns",
        "exec",
        "x",
        "busybox",
        "ping",
        "-q",
        "-c",
        str(count),
        "-i",
        interval,
        "-W",
        "2",
        "10.61.9.50",
    ]
