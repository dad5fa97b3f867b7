"""Networks and domains as guestnet writes them, under a real libvirtd. Nothing boots: tests send for the NICs."""

from __future__ import annotations

from contextlib import ExitStack

from lxml import etree
from make import ALL, arp
from scapy.all import Ether  # type: ignore[attr-defined]

from libvirt_guestnet import xmlgen
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.metadata.policy import NAMESPACE
from libvirt_guestnet.model.topology import Topology
from libvirt_guestnet.sandbox import Sandbox
from support.labvm_host import Tap, frame
from support.libvirt_host import Host
from support.libvirt_wire import Wire, domain
from support.stage import inside


def any_address(mac: str) -> str:
    """The policy of a NIC that may use whatever address nobody else holds, wherever it is plugged in."""
    return (
        f'<g:domain xmlns:g="{NAMESPACE}" topology="t" guest="late">'
        f'<g:port mac="{mac}" name="late" network="red" guarded="yes" addresses="any"/></g:domain>'
    )


class Real(Host):
    """A libvirt host with a topology; this thread is in its network namespace while it is entered."""

    virsh_seconds, soon_seconds = 600.0, 600.0

    def __init__(self, sandbox: Sandbox, found: Topology, devices: dict[str, str]) -> None:
        super().__init__(sandbox)
        self.found, self.hostmap = found, HostMap(devices)
        self.wires: dict[str, Wire] = {}
        self.taps: dict[str, Tap] = {}
        self.stack = ExitStack()

    def __enter__(self) -> Real:
        self.stack.enter_context(inside(self.sandbox.first.pid))
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stack.close()

    def start_networks(self) -> None:
        for network in self.found.networks:
            xml = etree.tostring(xmlgen.network(self.found, network, self.hostmap)).decode()
            self.define("net-create", xml)

    def create(self, name: str) -> None:
        """Starts a guest and puts a wire on each of its ports, by the port's name."""
        guest = self.found.guest(name)
        nics = [self.nic(name, port.name) for port in guest.ports]
        policy = etree.tostring(xmlgen.domain_metadata(self.found, guest, self.hostmap)).decode()
        self.define("create", domain(name, *nics, metadata=policy))
        for number, port in enumerate(guest.ports):
            self.wires[port.name] = self.stack.enter_context(Wire(self.sandbox, name, f"net{number}"))

    def change(self, verb: str, guest: str, nic: str) -> None:
        """`virsh attach-device` and the like."""
        self.sandbox.run(["tee", "/tmp/nic.xml"], stdin=nic)
        self.virsh(verb, guest, "/tmp/nic.xml", "--live")

    def nic(self, guest: str, port: str) -> str:
        """The <interface> of a port."""
        found = self.found.guest(guest)
        element = xmlgen.interface(self.found, found, next(p for p in found.ports if p.name == port), self.hostmap)
        return etree.tostring(element).decode()

    def mac(self, port: str) -> str:
        return next(p.mac for guest in self.found.guests for p in guest.ports if p.name == port)

    def texts(self, port: str, source: str, last: str) -> list[str]:
        """The texts of the test frames from one MAC that a port's guest receives, up to the last."""
        received = self.wires[port].receive_until(frame(source, text=last))
        mine = [data for data in received if data.startswith(frame(source)[:14])]
        return [data[14:].rstrip(b".\0").decode() for data in mine]


def announcement(mac: str, address: str) -> bytes:
    """An ARP announcement of an address (RFC 5227)."""
    return bytes(Ether(src=mac, dst=ALL) / arp(address, hw=mac, target=address)).ljust(60, b"\0")
