"""The routed lab: real guests on routed networks, and one that the host routes through while it runs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest
from support.lab import LABS, Lab, lab_up

VAULT = {"10.65.3.0/24 dev gn-dmz", "fd65:3::/64 dev gn-dmz"}
SECONDS = 20.0


@pytest.fixture(scope="module")
def routed() -> Iterator[Lab]:
    yield from lab_up("routed", LABS / "routed.yaml")


def routes(lab: Lab) -> set[str]:
    """What the host routes for guests."""
    listed = [lab.sandbox.run(["ip", family, "-j", "route", "show", "proto", "71"]).stdout for family in ("-4", "-6")]
    return {f"{route['dst']} dev {route['dev']}" for text in listed for route in json.loads(text or "[]")}


def told(lab: Lab) -> set[tuple[object, ...]]:
    """What `guestnet status` says of what the host routes."""
    rows = json.loads(lab.guestnet("status", "--json").stdout)
    return {(row["guest"], row["port"], row["prefix"], row["routed"]) for row in rows if row["kind"] == "route"}


def accepts(lab: Lab) -> str:
    """What we accept in libvirt's firewall."""
    return "".join(lab.sandbox.run([tool, "-S"]).stdout for tool in ("iptables", "ip6tables"))


def soon(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def kill(lab: Lab, guest: str) -> None:
    pid = lab.sandbox.run(["cat", f"/run/libvirt/qemu/{guest}.pid"]).stdout.strip()
    lab.sandbox.run(["kill", "-9", pid])


def await_guest(lab: Lab, guest: str) -> None:
    lab.python("with connect() as c, run.guest_agent(c, sys.argv[1], run.READY_SECONDS) as a: a.ready(60)", guest)


def test_everything_is_as_expected(routed: Lab) -> None:
    rows = routed.verify()
    bad = [row for row in rows if row["result"] != "ok"]
    print(*bad, sep="\n")
    assert bad == []
    checked = {(row["from"], row["to"], row["family"]) for row in rows}
    for pair in (("campus", "safe"), ("desk", "safe"), ("safe", "campus"), ("campus", "desk")):
        assert {(*pair, "ipv4"), (*pair, "ipv6")} <= checked


def test_a_second_apply_changes_nothing(routed: Lab) -> None:
    assert routed.guestnet("apply", "--map", "campus=lan-campus", "-").stdout == "nothing to do\n"


def test_the_route_goes_when_the_guest_crashes_and_comes_back_with_it(routed: Lab) -> None:
    assert routes(routed) == VAULT
    assert told(routed) == {("edge", "dmz", prefix, True) for prefix in ("10.65.3.0/24", "fd65:3::/64")}
    assert "10.65.3.0/24" in accepts(routed)
    kill(routed, "edge")
    soon(lambda: routes(routed) == set(), "no route is left")
    assert told(routed) == {("edge", "dmz", prefix, None) for prefix in ("10.65.3.0/24", "fd65:3::/64")}
    soon(lambda: "65:3:" not in accepts(routed) and "10.65.3." not in accepts(routed), "nothing is accepted for it")
    assert "10.65.1.0/24" in accepts(routed), "the networks themselves are there still"
    routed.virsh("start", "edge")
    assert routes(routed) == VAULT
    await_guest(routed, "edge")
    assert routed.unexpected() == set()


def test_a_guest_that_crashes_without_a_daemon_leaves_nothing_either(routed: Lab) -> None:
    routed.sandbox.stop_libvirtd()
    kill(routed, "edge")
    assert routes(routed) == VAULT, "nobody was there to see it"
    routed.sandbox.start_libvirtd()
    soon(lambda: routes(routed) == set() and "10.65.3." not in accepts(routed), "the daemon tells us")
    routed.virsh("start", "edge")
    await_guest(routed, "edge")
