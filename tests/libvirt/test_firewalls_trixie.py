"""Debian 13's ufw and firewalld, run for real beside libvirt 11.3 with either backend: ways in and guests' own way out.

`guestnet doctor` names what nothing of ours can arrange, and what it says to do is what then helps.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_coexistence import watching
from test_ways_in import GUESTS, LAN, LAN6, Asking, Net, reachable, xml
from test_ways_in_trixie import prepared
from wire import Wire

from libvirt_guestnet import sandbox as sandboxes
from libvirt_guestnet.sandbox import Sandbox

pytestmark = pytest.mark.trixie


@pytest.fixture(scope="module", params=["iptables", "nftables"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def sandbox(backend: str, trixie_root: Path) -> Iterator[Sandbox]:
    # libvirtd hears of firewalld over the system's bus, which is there before it.
    bus = ["sh", "-c", "mkdir -p /run/dbus; dbus-daemon --system --fork --nopidfile"]
    prepare = [*prepared(trixie_root, backend), bus]
    with sandboxes.start(f"firewalls-{backend}", root=trixie_root, prepare=prepare) as running:
        yield running


@pytest.fixture(scope="module")
def net(sandbox: Sandbox) -> Iterator[Net]:
    with Net(sandbox) as net:
        yield net


@contextmanager
def guest(net: Net, network: str) -> Iterator[Asking]:
    net.sandbox.run(["virsh", "-q", "create", "/dev/stdin"], stdin=xml(network))
    try:
        with Wire(net.sandbox, "g") as wire, Asking(wire, *GUESTS[network]) as it:
            yield it
    finally:
        net.sandbox.run(["virsh", "-q", "destroy", "g"], check=False)


def doctor(net: Net) -> list[dict[str, str]]:
    """What must be done about firewalls, as it says."""
    done = net.sandbox.run(
        sandboxes.python_inside(["-m", "libvirt_guestnet.cli", "doctor", "--json"], net.sandbox.root), check=False
    )
    return [row for row in json.loads(done.stdout) if row["level"] == "must"]


def bridge(net: Net, network: str) -> str:
    listed = net.sandbox.run(["virsh", "-q", "net-info", network]).stdout
    return next(line.split()[1] for line in listed.splitlines() if line.startswith("Bridge"))


@contextmanager
def ufw(net: Net) -> Iterator[None]:
    """With its defaults: nothing comes in, nothing is forwarded."""
    net.sandbox.run(["ufw", "--force", "enable"])
    try:
        yield
    finally:
        net.sandbox.run(["ufw", "--force", "reset"])
        net.sandbox.restart_libvirtd()


@contextmanager
def firewalld(net: Net) -> Iterator[None]:
    """With its defaults: the LAN's device is in the zone `public`."""
    with subprocess.Popen(net.sandbox.command(["firewalld", "--nofork", "--nopid"])) as process:
        try:
            net.soon(lambda: net.sandbox.run(["firewall-cmd", "--state"], check=False).returncode == 0)
            yield
        finally:
            process.terminate()


BOTH = sorted([LAN, LAN6])


@pytest.mark.parametrize(("order", "network"), [("before", "web"), ("while", "inside")])
def test_ufw(net: Net, backend: str, network: str, order: str) -> None:
    with watching(net.sandbox):
        if order == "before":
            with ufw(net), guest(net, network) as it:
                check_ufw(net, backend, network, it)
        else:
            with guest(net, network) as it:
                reachable(net)
                with ufw(net):
                    check_ufw(net, backend, network, it)


def check_ufw(net: Net, backend: str, network: str, it: Asking) -> None:
    reachable(net)
    net.sandbox.run(["ufw", "reload"])
    reachable(net)
    if network == "inside":
        assert sorted(it.outside()) == []
        return
    if backend == "nftables":  # libvirt's accepts are in a table of its own, and do not count in ufw's
        assert sorted(it.outside()) == []
        rows = doctor(net)
        assert {row["about"] for row in rows} == {"iptables FORWARD", "ip6tables FORWARD"}
        assert {row["found"].rpartition(": ")[2] for row in rows} == {"guests of web cannot get out"}
        net.sandbox.run(["sh", "-c", rows[0]["do"]])
    assert sorted(it.outside()) == BOTH
    assert doctor(net) == []


@pytest.mark.parametrize(("order", "network"), [("before", "web"), ("while", "inside")])
def test_firewalld(net: Net, network: str, order: str) -> None:
    with watching(net.sandbox):
        if order == "before":
            with firewalld(net), guest(net, network) as it:
                check_firewalld(net, network, it)
        else:
            with guest(net, network) as it:
                reachable(net)
                with firewalld(net):
                    check_firewalld(net, network, it)


def check_firewalld(net: Net, network: str, it: Asking) -> None:
    zone = ["firewall-cmd", f"--get-zone-of-interface={bridge(net, network)}"]
    for _ in range(2):
        net.soon(lambda: net.sandbox.run(zone, check=False).stdout.strip() == "libvirt")
        net.soon(lambda: net.udp("lan", "198.18.1.1", 5300).open)
        reachable(net)
        assert sorted(it.outside()) == (BOTH if network == "web" else [])
        assert doctor(net) == []
        net.sandbox.run(["firewall-cmd", "--reload"])


def test_a_bridge_that_firewalld_knows_nothing_of(net: Net) -> None:
    """As where libvirtd does not hear of firewalld: what is let in is let in, but guests cannot get out."""
    device = bridge(net, "web")
    zone = ["firewall-cmd", f"--get-zone-of-interface={device}"]
    with firewalld(net), guest(net, "web") as it:
        # libvirtd puts it there when it hears that firewalld has started.
        net.soon(lambda: net.sandbox.run(zone, check=False).stdout.strip() == "libvirt")
        net.sandbox.run(["firewall-cmd", "--zone=libvirt", f"--remove-interface={device}"])
        reachable(net)
        assert sorted(it.outside()) == []
        [row] = doctor(net)
        assert row["about"] == "inet firewalld filter_FORWARD"
        assert row["found"].endswith("guests of web cannot get out")
        net.sandbox.run(["sh", "-c", row["do"]])
        assert sorted(it.outside()) == BOTH
        assert doctor(net) == []
