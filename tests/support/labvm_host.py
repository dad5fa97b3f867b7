"""Taps for guests' NICs and for the uplink, and a host whose hooks are called as libvirt calls them.

What is read from a tap is the frame on the wire, tag and all.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import struct
import subprocess
import time
from pathlib import Path

from lxml import etree

from libvirt_guestnet import xmlgen
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.install import hook_files
from libvirt_guestnet.model.topology import Port, Topology

_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
DOT1Q, DOT1AD = 0x8100, 0x88A8
_LATEST_SECONDS = 240


def frame(source: str, *tags: tuple[int, int], text: str = "") -> bytes:
    """A broadcast of a local experimental EtherType, with tags as (EtherType, VLAN), the outermost first."""
    octets = b"\xff" * 6 + bytes.fromhex(source.replace(":", ""))
    stacked = b"".join(struct.pack("!HH", kind, vlan) for kind, vlan in tags)
    return octets + stacked + b"\x88\xb5" + (text or source).encode().ljust(46, b".")


class Tap:
    def __init__(self, name: str, bridge: str = "") -> None:
        self.name, self.fd = name, os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(self.fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
        Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
        if bridge:
            ip(f"link set {name} master {bridge}")
        ip(f"link set {name} up")

    def send(self, data: bytes) -> None:
        os.write(self.fd, data)

    def heard(self, within: float = 0.3, kind: bytes = b"\x88\xb5", least: int = 0) -> list[bytes]:
        """Every frame of an EtherType that comes out within so many seconds, whatever else is there; and before, as
        many as there are `least`, however long an emulated and busy machine takes for them."""
        found, end, latest = list[bytes](), time.monotonic() + within, time.monotonic() + _LATEST_SECONDS
        while (left := (latest if len(found) < least else end) - time.monotonic()) > 0:
            if select.select([self.fd], [], [], left)[0]:
                data = os.read(self.fd, 4096)
                if kind in data[12:22]:
                    found.append(data)
                    end = time.monotonic() + within if len(found) == least else end
        return found


class Host:
    """A network namespace with our hooks, called as libvirt calls them."""

    def __init__(self, root: Path, found: Topology, devices: dict[str, str]) -> None:
        self.hostmap, self.root, self.found = HostMap(devices), root, found
        self.taps: dict[str, Tap] = {}
        hook_files.install(root, any_owner=True)

    def call(self, hook: str, name: str, operation: str, xml: bytes) -> str:
        file = self.root / f"etc/libvirt/hooks/{hook}.d/50-guestnet"
        if operation == "reconnect":
            Path("/run/libvirt/qemu").mkdir(parents=True, exist_ok=True)
            put = Path(f"/run/libvirt/qemu/{name}.new")  # put in the place of the old one, as libvirt does
            put.write_bytes(b"<domstatus>" + xml + b"</domstatus>")
            put.rename(put.with_suffix(".xml"))
        done = subprocess.run([file, name, operation, "begin", "-"], input=xml, capture_output=True, timeout=240)
        if operation == "reconnect":
            _repaired()
        assert (done.returncode == 0) == (done.stderr == b"")
        return done.stderr.decode()

    def network(self, name: str, *operations: str) -> str:
        xml = etree.tostring(xmlgen.network(self.found, self.found.network(name), self.hostmap))
        done = [self.call("network", name, each, b"<hookData>" + xml + b"</hookData>") for each in operations]
        return "".join(done)

    def domain(self, name: str, operation: str, bridge: str = "") -> str:
        """The bridge is that of each port's network if none is given."""
        guest = self.found.guest(name)
        metadata = etree.tostring(xmlgen.domain_metadata(self.found, guest, self.hostmap)).decode()
        nics = "".join(self._nic(port, bridge or self.found.network(port.network).bridge) for port in guest.ports)
        return self.call(
            "qemu",
            name,
            operation,
            f"<domain><name>{name}</name><uuid>{name}</uuid><metadata>{metadata}</metadata>"
            f"<devices>{nics}</devices></domain>".encode(),
        )

    def _nic(self, port: Port, bridge: str) -> str:
        label = self.found.network(port.network).physical_network
        virtualport = "<virtualport type='openvswitch'/>" if label and self.hostmap.is_ovs(label) else ""
        return (
            f"<interface type='bridge'><mac address='{port.mac}'/><source network='{port.network}' bridge='{bridge}'/>"
            f"{virtualport}<target dev='{port.tap}'/></interface>"
        )

    def start(self, guest: str, bridge: str) -> Tap:
        tap = self.taps[guest] = Tap(guest, bridge)
        assert self.domain(guest, "start", bridge) == ""
        return tap

    def stop(self, guest: str, bridge: str) -> None:
        os.close(self.taps.pop(guest).fd)
        assert self.domain(guest, "release", bridge) == ""


def ip(arguments: str) -> None:
    subprocess.run(["ip", *arguments.split()], check=True, timeout=240)


def vlans(device: str) -> dict[int, set[str]]:
    shown = subprocess.run(["bridge", "-j", "vlan", "show", "dev", device], check=True, capture_output=True).stdout
    listed = json.loads(shown or "[]")  # on its way from one bridge to another
    return {
        vid: set(entry.get("flags", ()))
        for port in listed
        for entry in port["vlans"]
        for vid in range(entry["vlan"], entry.get("vlanEnd", entry["vlan"]) + 1)
    }


ACCESS = {"PVID", "Egress Untagged"}


def _repaired() -> None:
    """Waits for the process that a `reconnect` leaves behind."""
    while any(Path("/run/libvirt-guestnet/reconnect").iterdir()):
        time.sleep(0.05)
    subprocess.run(["flock", "/run/libvirt-guestnet/reconnect.lock", "true"], check=True, timeout=240)
