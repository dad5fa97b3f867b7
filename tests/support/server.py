"""The DHCP server that libvirt runs, on the bridge of a kernel test."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import time
from ipaddress import ip_network
from pathlib import Path
from threading import Thread

from dhcp6 import address_of, answers, association, question, server_of
from make import GATEWAY4, GATEWAY6, ME, MY_LL, THEIR_LL, THEM
from scapy.all import DHCP6_Request, DHCP6_Solicit, Ether  # type: ignore[attr-defined]

from libvirt_guestnet.datapath.port import learning
from libvirt_guestnet.datapath.run.nft import numbers
from support.taps import Wire, ip

SERVER_MAC, SERVER_LL = "52:54:00:00:00:01", "fe80::5054:ff:fe00:1"
LEASED, LEASED6 = "10.61.1.150", "fd61:1::150"
RANGES = (ip_network("10.61.1.128/25"), ip_network("fd61:1::100/120"))


def server() -> learning.DhcpServer:
    """What the guard of a port on the bridge is told of it."""
    return learning.DhcpServer("br0", SERVER_MAC, (ip_network(GATEWAY4), ip_network(GATEWAY6)), RANGES)


class Dnsmasq:
    """The server that libvirt runs, with its options, on the bridge."""

    def __init__(self, wire: Wire, *more: str) -> None:
        self.wire = wire
        Path("/proc/sys/net/ipv6/conf/br0/accept_dad").write_text("0")
        for command in ("link set br0 down", "link set br0 up", f"addr add {GATEWAY4}/24 dev br0"):
            ip(command)
        ip(f"addr add {GATEWAY6}/64 dev br0 nodad")
        # Nobody in the taps answers the host's neighbour solicitations.
        ip(f"neigh add {MY_LL} lladdr {ME} dev br0")
        ip(f"neigh add {THEIR_LL} lladdr {THEM} dev br0")
        self.mac = ip("-br link show br0").split()[2]
        program = shutil.which("dnsmasq", path="/usr/sbin:/usr/bin")
        assert program, "these tests need dnsmasq: scripts/setup"
        options = ["--conf-file=/dev/null", "--no-daemon", "--port=0", "--user=root", "--pid-file=", "--interface=br0"]
        options += ["--bind-dynamic", "--dhcp-authoritative", "--no-ping", "--leasefile-ro", "--dhcp-script=/bin/true"]
        options += ["--dhcp-range=10.61.1.150,10.61.1.150,255.255.255.0,1h", "--dhcp-range=fd61:1::150,fd61:1::1ff,64"]
        self.process = subprocess.Popen([program, *options, *more], stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        while "DHCPv6, IP range" not in (line := self.process.stderr.readline()):
            assert line, "dnsmasq did not start"
        # It waits until somebody reads what it says.
        Thread(target=self.process.stderr.read, daemon=True).start()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()

    def ask(self, fd: int, message: object, *options: object, client: object, mac: str = ME) -> object:
        """Sends a DHCPv6 message and returns the answer that the guest gets; asks again, as guests do."""
        asked = question(message, *options, client=client, mac=mac, source=MY_LL if mac == ME else THEIR_LL)
        for _ in range(20):
            os.write(fd, asked)
            end = time.monotonic() + 0.5
            while (left := end - time.monotonic()) > 0 and select.select([fd], [], [], left)[0]:
                if answers(frame := os.read(fd, 4096), message):
                    return Ether(frame)
        raise AssertionError("no answer")

    def leased(self, client: object) -> tuple[str, object]:
        """Solicit, Advertise, Request, Reply: the address, and the server's identifier."""
        offer = self.ask(self.wire.fd, DHCP6_Solicit(), association(), client=client)
        server, address = server_of(offer), address_of(offer)
        assert numbers(f"learnt6-{self.wire.tap}") == []
        reply = self.ask(self.wire.fd, DHCP6_Request(), server, association(address), client=client)
        assert address_of(reply) == address
        return address, server
