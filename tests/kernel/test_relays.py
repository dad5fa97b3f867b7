"""A real relay (dnsmasq's) in a guest between two networks, a real server in another, a real client in a third: the
client gets an address only if both guests have their roles."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_network
from pathlib import Path

import pytest
from support.box import Box

from libvirt_guestnet.datapath.port import filters
from libvirt_guestnet.datapath.port.port_facts import DHCP_RELAY, DHCP_SERVER, PortGuard

MACS = {name: f"52:54:00:00:09:0{number}" for number, name in enumerate(("near", "far", "server", "client"), 1)}
# Who has what at which end, and on which bridge: `near` and `far` are the relay's.
ENDS = {"near": ("relay", "br-c"), "far": ("relay", "br-s"), "server": ("server", "br-s"), "client": ("client", "br-c")}
ADDRESSES = {
    "near": ("10.61.9.1", "fd61:9::1"),
    "far": ("10.61.1.2", "fd61:1::2"),
    "server": ("10.61.1.3", "fd61:1::3"),
}
BEHIND = (ip_network("10.61.9.0/24"), ip_network("fd61:9::/64"))
DNSMASQ = ("dnsmasq", "--conf-file=/dev/null", "--no-daemon", "--port=0", "--user=root", "--pid-file=", "--no-ping")
RELAYS = ("--dhcp-relay=10.61.9.1,10.61.1.3", "--dhcp-relay=fd61:9::1,fd61:1::3")
SERVES = ("--dhcp-range=10.61.9.100,10.61.9.150,255.255.255.0,1h", "--dhcp-range=fd61:9::100,fd61:9::150,64,1h",
          "--leasefile-ro")  # fmt: skip
# Solicits until an Advertise comes, and prints its address.
SOLICIT = f"""
import select, socket, sys
sys.path.insert(0, {str(Path(__file__).parents[1] / "corpus")!r})
import dhcp6
from scapy.all import DHCP6_Advertise, DHCP6_Solicit, Ether
ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
ear.bind(("client", 3))
for _ in range(3):
    ear.send(dhcp6.question(DHCP6_Solicit(), dhcp6.association(), client=dhcp6.DUIDS["UUID (RFC 6355)"],
                            mac={MACS["client"]!r}, source="fe80::5054:ff:fe00:904"))
    while select.select([ear], [], [], 1)[0]:
        if DHCP6_Advertise in (heard := Ether(ear.recv(2000))):
            sys.exit(print(dhcp6.address_of(heard)))
"""


class Hosts:
    def __init__(self, stack: ExitStack) -> None:
        self.box = {name: Box() for name in ("host", "relay", "server", "client")}
        for box in self.box.values():
            stack.callback(box.close)
        host = self.box["host"]
        for bridge in ("br-c", "br-s"):
            host.ok("ip", "link", "add", bridge, "type", "bridge", "forward_delay", "0", "mcast_snooping", "0")
            host.ok("ip", "link", "set", bridge, "up")
        for name, (owner, bridge) in ENDS.items():
            self._plug(name, self.box[owner], bridge)
        self.box["relay"].ok("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        for version, behind, via in (("-4", "10.61.9.0/24", "10.61.1.2"), ("-6", "fd61:9::/64", "fd61:1::2")):
            self.box["server"].ok("ip", version, "route", "add", behind, "via", via)

    def _plug(self, name: str, guest: Box, bridge: str) -> None:
        host, tap = self.box["host"], f"vme-{name}"
        host.ok("ip", "link", "add", tap, "type", "veth", "peer", "name", name, "address", MACS[name])
        host.ok("ip", "link", "set", name, "netns", guest.pid)
        host.ok("ip", "link", "set", tap, "master", bridge, "up")
        guest.ok("sysctl", "-qw", f"net.ipv6.conf.{name}.accept_dad=0")
        for address in ADDRESSES.get(name, ()):
            guest.ok("ip", "address", "add", f"{address}/{64 if ':' in address else 24}", "dev", name)
        guest.ok("ip", "link", "set", name, "up")

    def guard(self, relay: tuple[str, ...], server: tuple[str, ...]) -> None:
        roles = {"near": relay, "far": relay, "server": server, "client": ()}
        batch = filters.shared()
        for name, mac in MACS.items():
            owned = tuple(map(ip_network, ADDRESSES.get(name, ())))
            routed = BEHIND if name == "far" else ()
            batch += filters.own(PortGuard(f"vme-{name}", mac, owned, routed, roles=roles[name]))
        done = self.box["host"].run("nft", "-f", "-", stdin=batch.encode())
        assert done.returncode == 0, done.stderr.decode()

    @contextmanager
    def serving(self) -> Iterator[None]:
        with ExitStack() as stack:
            for name, options in (("relay", RELAYS), ("server", SERVES)):
                enter = ["nsenter", "-t", self.box[name].pid, "--net", "--mount", "--"]
                running = subprocess.Popen([*enter, *DNSMASQ, *options], stderr=subprocess.DEVNULL)
                stack.callback(running.wait)
                stack.callback(running.kill)
            time.sleep(1)
            yield

    def leased4(self) -> bool:
        asks = ("busybox", "udhcpc", "-i", "client", "-n", "-q", "-f", "-t", "4", "-T", "1", "-s", "/bin/true")
        done = self.box["client"].run(*asks)
        return b"lease of 10.61.9.1" in done.stdout + done.stderr

    def offered6(self) -> bool:
        return self.box["client"].ok(sys.executable, "-c", SOLICIT).startswith("fd61:9::1")


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with ExitStack() as stack:
        yield Hosts(stack)


def test_a_real_relay_serves_a_real_client_if_the_roles_are_there(hosts: Hosts) -> None:
    with hosts.serving():
        assert (hosts.leased4(), hosts.offered6()) == (True, True), "without any guard"
        hosts.guard((DHCP_RELAY,), (DHCP_SERVER,))
        assert (hosts.leased4(), hosts.offered6()) == (True, True)
        for relay, server in (((), (DHCP_SERVER,)), ((DHCP_RELAY,), ()), ((DHCP_SERVER,), (DHCP_RELAY,))):
            hosts.guard(relay, server)
            assert (hosts.leased4(), hosts.offered6()) == (False, False), (relay, server)
