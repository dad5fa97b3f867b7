"""A hook killed at any of its steps while it opens or closes forwards: the next call of any guest makes them exact."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.box import Box
from support.hooks import PLAIN, Hooks
from support.kernel_lan import FLOAT, FORWARDS, start
from support.killed import THIRD, command

XML = start(FORWARDS + FLOAT)


@pytest.fixture
def hooks(tmp_path: Path) -> Iterator[Hooks]:
    box = Box()
    box.ok("ip", "link", "add", "virbr1", "type", "bridge")
    for tool in ("iptables", "ip6tables"):
        box.ok(tool, "-P", "FORWARD", "DROP")
    box.add_taps("vnet0", "vnet1")
    yield Hooks(box, tmp_path)
    box.close()


def killed(hooks: Hooks, step: int, operation: str) -> bool:
    """Whether the call got as far as that step."""
    done = hooks.box.run(*command(step, "qemu", "guesta", operation), stdin=XML)
    assert done.stdout in (b"137\n", b"0\n"), done.stderr
    return done.stdout == b"137\n"


def rules(hooks: Hooks) -> str:
    """Everything but the ports' own guards."""
    tables = [line for line in hooks.box.ok("nft", "list", "tables").splitlines() if "netdev" not in line]
    return "\n".join(hooks.box.ok("nft", "-s", "list", *line.split()) for line in tables)


def opened(hooks: Hooks) -> str:
    assert hooks.call("qemu", "guesta", "start", "begin", XML) == (0, "")
    assert hooks.call("qemu", "guesta", "started", "begin", XML) == (0, "")
    found = rules(hooks)
    assert "198.18.1.50" in found
    assert "GUESTNET-FORWARD" in found
    return found


def test_a_killed_opening_is_repaired_by_anybodys_call(hooks: Hooks) -> None:
    hooks.box.add_taps("other0", "other1")
    before = rules(hooks)
    wanted = opened(hooks)
    step, going = 1, True
    recorded: list[bool] = []
    while going:
        assert hooks.call("qemu", "guesta", "release", "end", XML) == (0, "")
        assert (rules(hooks), hooks.receipts()) == (before, [])
        assert hooks.call("qemu", "guesta", "start", "begin", XML) == (0, "")
        going = killed(hooks, step, "started")
        assert hooks.call("qemu", "other", "started", "begin", PLAIN) == (0, "")
        # Killed before anything was recorded, it is as if nobody had said yet that the guest is there.
        active = '"active": true' in hooks.box.ok("cat", "/run/libvirt-guestnet/forwards/vnet1.json")
        assert rules(hooks) == (wanted if active else before)
        recorded.append(active)
        step += THIRD
    assert step > 10, "it was hardly ever killed"
    assert recorded == sorted(recorded)
    assert recorded.count(True) > 2


def test_a_killed_closing_is_finished_by_anybodys_call(hooks: Hooks) -> None:
    hooks.box.add_taps("other0", "other1")
    before = rules(hooks)
    step, going = 1, True
    while going:
        opened(hooks)
        for tap in ("vnet0", "vnet1"):
            hooks.box.ok("ip", "link", "del", tap)
        going = killed(hooks, step, "release")
        assert hooks.call("qemu", "other", "release", "end", PLAIN) == (0, "")
        assert rules(hooks) == before
        hooks.box.add_taps("vnet0", "vnet1")
        step += THIRD
    assert step > 10


def test_a_killed_repair_is_repaired(hooks: Hooks) -> None:
    wanted, step = opened(hooks), 1
    hooks.box.ok("nft", "delete", "table", "inet", "guestnet")
    while killed(hooks, step, "reconnect"):
        assert hooks.call("qemu", "guesta", "reconnect", "begin", XML) == (0, "")
        assert rules(hooks) == wanted
        hooks.box.ok("nft", "delete", "table", "inet", "guestnet")
        step += THIRD
    assert step > 10
    assert rules(hooks) == wanted
