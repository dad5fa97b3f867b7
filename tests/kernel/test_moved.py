"""NICs plugged into running guests, and moved from network to network: routes and forwards go to where they are."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.box import Box
from support.kernel_guests import NEW_PORT, SETUP, domain, nic, policy, port_created
from support.kernel_host import Host
from support.killed import ALTERED_CALL

from libvirt_guestnet.sandbox import python_inside

TAP, MAC, UUID = "vme0b", "52:54:00:00:00:0b", "63000000-0000-4000-8000-00000000000b"
OTHER_PORT, LAST_PORT = "6300cccc-0000-4000-8000-000000000001", "6300dddd-0000-4000-8000-000000000001"
BEHIND = '<guestnet:behind prefix="10.61.98.0/24"/>'
NEAR = '<guestnet:floating ip="198.18.1.51" to="10.61.1.66"/>'
OWN = '<guestnet:address ip="198.18.1.52"/><guestnet:floating ip="198.18.1.52" via="10.61.1.66"/>'
FORWARD = '<guestnet:forward protocol="tcp" ports="8081" to="10.61.1.66" first="81"/>'
POLICY = policy(MAC, "10.61.1.66", BEHIND + NEAR + OWN + FORWARD)
ROUTES = {"10.61.98.0/24 via 10.61.1.66 dev {}", "198.18.1.51 dev {}", "198.18.1.52 via 10.61.1.66 dev {}"}
PUBLISHED = {"198.18.1.51 dev up0 proxy", "198.18.1.52 dev up0 proxy"}
NO_HELPER = """
from libvirt_guestnet.hook.processes import detached
def refused(*_):
    raise OSError(11, "no more processes")
detached.leave = refused
"""
SECOND_TAP = "vme0d"
STATUS = """
import json
from libvirt_guestnet.datapath.routing import routes
from libvirt_guestnet.status.open_forwards import opened
from libvirt_guestnet.state.locked import UnlockedState
found = opened(UnlockedState(), routes.present())
print(json.dumps({each.bridge: [len(each.forwards), len(each.floating)] for each in found}))
"""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    box = Box()
    box.ok(
        "sh", "-c", SETUP + f"ip link add br1 type bridge; ip link set br1 up; ip link set {TAP} address fe{MAC[2:]}"
    )
    host = Host(box, tmp_path)
    host.record("b", domain("b", UUID, POLICY))
    assert host.call("network", "lan", "port-created", "begin", created("lan", NEW_PORT)) == (0, "")
    box.ok("ip", "link", "set", TAP, "master", "br0")
    host.soon(lambda: NEW_PORT not in " ".join(host.receipts()))
    host.record("b", domain("b", UUID, POLICY, nic("network", TAP, MAC, NEW_PORT)))
    yield host
    box.close()


def created(network: str, portid: str) -> bytes:
    xml = port_created(network, MAC, "b", UUID, portid)
    return xml.replace(b"bridge='br0'", b"bridge='br1'") if network == "other" else xml


def routes(host: Host) -> set[str]:
    """Those of ours, with what is needed to tell them apart."""
    lines = host.box.ok("sh", "-c", "ip -4 route show table all proto 71").splitlines()
    flags = {"onlink", "linkdown"}  # no port of these bridges has a carrier
    return {" ".join(word for word in line.split() if word not in flags) for line in lines}


def published(host: Host) -> set[str]:
    return {line.partition(" proto")[0].strip() for line in host.box.ok("ip", "neigh", "show", "proxy").splitlines()}


def opened(host: Host) -> dict[str, list[int]]:
    found: dict[str, list[int]] = json.loads(host.box.ok(*python_inside(["-c", STATUS], Path("/"))))
    return found


def routed_by(bridge: str) -> set[str]:
    return {route.format(bridge) for route in ROUTES}


def test_a_plugged_nic_is_routed_to_as_at_a_start(host: Host) -> None:
    """Next hops and floating addresses, those on the host's LAN and the guest's own."""
    assert (routes(host), published(host)) == (routed_by("br0"), PUBLISHED)
    assert opened(host) == {"br0": [1, 2]}


def _soon_without(host: Host, portid: str) -> None:
    host.soon(lambda: portid not in " ".join(host.receipts()))


def test_a_nic_that_moves_takes_along_its_routes_and_forwards(host: Host) -> None:
    old = created("lan", NEW_PORT)
    for network, portid, bridge in (("other", OTHER_PORT, "br1"), ("lan", LAST_PORT, "br0")):
        assert host.call("network", network, "port-created", "begin", created(network, portid)) == (0, "")
        host.box.ok("ip", "link", "set", TAP, "master", bridge)
        _soon_without(host, portid)
        assert (routes(host), published(host), opened(host)) == (routed_by(bridge), PUBLISHED, {bridge: [1, 2]})
        assert host.call("network", network, "port-deleted", "begin", old) == (0, "")
        assert (routes(host), published(host), opened(host)) == (routed_by(bridge), PUBLISHED, {bridge: [1, 2]})
        host.record("b", domain("b", UUID, POLICY, nic("network", TAP, MAC, portid).replace("br0", bridge)))
        old = created(network, portid)


@pytest.mark.parametrize(("network", "bridge"), [("other", "br1"), ("fourth", "br0")])
def test_a_helper_of_an_earlier_move_that_is_late_brings_nothing_back(host: Host, network: str, bridge: str) -> None:
    """libvirt 11.3 leaves the tap where it is when it moves within a bridge, so the helper of that waits still."""
    assert host.call("network", "third", "port-created", "begin", created("third", OTHER_PORT)) == (0, "")
    assert (port(host)["network"], host.receipts().count(f"{OTHER_PORT}.json")) == ("third", 1)
    host.signal_helper(signal.SIGSTOP)
    assert host.call("network", network, "port-created", "begin", created(network, LAST_PORT)) == (0, "")
    host.box.ok("ip", "link", "set", TAP, "master", bridge)
    host.record("b", domain("b", UUID, POLICY, nic("network", TAP, MAC, LAST_PORT).replace("br0", bridge)))
    host.soon(lambda: f"{LAST_PORT}.json" not in host.receipts())
    assert port(host)["network"] == network
    for each in ("down", "up"):  # which the kernel tells of
        host.box.ok("ip", "link", "set", TAP, each)
    host.signal_helper(signal.SIGCONT)
    end = time.monotonic() + 2
    while time.monotonic() < end:
        assert port(host)["network"] == network
    assert routes(host) == routed_by(bridge)


def port(host: Host) -> dict[str, str]:
    """What is on record of the NIC's tap."""
    found: dict[str, str] = json.loads(host.box.ok("cat", f"/run/libvirt-guestnet/ports/{TAP}.json"))
    return found


def test_no_route_or_forward_goes_to_where_a_nic_was(host: Host) -> None:
    """It moves to a bridge that is no network's: no call tells of that, but that its old port is gone."""
    host.box.ok("ip", "link", "set", TAP, "master", "br1")
    assert opened(host) == {"br0": [0, 0]}, "told before it is put right"
    assert host.call("network", "lan", "port-deleted", "begin", created("lan", NEW_PORT)) == (0, "")
    assert (routes(host), published(host), opened(host)) == (set(), set(), {})


@pytest.mark.parametrize(
    ("damage", "left"),
    [
        ("ip route del 198.18.1.52", [1, 1]),
        ("ip neigh del proxy 198.18.1.51 dev up0", [1, 1]),
        ("nft delete element inet guestnet floating4 '{ 198.18.1.51 }'", [1, 1]),
        ("nft delete element inet guestnet any-port4 '{ tcp . 8081 }'", [0, 2]),
        ("nft delete table inet guestnet", [0, 1]),
        (f"ip link set {TAP} nomaster", [0, 0]),
    ],
)
def test_what_is_open_is_told_by_the_kernel(host: Host, damage: str, left: list[int]) -> None:
    host.box.ok("sh", "-c", damage)
    assert opened(host) == {"br0": left}


def as_before(host: Host) -> bool:
    found = port(host)
    return (found["network"], found["portid"]) == ("lan", NEW_PORT)


def test_a_move_that_libvirt_gives_up(host: Host) -> None:
    """Its daemon may find only then that the NIC cannot be changed so."""
    assert host.call("network", "third", "port-created", "begin", created("third", OTHER_PORT)) == (0, "")
    assert port(host)["network"] == "third"
    assert host.call("network", "third", "port-deleted", "begin", created("third", OTHER_PORT)) == (0, "")
    assert as_before(host)
    assert routes(host) == routed_by("br0")


def test_a_move_that_we_refuse(host: Host) -> None:
    code = ALTERED_CALL.format(NO_HELPER)
    argv = [sys.executable, "-IS", "-c", code, "network", "third", "port-created", "begin", "-"]
    done = host.box.run(*argv, stdin=created("third", OTHER_PORT))
    assert (done.returncode, b"no more processes" in done.stderr) == (1, True)
    assert f"{OTHER_PORT}.json" not in host.receipts()
    assert as_before(host)


def second(host: Host, bridge: str) -> Callable[[], None]:
    """Another NIC of that MAC; the function has its tap join the bridge."""
    host.box.ok("sh", "-c", f"ip tuntap add {SECOND_TAP} mode tap; ip link set {SECOND_TAP} address fe{MAC[2:]} up")

    def join() -> None:
        host.box.ok("ip", "link", "set", SECOND_TAP, "master", bridge)

    return join


def both(network: str, bridge: str) -> bytes:
    other = nic("network", SECOND_TAP, MAC, OTHER_PORT).replace("br0", bridge).replace("'lan'", f"'{network}'")
    return domain("b", UUID, POLICY, nic("network", TAP, MAC, NEW_PORT), other)


def receipt(host: Host, tap: str) -> dict[str, str]:
    found: dict[str, str] = json.loads(host.box.run("cat", f"/run/libvirt-guestnet/ports/{tap}.json").stdout or b"{}")
    return found


def test_who_waits_for_another_nic_is_not_told_off_by_a_move(host: Host) -> None:
    join = second(host, "br1")
    assert host.call("network", "other", "port-created", "begin", created("other", OTHER_PORT)) == (0, "")
    host.signal_helper(signal.SIGSTOP)
    join()
    host.record("b", both("other", "br1"))
    assert host.call("network", "third", "port-created", "begin", created("third", LAST_PORT)) == (0, "")
    host.record("b", both("other", "br1").replace(NEW_PORT.encode(), LAST_PORT.encode()))
    host.soon(lambda: f"{LAST_PORT}.json" not in host.receipts())
    host.signal_helper(signal.SIGCONT)
    host.soon(lambda: receipt(host, SECOND_TAP).get("network") == "other")


def test_a_second_nic_of_that_mac_on_another_network_of_the_bridge(host: Host) -> None:
    """It looks like a move of the first at first."""
    join = second(host, "br0")
    assert host.call("network", "third", "port-created", "begin", created("third", OTHER_PORT)) == (0, "")
    join()
    host.record("b", both("third", "br0"))
    host.soon(lambda: f"{OTHER_PORT}.json" not in host.receipts())
    host.soon(lambda: receipt(host, SECOND_TAP).get("network") == "third")
    host.soon(lambda: as_before(host))


def plain(portid: str) -> bytes:
    """A NIC with nothing but its network's defaults."""
    return domain("b", UUID, "", nic("network", TAP, MAC, portid))


def test_a_nic_whose_link_was_changed_leaves_its_guard_behind_as_others_do(host: Host) -> None:
    """libvirt 11.3 gives it another port then."""
    host.record("b", plain(NEW_PORT))
    assert host.call("qemu", "b", "reconnect", "begin", plain(NEW_PORT)) == (0, "")
    assert not port(host)["own"]
    assert host.call("network", "lan", "port-created", "begin", created("lan", OTHER_PORT)) == (0, "")
    assert host.call("network", "lan", "port-deleted", "begin", created("lan", NEW_PORT)) == (0, "")
    host.record("b", plain(OTHER_PORT))
    host.soon(lambda: f"{OTHER_PORT}.json" not in host.receipts())
    host.box.ok("ip", "link", "set", TAP, "master", "br1")  # to a network that is none of ours
    assert host.call("network", "lan", "port-deleted", "begin", created("lan", OTHER_PORT)) == (0, "")
    assert TAP not in host.chains()


def test_a_nic_whose_link_was_changed_is_unplugged(host: Host) -> None:
    assert host.call("network", "lan", "port-created", "begin", created("lan", OTHER_PORT)) == (0, "")
    assert host.call("network", "lan", "port-deleted", "begin", created("lan", NEW_PORT)) == (0, "")
    host.record("b", domain("b", UUID, POLICY, nic("network", TAP, MAC, OTHER_PORT)))
    host.soon(lambda: f"{OTHER_PORT}.json" not in host.receipts())
    host.box.ok("ip", "link", "del", TAP)
    assert host.call("network", "lan", "port-deleted", "begin", created("lan", OTHER_PORT)) == (0, "")
    assert TAP not in host.chains()


def test_a_helper_that_is_killed_in_a_move_is_made_good(host: Host) -> None:
    """The guard of the network before is none for this one."""
    assert host.call("network", "other", "port-created", "begin", created("other", OTHER_PORT)) == (0, "")
    host.signal_helper(signal.SIGKILL)
    host.box.ok("ip", "link", "set", TAP, "master", "br1")
    host.record("b", domain("b", UUID, POLICY, nic("network", TAP, MAC, OTHER_PORT).replace("br0", "br1").replace("'lan'", "'other'")))  # fmt: skip  # noqa: E501
    assert host.call("network", "lan", "port-deleted", "begin", created("lan", NEW_PORT)) == (0, "")
    host.soon(lambda: f"{OTHER_PORT}.json" not in host.receipts())
    assert (port(host)["network"], routes(host)) == ("other", routed_by("br1"))


@pytest.mark.parametrize("who", ["the call", "the helper"])
def test_a_move_that_never_comes_is_undone_by_anybodys_call(host: Host, who: str) -> None:
    """The call is killed, so libvirt refuses it; or somebody made a port in a guest's name, and no NIC follows."""
    killed = "hotplug.leave_helper = killed" if who == "the call" else ""
    code = ALTERED_CALL.format(f"from libvirt_guestnet.hook.helpers import hotplug\n{killed}")
    argv = [sys.executable, "-IS", "-c", code, "network", "third", "port-created", "begin", "-"]
    host.box.run("sh", "-c", '"$@"; exit $?', "sh", *argv, stdin=created("third", OTHER_PORT))
    assert port(host)["network"] == "third"
    if who == "the helper":
        host.signal_helper(signal.SIGKILL)
    assert host.call("qemu", "other", "release", "end", domain("other", "x", "")) == (0, "")
    host.soon(lambda: as_before(host))
    assert routes(host) == routed_by("br0")
