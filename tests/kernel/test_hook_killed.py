"""A hook killed at any of its steps leaves a state that the next call repairs; hooks side by side lose nothing."""

from __future__ import annotations

import subprocess

from support.hooks import PLAIN, REPAIR, SETTLED, START, Hooks, recorded, repaired
from support.killed import KILLED_REPAIR, THIRD, command

UUID = "61000001-0000-4000-8000-000000000001"


def killed(hooks: Hooks, step: int, operation: str) -> bool:
    """Whether the call got as far as that step."""
    done = hooks.box.run(*command(step, "qemu", "guesta", operation), stdin=START)
    assert done.stdout in (b"137\n", b"0\n"), done.stderr
    return done.stdout == b"137\n"


def exact(hooks: Hooks) -> None:
    assert hooks.chains() == ["vnet0", "vnet1"]
    assert hooks.receipts() == [f"{UUID}.json", "vnet0.json", "vnet1.json"]


def test_a_killed_start_is_repaired_by_the_next_start(hooks: Hooks) -> None:
    step = 1
    while killed(hooks, step, "start"):
        assert hooks.call("qemu", "guesta", "start", "begin", START) == (0, "")
        exact(hooks)
        step += 1
        assert hooks.call("qemu", "guesta", "release", "end", START) == (0, "")
        assert (hooks.chains(), hooks.receipts()) == ([], [])
    assert step > 10, "the start was hardly ever killed"


def test_a_killed_start_is_cleaned_up_by_its_release(hooks: Hooks) -> None:
    step = 1
    while killed(hooks, step, "start"):
        assert hooks.call("qemu", "guesta", "release", "end", START) == (0, "")
        assert (hooks.chains(), hooks.receipts()) == ([], [])
        step += 1
    assert step > 10


def test_a_killed_reconnect_leaves_the_guest_guarded(hooks: Hooks) -> None:
    assert hooks.call("qemu", "guesta", "start", "begin", START) == (0, "")
    step = 1
    while killed(hooks, step, "reconnect"):
        exact(hooks)
        step += 1
    exact(hooks)
    assert step > 10


def test_a_killed_repair_of_many_is_made_good_by_the_next(hooks: Hooks) -> None:
    names = [recorded(hooks, number) for number in range(1, 4)]
    taps = sorted(f"v{number}{which}" for number in range(1, 4) for which in "ab")
    step, got_on = 1, True
    while got_on:
        spool = "mkdir -p /run/libvirt-guestnet/reconnect; cd /run/libvirt-guestnet/reconnect; touch $*"
        hooks.box.ok("sh", "-c", spool, "sh", *names)
        got_on = hooks.box.run("sh", "-c", *REPAIR, KILLED_REPAIR, str(step)).stdout != b"done\n"
        assert hooks.chains() in ([], taps), "all or nothing"
        assert repaired(hooks, *names) == ["transaction"]
        assert hooks.chains() == taps
        assert len(hooks.receipts()) == len(names) + len(taps)
        hooks.box.ok("sh", "-c", f"{SETTLED}; nft delete table netdev guestnet; rm -r /run/libvirt-guestnet")
        step += THIRD
    assert step > 10, "the repair was hardly ever killed"


def test_what_a_killed_release_leaves_is_swept_by_anybodys_call(hooks: Hooks) -> None:
    hooks.box.add_taps("other0", "other1")
    step, going = 1, True
    while going:
        assert hooks.call("qemu", "guesta", "start", "begin", START) == (0, "")
        for tap in ("vnet0", "vnet1"):
            hooks.box.ok("ip", "link", "del", tap)
        going = killed(hooks, step, "release")
        assert hooks.call("qemu", "other", "start", "begin", PLAIN) == (0, "")
        assert hooks.chains() == []
        assert set(hooks.receipts()) <= {f"{UUID}.json"}, (
            "at most an empty list of taps, until that guest or a sync comes"
        )
        hooks.box.add_taps("vnet0", "vnet1")
        step += 1
    assert step > 10
    assert hooks.receipts() == []


def test_starts_side_by_side_lose_nothing(hooks: Hooks) -> None:
    taps = [f"side{number}" for number in range(16)]
    hooks.box.add_taps(*taps)
    path = str(hooks.root / "etc/libvirt/hooks/qemu.d/50-guestnet")
    calls = []
    for number in range(0, 16, 2):
        xml = START.replace(b"61000001-", b"6200%04d-" % number)
        xml = xml.replace(b"vnet0", taps[number].encode()).replace(b"vnet1", taps[number + 1].encode())
        argv = ["nsenter", "-t", hooks.box.pid, "--net", "--mount", "--", path, f"g{number}", "start", "begin", "-"]
        calls.append(subprocess.Popen(argv, stdin=subprocess.PIPE, stderr=subprocess.PIPE))
        calls[-1].stdin.write(xml)
        calls[-1].stdin.close()
    assert [call.wait(30) for call in calls] == [0] * 8
    for call in calls:
        call.stderr.close()
    assert hooks.chains() == sorted(taps)
    assert len(hooks.receipts()) == 8 + 16
