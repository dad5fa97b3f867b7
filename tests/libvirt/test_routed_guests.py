"""Host-routed guests on real daemons: the routes and published entries of one come and go with it, whatever happens."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator

import pytest
from ear import announced, hearing
from support.libvirt_host import DOMAIN, mac, uuid
from support.libvirt_routed import ADDRESSES, Routed, expected, nic, policy

from libvirt_guestnet.sandbox import Sandbox, python_inside

LAN = """set -e
ip netns add x
ip link add up0 type veth peer name eth0 netns x
ip address add 10.61.9.1/24 dev up0
ip address add fd61:9::1/64 dev up0 nodad
ip link set up0 up
ip netns exec x ip address add 10.61.9.9/24 dev eth0
ip netns exec x ip address add fd61:9::9/64 dev eth0 nodad
ip netns exec x ip link set eth0 up
"""


@pytest.fixture(scope="module")
def shared(each_sandbox: Sandbox) -> Routed:
    host = Routed(each_sandbox)
    host.sandbox.run(["sh", "-c", LAN])
    return host


@pytest.fixture
def host(shared: Routed) -> Iterator[Routed]:
    """Guest a, with one host-routed NIC."""
    shared.define("define", DOMAIN.format(name="a", uuid=uuid(1), policy=policy(), nics=nic(0)))
    yield shared
    for name in shared.running():
        shared.virsh("destroy", name)
    shared.exactly()
    shared.virsh("undefine", "a", "--managed-save")


def test_start_and_destroy(host: Routed) -> None:
    host.virsh("start", "a")
    host.exactly(0)
    assert host.resolved("10.61.9.50")
    assert host.resolved("fd61:9::50")
    host.virsh("destroy", "a")
    host.exactly()
    assert not host.resolved("10.61.9.50")


def test_status_tells_whether_a_guests_routes_are_in_place(host: Routed) -> None:
    both = ("10.61.9.50/32", "fd61:9::50/128")
    assert _told(host) == dict.fromkeys(both, ("", None, "up0", None))
    host.virsh("start", "a")
    assert _told(host) == dict.fromkeys(both, ("vme00000000", True, "up0", True))
    host.sandbox.run(["sh", "-c", "ip route del 10.61.9.50; ip neigh del proxy fd61:9::50 dev up0"])
    assert _told(host) == {
        "10.61.9.50/32": ("vme00000000", False, "up0", True),
        "fd61:9::50/128": ("vme00000000", True, "up0", False),
    }
    assert _guestnet(host, "hooks", "sync") == 0
    assert _told(host) == dict.fromkeys(both, ("vme00000000", True, "up0", True))


def test_paused_suspended_reset(host: Routed) -> None:
    host.virsh("start", "a", "--paused")
    for verb in ("resume", "suspend", "resume", "reset"):
        host.virsh(verb, "a")
        host.exactly(0)


def test_save_and_restore(host: Routed) -> None:
    host.virsh("start", "a")
    host.virsh("save", "a", "/tmp/a.saved")
    host.exactly()
    host.virsh("restore", "/tmp/a.saved")
    host.exactly(0)
    assert host.resolved("10.61.9.50")


def test_a_guest_restored_paused_is_here_already(host: Routed) -> None:
    """libvirt says of it what it says of one that migrates to here: paused, for migration."""
    host.virsh("start", "a")
    host.virsh("save", "a", "/tmp/a.paused")
    host.virsh("restore", "/tmp/a.paused", "--paused")
    host.exactly(0)
    host.sandbox.run(["ip", "route", "del", "10.61.9.50"])
    assert _guestnet(host, "hooks", "sync") == 0
    host.exactly(0)
    host.soon(lambda: host.helpers() == [], "nobody is left waiting")
    host.virsh("resume", "a")
    host.exactly(0)


@pytest.mark.parametrize("end", ["KILL", "SEGV"])
def test_the_end_of_qemu(host: Routed, end: str) -> None:
    host.virsh("start", "a")
    host.sandbox.run(["kill", f"-{end}", host.qemu("a")])
    host.soon(lambda: host.tables() == expected() and not host.files("host-routes"), "all is withdrawn")
    host.soon(lambda: host.running() == [], "the guest is gone")


def test_daemon_restart_repairs(host: Routed) -> None:
    host.virsh("start", "a")
    host.stop_daemon(signal.SIGKILL)
    host.soon(lambda: host.helpers() == [], "nobody is at work there any more")
    host.sandbox.run(["sh", "-c", "ip route del 10.61.9.50; ip neigh del proxy fd61:9::50 dev up0; rm -r /run/libvirt-guestnet"])  # fmt: skip  # noqa: E501
    host.sandbox.start_libvirtd()
    host.soon(lambda: host.tables() == expected(0) and set(host.files("host-routes")) == {"vme00000000"}, "all is back")
    host.soon(lambda: host.running() == ["a"], "the guest is known again")
    host.exactly(0)


def test_a_guest_that_died_while_the_daemon_was_down(host: Routed) -> None:
    host.virsh("start", "a")
    process = host.qemu("a")
    host.stop_daemon(signal.SIGKILL)
    host.sandbox.run(["kill", "-KILL", process])
    host.sandbox.start_libvirtd()
    host.soon(lambda: host.tables() == expected() and not host.files("host-routes"), "all is withdrawn")


def test_a_start_that_cannot_route_to_the_guest_fails_cleanly(host: Routed) -> None:
    host.sandbox.run(["ip", "route", "add", "10.61.9.50", "dev", "up0"])
    said = host.virsh("start", "a", check=False)
    assert "10.61.9.50/32 is routed elsewhere on this host already" in said
    assert host.running() == []
    host.exactly()
    host.sandbox.run(["ip", "route", "del", "10.61.9.50", "dev", "up0"])


TOPOLOGY = """
name: t
physical-networks: { lan: { subnets: [10.61.9.0/24, "fd61:9::/64"], stand-in: [10.61.9.99, "fd61:9::99"] } }
networks: { n: { mode: host-routed, physical-network: lan } }
guests: { a: { ports: [{ network: n, tap: vme00000000, mac: "52:54:00:00:01:00", addresses: [ADDRESS] }] } }
"""


@pytest.fixture
def gateway(host: Routed) -> Iterator[str]:
    """X is the host's default gateway."""
    host.sandbox.run(["ip", "route", "add", "default", "via", "10.61.9.9"])
    yield "10.61.9.9"
    host.sandbox.run(["ip", "route", "del", "default"])


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("10.61.9.9", "domain 'a': address 10.61.9.9 is a router of this host's, by which it routes on device up0"),
        ("10.61.9.1", "domain 'a': address 10.61.9.1 is this host's own, on device up0"),
        ("fd61:9::9", "domain 'a': address fd61:9::9 is in use on the LAN of device up0"),
    ],
)
def test_a_guest_that_claims_what_is_somebodys_does_not_start(
    host: Routed, gateway: str, address: str, message: str
) -> None:
    """Nor does anything of it remain, or reach the LAN; and `plan` and `apply` say so before."""
    mine = ADDRESSES[mac(1, 0)][":" in address]
    claiming = policy().replace(f'"{mine}"', f'"{address}"')
    host.define("define", DOMAIN.format(name="a", uuid=uuid(1), policy=claiming, nics=nic(0)))
    python = host.sandbox.command(["ip", "netns", "exec", "x", *python_inside([], host.sandbox.root)])
    with hearing(python) as heard:
        said = host.virsh("start", "a", check=False)
    assert message in said
    assert host.running() == []
    host.exactly()
    assert announced(heard) == set()
    # Of a guest that does not run no LAN is asked: it may run elsewhere.
    host.sandbox.run(["tee", "/run/t.yaml"], stdin=TOPOLOGY.replace("ADDRESS", f'"{address}"'))
    for verb in ("plan", "apply"):
        done = _run(host, verb, "/run/t.yaml", "--map", "lan=up0")
        assert (message in done.stderr) == ("LAN" not in message), done.stderr
    host.define("define", DOMAIN.format(name="a", uuid=uuid(1), policy=policy(), nics=nic(0)))


def test_what_a_running_guest_gets_new_is_asked_for_by_apply(host: Routed) -> None:
    """And nothing changes where somebody answers; what it has is not asked for: it answers itself."""
    host.virsh("start", "a")
    both = TOPOLOGY.replace("ADDRESS", '10.61.9.50, "fd61:9::50", 10.61.9.9')
    host.sandbox.run(["tee", "/run/t.yaml"], stdin=both)
    for verb in ("plan", "apply"):
        done = _run(host, verb, "/run/t.yaml", "--map", "lan=up0")
        assert "domain 'a': address 10.61.9.9 is in use on the LAN of device up0: " in done.stderr
        assert done.stderr.count("in use") == 1
    host.exactly(0)
    host.sandbox.run(["tee", "/run/t.yaml"], stdin=both.replace(", 10.61.9.9]", "]"))
    assert "in use" not in _run(host, "plan", "/run/t.yaml", "--map", "lan=up0").stderr


def test_doctor_tells_of_a_running_guest_whose_address_is_a_routers_now(host: Routed) -> None:
    host.virsh("start", "a")
    host.sandbox.run(["ip", "route", "add", "10.9.0.0/16", "via", "10.61.9.50", "dev", "up0", "onlink"])
    rows = json.loads(_run(host, "doctor", "--json").stdout)
    (row,) = [row for row in rows if row["check"] == "address"]
    assert (row["level"], row["about"]) == ("must", "domain 'a'")
    assert "address 10.61.9.50 is a router of this host's" in row["found"]
    host.stop_daemon(signal.SIGKILL)
    host.sandbox.start_libvirtd()
    host.soon(lambda: host.running() == ["a"], "the guest goes on")
    host.exactly(0)
    host.sandbox.run(["ip", "route", "del", "10.9.0.0/16"])


def test_a_plugged_nic_is_routed_to_by_sync_and_left_when_unplugged(host: Routed) -> None:
    """libvirt calls no hook for a NIC of type ethernet; `guestnet apply` does what sync does, with the link down."""
    host.virsh("start", "a")
    _attach(host)
    assert host.tables() == expected(0)
    assert _guestnet(host, "hooks", "sync") == 0
    host.exactly(0, 1)
    host.virsh("detach-interface", "a", "ethernet", "--mac", mac(1, 1), "--live")
    host.virsh("reset", "a")
    host.soon(lambda: mac(1, 1) not in host.nics("a").values(), "the NIC is unplugged")
    assert _guestnet(host, "hooks", "sync") == 0
    host.exactly(0)


def _attach(host: Routed) -> None:
    host.sandbox.run(["tee", "/tmp/nic.xml"], stdin=nic(1))
    host.virsh("attach-device", "a", "/tmp/nic.xml", "--live")


def _guestnet(host: Routed, *argv: str) -> int:
    return _run(host, *argv).returncode


def _told(host: Routed) -> dict[str, tuple[object, ...]]:
    """What `guestnet status` says of what the host routes to NICs that are there."""
    rows = json.loads(_run(host, "status", "--json").stdout)
    return {
        row["prefix"]: (row["device"], row["routed"], row["uplink"], row["published"])
        for row in rows
        if row["kind"] == "route" and row["port"] == "p0"
    }


def _run(host: Routed, *argv: str) -> subprocess.CompletedProcess[str]:
    command = host.sandbox.python(["-m", "libvirt_guestnet.cli", *argv])
    return subprocess.run(command, capture_output=True, text=True, timeout=240)
