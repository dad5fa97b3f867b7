"""A virtual router from its topology file to packets, on a real libvirtd: applied, changed live, asked, killed,
replaced and destroyed. One router and one guest boot; the tests are in the order of their lives."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.lab import Lab
from support.sandboxes import LIBVIRTS, hooked

from libvirt_guestnet.guest import image
from libvirt_guestnet.router.image import ensure_router_image
from libvirt_guestnet.sandbox import Sandbox, python_inside

TOPOLOGY = """
name: rt
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
    tiers:
      inside:
        egress: deny
        except: [{ services: [tcp/80] }]
        source-nat: [203.0.113.10, "2001:db8:113::10"]
    public: { internet: { addresses: [203.0.113.2, "2001:db8:113::2"], gateways: [203.0.113.1, "2001:db8:113::1"] } }
guests:
  web: { image: tiny, ports: [{ network: inside }] }
expect:
  - { from: web, to: wan, can: [tcp/80], cannot: [tcp/25], seen-as: edge.internet }
"""
WITH_PING = TOPOLOGY.replace("services: [tcp/80]", "services: [icmp, tcp/80]")
WITH_MORE = WITH_PING.replace("tcp/80] }]", "tcp/80] }, { services: [tcp/25] }]")
MAP = ("--map", "wan=lan-wan")
_LINES = "^user|^group|^dynamic_ownership|^remember_owner"
AS_BY_DEFAULT = ["sed", "-E", "-i", f"/{_LINES}/d", "/etc/libvirt/qemu.conf"]
FOLDER = "/var/lib/libvirt-guestnet/routers/edge"
SOON = 240.0


class RouterLab(Lab):
    def __init__(self, sandbox: Sandbox, path: Path) -> None:
        super().__init__(sandbox, path)
        path.write_text(TOPOLOGY)

    def said(self, *argv: str, status: int = 0, stdin: str = "") -> str:
        """What a command prints, which ends with that status."""
        done = self.guestnet(*argv, stdin=stdin or self.topology.read_text())
        assert done.returncode == status, (argv, done.stdout, done.stderr)
        return done.stdout

    def rows(self, *argv: str, status: int = 0) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.said(*argv, "--json", status=status))
        return found

    def apply(self, text: str) -> str:
        self.topology.write_text(text)
        done = self.guestnet("apply", *MAP, "-")
        assert (done.returncode, "does not answer" in done.stderr) == (0, False), done.stdout + done.stderr
        return done.stdout

    def planned(self) -> tuple[int, str]:
        """What a plan says; again while the router, on a busy machine, does not answer in the time that a plan has."""
        deadline = time.monotonic() + SOON
        while "does not answer" in (done := self.guestnet("plan", *MAP, "-")).stdout:
            assert time.monotonic() < deadline, done.stdout
        return done.returncode, done.stdout

    def row(self) -> dict[str, Any]:
        """The router's row of `status`; again while it does not answer."""
        deadline = time.monotonic() + SOON
        while True:
            (row,) = [each for each in self.rows("status") if each["kind"] == "router"]
            if row["document"] and "no DHCP offer" not in row["health"]:
                return row
            assert time.monotonic() < deadline, row

    def qemu(self) -> str:
        return self.sandbox.run(["cat", "/run/libvirt/qemu/edge.pid"]).stdout.strip()

    def soon_healthy(self) -> float:
        """The seconds until all that is tried of it succeeds."""
        began = time.monotonic()
        while (done := self.guestnet("router", "health", "edge")).returncode != 0:
            assert time.monotonic() < began + SOON, done.stdout + done.stderr
        return time.monotonic() - began


@pytest.fixture(scope="module", params=LIBVIRTS)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """QEMU runs as the user that libvirt has for it, and libvirt gives disks to that one, as on a default host."""
    with hooked(request, "router", AS_BY_DEFAULT) as running:
        yield running


@pytest.fixture(scope="module")
def lab(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterLab]:
    image.ensure_image()
    ensure_router_image()
    lab = RouterLab(sandbox, tmp_path_factory.mktemp("router") / "rt.yaml")
    up = lab.guestnet("lab", "up", "--here", "-")
    assert up.returncode == 0, up.stdout + up.stderr
    print(up.stderr)
    yield lab


def test_apply_makes_a_router_that_serves(lab: RouterLab) -> None:
    assert lab.said("apply", *MAP, "-") == "nothing to do\n"
    assert [row for row in lab.verify() if row["result"] != "ok"] == []
    lab.soon_healthy()
    tried = {(each["network"], each["check"]): each["ok"] for each in lab.rows("router", "health", "edge")}
    assert tried == {("inside", check): True for check in ("dhcp", "gateway", "dns", "nat")}


def test_status_and_show(lab: RouterLab) -> None:
    row = lab.row()
    assert (row["guest"], row["active"], row["document"], row["health"]) == ("edge", True, "in force", "serves")
    assert re.search(r"^rt +edge +yes +in force +\d+ +\d+ +\S", lab.said("status"), re.MULTILINE)
    (shown,) = lab.rows("router", "show", "edge")
    assert (shown["document"], shown["on_disk"], shown["trouble"]) == ("in force", shown["in_force"], [])
    nics = {each["nic"]: (each["network"], each["addresses"][0]) for each in shown["nics"]}
    assert nics["eth0"] == ("inside", "10.71.1.1/24")
    assert nics["eth2"] == ("internet", "203.0.113.2/24")
    assert nics["eth1"][1].startswith("169.254.")
    assert "document: in force" in lab.said("router", "show", "edge")


def test_leases_and_rules(lab: RouterLab) -> None:
    leases = lab.rows("router", "leases", "edge")
    assert {each["name"] for each in leases} >= {"web", "router-health"}
    assert " web" in lab.said("router", "leases", "edge")
    met = {each["rule"]: each["packets"] for each in lab.rows("router", "rules", "edge")}
    assert met["egress-inside" if "egress-inside" in met else "egress-eth0"] >= 1
    assert "table inet guestnet {" in lab.said("router", "rules", "edge", "--nft")


@pytest.mark.parametrize("name", ["web", "nobody", "../edge"])
def test_what_is_no_router(lab: RouterLab, name: str) -> None:
    done = lab.guestnet("router", "show", name)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"libvirt has no virtual router '{name}' of guestnet's" in done.stderr


def test_qemu_can_read_the_document_and_not_change_it(lab: RouterLab) -> None:
    owners = lab.sandbox.run(["stat", "-c", "%a %u", FOLDER, f"{FOLDER}/config", f"{FOLDER}/leases"]).stdout.split("\n")
    user = lab.sandbox.run(["stat", "-c", "%u", f"/proc/{lab.qemu()}"]).stdout.strip()
    assert owners[:3] == ["710 0", "640 0", f"600 {user}"]
    assert user != "0"


def test_a_rule_is_changed_under_pings_with_none_lost(lab: RouterLab) -> None:
    assert "configure router edge: rules (" in lab.apply(WITH_PING)
    before = {each["rule"]: each["packets"] for each in lab.rows("router", "rules", "edge")}
    with lab.pings("web", "203.0.113.1", 60) as pings:
        assert "configure router edge: rules (" in lab.apply(WITH_MORE)
        assert "configure router edge: rules (" in lab.apply(WITH_PING)
        assert pings.stdout is not None and pings.stdout.read().split() == ["60", "60"]
    after = {each["rule"]: each["packets"] for each in lab.rows("router", "rules", "edge")}
    assert all(after[name] >= packets for name, packets in before.items()), "a counter began again"


def test_a_plan_finds_what_was_changed_by_hand(lab: RouterLab) -> None:
    spoil = (
        "from libvirt_guestnet.router import disks, folder; p = folder.disk('edge', 'config'); "
        "disks.write(p, disks.read(p).replace(b'dport 80 ', b'dport 81 '))"
    )
    lab.sandbox.run(python_inside(["-c", spoil], lab.sandbox.root))
    status, line = lab.planned()
    assert status == 3
    assert re.fullmatch(r"configure router edge: rules \(\+([0-9]), -\1\)\n", line)
    assert lab.row()["document"] == "other in force"
    assert lab.said("apply", *MAP, "-") == f"{line}1 change made\n"
    assert lab.planned() == (0, "nothing to do\n")


def test_a_router_that_hangs_holds_up_no_plan(lab: RouterLab) -> None:
    lab.sandbox.run(["kill", "-STOP", lab.qemu()])
    try:
        began = time.monotonic()
        plan = lab.guestnet("plan", *MAP, "-")
        assert (plan.returncode, plan.stdout) == (0, "note: " + plan.stdout.removeprefix("note: "))
        assert "router 'edge' runs and does not answer" in plan.stdout
        print(f"a plan beside a router that hangs took {time.monotonic() - began:.1f} s")
        tried = lab.rows("router", "health", "edge", status=3)
        assert [(each["check"], each["ok"], each["detail"]) for each in tried] == [("dhcp", False, "no DHCP offer")]
    finally:
        lab.sandbox.run(["kill", "-CONT", lab.qemu()])
    lab.soon_healthy()


def _health_ports(lab: RouterLab) -> list[str]:
    devices = lab.sandbox.run(["ls", "/sys/class/net"]).stdout.split()
    receipts = lab.sandbox.run(["sh", "-c", "ls /run/libvirt-guestnet/ports; nft list table netdev guestnet"]).stdout
    return [name for name in devices if name.startswith("ghp")] + re.findall(r"\bghp[0-9a-f]{8}\b", receipts)


def test_trying_health_leaves_nothing_also_when_it_is_killed(lab: RouterLab) -> None:
    assert _health_ports(lab) == []
    lab.sandbox.run(["kill", "-STOP", lab.qemu()])
    try:
        command = lab.sandbox.python(["-m", "libvirt_guestnet.cli", "router", "health", "edge"])
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as trying:
            _soon(lambda: any(name.startswith("ghp") for name in _health_ports(lab)), "its port is there")
            trying.kill()  # nsenter's death is its child's, too
            trying.wait(60)
    finally:
        lab.sandbox.run(["kill", "-CONT", lab.qemu()])
    devices = lab.sandbox.run(["ls", "/sys/class/net"]).stdout
    _soon(lambda: "ghp" not in lab.sandbox.run(["ls", "/sys/class/net"]).stdout, f"no device is left: {devices}")
    lab.said("hooks", "sync")
    assert _health_ports(lab) == []
    lab.soon_healthy()


def _soon(true: Any, what: str) -> None:
    deadline = time.monotonic() + SOON
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_a_killed_router_comes_back_with_its_leases(lab: RouterLab) -> None:
    before, qemu = lab.rows("router", "leases", "edge"), lab.qemu()
    lab.sandbox.run(["kill", "-KILL", qemu])
    _soon(lambda: _state(lab).startswith("running") and lab.qemu() != qemu, "libvirt was asked to start it")
    print(f"killed, it is healthy again after {lab.soon_healthy():.1f} s")
    assert _known(before) <= _known(lab.rows("router", "leases", "edge"))
    _soon(lambda: lab.sandbox.run(["ls", "/run/libvirt-guestnet/reviving"]).stdout == "", "its note is gone")


def _state(lab: RouterLab) -> str:
    return lab.sandbox.run(["virsh", "-q", "domstate", "edge"], check=False).stdout.strip()


def _known(leases: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(each["client"], each["address"]) for each in leases}


def test_replaced_it_has_its_leases_and_mac_addresses(lab: RouterLab) -> None:
    before, macs = lab.rows("router", "leases", "edge"), lab.virsh("domiflist", "edge")
    with lab.pings("web", "203.0.113.1", 240) as pings:
        (done,) = lab.rows("router", "replace", "edge")
        assert pings.stdout is not None
        sent, received = map(int, pings.stdout.read().split())
    print(f"replaced in {done['seconds']} s; {(sent - received) / 4:.1f} s of pings lost")
    assert sent == 240 and received > 0
    lab.soon_healthy()
    assert _known(before) <= _known(lab.rows("router", "leases", "edge"))
    assert re.findall("52:54:[0-9a-f:]+", macs) == re.findall("52:54:[0-9a-f:]+", lab.virsh("domiflist", "edge"))


def test_destroyed_it_stays_off_and_apply_starts_it(lab: RouterLab) -> None:
    lab.virsh("destroy", "edge")
    _soon(lambda: lab.sandbox.run(["ls", "/run/libvirt-guestnet/reviving"]).stdout == "", "it was asked why")
    assert _state(lab) == "shut off"
    assert lab.rows("router", "health", "edge", status=3)[0]["detail"] == "it does not run"
    assert {each["name"] for each in lab.rows("router", "leases", "edge")} >= {"web"}
    assert lab.said("plan", *MAP, "-", status=3) == "start router edge\n"
    assert lab.said("apply", *MAP, "-") == "start router edge\n1 change made\n"
    lab.soon_healthy()


def test_destroy_leaves_nothing(lab: RouterLab) -> None:
    down = lab.said("lab", "down", "--here", "-")
    assert "remove router edge" in down
    assert lab.virsh("list", "--all", "--name").strip() == ""
    assert lab.sandbox.run(["ls", "-A", "/var/lib/libvirt-guestnet"], check=False).stdout == ""
    assert lab.sandbox.run(["find", "/run/libvirt-guestnet", "-name", "*.json"]).stdout == ""
