"""Bad links for labs, by netem of Debian's own kernel: what a guest receives, while its port's metadata changes."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from support.labvm_host import Host, Tap, frame, ip

from libvirt_guestnet.hook.services import missing_state
from libvirt_guestnet.state.locked import UnlockedState
from libvirt_guestnet.topology import loads

TOPOLOGY = """
name: t
networks: {{ lan: {{ mode: isolated, subnets: [10.9.0.0/24], bridge: br0 }} }}
guests:
  good: {{ ports: [{{ network: lan, tap: good, addresses: [], guarded: false }}] }}
  bad: {{ ports: [{{ network: lan, tap: bad, addresses: [], guarded: false{bad} }}] }}
  both: {{ ports: [{{ network: lan, tap: both, addresses: [10.9.0.5], impairment: {{ delay: 20ms, rate: 10mbit }} }}] }}
"""
SOURCE = "52:54:00:00:00:07"
DELAY = 3.0


@pytest.fixture(scope="module")
def shared(module_namespace: None, tmp_path_factory: pytest.TempPathFactory) -> Host:
    """A host with a guest on a good link."""
    ip("link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0")
    ip("link set br0 up")
    host = Host(tmp_path_factory.mktemp("host"), found("loss: 100%"), {})
    assert host.network("lan", "started") == ""
    host.start("good", "br0")
    return host


@pytest.fixture
def host(shared: Host) -> Host:
    """And one on a link that loses all, whatever a test before has made of it."""
    if "bad" in shared.taps:
        now(shared, "loss: 100%")
        return shared
    shared.found = found("loss: 100%")
    shared.taps["bad"] = Tap("bad", "br0")
    tc("add dev bad root handle 0: noqueue")  # as libvirt does
    assert shared.domain("bad", "start", "br0") == ""
    return shared


def found(impairment: str) -> Any:
    return loads(TOPOLOGY.format(bad=f", impairment: {{ {impairment} }}" if impairment else ""), "t")


def now(host: Host, impairment: str) -> None:
    """The running guest's metadata changes, and its port is repaired."""
    host.found = found(impairment)
    assert host.domain("bad", "reconnect", "br0") == ""


def tc(arguments: str) -> None:
    subprocess.run(["tc", "qdisc", *arguments.split()], check=True, timeout=240)


def qdisc(tap: str = "bad") -> dict[str, Any]:
    shown = subprocess.run(["tc", "-j", "qdisc", "show", "dev", tap, "root"], check=True, capture_output=True).stdout
    (root,) = json.loads(shown)
    return dict(root)


def texts(heard: list[bytes]) -> list[str]:
    return [data[14:].rstrip(b".").decode() for data in heard]


def test_what_a_guest_receives_is_what_its_port_says_and_changes_live(host: Host) -> None:
    good, bad = host.taps["good"], host.taps["bad"]
    for number in range(20):
        good.send(frame(SOURCE, text=f"lost {number}"))
    bad.send(frame(SOURCE, text="back"))
    assert texts(good.heard(least=1)) == ["back"], "what the guest sends is no matter of its port's impairment"
    now(host, "duplicate: 100%")
    good.send(frame(SOURCE, text="twice"))
    assert texts(bad.heard(least=2)) == ["twice", "twice"]

    now(host, f"delay: {DELAY:.0f}s")
    sent = time.monotonic()
    good.send(frame(SOURCE, text="late"))
    assert texts(bad.heard(least=1)) == ["late"]
    assert time.monotonic() - sent >= DELAY

    now(host, "rate: 8kbit")
    sent = time.monotonic()
    for number in range(20):  # of 60 octets, at 1000 in a second
        good.send(frame(SOURCE, text=f"{number:02}"))
    assert texts(bad.heard(least=20)) == [f"{number:02}" for number in range(20)]
    assert time.monotonic() - sent >= 1.0

    now(host, "delay: 500ms, reorder: 50%")
    for number in range(40):
        good.send(frame(SOURCE, text=f"{number:02}"))
    heard = texts(bad.heard(least=40))
    assert sorted(heard) == [f"{number:02}" for number in range(40)]
    assert heard != sorted(heard)


def test_tc_shows_what_the_file_says_and_libvirts_default_comes_back(host: Host) -> None:
    now(host, "delay: 20ms, jitter: 5ms, loss: 1%, duplicate: 0.1%, reorder: 5%, rate: 10mbit")
    root = qdisc()
    options = root["options"]
    assert (root["kind"], root["handle"], options["limit"], options["gap"]) == ("netem", "6e65:", 1000, 1)
    assert options["delay"] == pytest.approx({"delay": 0.02, "jitter": 0.005, "correlation": 0})
    shares = {"loss-random": ("loss", 0.01), "duplicate": ("duplicate", 0.001), "reorder": ("reorder", 0.05)}
    for key, (name, share) in shares.items():
        assert options[key][name] == pytest.approx(share, abs=1e-9), key
    assert options["rate"]["rate"] == 1_250_000
    assert not any(missing_state.lost(UnlockedState()))

    now(host, "loss: 2%")
    options = qdisc()["options"]
    assert options["loss-random"]["loss"] == pytest.approx(0.02, abs=1e-9)
    assert not {"duplicate", "reorder", "rate"} & {key for key, value in options.items() if value}, options
    now(host, "")
    assert qdisc()["kind"] == "noqueue"
    assert not Path("/run/libvirt-guestnet/impaired/bad.json").exists()


def test_it_is_put_back_and_goes_with_the_guest_and_leaves_its_guard_alone(host: Host) -> None:
    host.start("both", "br0")
    assert qdisc("both")["kind"] == "netem"
    assert not any(missing_state.lost(UnlockedState())), "filters and checksum guard are there"
    tc("del dev both root")
    assert missing_state.by_port(UnlockedState()) == {"both": ["impairment"]}
    assert host.domain("both", "reconnect", "br0") == ""
    assert (qdisc("both")["kind"], missing_state.by_port(UnlockedState())) == ("netem", {})
    receipt = Path("/run/libvirt-guestnet/impaired/both.json")
    assert receipt.exists()
    host.stop("both", "br0")
    assert not receipt.exists()
    assert host.domain("bad", "release", "br0") == ""
    assert qdisc()["kind"] == "noqueue", "a tap that stays is as it was"
    os.close(host.taps.pop("bad").fd)
