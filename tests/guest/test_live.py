"""Changes under running guests by `guestnet apply`: whom a change does not concern, loses not a single ping."""

from __future__ import annotations

import json
import re
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support.lab import LABS, Lab, lab_up

LAN2 = "198.18.2.1"
A_VLAN1, B_VLAN1, B_VLAN2 = "10.61.1.37", "10.61.1.126", "10.61.2.1"
MAPS = ("--map", "lan1=lan-lan1", "--map", "lan2=lan-lan2")
TEXT = (LABS / "archnetwork.yaml").read_text()
A_PORTS = '        addresses: [198.18.1.10, "fd61:11::10"]\n      - network: vlan1\n'
B_PORTS = "  b:\n    image: tiny\n    ports:\n      - network: vlan1\n"
C_PORTS = "  c:\n    image: tiny\n    ports:\n      - network: vlan2\n"
# Inside: ping until stdin ends, one echo every 50 ms, then print ping's statistics. One flow: whoever begins a new one
# while libvirt has no NAT rules is on its own.
PINGS = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from libvirt_guestnet.lab import run
from libvirt_guestnet.libvirtd.connection import connect
with connect() as connection, run.guest_agent(connection, sys.argv[1]) as agent, ThreadPoolExecutor() as pool:
    assert agent.ping(sys.argv[2], count=3).received
    ping = pool.submit(agent.run, ["ping", "-q", "-i", "0.05", sys.argv[2]], 120)
    time.sleep(0.5)
    print("pinging", flush=True)
    sys.stdin.read()
    agent.run(["killall", "-INT", "ping"])
    print(ping.result().text.replace("\\n", " "), flush=True)
"""
CONFIGURE = """
from libvirt_guestnet.guest.config import guest_config
with connect() as connection, run.guest_agent(connection, sys.argv[1]) as agent:
    agent.configure(guest_config(topology, topology.guest(sys.argv[1])))
    agent.ready(20)
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    yield from lab_up("live", LABS / "archnetwork.yaml")


@pytest.fixture(autouse=True)
def restored(lab: Lab) -> Iterator[None]:
    """Every test finds the lab as the file says, and `apply` able to bring it back to that."""
    yield
    lab.guestnet("apply", *MAPS, "--allow-interrupt", "-")
    assert lab.guestnet("plan", *MAPS, "-").stdout == "nothing to do\n"


REACHED_SECONDS, EVERY_MS = 60.0, 50


def edited(old: str, new: str, text: str = TEXT) -> str:
    assert text.count(old) == 1
    return text.replace(old, new)


def apply(lab: Lab, text: str, *options: str) -> str:
    done = lab.guestnet("apply", *MAPS, *options, "-", stdin=text)
    assert done.returncode == 0, done.stdout + done.stderr
    again = lab.guestnet("plan", *MAPS, "-", stdin=text)
    assert again.returncode == 0, again.stdout
    return done.stdout


@contextmanager
def no_ping_lost(lab: Lab, guest: str, address: str) -> Iterator[None]:
    """Pings all the while that the block runs; fails when one has no answer."""
    command = lab.sandbox.python(["-c", PINGS, guest, address])
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "pinging\n"
            yield
            process.stdin.close()
            assert select.select([process.stdout], [], [], 30)[0], "the pings do not end"
            statistics = process.stdout.readline()
            print(statistics)
            found = re.search(r"(\d+) packets transmitted, (\d+) packets received", statistics)
            assert found is not None, statistics
            sent, received = map(int, found.groups())
            # Answers to the very last ones may be under way when the pings are ended: as many as take that long.
            slowest = re.search(r"= [\d.]+/[\d.]+/([\d.]+) ms", statistics)
            assert slowest is not None, statistics
            under_way = 1 + float(slowest[1]) / EVERY_MS
            assert (sent > 20, sent - received <= under_way) == (True, True), statistics
        finally:
            process.kill()


def pings(lab: Lab, guest: str, address: str) -> bool:
    return lab.agent(guest, f"ping('{address}', count=5, timeout=0.7).received > 0") == "True\n"


def reaches(lab: Lab, guest: str, address: str) -> bool:
    """The same, as soon as a busy machine has the guests answer."""
    end = time.monotonic() + REACHED_SECONDS
    while not (answered := pings(lab, guest, address)) and time.monotonic() < end:
        pass
    return answered


def links(lab: Lab, *argv: str) -> dict[str, dict[str, Any]]:
    found = json.loads(lab.sandbox.run(["bridge", "-d", "-j", "link", *argv]).stdout)
    return {port["ifname"]: port for port in found if "master" in port}


def indexes(lab: Lab) -> dict[str, int]:
    return {link["ifname"]: link["ifindex"] for link in json.loads(lab.sandbox.run(["ip", "-j", "link"]).stdout)}


def reserved(lab: Lab) -> str:
    return lab.sandbox.run(["cat", "/var/lib/libvirt/dnsmasq/vlan1.hostsfile"]).stdout


def test_dhcp_changes_live(lab: Lab) -> None:
    before = indexes(lab)
    more = "guests:\n  d:\n    ports:\n      - {{network: vlan1, addresses: [{}]}}\n"
    with no_ping_lost(lab, "a", LAN2):
        for address in ("10.61.1.21", "10.61.1.22"):
            made = apply(lab, edited("guests:\n", more.format(address)))
            assert "restart" not in made
            assert address in reserved(lab)
        apply(lab, TEXT)
        assert "10.61.1.22" not in reserved(lab)
    assert indexes(lab) == before


def test_a_nic_comes_and_goes_live(lab: Lab) -> None:
    text = edited(C_PORTS, C_PORTS + "      - network: vlan1\n")
    before = indexes(lab)
    with no_ping_lost(lab, "a", LAN2):
        apply(lab, text)
        (tap,) = set(links(lab)) - set(before)
        assert links(lab)[tap]["master"] == "gn-vlan1"
        assert tap in lab.sandbox.run(["nft", "list", "table", "netdev", "guestnet"]).stdout
        lab.python(CONFIGURE, "c", text=text)
        assert reaches(lab, "c", B_VLAN1)
    forge = text[: text.index("expect:")] + "expect:\n  - { from: c.vlan1, forge: all }\n"
    assert lab.unexpected(forge) == set()
    with no_ping_lost(lab, "a", LAN2):
        apply(lab, TEXT)
        assert indexes(lab) == before
        assert tap not in lab.sandbox.run(["nft", "list", "table", "netdev", "guestnet"]).stdout
        assert reaches(lab, "c", B_VLAN2)


def test_a_link_goes_down_and_up_live(lab: Lab) -> None:
    with no_ping_lost(lab, "a", LAN2):
        apply(lab, edited(C_PORTS, C_PORTS + "        link: down\n"))
        assert not pings(lab, "c", B_VLAN2)
        apply(lab, TEXT)
        assert reaches(lab, "c", B_VLAN2)


def test_isolation_changes_live(lab: Lab) -> None:
    assert reaches(lab, "b", A_VLAN1)
    isolated = edited(A_PORTS, A_PORTS + "        isolated: true\n")
    isolated = edited(B_PORTS, B_PORTS + "        isolated: true\n", isolated)
    with no_ping_lost(lab, "a", LAN2):
        apply(lab, isolated)
        assert [port["isolated"] for port in links(lab).values() if port["master"] == "gn-vlan1"] == [True, True]
        assert not pings(lab, "b", A_VLAN1)
        apply(lab, TEXT)
        assert reaches(lab, "b", A_VLAN1)


def test_a_restarted_network_gets_its_taps_back(lab: Lab) -> None:
    smaller = edited("    mode: nat\n", "    mode: nat\n    mtu: 1400\n")
    before = links(lab)
    refused = lab.guestnet("apply", *MAPS, "-", stdin=smaller)
    assert refused.returncode == 1
    assert refused.stderr.endswith(
        "guestnet: this would interrupt running guests; nothing was changed. Allow it with --allow-interrupt:\n"
        "guestnet:   restart network vlan1 (interrupts a, b): mtu: size=1400 is missing\n"
    )
    assert links(lab) == before
    apply(lab, smaller, "--allow-interrupt")
    assert {tap: port["master"] for tap, port in links(lab).items()} == {t: p["master"] for t, p in before.items()}
    for guest in ("a", "b", "c"):
        assert reaches(lab, guest, LAN2)
    forge = smaller[: smaller.index("expect:")] + "expect:\n  - { from: a.vlan1, forge: all }\n"
    assert lab.unexpected(forge) == set()
