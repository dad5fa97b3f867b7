"""Which ports' leases are counted, and what of thousands of reservations reaches a port."""

from __future__ import annotations

import random
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from libvirt_guestnet.datapath.port import dhcp_requests, filters
from libvirt_guestnet.datapath.port.ranges import without
from libvirt_guestnet.hook.enforce import address_sets
from libvirt_guestnet.hook.read import port_receipts
from libvirt_guestnet.hook.read.domain import Domain
from libvirt_guestnet.state.locked import UnlockedState
from libvirt_guestnet.state.receipts import NetworkReceipt, PortReceipt
from libvirt_guestnet.xmlread import parse

MAC, HOST = "52:54:00:00:00:0a", "52:54:00:00:00:01"
NETWORK = NetworkReceipt(
    name="n", topology="t", guarded=True, bridge="br0", mac=HOST, lease=600, lease6=1200,
    subnets=("10.1.0.0/16", "fd00:1::/64"), hosts=("10.1.0.1", "fd00:1::1"),
    dynamic=(("10.1.128.0", "10.1.255.250"), ("fd00:1::100", "fd00:1::1ff")),
)  # fmt: skip
NS = 'xmlns:g="https://libvirt-guestnet.org/xmlns/1"'
KNOWN = f"<metadata><g:domain {NS}><g:port mac='{MAC}'><g:address ip='10.1.0.5'/></g:port></g:domain></metadata>"


def _receipt(network: NetworkReceipt, metadata: str = "") -> PortReceipt:
    nic = f"<interface type='network'><mac address='{MAC}'/><source network='n'/><target dev='tap0'/></interface>"
    domain = parse(f"<domain><name>d</name><uuid>u</uuid>{metadata}<devices>{nic}</devices></domain>".encode())
    (receipt,) = port_receipts.port_receipts(Domain(domain, lambda _: network))
    return receipt


def test_a_served_port_is_counted_whether_it_learns_or_not() -> None:
    for metadata, owned in (("", False), (KNOWN, True)):
        receipt = _receipt(NETWORK, metadata)
        assert (receipt.served, receipt.lease, receipt.lease6) == (((4, 1), (6, 1)), 600, 1200)
        assert (receipt.dhcp == ()) is owned
        batch = filters.own(port_receipts.guard_of(receipt))
        assert ("leases-tap0" in batch, "given6-tap0" in batch, "@learnt6-tap0" in batch) == (True, owned, not owned)
    batch = filters.own(port_receipts.guard_of(_receipt(NETWORK._replace(dynamic=()), KNOWN)), fresh=True)
    assert "leases-tap0" not in batch
    assert "closed-tap0" not in batch


def test_a_receipt_of_an_older_version_is_still_read(tmp_path: Path) -> None:
    state, receipt = UnlockedState(str(tmp_path)), _receipt(NETWORK)
    with state.lock() as locked:
        locked.put_ports("u", [receipt])
        assert locked.port("tap0") == receipt
    old = port_receipts.guard_of(receipt._replace(served=()))
    assert "jump tells6" in filters.own(old)


def test_what_looks_like_an_address_in_every_answer_is_counted_with_it() -> None:
    start = IPv6Address("fd00:1::100")
    assert dhcp_requests.usual_addresses([]) == 0
    assert dhcp_requests.usual_addresses([start], MAC, HOST) == 1
    assert dhcp_requests.usual_addresses([start, IPv6Address("fd00:2::100")], MAC) == 2
    assert dhcp_requests.usual_addresses([IPv6Address("fd00:5:18::100")], MAC) == 2
    assert dhcp_requests.usual_addresses([IPv6Address("fd00:3:10::100")], MAC) == 2
    assert dhcp_requests.usual_addresses([start], "52:54:00:05:00:18") == 2


def _few(spans: int) -> list[tuple[int, int]]:
    starts = (random.randrange(60) for _ in range(random.randrange(spans)))
    return [(first, first + random.randrange(5)) for first in starts]


def test_holes_are_cut_out_of_spans() -> None:
    def members(spans: list[tuple[int, int]]) -> set[int]:
        return {number for first, last in spans for number in range(first, last + 1)}

    random.seed(9)
    for _ in range(2000):
        spans, holes = _few(6), _few(8)
        assert members(without(spans, holes)) == members(spans) - members(holes)


@pytest.mark.parametrize("inside", [False, True])
def test_ten_thousand_reservations_leave_short_receipts(inside: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of a port that may not look into the network's set."""
    reserved = tuple(
        (f"52:54:00:10:{n >> 8:02x}:{n & 255:02x}", f"10.1.{(130 if inside else 2) + n // 250}.{n % 250}")
        for n in range(10_000)
    )
    network = NETWORK._replace(reservations=reserved)
    looks = _receipt(network)
    assert (looks.excluded, looks.reserved) == (network.hosts, network.bridge)
    assert "!= @reserved4-br0" in filters.own(port_receipts.guard_of(looks))
    monkeypatch.setattr(port_receipts, "FEW_RESERVED", 1 << 20)
    whole, short = _receipt(network), address_sets.completed(_receipt(network))
    assert len(whole.excluded) > 10_000
    assert len(short.excluded) < 400
    assert port_receipts.guard_of(short)._replace(excluded=()) == port_receipts.guard_of(whole)._replace(excluded=())
    assert filters.own(port_receipts.guard_of(short)) == filters.own(port_receipts.guard_of(whole))
