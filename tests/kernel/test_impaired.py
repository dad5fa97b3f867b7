"""A port that is to be a bad link, where that cannot be had: its guest starts, and everything else holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.box import Box
from support.hooks import Hooks
from support.kernel_guests import LAN, MAC, PORT, SETUP, TAP, UUID, domain, nic, policy

IMPAIRED = domain(
    "a",
    UUID,
    policy(MAC, "10.61.1.10", '<guestnet:impairment delay="20ms" loss="1%"/>'),
    nic("network", TAP, MAC, PORT),
)
NETEM = "ip link add probe type dummy && tc qdisc add dev probe root netem; done=$?; ip link del probe; exit $done"


@pytest.fixture
def hooks(tmp_path: Path) -> Iterator[Hooks]:
    box = Box()
    box.ok("sh", "-c", SETUP)
    hooks = Hooks(box, tmp_path)
    assert hooks.call("network", "lan", "started", "begin", LAN) == (0, "")
    yield hooks
    box.close()


def root(hooks: Hooks) -> str:
    (found,) = [each for each in json.loads(hooks.box.ok("tc", "-j", "qdisc", "show", "dev", TAP)) if each.get("root")]
    return str(found["kind"])


def receipt(hooks: Hooks) -> dict[str, object]:
    return dict(json.loads(hooks.box.ok("cat", f"/run/libvirt-guestnet/impaired/{TAP}.json")))


def test_a_kernel_without_netem_holds_up_no_guest(hooks: Hooks) -> None:
    has_netem = hooks.box.run("sh", "-c", NETEM).returncode == 0
    before = root(hooks)
    status, said = hooks.call("qemu", "a", "start", "begin", IMPAIRED)
    assert (status, hooks.chains()) == (0, [TAP])
    assert has_netem != (f"tap {TAP} is not impaired: this kernel has no netem: `modprobe sch_netem`" in said), said
    assert (root(hooks), bool(receipt(hooks)["refused"])) == (("netem", False) if has_netem else (before, True))
    assert hooks.call("qemu", "a", "release", "end", IMPAIRED) == (0, "")
    assert f"{TAP}.json" not in hooks.receipts()


def test_a_limit_of_libvirts_stays_in_its_place(hooks: Hooks) -> None:
    hooks.box.ok("tc", "qdisc", "add", "dev", TAP, "root", "handle", "1:", "htb", "default", "1")
    status, said = hooks.call("qemu", "a", "start", "begin", IMPAIRED)
    assert (status, hooks.chains(), root(hooks)) == (0, [TAP], "htb")
    assert f"tap {TAP} is not impaired: a qdisc of somebody else's is there: htb" in said
    plain = IMPAIRED.replace(b'<guestnet:impairment delay="20ms" loss="1%"/>', b"")
    assert hooks.call("qemu", "a", "reconnect", "begin", plain)[0] == 0
    assert (root(hooks), hooks.box.run("ls", f"/run/libvirt-guestnet/impaired/{TAP}.json").returncode) == ("htb", 2)
