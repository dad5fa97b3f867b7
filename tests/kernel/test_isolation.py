"""`verify --isolation` on real bridges: it passes where networks are apart, names every leak that is put there, and
leaves nothing, also when it is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.taps import ip, open_tap

HERE = Path(__file__).parents[2]
# Two networks, the second with an uplink; what a test says comes first.
PROGRAM = """
import json, sys
from libvirt_guestnet.isolation import report, run, twins
from libvirt_guestnet.isolation.link import GUARDED, OBSERVED, TRUSTED, UNTAGGED, Link
from libvirt_guestnet.state.locked import UnlockedState
from libvirt_guestnet.state.receipts import NetworkReceipt
state = UnlockedState(sys.argv[1])
ways, ports = (GUARDED,), {}
exec(sys.argv[2])
links = (
    Link("br-a", 0, ("a",), "t", ways, ports),
    Link("br-b", 0, ("b",), "t", ways, {}, {"up0": UNTAGGED}),
)
with state.lock() as locked:
    for link in links:
        locked.put_network(NetworkReceipt(link.networks[0], "t", True, link.bridge))
result = run.measure(links, links, state)
print(json.dumps([report.rows(result), report.passed(result)]))
"""
SLEEPS = "import time; run._measured = lambda *_: (print('made', flush=True), time.sleep(60))"


@pytest.fixture
def bridges(namespace: None) -> Iterator[None]:
    for name in ("a", "b"):
        ip(f"link add br-{name} up type bridge stp_state 0 forward_delay 0 mcast_snooping 0")
    uplink = open_tap("up0")
    ip("link set up0 master br-b up")
    yield
    os.close(uplink)


def argv(state: Path, more: str = "") -> list[str]:
    return [sys.executable, "-c", PROGRAM, str(state), more]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(HERE)}


def verify(state: Path, more: str = "") -> tuple[list[dict[str, Any]], bool]:
    done = subprocess.run(argv(state, more), capture_output=True, text=True, timeout=600, env=environment())
    assert done.returncode == 0, done.stderr
    rows, passed = json.loads(done.stdout)
    return rows, passed


def left() -> str:
    """All that a run may leave: devices, and rules and sets of taps and bridges."""
    listed = ("nft", "-s", "list", "table", "netdev", "guestnet")
    rules = subprocess.run(listed, capture_output=True, text=True, timeout=120).stdout
    names = sorted(line.split()[0] for line in ip("-br link").splitlines())  # the state of an empty bridge changes
    return "\n".join(names) + "\n".join(line for line in rules.splitlines() if "vmex" in line or "-br-" in line)


def receipts(state: Path) -> list[str]:
    return sorted(str(each.relative_to(state)) for folder in ("ports", "domains") for each in state.glob(f"{folder}/*"))


def leaks(rows: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
    """(network, frame, device) of each."""
    return {(row["networks"][0], leak["frame"], leak["device"]) for row in rows for leak in row["leaks"]}


def test_networks_that_are_apart(bridges: None, tmp_path: Path) -> None:
    before = left()
    rows, passed = verify(tmp_path)
    assert passed, [row for row in rows if row["result"] != "ok"]
    assert {(row["networks"][0], row["frames"], row["result"]) for row in rows} == {
        (name, kind, "ok") for name in "ab" for kind in ("ordinary", "forged", "tagged")
    }
    ordinary = {row["networks"][0]: row for row in rows if row["frames"] == "ordinary"}
    assert ordinary["a"]["left_by"] == [] and "br-a" in ordinary["a"]["heard"]
    assert ordinary["b"]["left_by"] == ["up0 untagged"]
    assert all(row["sent"] > 3 and not row["heard"] for row in rows if row["frames"] == "forged")
    assert (left(), receipts(tmp_path)) == (before, [])


def test_a_cable_between_two_bridges(bridges: None, tmp_path: Path) -> None:
    ip("link add leak0 type veth peer name leak1")
    for end, bridge in (("leak0", "br-a"), ("leak1", "br-b")):
        ip(f"link set {end} master {bridge} up")
    rows, passed = verify(tmp_path)
    assert not passed
    found = leaks(rows)
    assert {("a", "IPv4 broadcast", "br-b"), ("a", "ARP", "up0"), ("b", "IPv6 multicast", "br-a")} <= found
    assert {row["result"] for row in rows if row["frames"] == "forged"} == {"ok"}, "the guard drops those first"
    (leak,) = [each for each in rows[0]["leaks"] if (each["frame"], each["device"]) == ("IPv4 broadcast", "br-b")]
    assert (leak["tags"], leak["direction"], leak["network"]) == ([], "in", "b")


def test_a_port_of_nobodys(bridges: None, tmp_path: Path) -> None:
    """It is no guest's and no uplink of the network."""
    ip("link add stray0 type veth peer name stray1")
    ip("link set stray1 up")
    ip("link set stray0 master br-a up")
    rows, passed = verify(tmp_path)
    assert not passed and {device for _, _, device in leaks(rows)} >= {"stray0"}
    assert {name for name, _, _ in leaks(rows)} == {"a"}


def test_a_guest_of_the_network_may_hear_it(bridges: None, tmp_path: Path) -> None:
    tap = open_tap("vme00000001")
    ip("link set vme00000001 master br-a up")
    assert not verify(tmp_path)[1], "nobody has said whose it is"
    rows, passed = verify(tmp_path, "ports = {'vme00000001': UNTAGGED}")
    assert passed, [row for row in rows if row["result"] != "ok"]
    os.close(tap)


@pytest.mark.parametrize("way", ["TRUSTED", "OBSERVED"])
def test_without_a_guard_tags_are_tried(bridges: None, tmp_path: Path, way: str) -> None:
    """A port that may send tags gets no further by them than its own network; who it is, nobody asks."""
    rows, passed = verify(tmp_path, f"ways = ({way},)")
    assert passed, [row for row in rows if row["result"] != "ok"]
    assert {row["frames"] for row in rows} == {"ordinary", "tagged"}


def test_a_forger_is_found_where_the_guard_is_gone(bridges: None, tmp_path: Path) -> None:
    """What nobody dropped is seen."""
    off = "twins._guard = lambda *_: None"
    rows, passed = verify(tmp_path, off)
    assert not passed
    found = leaks(rows)
    assert {frame for name, frame, device in found if (name, device) == ("a", "br-a")} >= {
        "mac",
        "arp",
        "ipv4",
        "ipv6",
        "nd",
        "ra",
        "dhcp-offer",
        "tagged 0",
    }


def test_isolated_ports_are_heard_at_the_bridge(bridges: None, tmp_path: Path) -> None:
    isolated = "from dataclasses import replace; made = twins.made\n"
    isolated += "twins.made = lambda links, state: made([replace(each, isolated=True) for each in links], state)\n"
    isolated += "with_twins = run._with_twins\n"
    isolated += "run._with_twins = lambda links, pairs: with_twins([replace(l, isolated=True) for l in links], pairs)"
    rows, passed = verify(tmp_path, isolated)
    assert passed, [row for row in rows if row["result"] != "ok"]
    assert {tuple(row["heard"]) for row in rows if row["frames"] == "ordinary" and row["networks"] == ["a"]} == {
        ("br-a",)
    }


@pytest.mark.parametrize("which", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_of_one_that_is_killed(bridges: None, tmp_path: Path, which: signal.Signals) -> None:
    before = left()
    run = subprocess.Popen(argv(tmp_path, SLEEPS), stdout=subprocess.PIPE, text=True, env=environment())
    assert run.stdout is not None and run.stdout.readline() == "made\n"
    assert left().count("vmex") > 4 and len(receipts(tmp_path)) > 4
    run.send_signal(which)
    run.wait()
    end = time.monotonic() + 60
    while (left(), receipts(tmp_path)) != (before, []):
        assert time.monotonic() < end, (left(), receipts(tmp_path))
        time.sleep(0.05)


def test_what_is_left_when_its_cleaner_is_killed_too_the_next_run_removes(bridges: None, tmp_path: Path) -> None:
    run = subprocess.Popen(argv(tmp_path, SLEEPS), stdout=subprocess.PIPE, text=True, env=environment())
    assert run.stdout is not None and run.stdout.readline() == "made\n"
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    for pid in (*map(int, children), run.pid):
        os.kill(pid, signal.SIGKILL)
    run.wait()
    assert len(receipts(tmp_path)) > 4
    assert verify(tmp_path)[1]
    assert receipts(tmp_path) == [] and "vmex" not in left()
