"""Routes to taps and published neighbours in a real kernel, seen with iproute2."""

from __future__ import annotations

import json
import select
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.taps import ip

from libvirt_guestnet.datapath.routing import routes
from libvirt_guestnet.datapath.routing.routes import HostRoutes, ProxyEntry, Route
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.enforce import host_routes
from libvirt_guestnet.state.locked import LockedState, UnlockedState

A = HostRoutes(
    tap="vme0a",
    uuid="u-a",
    domain="a",
    routes=(
        Route("192.0.2.10/32", "vme0a"),
        Route("198.51.100.0/28", "vme0a", via="192.0.2.10"),
        Route("2001:db8::a/128", "vme0a"),
        Route("2001:db8:a::/48", "vme0a", via="2001:db8::a"),
    ),
    published=(ProxyEntry("192.0.2.10", "up0"), ProxyEntry("2001:db8::a", "up0")),
)
B = HostRoutes("vme0b", "u-b", "b", (Route("192.0.2.11/32", "vme0b", table=100),), (ProxyEntry("192.0.2.11", "up0"),))


@pytest.fixture
def host(namespace: None) -> None:
    for command in (
        "link add up0 type veth peer name x0",
        "address add 192.0.2.1/24 dev up0",
        "address add 2001:db8::1/64 dev up0 nodad",
        "link set x0 up",
        "link set up0 up",
        *(f"tuntap add {tap} mode tap" for tap in ("vme0a", "vme0b")),
        *(f"link set {tap} up" for tap in ("vme0a", "vme0b")),
    ):
        ip(command)


@pytest.fixture
def state(host: None, tmp_path: Path) -> Iterator[LockedState]:
    with UnlockedState(str(tmp_path)).lock() as locked:
        yield locked


def routed() -> set[str]:
    """PREFIX via GATEWAY dev DEVICE of every route of ours, in whatever table."""
    found = set()
    for family in ("-4", "-6"):
        for route in json.loads(ip(f"-j {family} route show table all proto 71") or "[]"):
            via = f" via {route['gateway']}" if "gateway" in route else ""
            table = f" table {route['table']}" if route.get("table", "main") != "main" else ""
            found.add(f"{route['dst']}{via} dev {route['dev']}{table}")
    return found


def published() -> set[str]:
    entries = [e for family in ("-4", "-6") for e in json.loads(ip(f"-j {family} neigh show proxy") or "[]")]
    return {f"{entry['dst']} dev {entry['dev']}" for entry in entries}


A_ROUTES = {
    "192.0.2.10 dev vme0a",
    "198.51.100.0/28 via 192.0.2.10 dev vme0a",
    "2001:db8::a dev vme0a",
    "2001:db8:a::/48 via 2001:db8::a dev vme0a",
}
A_PUBLISHED = {"192.0.2.10 dev up0", "2001:db8::a dev up0"}
B_ROUTES, B_PUBLISHED = {"192.0.2.11 dev vme0b table 100"}, {"192.0.2.11 dev up0"}


def test_routes_and_published_neighbours_come_and_go(state: LockedState) -> None:
    host_routes.ensure("u-a", [A], state)
    host_routes.ensure("u-b", [B], state)
    host_routes.ensure("u-a", [A], state)
    assert (routed(), published()) == (A_ROUTES | B_ROUTES, A_PUBLISHED | B_PUBLISHED)
    assert {each.tap for each in state.host_routes()} == {"vme0a", "vme0b"}
    host_routes.delete("u-a", state)
    host_routes.delete("u-a", state)
    assert (routed(), published()) == (B_ROUTES, B_PUBLISHED)
    host_routes.delete_all(state)
    assert (routed(), published(), state.host_routes()) == (set(), set(), [])


def test_flags_are_those_of_the_virtuozzo_guide(state: LockedState) -> None:
    host_routes.ensure("u-a", [A], state)
    (line,) = [
        line.split() for line in Path("/proc/thread-self/net/arp").read_text().splitlines() if "192.0.2.10" in line
    ]
    # What `arp -n` prints as MP: permanent and published (ATF_PERM, ATF_PUBL).
    assert (int(line[2], 16), line[5]) == (0x04 | 0x08, "up0")


def test_what_the_host_sends_to_a_guest_does_not_come_from_the_gateway_address(state: LockedState) -> None:
    ip("address add 169.255.30.1/32 dev vme0a scope link")
    host_routes.ensure("u-a", [A], state)
    assert json.loads(ip("-j route get 192.0.2.10"))[0]["prefsrc"] == "192.0.2.1"
    # When the host's address changes, the route stays: a `src` in it would have taken it away.
    ip("address del 192.0.2.1/24 dev up0")
    ip("address add 192.0.2.2/24 dev up0")
    assert json.loads(ip("-j route get 192.0.2.10"))[0]["prefsrc"] == "192.0.2.2"


def test_a_change_leaves_what_stays_alone(state: LockedState) -> None:
    host_routes.ensure("u-a", [A], state)
    with subprocess.Popen(["stdbuf", "-oL", "ip", "monitor", "route"], stdout=subprocess.PIPE, text=True) as monitor:
        _heard_until(monitor, "192.0.2.250")
        less = A._replace(routes=A.routes[:1], published=A.published[:1])
        host_routes.ensure("u-a", [less], state)
        heard = _heard_until(monitor, "192.0.2.251")
        monitor.kill()
    assert len(heard) == 3
    assert all(line.startswith("Deleted") for line in heard), heard
    assert (routed(), published()) == ({"192.0.2.10 dev vme0a"}, {"192.0.2.10 dev up0"})


def _heard_until(monitor: subprocess.Popen[str], mark: str) -> list[str]:
    """The lines before the route to `mark` shows up, which comes and goes until the monitor has heard of it."""
    assert monitor.stdout is not None
    heard: list[str] = []
    while not any(mark in line for line in heard):
        ip(f"route add blackhole {mark}")
        ip(f"route delete blackhole {mark}")
        while select.select([monitor.stdout], [], [], 0.1)[0]:
            heard.append(monitor.stdout.readline())
    return [line for line in heard if "blackhole" not in line]


@pytest.mark.parametrize(("family", "foreign"), [("-4", "192.0.2.10"), ("-6", "2001:db8::a")])
def test_a_route_of_somebody_else_is_never_replaced(state: LockedState, family: str, foreign: str) -> None:
    ip(f"route add {foreign} dev up0")
    with pytest.raises(GuestnetError, match=r"domain 'a': .* is routed elsewhere on this host already"):
        host_routes.ensure("u-a", [A], state)
    host_routes.delete("u-a", state)
    assert (routed(), published(), state.host_routes()) == (set(), set(), [])
    assert f"{foreign} dev up0" in ip(f"{family} route show {foreign}")


def test_another_guests_address_is_refused_and_stays_published(state: LockedState) -> None:
    host_routes.ensure("u-a", [A], state)
    thief = A._replace(tap="vme0b", uuid="u-b", domain="b", routes=(Route("192.0.2.10/32", "vme0b"),))
    with pytest.raises(GuestnetError, match="routed elsewhere"):
        host_routes.ensure("u-b", [thief], state)
    host_routes.delete("u-b", state)
    assert (routed(), published()) == (A_ROUTES, A_PUBLISHED)


def test_a_lost_tap_is_swept_and_its_name_can_be_used_again(state: LockedState) -> None:
    host_routes.ensure("u-a", [A], state)
    ip("link delete vme0a")
    assert (routed(), published()) == (set(), A_PUBLISHED)
    host_routes.sweep(state)
    assert (published(), state.host_routes()) == (set(), [])
    host_routes.ensure("u-a", [A._replace(tap="vme0b", routes=())], state)
    host_routes.ensure("u-c", [A._replace(tap="vme0b", uuid="u-c", routes=(), published=())], state)
    host_routes.delete("u-a", state)
    assert [each.uuid for each in state.host_routes()] == ["u-c"]
    assert published() == set()


def test_routes_without_a_receipt_are_found(state: LockedState) -> None:
    ip("route add 192.0.2.77 dev vme0b proto 71")
    ip("route add 192.0.2.78 dev vme0b proto static")
    host_routes.ensure("u-a", [A], state)
    host_routes.tidy(state)
    assert routed() == A_ROUTES
    assert "192.0.2.78" in ip("route show")


def test_a_missing_device_is_named(state: LockedState) -> None:
    with pytest.raises(GuestnetError, match="device nothere does not exist on this host"):
        routes.put(A._replace(published=(ProxyEntry("192.0.2.10", "nothere"),)))
