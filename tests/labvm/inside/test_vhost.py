"""The checksum guard where the kernel itself takes the frames out of a guest's memory (vhost-net)."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from ipaddress import ip_network

import frames
import offload
import pytest
from offload_attacks import ATTACKS, EARLY
from offload_honest import HONEST
from support.labvm_vhost import VhostWire

from libvirt_guestnet.datapath.netlink import kernel
from libvirt_guestnet.datapath.port import filters
from libvirt_guestnet.datapath.port.port_facts import PortGuard

# What every kernel since 6.1 takes.
FORGED, SENT = (
    {name: offered for name, offered in corpus.items() if offered.header.gso != offload.UDP_L4}
    for corpus in (ATTACKS, HONEST)
)


@pytest.fixture
def wire(namespace: None) -> Iterator[VhostWire]:
    subprocess.run(["modprobe", "vhost_net"], check=True, timeout=240)
    wire = VhostWire("vme0000000a")
    yield wire
    wire.close()


def test_nothing_forged_leaves_through_vhost_and_all_that_is_honest_does(wire: VhostWire) -> None:
    owned = (ip_network(frames.ME4), ip_network(frames.ME6))
    kernel.nft(filters.guard(PortGuard(wire.tap, frames.ME, owned)))
    assert set(FORGED) - wire.delivered(FORGED) <= EARLY
    wire.guard()
    assert {name for name, offered in FORGED.items() if wire.heard(offered)} == set()
    assert set(SENT) - wire.delivered(SENT) == set()
