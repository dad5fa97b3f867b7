"""The virtual router, booted for real on plain QEMU: what guests, the public side and the host see of it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace

import pytest
from support import router_client_programs as programs
from support.router_bench import Namespace, Router, RouterBench
from support.router_config import HEALTH_MAC, LAN, OTHER_MAC, PUBLIC, ROUTER, TIER, WEB_MAC, tcp, with_two_publics

from libvirt_guestnet import parse
from libvirt_guestnet.guest.agent import Agent
from libvirt_guestnet.model.router import PortForward, Reservation, RouterConfig
from libvirt_guestnet.model.traffic import Rule
from libvirt_guestnet.router import control, disks
from libvirt_guestnet.router.client import RefusedDocumentError, RouterClient
from libvirt_guestnet.router.document import document
from libvirt_guestnet.router.image import ensure_router_image

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces and taps need root")

LONG = 30.0
"""Seconds that an answer may take on a busy machine under emulation."""
SHORT = 2.0
"""Seconds after which what was dropped is believed to be: a counter says so, too."""

UDHCPC = """#!/bin/sh
[ "$1" = bound ] || exit 0
echo "$ip/$mask $router $dns $ntpsrv $domain"
ip addr add "$ip/$mask" dev "$interface"
ip route replace default via "$router"
"""


@dataclass
class World:
    """A router, and who is around it."""

    bench: RouterBench
    router: Router
    client: RouterClient
    web: Namespace
    db: Namespace
    internet: Namespace

    def agent(self, machine: Namespace) -> Agent:
        return self.agents[machine.name]

    agents: dict[str, Agent]

    def configure(self, config: RouterConfig) -> None:
        self.client.configure(document(config).encoded())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        bench = RouterBench(tmp_path_factory.mktemp("router"), stack)
        for name in ("lan", "tier", "pub", "pub2"):
            bench.bridge(name)
        bench.bridge("ctl", "169.254.7.1/30")
        bridges = {"eth0": "lan", "eth1": "ctl", "eth2": "pub", "eth3": "tier", "eth4": "pub2"}
        router = Router(bench, with_two_publics(), ensure_router_image(), bridges)
        disks.write(router.disk("config"), document(ROUTER).encoded())
        router.start()
        web = bench.machine("web", "lan", WEB_MAC)
        db = bench.machine("db", "tier", OTHER_MAC, "10.1.2.10/24", "fd13:2::10/64")
        db.ip("route add default via 10.1.2.1")
        internet = bench.machine("internet", "pub", "52:54:00:13:02:01", "203.0.113.1/24", "2001:db8:113::1/64")
        resolver = bench.machine("resolver", "pub", "52:54:00:13:02:03", "203.0.113.3/24")
        resolver.start(
            *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--no-resolv", "--no-hosts"),
            *("--user=root", "--address=/example.org/192.0.2.7", "--local=/example.org/"),
            stderr=subprocess.DEVNULL,
        )
        client = router.connect()
        print(f"serving {client.state().serving:.2f} s after the kernel began, {client.state()}")
        machines = {machine.name: machine.agent() for machine in (web, db, internet, bench.host)}
        for machine in (web, db, internet):
            machines[machine.name].listen(tcp=[22, 25, 80])
        yield World(bench, router, client, web, db, internet, machines)
        print(router.console.read_text())


def test_a_guest_is_given_its_addresses_and_options(world: World) -> None:
    script = world.bench.directory / "udhcpc"
    script.write_text(UDHCPC)
    script.chmod(0o755)
    said = world.web.run(
        "busybox", "udhcpc", "-f", "-n", "-q", "-t", "30", "-i", "net0", "-O", "ntpsrv", "-s", str(script)
    )
    assert "10.1.1.10/24 10.1.1.1 10.1.1.1 10.1.1.1 lan.internal" in said
    leased = {str(lease.address): lease for lease in world.client.leases()}
    assert (leased["10.1.1.10"].client, leased["10.1.1.10"].name) == (WEB_MAC, "web")
    assert leased["10.1.1.10"].expires > time.time() + 3000


def test_a_router_advertisement_and_dhcpv6(world: World) -> None:
    link_local = re.search(r"inet6 (fe80::\S+)/64", world.web.run("ip", "-6", "addr", "show", "dev", "net0"))
    assert link_local is not None
    argv = [sys.executable, "-c", programs.DHCP6, "net0", WEB_MAC, "52:54:00:99:00:01", link_local[1]]
    assert world.web.run(*argv).split() == ["fd13:1::10", "fd13:1::1"]
    world.web.run("ip", "addr", "add", "fd13:1::10/64", "dev", "net0", "nodad")
    route = world.web.run("ip", "-6", "route", "show", "default")
    assert "proto ra" in route, route
    assert "fd13:1::10" in {str(lease.address) for lease in world.client.leases()}


def test_names_of_guests_and_of_others(world: World) -> None:
    for name, address in (
        ("web.lan.internal", "fd13:1::10"),
        ("db.db.internal", "10.1.2.10"),
        ("example.org", "192.0.2.7"),
    ):
        for server in ("10.1.1.1", "fd13:1::1"):
            assert address in world.web.run("busybox", "nslookup", name, server)


@pytest.mark.parametrize(
    ("there", "seen_as"), [("203.0.113.1", "203.0.113.10"), ("2001:db8:113::1", "2001:db8:113::10")]
)
def test_guests_go_out_with_the_address_that_was_chosen(world: World, there: str, seen_as: str) -> None:
    probe = world.agent(world.web).tcp(there, 80, timeout=LONG)
    assert (probe.outcome, str(probe.seen_as)) == ("open", seen_as)


def _counted(world: World, *names: str) -> list[int]:
    counters = world.client.counters()
    return [counters[name].packets for name in names]


def _must_time_out(agent: Agent, *targets: tuple[str, int]) -> None:
    """All at once, for time."""
    with ThreadPoolExecutor() as pool:
        probes = pool.map(lambda target: agent.tcp(target[0], target[1], SHORT), targets)
        assert [probe.outcome for probe in probes] == ["timeout"] * len(targets)


def test_egress_is_denied_but_for_the_exceptions(world: World) -> None:
    before = _counted(world, "egress-eth0")[0]
    _must_time_out(world.agent(world.web), ("203.0.113.1", 25), ("2001:db8:113::1", 25))
    assert _counted(world, "egress-eth0")[0] >= before + 2
    assert world.agent(world.web).ping("203.0.113.1", timeout=LONG).received == 1


def test_egress_is_allowed_but_for_the_exceptions(world: World) -> None:
    assert world.agent(world.db).tcp("203.0.113.1", 22, timeout=LONG).open
    assert world.agent(world.db).tcp("203.0.113.1", 25, timeout=SHORT).outcome == "timeout"
    assert _counted(world, "egress-eth3-no-mail")[0] >= 1


def test_port_forwards(world: World) -> None:
    internet = world.agent(world.internet)
    world.agent(world.web).listen(tcp=[7001])
    for address, port in (
        ("203.0.113.10", 8080),
        ("203.0.113.10", 9001),
        ("203.0.113.10", 22),
        ("2001:db8:113::10", 8080),
    ):
        assert internet.tcp(address, port, timeout=LONG).open, (address, port)
    assert internet.tcp("203.0.113.10", 80, timeout=SHORT).outcome == "timeout"
    assert world.agent(world.web).tcp("203.0.113.10", 8080, timeout=LONG).open, "a guest reaches it, too"
    other = world.bench.machine("other", "pub", "52:54:00:13:02:09", "203.0.113.9/24").agent()
    assert other.tcp("203.0.113.10", 8080, timeout=LONG).open
    assert other.tcp("203.0.113.10", 22, timeout=SHORT).outcome == "timeout"
    assert min(_counted(world, "forward-web", "forward-web6", "forward-many", "forward-some")) >= 1


def test_an_address_that_is_a_guests(world: World) -> None:
    assert str(world.agent(world.db).tcp("203.0.113.1", 80, timeout=LONG).seen_as) == "203.0.113.20"
    internet = world.agent(world.internet)
    assert internet.tcp("203.0.113.20", 80, timeout=LONG).open
    assert internet.tcp("203.0.113.20", 22, timeout=SHORT).outcome == "timeout"


def test_between_tiers_only_what_a_rule_allows(world: World) -> None:
    probe = world.agent(world.web).tcp("10.1.2.10", 80, timeout=LONG)
    assert (probe.outcome, str(probe.seen_as)) == ("open", "10.1.1.10")
    _must_time_out(world.agent(world.web), ("fd13:2::10", 25), ("10.1.2.10", 22))
    assert world.agent(world.db).tcp("10.1.1.10", 80, timeout=SHORT).outcome == "timeout"


def test_only_the_host_reaches_the_control_nic(world: World) -> None:
    host = world.agent(world.bench.host)
    assert host.ping("169.254.7.2", timeout=LONG).received == 1
    assert host.tcp("169.254.7.2", 53, timeout=SHORT).outcome == "timeout"
    for machine, gateway in ((world.web, "10.1.1.1"), (world.internet, "203.0.113.2")):
        machine.ip(f"route add 169.254.7.0/30 via {gateway}")
        agent = world.agent(machine)
        assert agent.ping(gateway, timeout=LONG).received == 1
        for address in ("169.254.7.2", "169.254.7.1"):
            assert agent.ping(address, timeout=SHORT).received == 0
        machine.ip("route del 169.254.7.0/30")
        machine.ip("route add 169.254.7.0/30 dev net0")
        assert agent.neighbour("169.254.7.2", timeout=SHORT) is None, "it answers ARP for another NIC's address"
        machine.ip("route del 169.254.7.0/30")


def test_no_service_is_on_the_public_side(world: World) -> None:
    internet = world.agent(world.internet)
    world.internet.ip("route add 10.1.1.0/24 via 203.0.113.2")
    for address in ("203.0.113.2", "10.1.1.1"):
        _must_time_out(internet, *((address, port) for port in (22, 53, 80)))
        assert internet.udp(address, 53, timeout=SHORT).outcome == "timeout"
    world.internet.ip("route del 10.1.1.0/24")
    assert world.agent(world.web).udp("203.0.113.2", 53, timeout=SHORT).outcome == "timeout"


HEALTH = """
import sys
from libvirt_guestnet import parse
from libvirt_guestnet.router import health
mac, address, gateway, name, target, timeout = sys.argv[1:]
addresses = map(parse.address, (address, gateway, target))
address, gateway, target = addresses
wanted = health.Wanted(mac, address, gateway, name, target)
for check in health.check("net0", wanted, float(timeout)):
    print(check.name, check.ok, check.detail)
"""


def test_health_is_proven_by_packets(world: World) -> None:
    probe = world.bench.machine("probe", "lan", HEALTH_MAC)

    def health(address: str, target: str, timeout: float) -> list[str]:
        words = (HEALTH_MAC, address, "10.1.1.1", "web.lan.internal", target, str(timeout))
        return probe.run(sys.executable, "-c", HEALTH, *words).splitlines()

    well = ["dhcp True answered", "gateway True answered", "dns True answered"]
    assert health("10.1.1.254", "203.0.113.1", LONG) == [*well, "nat True answered"]
    assert health("10.1.1.254", "203.0.113.99", LONG / 3)[-1] == "nat False no echo from 203.0.113.99"
    wrong = ["dhcp False 10.1.1.254 was given by DHCP, not 10.1.1.253"]
    assert health("10.1.1.253", "203.0.113.1", LONG) == wrong
    world.router.process.send_signal(signal.SIGSTOP)
    try:
        assert health("10.1.1.254", "203.0.113.1", 1) == ["dhcp False no DHCP offer"]
    finally:
        world.router.process.send_signal(signal.SIGCONT)


def _changed(number: int) -> RouterConfig:
    """Another document each time: addresses, forwards, rules, guests, and every second time what restarts dnsmasq."""
    forward = PortForward(
        f"new-{number}", parse.address(f"203.0.113.{100 + number}"), tcp(80), parse.address("10.1.1.10"), 80
    )
    guest = Reservation(f"g{number}", f"52:54:00:13:03:{number:02x}", (parse.address(f"10.1.1.{20 + number}"),))
    dhcp = replace(LAN.dhcp, reservations=(*LAN.dhcp.reservations, guest), lease=3600 + number // 2)
    lan = replace(LAN, dhcp=dhcp, exceptions=(*LAN.exceptions, Rule(f"rule-{number}", (tcp(1000 + number),))))
    return replace(ROUTER, guests=(lan, TIER), forwards=(*ROUTER.forwards, forward))


ALL_ANSWERED = "sent 400 received 400 -\n"


def test_changes_reset_no_connection_and_lose_no_packet(world: World) -> None:
    server = world.internet.start(sys.executable, "-c", programs.ECHO, "8443", stdout=subprocess.PIPE)
    assert server.stdout is not None
    assert server.stdout.readline() == b"listens\n"
    stream = world.web.start(sys.executable, "-c", programs.STREAM, "203.0.113.1", "8443", stdout=subprocess.PIPE)
    assert stream.stdout is not None
    assert stream.stdout.readline() == b"streams\n"
    before = _counted(world, "egress-eth0-web", "forward-web", "denied")
    # A machine that is very busy may lose a packet by itself; what a change loses, it loses each time.
    answered = [_pings_through_changes(world)]
    if answered[0] != ALL_ANSWERED:
        answered.append(_pings_through_changes(world))
    sent, longest = stream.communicate(b"\n", timeout=120)[0].split()
    print(f"{int(sent)} exchanges, the longest {float(longest):.3f} s")
    assert stream.returncode == 0
    after = _counted(world, "egress-eth0-web", "forward-web", "denied")
    assert (answered[-1], after[2] - before[2]) == (ALL_ANSWERED, 0), (answered, world.client.counters())
    assert after[0] >= before[0]
    assert after[1] >= before[1]
    assert "forward-new-8" not in world.client.counters()
    assert world.agent(world.internet).tcp("203.0.113.109", 80, timeout=LONG).open
    assert world.agent(world.internet).tcp("203.0.113.108", 80, timeout=SHORT).outcome != "open"
    assert (world.client.state().dnsmasq_restarts, world.client.state().trouble) == (0, ())
    world.configure(ROUTER)


def _pings_through_changes(world: World) -> str:
    pings = world.agent(world.web).submit("ping", "203.0.113.1", "400", "25", "20000", "32", timeout=200)
    times = list[float]()
    for number in range(10):
        began = time.monotonic()
        world.configure(_changed(number))
        times.append(time.monotonic() - began)
    answered = pings.result(200).text
    print(f"{answered.strip()}; changes {min(times):.2f} to {max(times):.2f} s")
    return answered


def _spoilt(section: str, line: str) -> bytes:
    made = document(ROUTER)
    return made._replace(**{section: getattr(made, section) + line + "\n"}).encoded()


BAD = [
    ("nft", "add rule inet guestnet forward meta nonsense accept"),
    ("nft", "add rule inet guestnet forward goto nowhere"),
    ("net", "address eth7 10.9.9.1/24"),
    ("net", "nic eth7 52:54:00:77:77:77 - 46"),
    ("net", "reboot"),
    ("dnsmasq", "dhcp-script=/bin/sh"),
    ("dnsmasq", "dhcp-range=nonsense"),
    ("hosts", "52:54:00:77:77:77,10.1.1.10,another"),
    ("hosts", "52:54:00:77:77:77,set:x,10.1.1.77,another"),
    ("options", "tag:eth0,option:no-such-option,1"),
    ("names", "10.1.1.77 a$b"),
    ("servers", "server=nowhere"),
]


@pytest.mark.parametrize(("section", "line"), BAD)
def test_a_bad_document_changes_nothing_and_says_where(world: World, section: str, line: str) -> None:
    def seen() -> tuple[object, ...]:
        """But for what counts: sets of limits have other elements in each moment."""
        rules = re.sub(r"packets \d+ bytes \d+|\tset \S+ \{.*?\n\t\}", "", world.client.rules(), flags=re.DOTALL)
        return world.client.state().document, rules

    before = seen()
    for give in (world.client.check, world.client.configure):
        with pytest.raises(RefusedDocumentError) as refused:
            give(_spoilt(section, line))
        number = len(getattr(document(ROUTER), section).splitlines()) + 1
        assert (refused.value.section, refused.value.line) == (section, number), refused.value
        print(refused.value)
    assert seen() == before
    assert world.agent(world.web).tcp("203.0.113.1", 80, timeout=LONG).open


def test_a_document_that_was_changed_on_its_way_is_refused(world: World) -> None:
    encoded = document(ROUTER).encoded()
    result = world.client._agent.call("configure", document(ROUTER).digest, encoded.replace(b"8080", b"8081"))
    assert (result.status, result.stderr) == (1, b"document: its checksum is wrong: it was changed on its way\n")


def test_a_second_public_network(world: World) -> None:
    second = world.bench.machine("second", "pub2", "52:54:00:13:02:04", "198.51.100.1/24", "192.0.2.99/32").agent()
    app = world.bench.machine("app", "tier", "52:54:00:13:00:0c", "10.1.2.20/24")
    app.ip("route add default via 10.1.2.1")
    world.internet.ip("addr add 192.0.2.99/32 dev lo")
    config = with_two_publics()
    out = PortForward("by-second", parse.address("198.51.100.2"), tcp(8080), parse.address("10.1.1.10"), 80)
    world.configure(replace(config, forwards=(*config.forwards, out)))
    second.listen(tcp=[80])
    assert str(app.agent().tcp("192.0.2.99", 80, timeout=LONG).seen_as) == "198.51.100.2"
    assert str(world.agent(world.web).tcp("192.0.2.99", 80, timeout=LONG).seen_as) == "203.0.113.10"
    assert str(world.agent(world.db).tcp("192.0.2.99", 80, timeout=LONG).seen_as) == "203.0.113.20"
    assert second.tcp("198.51.100.2", 8080, timeout=LONG).open
    assert second.ping("198.51.100.2", timeout=LONG).received == 1
    assert world.agent(world.internet).tcp("203.0.113.10", 8080, timeout=LONG).open
    assert world.agent(world.db).tcp("203.0.113.10", 8080, timeout=LONG).open, "what leads back inside does not leave"
    assert world.agent(world.web).tcp("10.1.2.10", 80, timeout=LONG).open
    world.configure(ROUTER)
    assert world.agent(world.web).tcp("203.0.113.1", 80, timeout=LONG).open


def _wait_for_lease_on_disk(world: World, address: str) -> None:
    deadline = time.monotonic() + LONG
    while address.encode() not in (disks.read(world.router.disk("leases")) or b""):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("how", ["killed", "reset"])
def test_a_router_comes_back_with_everything(world: World, how: str) -> None:
    """Nobody tells it anything at its start."""
    config = _changed(11 if how == "killed" else 12)
    assert control.ensure_document(world.client, world.router.disk("config"), document(config)) is True
    assert control.ensure_document(world.client, world.router.disk("config"), document(config)) is False
    _wait_for_lease_on_disk(world, "10.1.1.10")
    world.client.close()
    if how == "killed":
        world.router.kill()
        world.router.start()
    else:
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.connect(f"{world.bench.directory / world.router.name}.qmp")
            monitor.sendall(b'{"execute":"qmp_capabilities"}\n{"execute":"system_reset"}\n')
            time.sleep(0.5)
    probe = world.agent(world.internet).tcp("203.0.113.10", 8080, timeout=60)
    deadline = time.monotonic() + 120
    while not probe.open:
        assert time.monotonic() < deadline
        probe = world.agent(world.internet).tcp("203.0.113.10", 8080, timeout=5)
    world.client = world.router.connect()
    state = world.client.state()
    assert (state.document, state.trouble) == (document(config).digest, ())
    assert {"10.1.1.10", "fd13:1::10"} <= {str(lease.address) for lease in world.client.leases()}
    world.configure(ROUTER)


def test_the_image_is_small(world: World) -> None:
    image = world.router.image
    assert image.initrd.stat().st_size < 16 << 20
    state = world.client.state()
    print(
        f"initrd {image.initrd.stat().st_size >> 10} KiB, memory {state.memory_kib} KiB, free {state.memory_free_kib}"
    )
    assert state.memory_free_kib > 4096
    assert PUBLIC.name == "eth2"
