"""A virtual router's load balancer and its limits, in the appliance on plain QEMU, and once more with its agent in a
namespace, where more is tried in less time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

import pytest
from support import balanced_programs as programs
from support.balanced_config import (
    BALANCED,
    LEAST,
    LEAST6,
    SOURCE,
    SOURCE6,
    TURNS,
    TURNS6,
    UDP,
    UDP6,
    WEBS,
    members,
)
from support.router_bench import Namespace, Router, RouterBench
from support.router_config import LAN, OTHER_MAC
from support.router_in_namespace import NamespaceRouter

from libvirt_guestnet import parse
from libvirt_guestnet.model.balancing import Balancer
from libvirt_guestnet.model.network import DhcpRange6
from libvirt_guestnet.model.router import RouterConfig
from libvirt_guestnet.router import disks
from libvirt_guestnet.router.client import MemberState, RefusedDocumentError, RouterClient
from libvirt_guestnet.router.document import document
from libvirt_guestnet.router.image import ensure_router_image

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces and taps need root")

LONG = 40.0
"""Seconds that something may take on a busy machine under emulation."""

INTERNET = {f"{prefix}{end}" for prefix in ("203.0.113.", "2001:db8:113::") for end in (1, *range(40, 52))}
"""Addresses of the public side's one machine."""


@dataclass
class World:
    """A router, its members, and who asks them."""

    bench: RouterBench
    client: RouterClient
    webs: dict[str, Namespace]
    servers: dict[str, subprocess.Popen[bytes]]
    db: Namespace
    internet: Namespace

    def configure(self, config: RouterConfig) -> None:
        self.client.configure(document(config).encoded())

    def serve(self, name: str) -> None:
        """Starts a member's service."""
        process = self.webs[name].start(
            sys.executable, "-c", programs.SERVER, name, "8080", "5353", stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"listens\n"
        self.servers[name] = process

    def stop(self, name: str) -> None:
        self.servers[name].kill()
        self.servers[name].wait()

    def states(self, balancer: Balancer = TURNS) -> dict[str, MemberState]:
        return {each.member: each.state for each in self.client.balancers() if each.balancer == balancer.name}

    def open(self, balancer: Balancer) -> dict[str, int]:
        return {each.member: each.connections for each in self.client.balancers() if each.balancer == balancer.name}

    def wait_for(self, state: MemberState, *names: str) -> float:
        """Until these members are so; the seconds it took."""
        began = time.monotonic()
        while {self.states()[name] for name in names} != {state}:
            assert time.monotonic() < began + LONG, self.states()
            time.sleep(0.1)
        return time.monotonic() - began

    def counted(self, name: str) -> int:
        return self.client.counters()[name].packets


def ask(machine: Namespace, balancer: Balancer, count: int, source: str = "") -> list[str]:
    """Who answers, with the address that it saw."""
    argv = [sys.executable, "-c", programs.ASK, str(balancer.public), "80", str(count), *([source] if source else [])]
    return machine.run(*argv).splitlines()


def ask_udp(machine: Namespace, balancer: Balancer, count: int) -> list[str]:
    return machine.run(sys.executable, "-c", programs.ASK_UDP, str(balancer.public), "53", str(count)).splitlines()


def who(answers: list[str]) -> Counter[str]:
    return Counter(answer.split()[0] for answer in answers)


def seen(answer: str) -> str:
    """The client's address, as a member saw it."""
    return answer.split()[1].removeprefix("::ffff:")


def held(machine: Namespace, balancer: Balancer, count: int) -> tuple[subprocess.Popen[bytes], Counter[str]]:
    argv = [sys.executable, "-c", programs.HOLD, str(balancer.public), "80", str(count)]
    process = machine.start(*argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    lines = list[str]()
    while (line := process.stdout.readline().decode().strip()) != "holds":
        assert line, lines
        lines.append(line)
    return process, who(lines)


def let_go(process: subprocess.Popen[bytes]) -> None:
    assert process.communicate(timeout=LONG)[0] == b"all answer\n"


def _namespace(bench: RouterBench, bridges: dict[str, str]) -> RouterClient:
    client = NamespaceRouter(bench, BALANCED, bridges).connect()
    client.configure(document(BALANCED).encoded())
    return client


def _appliance(bench: RouterBench, bridges: dict[str, str]) -> RouterClient:
    router = Router(bench, BALANCED, ensure_router_image(), bridges)
    disks.write(router.disk("config"), document(BALANCED).encoded())
    router.start()
    return router.connect()


ROUTERS: dict[str, Callable[[RouterBench, dict[str, str]], RouterClient]] = {
    "namespace": _namespace,
    "appliance": _appliance,
}


# The appliance's kernel alone has queues of nft; what else it has of its own is tried there, too, and the rest where it
# takes less time.
APPLIANCE_ALONE = ("test_one_guest_does_not_use_up_the_addresses_of_dhcpv6",)
APPLIANCE_TOO = (
    "test_each_in_turn_and_members_see_the_client",
    "test_a_member_that_ends_is_left_out_within_seconds_and_comes_back",
    "test_a_guest_that_floods_dns_takes_no_answer_from_others",
    "test_members_change_while_connections_are_open",
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "world" in metafunc.fixturenames:
        name = metafunc.function.__name__
        there = ["namespace"] if name not in APPLIANCE_ALONE else []
        there += ["appliance"] if name in (*APPLIANCE_ALONE, *APPLIANCE_TOO) else []
        metafunc.parametrize("world", there, indirect=True, scope="module")


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        bench = RouterBench(tmp_path_factory.mktemp("balance"), stack)
        for name in ("lan", "tier", "pub", "ctl"):
            bench.bridge(name)
        webs = {}
        for name, end in WEBS.items():
            webs[name] = bench.machine(name, "lan", f"52:54:00:13:00:{end}", f"10.1.1.{end}/24", f"fd13:1::{end}/64")
        db = bench.machine("db", "tier", OTHER_MAC, "10.1.2.10/24", "fd13:2::10/64")
        public = [f"{address}/{64 if ':' in address else 24}" for address in sorted(INTERNET)]
        internet = bench.machine("internet", "pub", "52:54:00:13:02:01", *public)
        resolver = bench.machine("resolver", "pub", "52:54:00:13:02:03", "203.0.113.3/24")
        resolver.start(
            *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--no-resolv", "--no-hosts"),
            *("--user=root", "--address=/example.org/192.0.2.7", "--server=/slow.example/203.0.113.99"),
            stderr=subprocess.DEVNULL,
        )
        client = ROUTERS[request.param](bench, {"eth0": "lan", "eth1": "ctl", "eth2": "pub", "eth3": "tier"})
        for machine in (db, *webs.values()):
            tier = 2 if machine is db else 1
            for gateway in (f"10.1.{tier}.1", f"fd13:{tier}::1"):
                machine.ip(f"route replace default via {gateway}")
        world = World(bench, client, webs, {}, db, internet)
        for name in WEBS:
            world.serve(name)
        world.wait_for(MemberState.UP, *WEBS)
        yield world


@pytest.mark.parametrize("balancer", [TURNS, TURNS6], ids=lambda each: each.name)
def test_each_in_turn_and_members_see_the_client(world: World, balancer: Balancer) -> None:
    counters = [f"balance-{balancer.name}", *(f"member-{balancer.name}/{name}" for name in WEBS)]
    before = [world.counted(name) for name in counters]
    answers = ask(world.internet, balancer, 30)
    assert who(answers) == dict.fromkeys(WEBS, 10), answers
    assert {seen(answer) for answer in answers} <= INTERNET, answers
    assert [world.counted(name) - was for name, was in zip(counters, before, strict=True)] == [30, 10, 10, 10]


@pytest.mark.parametrize("balancer", [UDP, UDP6], ids=lambda each: each.name)
def test_udp(world: World, balancer: Balancer) -> None:
    assert who(ask_udp(world.internet, balancer, 30)) == dict.fromkeys(WEBS, 10)


@pytest.mark.parametrize("balancer", [SOURCE, SOURCE6], ids=lambda each: each.name)
def test_a_client_stays_with_its_member_as_long_as_that_serves(world: World, balancer: Balancer) -> None:
    sources = sorted(address for address in INTERNET if (":" in address) == (":" in str(balancer.public)))

    def chosen() -> dict[str, str]:
        found = {}
        for source in sources:
            (found[source],) = who(ask(world.internet, balancer, 2, source))
        return found

    before = chosen()
    assert len(set(before.values())) > 1, "all clients have one member"
    gone = before[sources[0]]
    world.stop(gone)
    world.wait_for(MemberState.DOWN, gone)
    meanwhile = chosen()
    assert {source for source in sources if meanwhile[source] != before[source]} == {
        source for source in sources if before[source] == gone
    }
    assert gone not in meanwhile.values()
    world.serve(gone)
    world.wait_for(MemberState.UP, gone)
    assert chosen() == before


@pytest.mark.parametrize("balancer", [LEAST, LEAST6], ids=lambda each: each.name)
def test_the_member_with_the_fewest_open_connections(world: World, balancer: Balancer) -> None:
    world.stop("web3")
    world.wait_for(MemberState.DOWN, "web3")
    many, found = held(world.internet, balancer, 8)
    assert found == {"web1": 4, "web2": 4}
    world.serve("web3")
    world.wait_for(MemberState.UP, "web3")
    few, found = held(world.internet, balancer, 4)
    assert found == {"web3": 4}
    more, found = held(world.internet, balancer, 3)
    assert found == dict.fromkeys(WEBS, 1)
    assert world.open(balancer) == dict.fromkeys(WEBS, 5)
    let_go(few)
    deadline = time.monotonic() + LONG
    while world.open(balancer) != {"web1": 5, "web2": 5, "web3": 1}:
        assert time.monotonic() < deadline, world.open(balancer)
        time.sleep(0.1)
    time.sleep(1)  # the agent looks twice a second
    again, found = held(world.internet, balancer, 5)
    assert found["web3"] >= 4, found
    for process in (many, more, again):
        let_go(process)


def test_a_member_that_ends_is_left_out_within_seconds_and_comes_back(world: World) -> None:
    others, _ = held(world.internet, TURNS, 3)
    world.stop("web2")
    took = world.wait_for(MemberState.DOWN, "web2")
    print(f"left out after {took:.1f} s")
    assert who(ask(world.internet, TURNS, 30)) == {"web1": 15, "web3": 15}
    assert who(ask(world.internet, TURNS6, 30)) == {"web1": 15, "web3": 15}
    world.serve("web2")
    print(f"back after {world.wait_for(MemberState.UP, 'web2'):.1f} s")
    assert who(ask(world.internet, TURNS, 30)) == dict.fromkeys(WEBS, 10)
    others.kill()


def test_a_member_that_says_nothing_any_more_is_left_out(world: World) -> None:
    """A frozen guest or a cut link: nobody refuses."""
    world.webs["web1"].ip("link set net0 down")
    took = world.wait_for(MemberState.DOWN, "web1")
    print(f"left out after {took:.1f} s")
    assert who(ask(world.internet, TURNS, 10)) == {"web2": 5, "web3": 5}
    world.webs["web1"].ip("link set net0 up")
    world.webs["web1"].run("ip", "-6", "addr", "add", "fd13:1::11/64", "dev", "net0", "nodad")
    for gateway in ("10.1.1.1", "fd13:1::1"):
        world.webs["web1"].ip(f"route replace default via {gateway}")
    world.wait_for(MemberState.UP, "web1")


def test_a_udp_client_that_keeps_its_port_gets_another_member(world: World) -> None:
    argv = [sys.executable, "-c", programs.ASK_UDP, str(UDP.public), "53", "200", "0.1"]
    client = world.internet.start(*argv, stdout=subprocess.PIPE)
    assert client.stdout is not None
    first = client.stdout.readline().split()[0].decode()
    assert client.stdout.readline().split()[0].decode() == first
    world.stop(first)
    world.wait_for(MemberState.DOWN, first)
    later = client.communicate(timeout=150)[0].split(b"\n")[-2].split()[0].decode()
    assert later in set(WEBS) - {first}
    world.serve(first)
    world.wait_for(MemberState.UP, first)


def test_with_no_healthy_member_a_client_is_refused_at_once(world: World) -> None:
    for name in WEBS:
        world.stop(name)
    world.wait_for(MemberState.DOWN, *WEBS)
    for balancer in (TURNS, TURNS6, SOURCE, LEAST6):
        before = world.counted(f"unserved-{balancer.name}")
        assert ask(world.internet, balancer, 2) == ["ConnectionRefusedError"] * 2
        assert world.counted(f"unserved-{balancer.name}") - before == 2
    for balancer in (UDP, UDP6):
        assert ask_udp(world.internet, balancer, 1) == ["ConnectionRefusedError"]
    for name in WEBS:
        world.serve(name)
    world.wait_for(MemberState.UP, *WEBS)


def test_guests_use_the_public_address_too(world: World) -> None:
    for balancer, router, own in ((TURNS, "10.1.1.1", "10.1.2.10"), (TURNS6, "fd13:1::1", "fd13:2::10")):
        answers = ask(world.webs["web1"], balancer, 6)
        assert who(answers) == dict.fromkeys(WEBS, 2)
        assert {seen(answer) for answer in answers} == {router}, "or the answer would not come back this way"
        answers = ask(world.db, balancer, 3, own)
        assert who(answers) == dict.fromkeys(WEBS, 1)
        assert {seen(answer) for answer in answers} == {own}


def test_members_change_while_connections_are_open(world: World) -> None:
    process, found = held(world.internet, TURNS, 6)
    least, _ = held(world.internet, LEAST, 3)
    assert found == dict.fromkeys(WEBS, 2)
    before = world.client.counters()
    fewer = replace(TURNS, members=members("10.1.1.", "web3", "web1"))
    world.configure(replace(BALANCED, balancers=(*BALANCED.balancers[2:], fewer)))
    assert who(ask(world.internet, TURNS, 10)) == {"web1": 5, "web3": 5}
    after = world.client.counters()
    assert after["member-turns/web1"].packets == before["member-turns/web1"].packets + 5
    assert after["member-udp/web1"] == before["member-udp/web1"]
    assert "member-turns/web2" not in after
    assert "balance-turns6" not in after
    assert world.open(TURNS) == {"web3": 2, "web1": 2}
    assert world.open(LEAST) == dict.fromkeys(WEBS, 1)
    world.configure(BALANCED)
    assert set(world.states().values()) == {MemberState.UP}, "what is known of members is kept"
    let_go(process)
    let_go(least)
    assert who(ask(world.internet, TURNS6, 9)) == dict.fromkeys(WEBS, 3)


@pytest.mark.parametrize(
    "line",
    [
        "member nobody web1 10.1.1.11",
        "member turns web9 10.1.1.19",
        "balancer other round-robin tcp 203.0.113.12 81 81 -",
        "balancer turns random tcp 203.0.113.12 80 80 -",
        "flush ruleset",
    ],
)
def test_a_bad_line_changes_nothing(world: World, line: str) -> None:
    made = document(BALANCED)
    number = len(made.balance.splitlines()) + 1
    with pytest.raises(RefusedDocumentError) as refused:
        world.client.configure(made._replace(balance=f"{made.balance}{line}\n").encoded())
    assert (refused.value.section, refused.value.line) == ("balance", number)
    assert who(ask(world.internet, TURNS, 3)) == dict.fromkeys(WEBS, 1)


# ---- one guest that floods


def _flood(machine: Namespace, program: str, *argv: str) -> subprocess.Popen[bytes]:
    process = machine.start(sys.executable, "-c", program, *argv, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"floods\n"
    return process


def test_a_guest_that_floods_dns_takes_no_answer_from_others(world: World) -> None:
    """A thousand questions a second, for names that nobody answers, which dnsmasq remembers for long."""
    argv = (sys.executable, "-c", programs.ASK_DNS, "10.1.2.1")
    quiet = float(world.db.run(*argv, "20"))
    before = world.counted("limited")
    flood = _flood(world.webs["web1"], programs.FLOOD_DNS, "10.1.1.1", "15")
    time.sleep(3)
    meanwhile = float(world.db.run(*argv, "40"))
    sent = int(flood.communicate(timeout=120)[0])
    limited = world.counted("limited") - before
    print(f"longest answer {quiet} s, and {meanwhile} s while {sent} questions came and {limited} were dropped")
    assert limited > sent / 2
    assert meanwhile < quiet + 2


def test_a_guest_that_floods_connections_leaves_room_for_others(world: World) -> None:
    before, others = world.counted("crowded"), world.client.state().connections
    world.webs["web1"].run(sys.executable, "-c", programs.FLOOD_CONNECTIONS, "12000")
    tracked, crowded = world.client.state().connections, world.counted("crowded") - before
    print(f"{tracked} connections are tracked, {crowded} were dropped")
    assert 3000 < tracked < 4096 + others + 500
    assert crowded > 1000
    assert who(ask(world.db, TURNS, 3)) == dict.fromkeys(WEBS, 1)
    assert who(ask(world.internet, TURNS, 3)) == dict.fromkeys(WEBS, 1), "others reach the guest itself, too"
    assert world.states()["web1"] == MemberState.UP


def test_a_guest_that_floods_dhcp_takes_no_lease_from_others(world: World) -> None:
    script = world.bench.directory / "udhcpc"
    script.write_text('#!/bin/sh\n[ "$1" != bound ] || echo "$ip"\n')
    script.chmod(0o755)
    flood = _flood(world.webs["web1"], programs.FLOOD_DHCP, "52:54:00:13:00:11", "8")
    began = time.monotonic()
    client = ("busybox", "udhcpc", "-f", "-n", "-q", "-t", "20", "-T", "1", "-i", "net0", "-s", str(script))
    assert "10.1.2.10" in world.db.run(*client).split()
    print(f"a lease after {time.monotonic() - began:.1f} s while {flood.communicate(timeout=120)[0].decode()} came")
    leases = [lease for lease in world.client.leases() if lease.client == "52:54:00:13:00:11"]
    assert len(leases) <= 1, leases


def test_one_guest_does_not_use_up_dns_over_tcp(world: World) -> None:
    many = "import socket, sys, time\n"
    many += "held = [socket.create_connection(('10.1.1.1', 53), 30) for _ in range(4)]\nprint('floods', flush=True)\n"
    many += (
        "try: socket.create_connection(('10.1.1.1', 53), 30)\nexcept OSError as error: print(type(error).__name__)\n"
    )
    many += "sys.stdout.flush()\nsys.stdin.read()\n"
    flood = _flood(world.webs["web1"], many)
    assert flood.stdout is not None
    assert flood.stdout.readline() == b"ConnectionRefusedError\n"
    one = "import socket; socket.create_connection(('10.1.2.1', 53), 30); print('open')"
    assert world.db.run(sys.executable, "-c", one) == "open\n"
    flood.kill()


def test_one_guests_pings_take_no_answer_from_others(world: World) -> None:
    flood = world.webs["web1"].agent().submit("ping", "10.1.1.1", "3000", "2", "2000", "32", timeout=60)
    answered = world.db.agent().submit("ping", "10.1.2.1", "20", "200", "5000", "32", timeout=60).result(60).text
    assert answered == "sent 20 received 20 -\n"
    sent, received = flood.result(60).text.split()[1:4:2]
    print(f"{received} of {sent} were answered")
    assert int(received) < int(sent) / 2


def test_one_guest_does_not_use_up_the_addresses_of_dhcpv6(world: World) -> None:
    span = DhcpRange6(parse.address("fd13:1::1000"), parse.address("fd13:1::101f"))  # type: ignore[arg-type]
    lan = replace(LAN, dhcp=replace(LAN.dhcp, ranges=(*LAN.dhcp.ranges, span)))
    world.configure(replace(BALANCED, guests=(lan, *BALANCED.guests[1:])))

    def cycle(name: str, count: int, associations: int) -> set[str]:
        mac = f"52:54:00:13:00:{WEBS[name]}"
        local = f"fe80::5054:ff:fe13:{WEBS[name]}"
        argv = (sys.executable, "-c", programs.CYCLE_DUIDS, mac, local, str(count), str(associations))
        return set(world.webs[name].run(*argv, timeout=300).split())

    assert len(cycle("web1", 40, 1)) == 8
    assert len(cycle("web2", 10, 3)) == 6
    assert len(cycle("web2", 3, 9)) == 0
    assert len(cycle("web3", 1, 1)) == 1
    assert len([lease for lease in world.client.leases() if lease.address in parse.prefix("fd13:1::1000/120")]) == 15
    world.configure(BALANCED)
