"""labs/virtual-router.yaml with its two public VLANs, which are subinterfaces of one NIC: every line of it holds, and
packets of both go over the wire with their tag. No guest boots in here: the router and the guests are namespaces.

::

    [web] [mail] [desk]──gn-office──[edge]──gn-provider.101──nic0.101─┐         ┌─wire.101─┐
                                          └─gn-provider.102──nic0.102─┴nic0═wire┴─wire.102─┴[internet]
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.labvm_host import Host
from support.router_bench import Here, Namespace, RouterBench
from support.router_in_namespace import NamespaceRouter

from libvirt_guestnet.lab import verify
from libvirt_guestnet.model.network import Mode
from libvirt_guestnet.model.topology import Guest
from libvirt_guestnet.router.config import router_config
from libvirt_guestnet.router.document import document
from libvirt_guestnet.topology import loads

pytestmark = pytest.mark.only("trixie")  # minutes: test_isolation_vlans.py is the other one's

LAB = Path(__file__).parents[3] / "labs/virtual-router.yaml"
FOUND = loads(LAB.read_text(), "test")
VLANS = {"fiber": 101, "copper": 102}
# What arrives at the provider, by the VLAN that its address is of.
SEEN = """
table netdev seen {
    chain arrived {
        type filter hook ingress device wire priority 0
        vlan id 101 ip saddr 203.0.113.0/24 counter comment "101"
        vlan id 102 ip saddr 198.51.100.0/24 counter comment "102"
        vlan id 101 ip6 saddr 2001:db8:101::/64 counter comment "101 IPv6"
        vlan id 102 ip6 saddr 2001:db8:102::/64 counter comment "102 IPv6"
    }
}
"""


class World:
    """The lab's host, its guests and what is behind its NIC, all under guard."""

    def __init__(self, root: Path, stack: ExitStack) -> None:
        self.host = Host(root, FOUND, {"provider": "nic0"})
        self.bench = RouterBench(root, stack, Here("host", stack, root))
        self.ip = self.bench.host.ip
        self.internet = self._internet(Namespace("internet", stack, root))
        for network in FOUND.networks:
            self._start(network.name)
        self.machines = {name: self._guest(FOUND.guest(name)) for name in ("web", "mail", "desk")}
        self._router(FOUND.guest("edge"))
        self.agents = {name: machine.agent() for name, machine in self.machines.items()}
        self.agents |= {"internet": self.internet.agent(), "host": self.bench.host.agent()}

    def _internet(self, machine: Namespace) -> Namespace:
        self.ip(f"link add nic0 type veth peer name wire netns {machine.holder.pid}")
        self.ip("link set nic0 up")
        machine.ip("link set wire up")
        for port in FOUND.guest("internet").ports:
            device = f"wire.{VLANS[port.network]}"
            machine.ip(f"link add link wire name {device} address {port.mac} type vlan id {VLANS[port.network]}")
            _address(machine, device, FOUND.guest("internet"), port.network)
        machine.run("nft", SEEN)
        return machine

    def _start(self, name: str) -> None:
        """What libvirt does, and what its hook makes of it."""
        network = FOUND.network(name)
        started = self.host.network(name, "start")
        if network.mode is Mode.ISOLATED:
            self.bench.bridge(network.bridge)
            for subnet in network.subnets:
                if subnet.host is not None:
                    self.ip(f"addr add {subnet.host}/{subnet.prefix.prefixlen} dev {network.bridge}")
        assert started + self.host.network(name, "started") == ""

    def _guest(self, guest: Guest) -> Namespace:
        (port,) = guest.ports
        machine = self.bench.machine(guest.name, FOUND.network(port.network).bridge, port.mac, tap=port.tap)
        # Its fixed addresses are its only ones, as a tiny guest's are.
        machine.run("sh", "-c", "echo 0 >/proc/sys/net/ipv6/conf/net0/accept_ra")
        _address(machine, "net0", guest, port.network)
        machine.ip("route add default via 10.1.1.1")
        machine.ip("-6 route add default via fd11:1::1")
        assert self.host.domain(guest.name, "start") == ""
        return machine

    def _router(self, guest: Guest) -> None:
        nics = {f"eth{number}": port for number, port in enumerate(guest.ports)}
        bridges = {name: FOUND.network(port.network).bridge for name, port in nics.items()}
        config = router_config(FOUND, guest)
        router = NamespaceRouter(self.bench, config, bridges, {name: port.tap for name, port in nics.items()})
        assert self.host.domain(guest.name, "start") == ""
        router.connect().configure(document(config).encoded())

    def arrived(self) -> dict[str, int]:
        """How many packets came to the provider, by SEEN's words for them."""
        rules = json.loads(self.internet.run("nft", "-j", "list", "table", "netdev", "seen"))["nftables"]
        return {
            rule["comment"]: next(each["counter"]["packets"] for each in rule["expr"] if "counter" in each)
            for rule in (each["rule"] for each in rules if "rule" in each)
        }


def _address(machine: Namespace, device: str, guest: Guest, network: str) -> None:
    prefixes = [subnet.prefix for subnet in FOUND.network(network).subnets]
    machine.ip(f"link set {device} up")
    for address in next(port for port in guest.ports if port.network == network).addresses:
        length = next(prefix.prefixlen for prefix in prefixes if address.ip in prefix)
        machine.ip(f"addr add {address.ip}/{length} dev {device}{' nodad' if address.ip.version == 6 else ''}")


@pytest.fixture
def world(namespace: None, tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path, stack)


def test_every_line_holds_by_way_of_both_vlans(world: World) -> None:
    rows = tried(world)
    assert [row for row in rows if not row.passed] == []
    assert len(rows) > 50
    arrived = world.arrived()
    assert (len(arrived), 0 in arrived.values()) == (4, False), arrived


def tried(world: World) -> list[verify.CheckResult]:
    """All of it once more, where only something that should work did not: in here that may take very long."""
    for _ in range(3):
        rows = verify.verify(FOUND, world.agents)
        failed = [row for row in rows if not row.passed]
        if not failed or not all(row.check.allowed for row in failed):
            break
    return rows
