"""The port filter against real frames through a real tap: honest ones arrive, forged ones do not."""

from __future__ import annotations

import json
import subprocess
from ipaddress import ip_network
from pathlib import Path

import frames
import pytest
from scapy.all import ICMP, IP, ICMPv6EchoRequest, IPv6  # type: ignore[attr-defined]
from support.taps import Wire, ip

from libvirt_guestnet.datapath.netlink import kernel, links
from libvirt_guestnet.datapath.port import filters
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.enforce import bridge_guard
from libvirt_guestnet.state.locked import UnlockedState
from libvirt_guestnet.state.receipts import Bridges, PortReceipt


def _guard(tap: str, routed: tuple[str, ...] = (), onlink: tuple[str, ...] = ()) -> None:
    port = filters.PortGuard(
        tap=tap,
        mac=frames.ME,
        owned=(ip_network(frames.ME4), ip_network(frames.ME6)),
        routed=tuple(map(ip_network, routed)),
        excluded=tuple(map(ip_network, onlink)),
    )
    kernel.nft(filters.guard(port))


def test_every_frame_is_delivered_without_a_guard(wire: Wire) -> None:
    """The corpus is only worth something if nothing but the filter stops it."""
    corpus = {**frames.HONEST, **frames.FORGED}
    assert set(corpus) - wire.judge(corpus) == frames.UNCARRIED


def test_honest_frames_pass(wire: Wire) -> None:
    _guard(wire.tap)
    assert set(frames.HONEST) - wire.judge(frames.HONEST) == set()


def test_jumbo_frames_pass(wire: Wire) -> None:
    for device in ("peer0", "peer1", wire.tap, "br0"):
        ip(f"link set {device} mtu 9000")
    _guard(wire.tap)
    assert wire.judge(frames.JUMBO) == set(frames.JUMBO)


def test_forged_frames_arrive_nowhere(wire: Wire) -> None:
    _guard(wire.tap)
    assert wire.judge(frames.FORGED) == set()


def test_a_router_sends_from_where_it_routes_and_not_from_its_neighbours(wire: Wire) -> None:
    _guard(wire.tap, ("0.0.0.0/0", "::/0"), ("10.61.1.0/24", "fd61:1::/64"))
    far4 = frames.mine(IP(src="198.18.2.1", dst=frames.THEM4) / ICMP() / frames.marked())
    far6 = frames.mine(IPv6(src="fd61:12::1", dst=frames.THEM6) / ICMPv6EchoRequest() / frames.marked())
    assert wire.delivered(far4)
    assert wire.delivered(far6)
    assert set(frames.HONEST) - wire.judge(frames.HONEST) == set()
    # From where it routes, a router may send; the rest holds for it too.
    assert wire.judge(frames.FORGED) == {
        "ipv4: an off-link source",
        "ipv4: link-local source (RFC 3927)",
        "ipv6: an off-link source",
    }


def test_guarding_again_and_releasing_twice(wire: Wire) -> None:
    _guard(wire.tap)
    before = _chains()
    _guard(wire.tap)
    assert _chains() == before
    kernel.nft(filters.release([wire.tap]))
    assert _chains() == []
    kernel.nft(filters.release([wire.tap]))
    assert wire.delivered(frames.FORGED["arp: another's address"])


def test_a_chain_outliving_its_tap_is_replaced_for_the_next_owner(wire: Wire) -> None:
    _guard(wire.tap)
    ip(f"link del {wire.tap}")
    kernel.nft(filters.release([wire.tap]))
    assert _chains() == []


def test_a_port_without_its_chain_is_not_admitted_to_its_bridge(
    namespace: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All rules were flushed, and one guest cannot be guarded again; a trusted port needs no chain."""
    state, batches = UnlockedState(str(tmp_path)), list[str]()
    for tap in ("guarded", "bare", "trusted"):
        ip(f"tuntap add {tap} mode tap")
        port = PortReceipt(tap, frames.ME, tap, tap, ifindex=links.index_of(tap), trusted=tap == "trusted")
        with state.lock() as locked:
            locked.put_ports(tap, [port])
    kernel.nft(filters.guard(filters.PortGuard("guarded", frames.ME)))
    monkeypatch.setattr(bridge_guard, "nft", lambda batch, _lock: batches.append(batch))
    with state.lock() as locked:
        locked.put_bridges(Bridges({"br0": "lab"}))
        bridge_guard.settle(locked)
    admitted = {tap for tap in ("guarded", "bare", "trusted") if f'"{links.index_of(tap):016d}"' in batches[0]}
    assert admitted == {"guarded", "trusted"}


def test_drops_are_counted_and_belong_to_their_tap(wire: Wire) -> None:
    _guard(wire.tap)
    for tap in ("sent-x", "x"):
        ip(f"tuntap add {tap} mode tap")
        _guard(tap)
    for _ in range(3):
        wire.delivered(frames.FORGED["arp: another's address"], within=0.01)
    assert kernel.dropped_frames() == {wire.tap: 3, "x": 0, "sent-x": 0}
    kernel.nft(filters.release(["x"]))
    assert sorted(kernel.dropped_frames()) == sorted([wire.tap, "sent-x"])


def test_a_refused_batch_raises_and_changes_nothing(namespace: None) -> None:
    good = filters.release(["tap0"])
    with pytest.raises(GuestnetError, match=r"nft refused the change: .*No such file or directory"):
        kernel.nft(f"{good}add chain netdev guestnet arp-kept\nadd rule netdev guestnet arp-nosuch accept\n")
    assert _chains() == []


@pytest.mark.parametrize("name", ["", ".", "a b", "tap;x", 'tap"', "x" * 16, "tap\nflush ruleset"])
def test_a_hostile_device_name_never_reaches_nft(name: str) -> None:
    with pytest.raises(GuestnetError, match="cannot be guarded"):
        filters.guard(filters.PortGuard(name, frames.ME))


@pytest.mark.parametrize("mac", ["", "52:54:00:00:00", "01:00:5e:00:00:01", "52:54:00:00:00:0g", "5:4:0:0:0:a"])
def test_a_bad_mac_never_reaches_nft(mac: str) -> None:
    with pytest.raises(GuestnetError, match="not a unicast MAC"):
        filters.guard(filters.PortGuard("tap0", mac))


SHARED = ("asks6", "finds6", "tells6", "plain4", "plain6", "rest4", "rest6", "nowhere4", "nowhere6")


def _chains() -> list[str]:
    done = subprocess.run(["nft", "-j", "list", "chains"], check=True, capture_output=True, timeout=120)
    items = json.loads(done.stdout)["nftables"]
    names = (item["chain"]["name"] for item in items if item.get("chain", {}).get("table") == "guestnet")
    return sorted(name for name in names if name not in SHARED)
