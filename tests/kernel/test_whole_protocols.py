"""Forwards of protocols that have no ports, over IPv4 and IPv6: the real hooks and kernel, and real packets of raw
sockets, since it does not matter what is in them. The guest's port is guarded."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from support.kernel_lan import GUEST, GUEST6, HOST, HOST2, HOST6, LAN, LAN6, NEAR, LanHost, start
from support.tunnels import L2TP, PAYLOADS, Tunnels

pytestmark = pytest.mark.kernel

WHOLE = "".join(
    f'<guestnet:forward at="{at}" protocol="{protocol}" to="{to}"/>'
    for protocol in ("gre", "esp", "proto/115")
    for at, to in ((HOST2, GUEST), (HOST6, GUEST6))
)


@pytest.fixture
def tunnels(host: LanHost) -> Tunnels:
    return Tunnels(host.box)


@pytest.mark.parametrize("protocol", PAYLOADS)
def test_all_of_a_protocol_at_an_address_is_the_guests_in_both_directions(
    host: LanHost, tunnels: Tunnels, protocol: int
) -> None:
    xml = start(WHOLE)
    before = host.rules()
    assert host.call("qemu", "guesta", "start", "begin", xml) == (0, "")
    assert tunnels.heard("lan", "guest", HOST2, protocol) == "", "nobody is there yet"
    assert host.call("qemu", "guesta", "started", "begin", xml) == (0, "")
    for at, lan in ((HOST2, LAN), (HOST6, LAN6)):
        assert tunnels.heard("lan", "guest", at, protocol) == lan
        assert tunnels.heard("guest", "lan", lan, protocol) == at, "an answer"
    assert tunnels.heard("lan", "guest", HOST, protocol) == "", "only at that address"
    assert tunnels.heard("lan", "host", HOST, protocol) == LAN, "of which the host keeps the protocol"
    assert tunnels.heard("lan", "guest", HOST2, 89) == "", "only that protocol"
    assert host.gone(xml) == (0, "")
    assert tunnels.heard("lan", "guest", HOST2, protocol) == "", "nor does a flow of before lead there"
    assert (host.rules(), host.receipts()) == (before, [])


def test_the_guest_may_begin_and_what_it_began_ends_with_it(host: LanHost, tunnels: Tunnels) -> None:
    xml = start(WHOLE)
    assert host.started(xml) == [(0, "")] * 2
    for at, lan in ((HOST2, LAN), (HOST6, LAN6)):
        assert tunnels.heard("guest", "lan", lan) == at
        assert tunnels.heard("lan", "guest", at) == lan
    assert host.gone(xml) == (0, "")
    assert tunnels.heard("lan", "guest", HOST2) == "" == tunnels.heard("lan", "guest", HOST6)


def test_only_some_clients(host: LanHost, tunnels: Tunnels) -> None:
    limited = WHOLE.replace(f'to="{GUEST}"', f'to="{GUEST}" from="198.18.1.0/28"').replace(
        f'to="{GUEST6}"', f'to="{GUEST6}" from="fd61::77"'
    )
    assert host.started(start(limited)) == [(0, "")] * 2
    assert (tunnels.heard("lan", "guest", HOST2), tunnels.heard("lan", "guest", HOST6)) == (LAN, "")
    assert tunnels.heard("lan", "host", HOST6) == LAN6, "of the others it is asked of the host"
    host.box.ok("ip", "-n", "lan", "addr", "add", "198.18.1.77/32", "dev", "eth0")
    host.box.ok("ip", "-n", "lan", "route", "add", HOST2, "dev", "eth0", "src", "198.18.1.77")
    assert tunnels.heard("lan", "guest", HOST2) == ""


def test_two_guests_cannot_have_it_at_one_address(host: LanHost, tunnels: Tunnels) -> None:
    assert host.started(start(WHOLE)) == [(0, "")] * 2
    host.box.ok("sh", "-c", "ip link add vnet7 type veth peer name eth7 && ip link set vnet7 master virbr1 up")
    host.box.ok("ip", "tuntap", "add", "vnet6", "mode", "tap")
    said = f'<guestnet:address ip="{NEAR}"/><guestnet:forward at="{HOST2}" protocol="proto/47" to="{NEAR}"/>'
    other = start(said, b"61000009-", b"other").replace(b"vnet1", b"vnet7").replace(b"vnet0", b"vnet6")
    status, stderr = host.call("qemu", "other", "start", "begin", other)
    assert (status, f"guest 'other': gre at {HOST2} is already forwarded to guest 'guesta'" in stderr) == (1, True)
    assert host.call("qemu", "other", "release", "end", other) == (0, "")
    elsewhere = other.replace(f'at="{HOST2}"'.encode(), f'at="{HOST}"'.encode())
    assert host.started(elsewhere, "other") == [(0, "")] * 2


def test_what_the_host_speaks_there_itself_is_refused_by_name(host: LanHost, tunnels: Tunnels) -> None:
    with tunnels.hearing("host", L2TP):
        status, stderr = host.call("qemu", "guesta", "start", "begin", start(WHOLE))
        assert (status, f"proto/115 at {HOST2} cannot be forwarded: {Path(sys.executable).name}" in stderr) == (
            1,
            True,
        ), stderr
    assert host.call("qemu", "guesta", "start", "begin", start(WHOLE)) == (0, "")


def test_status_tells_whether_the_kernel_has_it(host: LanHost, tunnels: Tunnels) -> None:
    """Whatever /etc/protocols calls it."""
    assert host.started(start(WHOLE)) == [(0, "")] * 2
    library = str(Path(__file__).parents[2])
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import json\n"
        "from libvirt_guestnet.status import open_forwards\n"
        "from libvirt_guestnet.datapath.routing import routes\n"
        "from libvirt_guestnet.state.locked import UnlockedState\n"
        "found = open_forwards.opened(UnlockedState(), routes.present())\n"
        "print(json.dumps([each.protocol for port in found for each in port.forwards]))"
    )
    asked = ["env", "PYTHONDONTWRITEBYTECODE=1", sys.executable, "-c", script, library]
    assert json.loads(host.box.ok(*asked)) == ["gre", "gre", "esp", "esp", "proto/115", "proto/115"]
    host.box.ok("nft", "flush", "map", "inet", "guestnet", "proto4")
    assert json.loads(host.box.ok(*asked)) == ["gre", "esp", "proto/115"]
