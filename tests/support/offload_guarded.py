"""A port's filter and checksum guard at a NIC without offload."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_network

import frames
import offload
from offload import Offered

from libvirt_guestnet.datapath.netlink import kernel
from libvirt_guestnet.datapath.port import filters
from libvirt_guestnet.datapath.port.port_facts import PortGuard
from support.offload_wire import NEWEST, OffloadWire

OWN = PortGuard("", frames.ME, (ip_network(frames.ME4), ip_network(frames.ME6)))
PLAIN_HEADER = offload.Header()


def put_filter(wire: OffloadWire, **policy: object) -> None:
    kernel.nft(filters.guard(OWN._replace(tap=wire.tap, **policy)))  # type: ignore[arg-type]


def put_guard(wire: OffloadWire, way: str = NEWEST, **policy: object) -> None:
    put_filter(wire, **policy)
    wire.guard(way)


def plain_offers(corpus: Mapping[str, bytes]) -> dict[str, Offered]:
    return {name: Offered(PLAIN_HEADER, frame, (frame,)) for name, frame in corpus.items()}
