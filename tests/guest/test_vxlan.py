"""labs/vxlan.yaml on two hosts: sandboxes joined by a cable, with real guests on both."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.lab import LABS, Lab

from libvirt_guestnet import sandbox as sandboxes
from libvirt_guestnet.guest import image
from libvirt_guestnet.sandbox import Sandbox
from libvirt_guestnet.topology import loads

LEFT = (LABS / "vxlan.yaml").read_text()
_SWAPS = {
    "red1": "red2",
    "blue1": "blue2",
    "10.63.1.11": "10.63.1.12",
    "10.63.1.1,": "10.63.1.2,",
    "fd63:1::11": "fd63:1::12",
    '"fd63:1::1"': '"fd63:1::2"',
    "remotes: [198.18.7.1]": "remotes: [198.18.7.2]",
    'remotes: ["fd61:17::1"]': 'remotes: ["fd61:17::2"]',
}


class Hosts(NamedTuple):
    left: Lab
    right: Lab


def _left() -> str:
    """The lab without the guest that is on the other host here, and without its checks."""
    return "".join(f"{line}\n" for line in LEFT.partition("\nexpect:")[0].splitlines() if "red2:" not in line)


def _right() -> str:
    text = _left()
    for old, new in _SWAPS.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def _cable(left: Sandbox, right: Sandbox) -> None:
    """under0 on both hosts, the two ends of one veth pair; the left is .2 and the right .1 for each other."""
    peer = f"/proc/{right.first.pid}/ns/net"
    inside = ["nsenter", f"--net=/proc/{left.first.pid}/ns/net"]
    for argv in (
        [*inside, *f"ip link add under0 type veth peer name under0 netns {peer}".split()],
        left.command(["ip", "address", "add", "198.18.7.2/24", "dev", "under0"]),
        left.command(["ip", "address", "add", "fd61:17::2/64", "dev", "under0", "nodad"]),
        right.command(["ip", "address", "add", "198.18.7.1/24", "dev", "under0"]),
        right.command(["ip", "address", "add", "fd61:17::1/64", "dev", "under0", "nodad"]),
        left.command(["ip", "link", "set", "under0", "up"]),
        right.command(["ip", "link", "set", "under0", "up"]),
    ):
        subprocess.run(argv, check=True, timeout=120)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    image.ensure_image()
    install = sandboxes.python_inside(["-m", "libvirt_guestnet.cli", "hooks", "install", "--any-owner"])
    with ExitStack() as running:
        boxes = [
            running.enter_context(sandboxes.start(f"vxlan-{side}-{os.getpid()}", prepare=[install]))
            for side in ("left", "right")
        ]
        _cable(*boxes)
        labs = []
        for box, text in zip(boxes, (_left(), _right()), strict=True):
            file = tmp_path_factory.mktemp("vxlan") / "vxlan.yaml"
            file.write_text(text)
            lab = Lab(box, file)
            up = lab.guestnet("lab", "up", "--here", "--map", "core=under0", "-")
            assert up.returncode == 0, up.stdout + up.stderr
            labs.append(lab)
        yield Hosts(*labs)


class Watch:
    """What passes on the left host's underlay while the block runs; `seen` afterwards."""

    def __init__(self, lab: Lab) -> None:
        argv = lab.sandbox.python([str(Path(__file__).parents[1] / "support/underlay.py"), "under0"])
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.seen: dict[str, Any] = {}

    def __enter__(self) -> Watch:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "watching\n"
        return self

    def __exit__(self, *_: object) -> None:
        out, _err = self.process.communicate(timeout=120)
        self.seen = json.loads(out)


@pytest.mark.parametrize(
    ("guest", "address", "size", "vni"),
    [
        ("red1", "10.63.1.2", 1450 - 28, "5001"),
        ("red1", "fd63:1::2", 1450 - 48, "5001"),
        ("blue1", "10.63.1.12", 1430 - 28, "5002"),
        ("blue1", "fd63:1::12", 1430 - 48, "5002"),
    ],
)
def test_full_size_packets_pass_in_one_piece(hosts: Hosts, guest: str, address: str, size: int, vni: str) -> None:
    assert "None" not in hosts.left.agent(guest, f"neighbour({address!r}, timeout=60)")  # guests may run slowly
    with Watch(hosts.left) as watch:
        answer = hosts.left.agent(guest, f"ping({address!r}, count=5, timeout=60, size={size})")
    assert "received=5" in answer
    # What else guests say by themselves is short; 1500 is all that the underlay takes.
    assert {vni for vni, longest in watch.seen["longest"].items() if longest > 300} == {vni}
    assert (watch.seen["longest"][vni], watch.seen["fragments"]) == (1500, 0)


def test_tcp_fills_the_packets(hosts: Hosts) -> None:
    assert "open" in hosts.left.agent("red1", "tcp('10.63.1.2', 80)")


@pytest.mark.parametrize("address", ["10.63.1.12", "fd63:1::12"])
def test_nothing_crosses_from_one_vni_to_another(hosts: Hosts, address: str) -> None:
    with Watch(hosts.left) as watch:
        assert "received=0" in hosts.left.agent("red1", f"ping({address!r}, count=3)")
        assert "None" in hosts.left.agent("red1", f"neighbour({address!r})")
    mine = loads(_left(), "left").guest("red1").ports[0].mac
    assert {vni for vni, macs in watch.seen["senders"].items() if mine in macs} == {"5001"}  # tried, and not crossed


def test_plain_virsh_stops_and_starts_the_network(hosts: Hosts) -> None:
    lab = hosts.right
    lab.virsh("destroy", "red2")
    lab.virsh("net-destroy", "red")
    assert not lab.sandbox.run(["ip", "link", "show", "vx5001"], check=False).stdout
    lab.virsh("net-start", "red")
    lab.virsh("start", "red2")
    lab.await_guest("red2")
    assert "received=2" in hosts.left.agent("red1", "ping('10.63.1.2', count=2, timeout=5)")
