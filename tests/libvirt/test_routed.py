"""Routed networks, and what is behind guests of any: what libvirt rejects and we accept, and what both must reject.

::

    lan ══ up0 ─ host ─┬─ dmz ── edge ── behind      edge: a domain without a kernel, for which a namespace answers
                       ├─ office                      in the networks: a namespace each
                       ├─ private (nat by up0) ── edge ── behind3
                       ├─ plain (nat) ── edge ── behind4
                       └─ inside (isolated) ── edge ── behind5
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from support.libvirt_wire import NO_ROM, domain

from libvirt_guestnet import topology
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.metadata.policy import NAMESPACE
from libvirt_guestnet.sandbox import Sandbox
from libvirt_guestnet.xmlgen import network as network_xml
from libvirt_guestnet.xmlgen.element import to_string

TOPOLOGY = """
name: t
physical-networks: { wan: { subnets: [198.18.1.0/24, "fd98:1::/64"] } }
networks:
  dmz: { mode: route, physical-network: wan, subnets: [10.66.1.0/24, "fd66:1::/64"], guarded: false }
  office: { mode: route, physical-network: wan, subnets: [10.66.2.0/24, "fd66:2::/64"], guarded: false }
  private: { mode: nat, physical-network: wan, subnets: [10.66.3.0/24, "fd66:3::/64"], guarded: false }
  plain: { mode: nat, subnets: [10.66.4.0/24, "fd66:4::/64"], guarded: false }
  inside: { mode: isolated, gateway: host, subnets: [10.66.5.0/24, "fd66:5::/64"], guarded: false }
"""
NETWORKS = {"dmz": 1, "office": 2, "private": 3, "plain": 4, "inside": 5}
HIDDEN = {name: number for name, number in NETWORKS.items() if number > 2}
ADDRESSES = {
    "lan": ("198.18.1.10", "fd98:1::10"),
    "dmz": ("10.66.1.5", "fd66:1::5"),  # edge's
    "office": ("10.66.2.5", "fd66:2::5"),
    "behind": ("10.79.0.9", "fd79::9"),
    **{name: (f"10.66.{number}.5", f"fd66:{number}::5") for name, number in HIDDEN.items()},
    **{f"near{number}": (f"10.66.{number}.6", f"fd66:{number}::6") for number in HIDDEN.values()},
    **{f"behind{number}": (f"10.79.{number}.9", f"fd79:0:0:{number}::9") for number in HIDDEN.values()},
}
QUICK = "for each in all default; do echo 0 > /proc/sys/net/ipv6/conf/$each/accept_dad; done"
LAN = f"""set -e
mkdir -p /run/netns
{QUICK}
ip netns add lan; ip netns exec lan sh -c '{QUICK}'
ip link add up0 type veth peer name eth0 netns lan
ip addr add 198.18.1.1/24 dev up0; ip addr add fd98:1::1/64 dev up0; ip link set up0 up
ip -n lan addr add 198.18.1.10/24 dev eth0; ip -n lan addr add fd98:1::10/64 dev eth0; ip -n lan link set eth0 up
ip -n lan route add default via 198.18.1.1; ip -n lan route add default via fd98:1::1
for each in iptables ip6tables; do
    if [ -e /proc/sys/net/bridge/bridge-nf-call-$each ]; then echo 0 > /proc/sys/net/bridge/bridge-nf-call-$each; fi
done
"""
GUEST = f"""set -e
ip netns add $0; ip netns exec $0 sh -c '{QUICK}; echo 0 > /proc/sys/net/ipv6/conf/default/accept_ra'
ip link add tap-$0 type veth peer name eth0 netns $0; ip link set tap-$0 master gn-$2 up; ip -n $0 link set eth0 up
ip -n $0 addr add 10.66.$1.$3/24 dev eth0; ip -n $0 addr add fd66:$1::$3/64 dev eth0
ip -n $0 route add default via 10.66.$1.1; ip -n $0 route add default via fd66:$1::1
"""
BEHIND = f"""set -e
ip netns add $1; ip netns exec $1 sh -c '{QUICK}'
ip -n $0 link add in type veth peer name eth0 netns $1; ip -n $0 link set in up; ip -n $1 link set eth0 up
ip netns exec $0 sh -c 'cd /proc/sys/net; echo 1 > ipv4/ip_forward; echo 1 > ipv6/conf/all/forwarding'
ip -n $0 addr add 10.79.$2.1/24 dev in; ip -n $0 addr add fd79:0:0:$2::1/64 dev in
ip -n $1 addr add 10.79.$2.9/24 dev eth0; ip -n $1 addr add fd79:0:0:$2::9/64 dev eth0
ip -n $1 route add default via 10.79.$2.1; ip -n $1 route add default via fd79:0:0:$2::1
"""
COUNTING = """add table inet seen
add chain inet seen in { type filter hook input priority 0; }
add rule inet seen in ip saddr { 198.18.1.1, 10.79.0.0/16 } icmp type echo-request counter
add rule inet seen in ip6 saddr { fd98:1::1, fd79::/48 } icmpv6 type echo-request counter
add rule inet seen in ip saddr 10.79.0.0/16 icmp type echo-request counter
add rule inet seen in ip6 saddr fd79::/48 icmpv6 type echo-request counter
"""


def edge(network: str) -> str:
    """The domain that the host routes through."""
    number, behind = NETWORKS[network], HIDDEN.get(network, 0)
    return domain(
        "edge",
        f"<interface type='network'><mac address='52:54:00:00:00:0e'/><source network='{network}'/>"
        f"<model type='rtl8139'/>{NO_ROM}</interface>",
        metadata=f"""<g:domain xmlns:g="{NAMESPACE}" topology="t" guest="edge">
          <g:port mac="52:54:00:00:00:0e" name="{network}" network="{network}" guarded="no">
          <g:address ip="10.66.{number}.5"/><g:address ip="fd66:{number}::5"/>
          <g:behind prefix="10.79.{behind}.0/24"/><g:behind prefix="fd79:0:0:{behind}::/64"/></g:port></g:domain>""",
    )


class Site:
    """The host with its networks, their guests and the LAN."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox

    def build(self) -> None:
        self.sandbox.run(["sh", "-c", LAN])
        found = topology.loads(TOPOLOGY, "t.yaml")
        for each in found.networks:
            xml = to_string(network_xml(found, each, HostMap({"wan": "up0"})))
            self.sandbox.run(["virsh", "-q", "net-define", "/dev/stdin"], stdin=xml)
            self.sandbox.run(["virsh", "-q", "net-start", each.name])
            self.plug(each.name)
        self.sandbox.run(["sh", "-c", BEHIND, "dmz", "behind", "0"])
        for network, number in HIDDEN.items():
            self.plug(network, f"near{number}", "6")
            self.sandbox.run(["sh", "-c", BEHIND, network, f"behind{number}", str(number)])
        self.sandbox.run(["ip", "netns", "exec", "lan", "nft", "-f", "-"], stdin=COUNTING)

    def plug(self, network: str, name: str = "", last: str = "5") -> None:
        self.sandbox.run(["sh", "-c", GUEST, name or network, str(NETWORKS[network]), network, last])

    def reached(self, who: str, whom: str) -> list[bool]:
        """Over IPv4 and IPv6."""
        inside = [] if who == "host" else ["ip", "netns", "exec", who]
        ping = [*inside, "busybox", "ping", "-c", "2", "-i", "0.2", "-W", "1"]
        return [self.sandbox.run([*ping, to], check=False).returncode == 0 for to in ADDRESSES[whom]]

    def asked(self, who: str) -> list[int]:
        """How many echo requests have come there, over IPv4 and IPv6: an answer may get lost on its own."""
        files = ["cat", "/proc/net/snmp", "/proc/net/snmp6"]
        lines = [line.split() for line in self.sandbox.run(["ip", "netns", "exec", who, *files]).stdout.splitlines()]
        names, numbers = [line for line in lines if line[0] == "Icmp:"]
        ipv6 = [int(line[1]) for line in lines if line[0] == "Icmp6InEchos"]
        return [int(numbers[names.index("InEchos")]), *ipv6]

    def seen(self) -> list[int]:
        """How many echo requests the LAN has got from the host's address or from behind guests, and from the latter,
        over IPv4 and IPv6 each."""
        listed = self.sandbox.run(["ip", "netns", "exec", "lan", "nft", "-j", "list", "chain", "inet", "seen", "in"])
        rules = [item["rule"]["expr"] for item in json.loads(listed.stdout)["nftables"] if "rule" in item]
        return [each["counter"]["packets"] for expr in rules for each in expr if "counter" in each]

    def ours(self) -> list[str]:
        listed = self.sandbox.run(["nft", "-s", "list", "ruleset"]).stdout + self.routes()
        return [line for line in listed.splitlines() if "10.79." in line or "fd79:" in line]

    def routes(self) -> str:
        return "".join(self.sandbox.run(["ip", family, "route"]).stdout for family in ("-4", "-6"))

    @contextmanager
    def edge(self, network: str = "dmz") -> Iterator[None]:
        self.sandbox.run(["virsh", "-q", "create", "/dev/stdin"], stdin=edge(network), timeout=240)
        try:
            yield
        finally:
            self.sandbox.run(["virsh", "-q", "destroy", "edge"], check=False)

    def soon(self, *, ours: bool) -> None:
        deadline = time.monotonic() + 240
        while bool(self.ours()) != ours:
            assert time.monotonic() < deadline, self.ours()
            time.sleep(0.05)

    def soon_reached(self, who: str, whom: str) -> None:
        """Once a repair that goes on meanwhile is done."""
        deadline = time.monotonic() + 240
        while self.reached(who, whom) != YES:
            assert time.monotonic() < deadline, f"{who} to {whom}"


@pytest.fixture(scope="module")
def sandbox(each_backend_sandbox: Sandbox) -> Sandbox:
    return each_backend_sandbox


@pytest.fixture(scope="module")
def site(sandbox: Sandbox) -> Site:
    site = Site(sandbox)
    site.build()
    return site


YES, NO = [True, True], [False, False]


def everything(site: Site) -> None:
    for who, whom in (("lan", "behind"), ("behind", "lan"), ("office", "behind"), ("behind", "office")):
        assert site.reached(who, whom) == YES, f"{who} to {whom}"


def test_routed_networks_of_one_device_reach_each_other_and_the_lan(site: Site) -> None:
    for who, whom in (("dmz", "office"), ("office", "dmz"), ("lan", "office"), ("office", "lan")):
        assert site.reached(who, whom) == YES, f"{who} to {whom}"
    assert site.reached("lan", "behind") == NO


def test_what_is_behind_a_guest_is_reached_while_it_runs(site: Site) -> None:
    with site.edge():
        everything(site)
        assert len([line for line in site.routes().splitlines() if "proto 71" in line]) == 2
        # Our accepts stand first, and yet let nobody into a network that libvirt protects.
        before = site.asked("private")
        for who in ("behind", "office", "lan"):
            assert site.reached(who, "private") == NO, who
        assert site.asked("private") == before
        assert site.reached("private", "lan") == YES
    assert site.ours() == []
    assert site.reached("lan", "behind") == NO


@pytest.mark.parametrize("network", HIDDEN)
def test_what_is_behind_a_guest_of_a_hidden_network_is_translated_or_stays_inside(site: Site, network: str) -> None:
    number = HIDDEN[network]
    behind, near = f"behind{number}", f"near{number}"
    assert site.reached("host", behind) == NO
    before, other = site.seen(), "plain" if network == "private" else "private"
    with site.edge(network):
        for who, whom in (("host", behind), (near, behind), (behind, near)):
            assert site.reached(who, whom) == YES, f"{who} to {whom}"
        assert site.reached(behind, "lan") == (NO if network == "inside" else YES)
        seen = [now - then for now, then in zip(site.seen(), before, strict=True)]
        assert seen == ([0, 0, 0, 0] if network == "inside" else [2, 2, 0, 0]), "as the host, and never as itself"
        # Nobody comes in, and it comes into no network of which libvirt lets nobody in.
        asked, others = site.asked(behind), [site.asked(each) for each in (other, "office")]
        for who, whom in (("lan", behind), (other, behind), ("office", behind), (behind, other), (behind, "office")):
            assert site.reached(who, whom) == NO, f"{who} to {whom}"
        assert site.asked(behind) == asked
        assert [site.asked(each) for each in (other, "office")] == others
        site.sandbox.restart_libvirtd()
        site.soon_reached(near, behind)
        if network != "inside":
            site.soon_reached(behind, "lan")
    assert site.ours() == []
    assert site.reached("host", behind) == NO


def test_a_crash_leaves_nothing(site: Site) -> None:
    with site.edge():
        pid = site.sandbox.run(["cat", "/run/libvirt/qemu/edge.pid"]).stdout.strip()
        assert site.ours() != []
        site.sandbox.run(["kill", "-9", pid])
        site.soon(ours=False)


def test_restarts_of_the_daemon_and_of_a_network_in_between(site: Site) -> None:
    with site.edge():
        site.sandbox.restart_libvirtd()
        site.soon(ours=True)
        everything(site)
        # libvirt puts the rules of a network that starts before all others.
        site.sandbox.run(["virsh", "-q", "net-destroy", "office"])
        assert not any("gn-office" in line for line in site.sandbox.run(["nft", "list", "ruleset"]).stdout.splitlines())
        site.sandbox.run(["ip", "netns", "del", "office"])
        site.sandbox.run(["virsh", "-q", "net-start", "office"])
        site.plug("office")
        everything(site)
    assert site.ours() == []
