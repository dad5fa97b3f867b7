"""A port that is only observed, from the metadata to the kernel: it hears what it did, and is guarded at one blow."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.box import Box
from support.hooks import DOMAIN, REPAIR, START, Hooks, own_table, repaired, with_metadata
from support.kernel_bridge import ANN, BOB, LIBRARY, MACS, OWNER, Host, domain, on_one, send
from support.killed import PREPARE

from libvirt_guestnet.datapath.port import bridge_filter, observing
from libvirt_guestnet.hook.enforce import bridge_guard
from libvirt_guestnet.state.locked import UnlockedState
from libvirt_guestnet.state.receipts import Bridges, NetworkReceipt

OBSERVED = with_metadata(START, DOMAIN.replace('network="lan1"', 'network="lan1" guarded="observe"'))
TIDY = f"""
import sys
sys.path.insert(0, {str(LIBRARY)!r})
from libvirt_guestnet.hook import live
live.tidy(set(), set())
"""
KILLED_REPAIR = f"""{PREPARE}
from libvirt_guestnet.hook.enforce import port_guard
port_guard._change = lambda batch, *_: batch and os.kill(os.getpid(), 9)
repair.main()
"""
LOST = f"""
import sys
sys.path.insert(0, {str(LIBRARY)!r})
from libvirt_guestnet.hook.enforce import port_guard
from libvirt_guestnet.state.locked import UnlockedState
state = UnlockedState()
print(*port_guard.lost(state), state.port("vnet0").observed)
"""
INNER = "52:54:00:00:00:77"  # a guest's own guest


@pytest.fixture
def host() -> Iterator[Host]:
    with on_one() as host:
        yield host


@pytest.fixture
def hooks(tmp_path: Path) -> Iterator[Hooks]:
    box = Box()
    for tap in ("vnet0", "vnet1"):
        box.ok("ip", "tuntap", "add", tap, "mode", "tap")
    yield Hooks(box, tmp_path)
    box.close()


def verdicts(hooks: Hooks, tap: str) -> set[str]:
    """What the rules of a tap that count do with a frame."""
    listed = hooks.box.ok("nft", "-s", "list", "chain", "netdev", "guestnet", f"arp-{tap}")
    return {line.split()[1] for line in listed.splitlines() if line.strip().startswith("counter")}


def test_a_start_observes_and_a_release_leaves_nothing(hooks: Hooks) -> None:
    assert hooks.call("qemu", "guesta", "start", "begin", OBSERVED) == (0, "")
    assert (verdicts(hooks, "vnet0"), verdicts(hooks, "vnet1")) == ({"accept"}, {"drop"})
    assert hooks.chains() == ["vnet0", "vnet1"]
    assert hooks.call("qemu", "guesta", "release", "end", START) == (0, "")
    assert hooks.chains() == []
    assert "seen" not in "".join(own_table(hooks))


def test_a_repair_changes_from_observed_to_guarded_and_back_in_one_transaction(hooks: Hooks) -> None:
    assert hooks.call("qemu", "guesta", "start", "begin", START) == (0, "")
    guarded = own_table(hooks)
    for xml, verdict in ((OBSERVED, {"accept"}), (OBSERVED, {"accept"}), (START, {"drop"})):
        hooks.record("guesta", xml)
        assert repaired(hooks, "guesta") == ["transaction"]
        assert (verdicts(hooks, "vnet0"), verdicts(hooks, "vnet1")) == (verdict, {"drop"})
    assert own_table(hooks) == guarded


def test_a_change_that_is_killed_is_known_and_mended(hooks: Hooks) -> None:
    """Not only by a sync: the service looks at the same, and puts it back."""
    assert hooks.call("qemu", "guesta", "start", "begin", START) == (0, "")
    guarded = own_table(hooks)
    for xml, verdict in ((OBSERVED, "accept"), (START, "drop")):
        before = verdicts(hooks, "vnet0")
        hooks.record("guesta", xml)
        hooks.box.ok(
            "sh", "-c", "mkdir -p /run/libvirt-guestnet/reconnect; touch /run/libvirt-guestnet/reconnect/guesta"
        )
        done = hooks.box.run("sh", "-c", *REPAIR, KILLED_REPAIR)
        assert done.returncode == -9, done.stderr
        assert verdicts(hooks, "vnet0") == before
        assert hooks.box.ok(sys.executable, "-IS", "-c", LOST).split() == ["vnet0", str(xml is OBSERVED)]
        assert repaired(hooks, "guesta") == ["transaction"]
        assert verdicts(hooks, "vnet0") == {verdict}
        assert hooks.box.ok(sys.executable, "-IS", "-c", LOST).split() == [str(xml is OBSERVED)]
    assert own_table(hooks) == guarded


def test_a_guest_hears_nothing_of_what_an_earlier_one_on_its_tap_did(hooks: Hooks) -> None:
    left = "add table netdev guestnet\n" + "".join(f"{line}\n" for line in observing.declared("vnet0", False))
    left += "add element netdev guestnet seentags-vnet0 { 7 }\n"
    assert hooks.box.run("nft", "-f", "-", stdin=left.encode()).returncode == 0
    assert hooks.call("qemu", "guesta", "start", "begin", OBSERVED) == (0, "")
    assert "elements" not in hooks.box.ok("nft", "list", "set", "netdev", "guestnet", "seentags-vnet0")


def test_a_sync_forgets_what_a_change_that_was_killed_left(hooks: Hooks) -> None:
    assert hooks.call("qemu", "guesta", "start", "begin", OBSERVED) == (0, "")
    left = "".join(f"{line}\n" for line in observing.declared("vnet1", False))
    assert hooks.box.run("nft", "-f", "-", stdin=left.encode()).returncode == 0
    hooks.box.ok(sys.executable, "-IS", "-c", TIDY)
    sets = re.findall(r"set (seen4-\S+)", "".join(own_table(hooks)))
    assert sets == ["seen4-vnet0"]


def test_an_observed_port_hears_and_teaches_what_it_did_and_takes_nothing_from_a_guarded_one(host: Host) -> None:
    observed = domain("tom", 'guarded="observe"' + OWNER.format(4))
    host.start(ANN, BOB, observed)
    assert (host.settings("ann"), host.settings("tom")) == ((False, False), (True, True))
    wire = host.wire()
    assert wire.stdout and wire.stdout.readline() == "ready\n"
    assert send(wire, "tom", "ff:ff:ff:ff:ff:ff", INNER) == {"ann", "bob", "nic"}
    assert send(wire, "ann", INNER, MACS["ann"]) <= {"tom"}
    assert "tom" in send(wire, "nic", INNER, "52:54:00:00:00:99")
    # It says that it is Ann, and gets nothing of what is for her.
    assert "bob" in send(wire, "tom", "ff:ff:ff:ff:ff:ff", MACS["ann"])
    assert send(wire, "nic", MACS["ann"], "52:54:00:00:00:99") == {"ann"}
    host.start(domain("tom", OWNER.format(4)))
    assert host.settings("tom") == (False, False)
    assert send(wire, "tom", "ff:ff:ff:ff:ff:ff", INNER) == set()
    assert send(wire, "nic", INNER, "52:54:00:00:00:99") == set(), "what it taught the bridge before is forgotten"
    host.start(observed)
    assert host.settings("tom") == (True, True)
    wire.terminate()
    wire.wait()


def test_a_network_that_is_observed_silences_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, batches = UnlockedState(str(tmp_path)), list[str]()
    monkeypatch.setattr(bridge_guard, "nft", lambda batch, _lock: batches.append(batch))
    for observed in (True, False):
        with state.lock() as locked:
            locked.put_network(NetworkReceipt("one", "t", True, "br-one", managed=True, observed=observed))
            locked.put_network(NetworkReceipt("two", "t", True, "br-two", managed=True))
            locked.put_bridges(Bridges({"br-one": "one", "br-two": "two"}))
            bridge_guard.settle(locked)
    assert batches == [bridge_filter.guard(each, []) for each in (["br-two"], ["br-one", "br-two"])]


def test_a_bridge_silences_others_for_any_network_over_it_that_is_guarded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, batches = UnlockedState(str(tmp_path)), list[str]()
    monkeypatch.setattr(bridge_guard, "nft", lambda batch, _lock: batches.append(batch))
    with state.lock() as locked:
        for name, observed in (("one", True), ("two", False)):
            locked.put_network(NetworkReceipt(name, "t", True, "br-one", managed=True, observed=observed))
        locked.put_bridges(Bridges({"br-one": "one"}))
        bridge_guard.settle(locked)
    assert batches == [bridge_filter.guard(["br-one"], [])]


CHECKSUM_BIT = f"""
import sys
sys.path.insert(0, {str(LIBRARY)!r})
from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.datapath.port import bpf, checksum
from libvirt_guestnet.hook.enforce import checksum_guard as offload
from libvirt_guestnet.hook.services import missing_state
from libvirt_guestnet.state.locked import UnlockedState
state = UnlockedState()
loaded, index = offload.program_state(state).loaded, links.index_of("vnet0")
if sys.argv[1:]:
    bpf.set_counter(checksum.opened(loaded)._drops, index, checksum._OBSERVED if sys.argv[1] == "observed" else 0)
print(*missing_state.by_port(state).get("vnet0", ()), checksum.observes(index, loaded), sep=", ")
"""


@pytest.mark.parametrize(("xml", "left"), [(START, "observed"), (OBSERVED, "guarded")])
def test_a_checksum_guard_that_kept_the_earlier_verdict_is_known_and_mended(
    hooks: Hooks, xml: bytes, left: str
) -> None:
    """As a change leaves it that cannot open the counters: the chains have the new verdict then."""
    hooks.record("guesta", xml)
    assert hooks.call("qemu", "guesta", "start", "begin", xml) == (0, "")
    look = (sys.executable, "-IS", "-c", CHECKSUM_BIT)
    assert hooks.box.ok(*look).strip() == f"{xml is OBSERVED}"
    assert hooks.box.ok(*look, left).strip() == f"checksum guard, {left == 'observed'}"
    repaired(hooks, "guesta")
    assert hooks.box.ok(*look).strip() == f"{xml is OBSERVED}"


EXTERNAL = """<network><name>lan</name><metadata>{}</metadata><bridge name="br0"/>
<ip address="10.61.1.1" prefix="24"/></network>"""
ADOPTED = '<g:network xmlns:g="https://libvirt-guestnet.org/xmlns/1" topology="t" external="yes" guarded="{}"/>'
TOLD = f"""
import sys
sys.path.insert(0, {str(LIBRARY)!r})
from libvirt_guestnet.hook import live
live.adopt_network(sys.stdin.buffer.read())
"""
KNOWN = f"""
import sys
sys.path.insert(0, {str(LIBRARY)!r})
from libvirt_guestnet.state.locked import UnlockedState
print([(each.name, each.observed) for each in UnlockedState().networks()])
"""


def test_an_adopted_network_is_what_was_told_last_and_not_what_its_xml_says_since_it_started(hooks: Hooks) -> None:
    """libvirt before 9.7 cannot change the metadata of a network that runs."""
    started = f"<hookData>{EXTERNAL.format(ADOPTED.format('observe'))}</hookData>".encode()
    guarded, released = EXTERNAL.format(ADOPTED.format("yes")).encode(), EXTERNAL.format("").encode()
    known = (sys.executable, "-IS", "-c", KNOWN)
    assert hooks.call("network", "lan", "started", "begin", started) == (0, "")
    assert hooks.box.ok(*known).strip() == "[('lan', True)]"
    for xml, said in ((guarded, "[('lan', False)]"), (released, "[]")):
        assert hooks.box.run(sys.executable, "-IS", "-c", TOLD, stdin=xml).returncode == 0
        assert hooks.call("network", "lan", "updated", "begin", started) == (0, "")
        assert hooks.box.ok(*known).strip() == said
