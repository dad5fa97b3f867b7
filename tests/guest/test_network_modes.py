"""Bridged and host-routed side by side: what the guide says of each, and every lie noticed."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from support.lab import LABS, Lab, lab_up

FAMILIES = ("ipv4", "ipv6")


@pytest.fixture(scope="module")
def modes() -> Iterator[Lab]:
    yield from lab_up("modes", LABS / "network-modes.yaml")


def test_everything_is_as_the_guide_says(modes: Lab) -> None:
    rows = modes.verify()
    assert [row for row in rows if row["result"] != "ok"] == []
    checked = {(row["from"], row["to"], row["check"], row["family"]) for row in rows}
    for family, gateway in zip(FAMILIES, ("169.255.30.1", "fe80::1"), strict=True):
        for statement in (
            ("x", "vm1-bridged", "answered by vm1-bridged"),
            ("vm1-bridged", "x", "answered by x"),
            ("host", "vm1-bridged", "tables nothing"),
            ("x", "vm1-routed", "answered by host"),
            ("host", "vm1-routed", "tables route published"),
            ("vm1-routed", "x", f"gateway {gateway}"),
            ("vm1-routed", "vm2-routed", "via host"),
            ("vm2-bridged", "vm1-routed", "answered by host"),
        ):
            assert (*statement, family) in checked


def test_the_tables_are_printed(modes: Lab) -> None:
    done = modes.guestnet("lab", "verify", "--here", "-")
    assert done.returncode == 0, done.stdout
    table = done.stdout.partition("the server: arp -n")[2]
    assert "    198.18.21.21  *                  MP     lan-x" in table
    assert "vm1-routed: gateways\n    default via 169.255.30.1\n    default via fe80::1" in table


def test_a_second_apply_changes_nothing(modes: Lab) -> None:
    for verb in ("plan", "apply"):
        assert modes.guestnet(verb, "--map", "x=lan-x", "-").stdout == "nothing to do\n"


def test_status_tells_of_the_network_that_libvirt_does_not_know(modes: Lab) -> None:
    status = modes.guestnet("status").stdout
    assert any(line.split()[1:4] == ["host-routed", "host-routed", "-"] for line in status.splitlines())


def routed(lab: Lab) -> dict[object, tuple[object, ...]]:
    """What `guestnet status` says of what the host routes."""
    rows = json.loads(lab.guestnet("status", "--json").stdout)
    return {
        row["prefix"]: (row["guest"], row["routed"], row["uplink"], row["published"])
        for row in rows
        if row["kind"] == "route"
    }


def test_status_tells_what_the_host_routes_and_publishes(modes: Lab) -> None:
    assert routed(modes) == {
        "198.18.21.21/32": ("vm1-routed", True, "lan-x", True),
        "fd61:21::21/128": ("vm1-routed", True, "lan-x", True),
        "198.18.21.22/32": ("vm2-routed", True, "lan-x", True),
        "fd61:21::22/128": ("vm2-routed", True, "lan-x", True),
    }


def test_what_is_not_published_is_noticed(modes: Lab) -> None:
    for address in ("198.18.21.21", "fd61:21::21"):
        modes.sandbox.run(["ip", "neigh", "delete", "proxy", address, "dev", "lan-x"])
    assert routed(modes)["198.18.21.21/32"] == ("vm1-routed", True, "lan-x", False)
    unexpected = modes.unexpected()
    for family in FAMILIES:
        assert f"x > vm1-routed answered by host {family}" in unexpected
        assert f"host > vm1-routed tables route published {family}" in unexpected
    assert modes.guestnet("hooks", "sync").returncode == 0
    assert modes.unexpected() == set()


def test_a_missing_route_is_noticed(modes: Lab) -> None:
    for address in ("198.18.21.22", "fd61:21::22"):
        modes.sandbox.run(["ip", "route", "delete", address])
    assert routed(modes)["fd61:21::22/128"] == ("vm2-routed", False, "lan-x", True)
    unexpected = modes.unexpected()
    for family in FAMILIES:
        assert f"vm1-routed > vm2-routed icmp {family}" in unexpected
        assert f"host > vm2-routed tables route published {family}" in unexpected
    assert modes.guestnet("hooks", "sync").returncode == 0
    assert modes.unexpected() == set()


def test_guests_whose_hooks_are_uninstalled_are_not_routed_to(modes: Lab) -> None:
    assert modes.guestnet("hooks", "uninstall").returncode == 0
    try:
        assert modes.sandbox.run(["ip", "route", "show", "table", "all", "proto", "71"]).stdout == ""
        assert modes.sandbox.run(["ip", "neigh", "show", "proxy"]).stdout == ""
    finally:
        assert modes.guestnet("hooks", "install", "--any-owner").returncode == 0
        assert modes.guestnet("hooks", "sync").returncode == 0
    assert modes.unexpected() == set()


def test_missing_guards_are_noticed(modes: Lab) -> None:
    # The last one on this lab: the forged frames poison everybody's tables.
    modes.sandbox.run(["nft", "delete", "table", "netdev", "guestnet"])
    forged = {row for row in modes.unexpected() if "forged" in row}
    assert {f"vm1-routed.host-routed > anywhere forged {kind}" for kind in ("mac", "arp", "ipv4", "ra")} <= forged
    assert modes.guestnet("hooks", "sync").returncode == 0


def test_nothing_is_left_after_down(modes: Lab) -> None:
    assert modes.guestnet("lab", "down", "--here", "-").returncode == 0
    assert modes.virsh("list", "--all", "--name").strip() == ""
    devices = modes.sandbox.run(["ls", "/sys/class/net"]).stdout.split()
    assert [d for d in devices if d not in ("lo", "bonding_masters")] == []
    assert modes.sandbox.run(["find", "/run/libvirt-guestnet", "-name", "*.json"]).stdout == ""
