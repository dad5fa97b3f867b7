"""What is left running after a hook call is killed: any later call of any guest's finishes its work, and so does the
service."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from support.box import Box
from support.hooks import PLAIN, REPAIR, recorded
from support.kernel_guests import (
    BEHIND,
    LAN,
    MAC,
    NEW_PORT,
    PORT,
    SETUP,
    TAP,
    UUID,
    A,
    domain,
    nic,
    policy,
    port_created,
)
from support.kernel_host import Host
from support.killed import KILLED_REPAIR, LIBRARY

from libvirt_guestnet.hook import main

NEW_TAP, NEW_MAC = "vme0b", "52:54:00:00:00:0b"
ROUTE = "10.61.99.0/24 via 10.61.1.10 dev br0"
MIGRATING = domain("a", UUID, policy(MAC, "10.61.1.10", BEHIND), nic("network", TAP, MAC, PORT))
# The programs of tcx at a device, and of tc ingress.
PROGRAMS = f"""
import sys
sys.path.insert(0, {str(LIBRARY)!r})
from libvirt_guestnet.datapath.port import bpf
from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.datapath.netlink.tc import Tc
index = links.index_of(sys.argv[1])
with Tc() as tc:
    print(len(bpf.attached(index)), int(tc.attached(index) is not None and tc.attached(index) > 0))
"""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    box = Box()
    box.ok("sh", "-c", SETUP)
    host = Host(box, tmp_path)
    yield host
    for pid, _ in host.processes():  # who waits for a guest does so for a day
        os.kill(pid, 9)
    box.close()


@contextmanager
def by_a_call(host: Host) -> Iterator[None]:
    """Another guest ends that has nothing of ours."""
    assert host.call("qemu", "other", "release", "end", PLAIN) == (0, "")
    yield


@contextmanager
def by_the_service(host: Host) -> Iterator[None]:
    argv = ["nsenter", "-t", host.box.pid, "--net", "--mount", "--", sys.executable, "-IS", main.__file__, "watch"]
    with subprocess.Popen(argv) as service:
        yield
        service.kill()


Finished = Callable[[Host], AbstractContextManager[None]]
by_anybody = pytest.mark.parametrize("finished", [by_a_call, by_the_service])


@by_anybody
def test_a_plug_helper(host: Host, finished: Finished) -> None:
    uuid = "63000000-0000-4000-8000-00000000000b"
    plugged = policy(NEW_MAC, "10.61.1.66")
    host.record("b", domain("b", uuid, plugged))
    assert host.call("network", "lan", "port-created", "begin", port_created("lan", NEW_MAC, "b", uuid, NEW_PORT))[0] == 0  # fmt: skip  # noqa: E501
    host.kill("port-created")
    host.box.ok("sh", "-c", f"ip link set {NEW_TAP} address fe{NEW_MAC[2:]}; ip link set {NEW_TAP} master br0")
    host.record("b", domain("b", uuid, plugged, nic("network", NEW_TAP, NEW_MAC, NEW_PORT)))
    assert (host.chains(), host.notes()) == ([], [f"plugging/{NEW_PORT}.json"])
    with finished(host):
        host.soon(lambda: (host.chains(), host.notes()) == ([NEW_TAP], []), "the NIC is guarded")
    assert "10.61.1.66" in host.box.ok("nft", "list", "chain", "netdev", "guestnet", f"tap-{NEW_TAP}")


@by_anybody
@pytest.mark.parametrize("step", [2, 20])
def test_a_repair(host: Host, finished: Finished, step: int) -> None:
    names = [recorded(host, number) for number in (1, 2)]
    spool = "mkdir -p /run/libvirt-guestnet/reconnect; cd /run/libvirt-guestnet/reconnect; touch $*"
    host.box.ok("sh", "-c", spool, "sh", *names)
    host.box.run("sh", "-c", *REPAIR, KILLED_REPAIR, str(step))
    assert host.notes() != [], "who is to be repaired is known still"
    with finished(host):
        host.soon(lambda: (host.chains(), host.notes()) == (["v1a", "v1b", "v2a", "v2b"], []), "all are repaired")


def migrates(host: Host, xml: bytes, state: str = "paused' reason='migration") -> None:
    """What libvirt has on record of a guest that comes from elsewhere; it puts a new record in the place of the old."""
    status = f"<domstatus state='{state}'><job type='none' async='migration in'/>".encode()
    host.box.ok("mkdir", "-p", "/run/libvirt/qemu")
    put = "cat >/run/libvirt/qemu/a.new && mv /run/libvirt/qemu/a.new /run/libvirt/qemu/a.xml"
    assert host.box.run("sh", "-c", put, stdin=status + xml + b"</domstatus>").returncode == 0


def awaited(host: Host, change: str = "") -> None:
    for operation in ("migrate", "start"):
        assert host.call("qemu", "a", operation, "begin", MIGRATING) == (0, "")
    assert host.call("qemu", "other", "release", "end", PLAIN) == (0, "")
    host.settled()  # and a migration that has just begun owes nothing
    migrates(host, MIGRATING)
    assert host.altered(change, "started", MIGRATING) == 0
    host.soon(lambda: len(host.processes()) == 1, "a helper waits")


@by_anybody
def test_who_waits_for_a_guest_that_migrates(host: Host, finished: Finished) -> None:
    awaited(host)
    host.kill("main.run")
    assert (host.routed(), host.notes()) == (set(), ["incoming/a.json"])
    migrates(host, MIGRATING, "running' reason='migrated")
    with finished(host):
        host.soon(lambda: (host.routed(), host.notes()) == ({ROUTE}, []), "led to")


def test_while_a_guest_is_on_its_way_another_waits_for_it(host: Host) -> None:
    awaited(host)
    host.kill("main.run")
    with by_a_call(host):
        host.soon(lambda: [words for _, words in host.processes()] != [], "a helper waits")
    migrates(host, MIGRATING, "running' reason='migrated")
    host.soon(lambda: (host.routed(), host.notes()) == ({ROUTE}, []), "led to")


@by_anybody
def test_who_announces_a_guest_that_migrated_here_again(host: Host, finished: Finished) -> None:
    awaited(host, "incoming.repeat = killed")
    migrates(host, MIGRATING, "running' reason='migrated")
    host.soon(lambda: host.processes() == [], "killed")
    assert (host.routed(), host.notes()) == ({ROUTE}, ["connecting/a"])
    host.box.ok("ip", "route", "del", "10.61.99.0/24")  # so it is seen that all is done again
    with finished(host):
        host.soon(lambda: (host.routed(), host.notes()) == ({ROUTE}, []), "led to and told of")


@by_anybody
def test_who_moves_the_checksum_guard_to_tcx(host: Host, finished: Finished) -> None:
    assert host.altered("offload._settle = killed", "start", A) == 0
    look = [sys.executable, "-IS", "-c", PROGRAMS, TAP]
    host.soon(lambda: host.processes() == [], "killed")
    assert (host.box.ok(*look), len(host.notes())) == ("0 1\n", 1)
    with finished(host):
        host.soon(lambda: (host.box.ok(*look), host.notes()) == ("1 0\n", []), "moved")


@by_anybody
def test_a_call_that_changes_forwards(host: Host, finished: Finished) -> None:
    """It talks to firewalld as well, while nobody else may."""
    assert host.call("qemu", "a", "start", "begin", A) == (0, "")
    host.settled()
    host.record("a", A)
    assert host.altered("forwards._forget_flows = forwards._arrange = killed", "started", A) != 0
    assert host.notes() == ["changing/forwards"]
    host.box.ok("nft", "delete", "table", "inet", "guestnet")
    with finished(host):
        host.soon(lambda: host.notes() == [], "done")
    assert "198.18.1.50" in host.box.ok("nft", "list", "table", "inet", "guestnet")


@by_anybody
def test_a_call_that_closes_a_networks_bridge(host: Host, finished: Finished) -> None:
    assert host.altered("bridges.settle = killed", "started", LAN, hook="network") != 0
    settled = "grep -c '\"settled\": true' /run/libvirt-guestnet/bridges.json || true"
    assert host.box.ok("sh", "-c", settled) == "0\n"
    with finished(host):
        host.soon(lambda: host.box.ok("sh", "-c", settled) == "1\n", "settled")


def test_who_is_at_work_is_left_to_it(host: Host) -> None:
    awaited(host)
    (helper,) = host.processes()
    for _ in range(3):
        assert host.call("qemu", "other", "release", "end", PLAIN) == (0, "")
    assert host.processes() == [helper]
