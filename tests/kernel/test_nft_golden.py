"""The rules in docs/nft: exactly what nft prints once the hooks have put one guest's port into an empty kernel.

After a wanted change run `pytest --regenerate tests/kernel/test_nft_golden.py` and review the difference. nft 1.0.6
(Debian 12) prints them; others print some words differently, so only this tier compares, on the machine itself. The
bridge guard needs a kernel that has nft_meta_bridge: tests/labvm/inside/test_bridge_guard.py compares that.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from lxml import etree
from support.box import Box
from support.hooks import Hooks
from support.nft_golden import BRIDGE_GUARD, GOLDEN, GUESTS, HOSTMAP, SHARED, TOPOLOGY, compare, divided

from libvirt_guestnet import xmlgen
from libvirt_guestnet.model.network import Mode
from libvirt_guestnet.model.topology import Guest

# The uplink, with the host's addresses, and the bridges that libvirt would have made.
HOST = """set -e
ip link add up0 type veth peer name lan0
ip addr add 198.18.1.2/24 dev up0
ip addr add fd61:11::2/64 dev up0 nodad
for bridge in br-web br-pool br-inside; do
    ip link add $bridge address 52:54:00:61:00:ff type bridge stp_state 0 forward_delay 0
done
ip addr add 10.61.1.1/24 dev br-web
ip addr add fd61:1::1/64 dev br-web nodad
ip addr add 10.61.2.1/24 dev br-pool
for device in up0 lan0 br-web br-pool br-inside; do ip link set $device up; done
"""


class Host:
    """A kernel with one guest's tap, and the hooks."""

    def __init__(self, root: Path) -> None:
        self.box = Box()
        self.hooks = Hooks(self.box, root)
        self.box.ok("sh", "-c", HOST)

    def start(self, guest: Guest) -> None:
        """All that libvirt tells the hooks while a guest starts on a network that has just started."""
        (port,) = guest.ports
        self.box.ok("ip", "tuntap", "add", port.tap, "mode", "tap")
        interface = xmlgen.interface(TOPOLOGY, guest, port, HOSTMAP)
        network, source = TOPOLOGY.network(port.network), interface.find("source")
        if source is not None:
            bridge = HOSTMAP.bridge(network) if network.mode is Mode.BRIDGE else network.bridge
            source.set("bridge", str(bridge))
            if network.mode is Mode.BRIDGE:
                etree.SubElement(interface, "virtualport", type="openvswitch")
            else:
                self.box.ok("ip", "link", "set", port.tap, "master", str(bridge))
            element = xmlgen.network(TOPOLOGY, network, HOSTMAP)
            for operation in ("start", "started"):
                told = b"<hookData>" + etree.tostring(element) + b"</hookData>"
                assert self.hooks.call("network", network.name, operation, "begin", told) == (0, "")
        self.box.ok("ip", "link", "set", port.tap, "up")
        xml = self._domain(guest, interface)
        for operation in ("start", "started"):
            assert self.hooks.call("qemu", guest.name, operation, "begin", xml) == (0, "")

    def _domain(self, guest: Guest, interface: xmlgen.Element) -> bytes:
        metadata, nic = (
            etree.tostring(each).decode() for each in (xmlgen.domain_metadata(TOPOLOGY, guest, HOSTMAP), interface)
        )
        uuid = "00000000-0000-4000-8000-000000000001"
        return (
            f"<domain type='qemu'><name>{guest.name}</name><uuid>{uuid}</uuid><metadata>{metadata}</metadata>"
            f"<devices>{nic}</devices></domain>"
        ).encode()

    def rules(self) -> str:
        return self.box.ok("nft", "--stateless", "list", "ruleset")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.box.close()


@pytest.mark.parametrize("name", GUESTS)
def test_the_rules_are_those_of_the_golden_file(host: Host, name: str, regenerate: bool) -> None:
    host.start(TOPOLOGY.guest(name))
    shared, own = divided(host.rules())
    compare(SHARED, shared, regenerate and name == GUESTS[0])
    compare(name, own, regenerate)


def test_there_is_a_golden_file_for_every_guest_and_no_other() -> None:
    assert sorted(file.stem for file in GOLDEN.glob("*.nft")) == sorted([*GUESTS, SHARED, BRIDGE_GUARD])
