"""What would fail late, at apply or at a guest's start, does not, or is said by the plan: on a host of our own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.libvirt_host import Host
from support.own_programs import guestnet

from libvirt_guestnet.sandbox import Sandbox

NAT6 = """
name: six
physical-networks: { wan: { subnets: ["fd98:1::/64"] } }
networks: { six: { mode: nat, physical-network: wan, subnets: [10.66.1.0/24, "fd66:1::/64"] } }
guests: {}
"""
BRIDGED = """
name: NAME
physical-networks: { lan: { subnets: [198.18.9.0/24] } }
networks: { NAME: { mode: bridge, physical-network: lan } }
guests: {}
"""
# An uplink whose router advertises itself and a prefix.
ROUTER = """set -e
mkdir -p /run/netns; ip netns add router
ip link add up0 type veth peer name eth0 netns router
echo 0 >/proc/sys/net/ipv6/conf/all/forwarding
echo 0 >/proc/sys/net/ipv6/conf/up0/forwarding
echo 1 >/proc/sys/net/ipv6/conf/up0/accept_ra
ip link set up0 up; ip -n router link set eth0 up; ip -n router address add fd98:1::1/64 dev eth0 nodad
ip netns exec router dnsmasq --conf-file=/dev/null --port=0 --enable-ra --interface=eth0 --pid-file=/tmp/router.pid \
    --dhcp-range=fd98:1::,ra-only,64,600 --ra-param=eth0,4,600
"""


WIDE = """
name: q1
physical-networks: { lan: { subnets: [198.18.9.0/24] } }
networks: { q1: { mode: bridge, physical-network: lan, mtu: 9000 } }
guests: { a: { ports: [{ network: q1, addresses: [198.18.9.9] }] } }
"""


@pytest.fixture
def host(hooked_sandbox: Sandbox) -> Iterator[Host]:
    host = Host(hooked_sandbox)
    yield host
    for name in ("six", "q1", "q2"):
        guestnet(host, "destroy", name)
    hooked_sandbox.run(
        ["sh", "-c", "kill $(cat /tmp/router.pid); for d in up0 nic0 own0; do ip link del $d; done"], check=False
    )


def run(host: Host, verb: str, text: str, label: str) -> str:
    host.sandbox.run(["tee", "/tmp/t.yaml"], stdin=text)
    return guestnet(host, verb, "/tmp/t.yaml", "--map", label)


def test_a_host_that_learns_its_ipv6_routes_goes_on_learning(host: Host) -> None:
    """libvirt refuses the network's start as long as accept_ra is 1."""
    host.sandbox.run(["sh", "-c", ROUTER])
    learnt = ["ip", "-6", "route", "show", "default", "proto", "ra"]
    host.soon(lambda: "via fe80:" in host.sandbox.run(learnt).stdout, "a route is learnt")
    said = run(host, "apply", NAT6, "wan=up0")
    assert "changes made" in said or "change made" in said, said
    assert host.sandbox.run(["cat", "/proc/sys/net/ipv6/conf/up0/accept_ra"]).stdout == "2\n"
    assert host.sandbox.run(["cat", "/proc/sys/net/ipv6/conf/all/forwarding"]).stdout == "1\n"
    assert "via fe80:" in host.sandbox.run(learnt).stdout


def test_one_nic_for_two_topologies(host: Host) -> None:
    """The plan refuses, and following its hint both have it."""
    host.sandbox.run(["sh", "-c", "ip link add nic0 type veth peer name nic1; ip link set nic1 up"])
    one, two = (BRIDGED.replace("NAME", name) for name in ("q1", "q2"))
    assert "made" in run(host, "apply", one, "lan=nic0")
    said = run(host, "plan", two, "lan=nic0")
    assert "NIC nic0 is that of libvirt network 'q1' of topology 'q1'" in said
    assert run(host, "apply", two, "lan=nic0") == said, "nothing is begun"
    assert "NIC nic0 is that" in run(host, "apply", two.replace("bridge,", "bridge, bridge: gn-2,"), "lan=nic0")
    host.sandbox.run(["sh", "-c", "ip link add own0 type bridge; ip link set own0 up; ip link set nic0 master own0"])
    for text in (one, two):
        assert "made" in run(host, "apply", text, "lan=own0")
        assert run(host, "plan", text, "lan=own0") == "nothing to do\n"
    assert "NIC nic0 is in bridge own0 already: map the label to own0" in run(host, "plan", one, "lan=nic0")


def test_frames_that_would_vanish_at_the_nic(host: Host) -> None:
    """Refused by the plan and by the start; told by doctor where the NIC has become narrower since."""
    host.sandbox.run(["sh", "-c", "ip link add nic0 type veth peer name nic1; ip link set nic1 up"])
    host.guest("a")
    try:
        refused = "its MTU is 9000, and nic0"
        assert "network 'q1': " + refused in run(host, "plan", WIDE, "lan=nic0")
        host.sandbox.run(["ip", "link", "set", "nic0", "mtu", "9000"])
        assert "made" in run(host, "apply", WIDE, "lan=nic0")
        host.virsh("start", "a")
        assert "MTU" not in guestnet(host, "doctor")
        host.sandbox.run(["ip", "link", "set", "nic0", "mtu", "1500"])
        assert refused in guestnet(host, "doctor")
        assert refused in guestnet(host, "status")
        host.virsh("destroy", "a")
        assert refused in host.virsh("start", "a", check=False)
    finally:
        host.virsh("destroy", "a", check=False)
        guestnet(host, "destroy", "q1")
        host.virsh("undefine", "a", check=False)
