"""The tiny guest, booted for real: archnetwork's router B and its client C, on plain QEMU under emulation."""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.guest_bench import LAN2, Bench, GuestProcess

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.guest.agent import Agent
from libvirt_guestnet.guest.image import TinyImage, ensure_image
from libvirt_guestnet.model.topology import Guest, Topology
from libvirt_guestnet.topology import load

pytestmark = [
    pytest.mark.guest,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces and taps need root"),
]

LAB = Path(__file__).parents[2] / "labs" / "archnetwork.yaml"
READY_SECONDS = 15.0
"""A bound for a busy machine; on a quiet one 3 s (see the printed time)."""


@pytest.fixture(scope="module")
def topology() -> Topology:
    return load(LAB)


@pytest.fixture(scope="module")
def image() -> TinyImage:
    return ensure_image()


@pytest.fixture(scope="module")
def bench(topology: Topology, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with ExitStack() as stack:
        bench = Bench(topology, tmp_path_factory.mktemp("bench"), stack)
        bench.add_network("vlan1", *_hosts(topology, "vlan1"))
        bench.add_network("vlan2")
        bench.serve("vlan1")
        yield bench


@pytest.fixture(scope="module")
def processes(bench: Bench, image: TinyImage, topology: Topology) -> dict[str, GuestProcess]:
    return {name: bench.boot(topology.guest(name), image) for name in ("b", "c")}


@pytest.fixture(scope="module")
def agents(processes: dict[str, GuestProcess]) -> dict[str, Agent]:
    agents = {}
    for name, process in processes.items():
        agents[name] = process.connect()
        agents[name].ready(READY_SECONDS)
        print(f"{name}: start to ready {time.monotonic() - process.started:.2f} s")
    return agents


@pytest.fixture(scope="module")
def host(bench: Bench) -> Agent:
    agent = bench.host_agent()
    agent.listen(tcp=[80, 25], udp=[53, 123])
    return agent


@pytest.fixture
def b(agents: dict[str, Agent]) -> Agent:
    return agents["b"]


@pytest.fixture
def c(agents: dict[str, Agent]) -> Agent:
    return agents["c"]


def _hosts(topology: Topology, network: str) -> list[str]:
    return [f"{subnet.host}/{subnet.prefix.prefixlen}" for subnet in topology.network(network).subnets]


def _addresses(guest: Guest, port: str) -> list[str]:
    return [str(a.ip) for p in guest.ports if p.name == port for a in p.addresses]


def test_ready_means_every_address_works(b: Agent, host: Agent, topology: Topology) -> None:
    addresses = _addresses(topology.guest("b"), "vlan1")
    assert len(addresses) == 2
    for address in addresses:
        assert host.ping(address).received == 1
        assert host.neighbour(address) == topology.guest("b").ports[0].mac


def test_the_configuration_took(b: Agent, topology: Topology) -> None:
    assert b.run(["hostname"]).text == "b\n"
    assert "default via 10.61.1.1 dev net0" in b.run(["ip", "route"]).text
    assert "default via fe80::" in b.run(["ip", "-6", "route"]).text
    assert "10.61.2.1/24" in b.run(["ip", "addr", "show", "dev", "net1"]).text


@pytest.mark.parametrize("version", [0, 1], ids=["ipv4", "ipv6"])
def test_c_passes_b_only_with_what_b_allows(c: Agent, b: Agent, host: Agent, topology: Topology, version: int) -> None:
    lan2, router = LAN2[version], _addresses(topology.guest("b"), "vlan1")[version]
    web = c.tcp(lan2, 80)
    assert (web.outcome, str(web.seen_as)) == ("open", router)
    name_server = c.udp(lan2, 53)
    assert (name_server.outcome, str(name_server.seen_as)) == ("open", router)
    assert c.ping(lan2).received == 1
    with ThreadPoolExecutor() as pool:
        mail, clock = pool.submit(c.tcp, lan2, 25), pool.submit(c.udp, lan2, 123)
        assert (mail.result().outcome, clock.result().outcome) == ("timeout", "timeout")
    assert b.tcp(lan2, 25).open


@pytest.mark.parametrize("version", [0, 1], ids=["ipv4", "ipv6"])
def test_the_trace_shows_b(c: Agent, host: Agent, topology: Topology, version: int) -> None:
    trace = c.trace(LAN2[version])
    assert trace.reached
    assert trace.hops == (_addresses(topology.guest("b"), "vlan2")[version], LAN2[version])


def test_without_forwarding_c_keeps_b_and_loses_lan2(c: Agent, b: Agent, host: Agent, topology: Topology) -> None:
    b.set_forwarding(False)
    try:
        for version in (0, 1):
            assert c.ping(_addresses(topology.guest("b"), "vlan2")[version]).received == 1
            assert c.ping(LAN2[version], timeout=0.7).received == 0
    finally:
        b.set_forwarding(True)
    assert [c.ping(address, count=3).received > 0 for address in LAN2] == [True, True]


def test_networks_reach_only_the_routers_own_address_there(c: Agent, host: Agent, topology: Topology) -> None:
    near, far = (_addresses(topology.guest("b"), port)[0] for port in ("vlan2", "vlan1"))
    assert c.tcp(near, 80).open
    assert c.tcp(far, 80, timeout=0.7).outcome == "timeout"


def test_frames_leave_and_arrive_unchanged(b: Agent, host: Agent, topology: Topology) -> None:
    mac = topology.guest("b").ports[0].mac
    frame = bytes.fromhex("ffffffffffff" + "020000000001" + "88b5") + b"a marker in a frame" + bytes(range(40))
    with host.capturing(topology.guest("b").ports[0].tap, b"a marker") as seen:
        b.send_frames(mac, [frame, frame])
        time.sleep(2)
    assert seen.frames == [frame, frame]
    with b.capturing(mac, b"a marker") as received, b.capturing(mac, b"not in it") as nothing:
        host.send_frames("vlan1", [frame])
        time.sleep(2)
    assert received.frames == [frame]
    assert nothing.frames == []


def test_requests_do_not_wait_for_each_other(c: Agent) -> None:
    slow = [c.submit("run", "sleep", "6", timeout=30) for _ in range(5)]
    assert c.run(["echo", "hello"]).text == "hello\n"
    assert not any(future.done() for future in slow)
    assert [future.result(30).status for future in slow] == [0] * 5


def test_the_guest_ends_what_takes_too_long_and_cuts_what_is_too_much(c: Agent) -> None:
    late = c.run(["sleep", "60"], timeout=0.5)
    assert (late.status, late.timed_out) == (124, True)
    much = c.run(["head", "-c", "300000", "/dev/zero"])
    assert (len(much.stdout), much.cut) == (262144, True)
    assert c.run(["sh", "-c", "echo out; echo err >&2; exit 3"]).status == 3
    assert c.run(["sh", "-c", "kill -9 $$"]).status == 137


def test_a_client_that_died_in_mid_message_is_forgotten(bench: Bench, agents: dict[str, Agent]) -> None:
    path = bench.directory / "c.agent"
    agents["c"].close()
    for garbage in (b"70000 00ff", b"12 zz\n\n\0\xff", b"9" * 100_000):
        with socket.socket(socket.AF_UNIX) as dying:
            dying.connect(str(path))
            dying.sendall(garbage)
    agents["c"] = bench.stack.enter_context(Agent.connect(path, 10, "c"))
    assert agents["c"].run(["echo", "still here"]).text == "still here\n"


def test_a_new_configuration_is_taken_up_live(agents: dict[str, Agent], bench: Bench) -> None:
    text = (bench.directory / "c.config").read_text()
    agents["c"].configure(text + "static net0 10.61.2.200/24\n")
    assert "10.61.2.200/24" in agents["c"].run(["ip", "addr"]).text


def test_not_ready_says_what_is_missing(agents: dict[str, Agent]) -> None:
    agents["c"].call("run", "ip", "addr", "del", "10.61.2.200/24", "dev", "net0")
    with pytest.raises(GuestnetError, match=r"guest c: 'ready' failed: not ready: no static address 10\.61\.2\.200"):
        agents["c"].ready(0.3)


def test_the_power_button_ends_it(processes: dict[str, GuestProcess], agents: dict[str, Agent], bench: Bench) -> None:
    with socket.socket(socket.AF_UNIX) as monitor:
        monitor.connect(f"{bench.directory / 'c'}.qmp")
        stream = monitor.makefile("rw")
        for command in ("qmp_capabilities", "system_powerdown"):
            stream.write(json.dumps({"execute": command}) + "\n")
            stream.flush()
            stream.readline()
        assert processes["c"].process.wait(10) == 0


def test_image_files_are_for_everybody(image: TinyImage) -> None:
    assert [oct(path.stat().st_mode & 0o777) for path in (image.kernel, image.initrd)] == ["0o644", "0o644"]
    assert image.initrd.stat().st_size < 8 << 20
    assert image.kernel.read_bytes()[:4] == b"\x7fELF" or struct.unpack("<H", image.kernel.read_bytes()[510:512])
