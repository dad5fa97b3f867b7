"""Two virtual routers that stand in for each other, from a topology file to packets, on a real libvirtd."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.lab import Lab

from libvirt_guestnet.guest import image
from libvirt_guestnet.router.image import ensure_router_image
from libvirt_guestnet.sandbox import Sandbox

TOPOLOGY = """
name: twins
physical-networks:
  wan: { subnets: [203.0.113.0/24, "2001:db8:113::/64"], stand-in: [203.0.113.1, "2001:db8:113::1"] }
networks:
  inside:
    mode: isolated
    subnets: [10.71.1.0/24, "fd71:1::/64"]
    dhcp: { range: [10.71.1.100, 10.71.1.150] }
    domain: inside.example
  internet: { mode: bridge, physical-network: wan }
routers:
  edge:
    redundant: true
    tiers:
      inside: { egress: allow, source-nat: [203.0.113.10, "2001:db8:113::10"] }
    public: { internet: { addresses: [203.0.113.2, "2001:db8:113::2"], gateways: [203.0.113.1, "2001:db8:113::1"] } }
guests:
  web: { image: tiny, ports: [{ network: inside }] }
expect:
  - { from: web, to: wan, can: [tcp/80] }
"""
MAP = ("--map", "wan=lan-wan")
BOTH = ("edge", "edge-2")
SOON = 240.0


class PairLab(Lab):
    def rows(self, *argv: str) -> list[dict[str, Any]]:
        done = self.guestnet(*argv, "--json", stdin=TOPOLOGY)
        assert done.returncode in (0, 3), (argv, done.stdout, done.stderr)
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    def roles(self) -> dict[str, str]:
        """What each router's health is by `status`."""
        return {row["guest"]: row["health"] for row in self.rows("status") if row["kind"] == "router"}

    def until(self, serving: str) -> None:
        """Until that one serves, and the other one waits."""
        waiting = next(name for name in BOTH if name != serving)
        deadline = time.monotonic() + SOON
        while (found := self.roles()) != {serving: "serves", waiting: "waits"}:
            assert time.monotonic() < deadline, (found, self.log())
            time.sleep(0.5)

    def serving(self) -> str:
        """Once there is one, and another one that waits."""
        deadline = time.monotonic() + SOON
        while sorted((found := self.roles()).values()) != ["serves", "waits"]:
            assert time.monotonic() < deadline, (found, self.log())
        return next(name for name, health in found.items() if health == "serves")

    def qemu(self, router: str) -> str:
        return self.sandbox.run(["cat", f"/run/libvirt/qemu/{router}.pid"]).stdout.strip()

    def up(self) -> set[str]:
        """The routers whose links to guests are up, by the kernel."""
        taps = {name: self.virsh("domiflist", name) for name in BOTH}
        first = {
            name: next(line.split()[0] for line in text.splitlines() if " inside " in line)
            for name, text in taps.items()
        }
        flags = self.sandbox.run(["ip", "-j", "link", "show"]).stdout
        return {
            name
            for name, tap in first.items()
            for each in json.loads(flags)
            if each["ifname"] == tap and "UP" in each["flags"]
        }

    def log(self) -> str:
        return self.sandbox.run(
            ["sh", "-c", "ls /run/libvirt-guestnet/arbitrating; ps ax | grep launch"], check=False
        ).stdout


@pytest.fixture(scope="module")
def lab(hooked_sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PairLab]:
    image.ensure_image()
    ensure_router_image(of_pair=True)
    path = tmp_path_factory.mktemp("pair") / "twins.yaml"
    path.write_text(TOPOLOGY)
    lab = PairLab(hooked_sandbox, path)
    up = lab.guestnet("lab", "up", "--here", "-", stdin=TOPOLOGY)
    assert up.returncode == 0, up.stdout + up.stderr
    print(up.stderr)
    yield lab


def test_one_serves_and_the_other_one_waits(lab: PairLab) -> None:
    lab.until("edge")
    assert lab.up() == {"edge"}
    assert lab.guestnet("plan", *MAP, "-", stdin=TOPOLOGY).stdout == "nothing to do\n"
    assert [row for row in lab.verify() if row["result"] != "ok"] == []


def killed(lab: PairLab, router: str) -> None:
    lab.sandbox.run(["kill", "-KILL", lab.qemu(router)])


def frozen(lab: PairLab, router: str) -> None:
    lab.sandbox.run(["kill", "-STOP", lab.qemu(router)])


def replaced(lab: PairLab, router: str) -> None:
    lab.rows("router", "replace", router)


@pytest.mark.parametrize("harm", [killed, frozen, replaced])
def test_the_other_one_takes_over(lab: PairLab, harm: Callable[[PairLab, str], None]) -> None:
    old = lab.serving()
    new = next(name for name in BOTH if name != old)
    with lab.pings("web", "203.0.113.1", 100) as pings:
        harm(lab, old)
        assert pings.stdout is not None
        sent, received = map(int, pings.stdout.read().split())
    print(f"{harm.__name__}: {(sent - received) / 4:.2f} s of pings lost")
    assert (sent, received > 10) == (100, True), "far less than the 15 s until a router has booted, on a quiet machine"
    lab.until(new)
    assert lab.up() == {new}


def test_a_killed_arbiter_is_followed_by_another(lab: PairLab) -> None:
    arbiter = lab.sandbox.run(["pgrep", "-f", "router/launch.py"]).stdout.split()
    lab.sandbox.run(["kill", "-KILL", *arbiter])
    old = lab.serving()
    lab.guestnet("hooks", "sync")
    killed(lab, old)
    lab.until(next(name for name in BOTH if name != old))


def test_one_that_is_shut_off_stays_so(lab: PairLab) -> None:
    old = lab.serving()
    lab.virsh("destroy", old)
    new = next(name for name in BOTH if name != old)
    deadline = time.monotonic() + SOON
    while lab.roles() != {old: "stopped", new: "serves"}:
        assert time.monotonic() < deadline, lab.roles()
        time.sleep(0.5)
    lab.virsh("start", old)
    lab.until(new)


def test_destroy_leaves_nothing(lab: PairLab) -> None:
    down = lab.guestnet("lab", "down", "--here", "-", stdin=TOPOLOGY)
    assert down.returncode == 0, down.stdout + down.stderr
    assert lab.virsh("list", "--all", "--name").strip() == ""
    deadline = time.monotonic() + SOON
    while lab.sandbox.run(
        ["sh", "-c", "ls -A /run/libvirt-guestnet/arbitrating; pgrep -f 'router/launc[h].py'"], check=False
    ).stdout:
        assert time.monotonic() < deadline
        time.sleep(0.5)
