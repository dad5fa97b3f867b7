"""Two virtual routers that stand in for each other, on plain QEMU, and the arbiter at work on their host: for tests and
for the benchmark of what guests see when one of them ends."""

from __future__ import annotations

import itertools
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.guest.agent import Agent
from libvirt_guestnet.model.router import ControlNic, RouterConfig, SyncNic
from libvirt_guestnet.model.traffic import Rule
from libvirt_guestnet.router import control, disks
from libvirt_guestnet.router.arbiter import LOOK_SECONDS, Arbiter, PairHost, PairMember
from libvirt_guestnet.router.arbitration import Role
from libvirt_guestnet.router.client import RouterClient
from libvirt_guestnet.router.document import document
from libvirt_guestnet.router.image import ensure_router_image
from libvirt_guestnet.router.pings import Pings
from support import router_client_programs as programs
from support.router_bench import Namespace, Router, RouterBench
from support.router_config import LAN, PUBLIC, ROUTER, WEB_MAC, own, tcp
from support.stage import inside

VIRTUAL = bytes.fromhex("52540013a000")
SO_TIMESTAMPNS = 35
BRIDGES = {"eth0": "lan", "eth1": "ctl", "eth2": "pub", "eth3": "sync"}


def member(number: int) -> RouterConfig:
    """One of the two, with NICs of its own."""
    lan = replace(
        LAN,
        mac=f"52:54:00:13:1{number}:00",
        virtual_mac="52:54:00:13:a0:00",
        exceptions=(*LAN.exceptions, Rule("stream", (tcp(8443),))),
    )
    public = replace(PUBLIC, mac=f"52:54:00:13:1{number}:02", virtual_mac="52:54:00:13:a0:02")
    control_nic = ControlNic(f"52:54:00:13:1{number}:01", own(f"169.254.7.{number + 1}/24"), IPv4Address("169.254.7.1"))
    sync = SyncNic(
        "eth3", f"52:54:00:13:1{number}:03", own(f"169.254.8.{number}/30"), IPv4Address(f"169.254.8.{3 - number}")
    )
    config = replace(ROUTER, name=f"r{number}", guests=(lan,), public=(public,), control=control_nic, sync=sync)
    return replace(config, static_nat=(), ingress=(), tier_rules=())


class BenchHost(PairHost):
    """A host that is the bench: what it does with routers' taps and processes."""

    def __init__(self, bench: RouterBench, routers: dict[str, Router]) -> None:
        self.bench, self.routers = bench, routers

    def run(self, router: str) -> str:
        return str(self.routers[router].qemu())

    def role(self, router: str) -> Role:
        try:
            with self.client(router, 1.0) as client:
                return Role.WAITS if client.state().waits else Role.SERVES
        except (GuestnetError, OSError):
            return Role.UNKNOWN

    def client(self, router: str, seconds: float = 180.0) -> RouterClient:
        return RouterClient.connect(self.routers[router].socket, router, seconds)

    def linked(self, router: str) -> bool:
        taps = json.loads(self.bench.host.run("ip", "-j", "link", "show", "type", "tun"))
        up = {tap["ifname"] for tap in taps if "UP" in tap["flags"] and tap.get("master")}
        return self.routers[router].traffic_taps <= up

    def fence(self, router: str) -> None:
        self.routers[router].cut_off()

    def activate(self, router: str, previous: str) -> None:
        self.routers[router].join()
        with self.client(router, 10.0) as client:
            client.activate((disks.read(self.routers[previous].disk("leases")) or b"").decode())

    def restart(self, router: str, run: str) -> None:
        self.routers[router].kill()
        self.routers[router].join()
        self.routers[router].start()


class Looking(threading.Thread):
    """The arbiter, at work on the bench's host, until it is stopped; what it said, and when each began to serve."""

    def __init__(self, host: BenchHost) -> None:
        super().__init__(daemon=True)
        self.host, self.said, self.stopped = host, list[str](), threading.Event()
        self.serving, self.since, self.ready = "", 0.0, False

    def run(self) -> None:
        first, second = (PairMember(f"r{n}", IPv4Address(f"169.254.7.{n + 1}")) for n in (1, 2))
        with inside(self.host.bench.host.holder.pid), Pings([first.address, second.address]) as pings:
            arbiter = Arbiter(first, second, self.host, pings, self.said.append)
            while not self.stopped.wait(LOOK_SECONDS):
                arbiter.look()
                if arbiter.serving != self.serving:
                    self.serving, self.since = arbiter.serving, time.monotonic()
                self.ready = arbiter.has_second


@dataclass
class Pair:
    """Two routers, who looks after them, and who is around them."""

    bench: RouterBench
    routers: dict[str, Router]
    looking: Looking
    web: Namespace
    internet: Namespace
    agents: dict[str, Agent]

    def until(self, what: Callable[[], object], seconds: float = 180.0) -> None:
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, (self.looking.said, self.looking.serving)
            time.sleep(0.02)


@contextmanager
def started(directory: Path) -> Iterator[Pair]:
    """A pair on a bench in that directory, that ends with the `with` block."""
    with ExitStack() as stack:
        bench = RouterBench(directory, stack)
        for name in ("lan", "pub", "sync"):
            bench.bridge(name)
        bench.bridge("ctl", "169.254.7.1/24")
        image = ensure_router_image(of_pair=True)
        routers = {f"r{number}": Router(bench, member(number), image, BRIDGES) for number in (1, 2)}
        for number, router in enumerate(routers.values(), 1):
            control.ensure_on_disk(router.disk("config"), document(member(number)).encoded())
            router.start()
        web = bench.machine("web", "lan", WEB_MAC, "10.1.1.10/24", "fd13:1::10/64")
        web.ip("route add default via 10.1.1.1")
        internet = bench.machine("internet", "pub", "52:54:00:13:02:01", "203.0.113.1/24", "2001:db8:113::1/64")
        looking = Looking(BenchHost(bench, routers))
        looking.start()
        stack.callback(looking.join, 60)
        stack.callback(looking.stopped.set)
        agents = {machine.name: machine.agent() for machine in (web, internet, bench.host)}
        agents["web"].listen(tcp=[80])
        agents["internet"].listen(tcp=[80])
        yield Pair(bench, routers, looking, web, internet, agents)
        print(*looking.said, *(router.console.read_text() for router in routers.values()), sep="\n")


def killed(router: Router) -> None:
    router.kill()


def frozen(router: Router) -> None:
    os.kill(router.qemu(), signal.SIGSTOP)


def unplugged(router: Router) -> None:
    router.cut_off()


class Ears:
    """Hears at both routers' taps what they send with the MAC address that only one of them may have."""

    def __init__(self, pair: Pair, stack: ExitStack) -> None:
        with inside(pair.bench.host.holder.pid):
            self.sockets = {
                name: stack.enter_context(_ear(router.tap("eth0"))) for name, router in pair.routers.items()
            }
        self.heard = list[tuple[float, str]]()
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.listen, daemon=True)
        self.thread.start()

    def listen(self) -> None:
        while not self.stop.is_set():
            ready = select.select(list(self.sockets.values()), [], [], 0.1)[0]
            for name, ear in self.sockets.items():
                when, sender = _heard(ear) if ear in ready else (0.0, b"")
                if sender == VIRTUAL:
                    self.heard.append((when, name))

    def turns(self) -> list[str]:
        """Who sent, in turn."""
        self.stop.set()
        self.thread.join()
        return [name for name, _ in itertools.groupby(name for _, name in sorted(self.heard))]


def _heard(ear: socket.socket) -> tuple[float, bytes]:
    """A frame's sender, and when the kernel took it: both ears' frames wait for us."""
    try:
        frame, told, _, source = ear.recvmsg(64, 64)
    except OSError:  # the link went down
        return 0.0, b""
    seconds, nanoseconds = struct.unpack("qq", told[0][2])
    sent_to_it = source[2] == socket.PACKET_OUTGOING
    return seconds + nanoseconds / 1e9, b"" if sent_to_it else frame[6:12]


def _ear(tap: str) -> socket.socket:
    ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    ear.bind((tap, 0))
    ear.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    return ear


@dataclass(frozen=True)
class TakenOver:
    """What was seen of one: seconds until the other one served, of how many pings how many were answered, exchanges of
    a TCP stream, the longest of them in seconds, and who sent with the shared MAC address, in turn."""

    seconds: float
    sent: int
    received: int
    exchanges: int
    longest: float
    turns: list[str]


def take_over(pair: Pair, harm: Callable[[Router], None]) -> TakenOver:
    """Does that to the router that serves, under pings and a TCP stream, which has to go on."""
    pair.until(lambda: pair.looking.ready)
    old = pair.looking.serving
    with ExitStack() as stack:
        stream = _streaming(pair)
        ears = Ears(pair, stack)
        pings = pair.agents["web"].submit("ping", "203.0.113.1", "200", "50", "5000", "32", timeout=120)
        time.sleep(2)
        began = time.monotonic()
        harm(pair.routers[old])
        pair.until(lambda: pair.looking.serving not in ("", old))
        took = pair.looking.since - began
        answered = pings.result(120).text.split()
        said = stream.communicate(b"\n", timeout=120)[0].split()
        assert stream.returncode == 0, "the stream ended"
        sent, longest = said
        return TakenOver(took, int(answered[1]), int(answered[3]), int(sent), float(longest), ears.turns())


def _streaming(pair: Pair) -> subprocess.Popen[bytes]:
    server = pair.internet.start(sys.executable, "-c", programs.ECHO, "8443", stdout=subprocess.PIPE)
    assert server.stdout is not None
    assert server.stdout.readline() == b"listens\n"
    stream = pair.web.start(sys.executable, "-c", programs.STREAM, "203.0.113.1", "8443", stdout=subprocess.PIPE)
    assert stream.stdout is not None
    assert stream.stdout.readline() == b"streams\n"
    return stream
