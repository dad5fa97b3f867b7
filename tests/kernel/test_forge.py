"""The forged frames that `verify` sends: each is what it claims to be, and nothing but the filter stops it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network

import frames
import pytest
from scapy.all import ARP, IP, UDP, Ether, ICMPv6ND_NA, ICMPv6ND_RA, IPv6  # type: ignore[attr-defined]
from support.taps import Wire

from libvirt_guestnet.datapath.netlink import kernel
from libvirt_guestnet.datapath.port import filters
from libvirt_guestnet.lab import forge
from libvirt_guestnet.model.topology import FORGERIES

ME = forge.Identity(frames.ME, IPv4Address(frames.ME4), IPv6Address(frames.ME6))
THEM = forge.Identity(frames.THEM, IPv4Address(frames.THEM4), IPv6Address(frames.THEM6))


@pytest.mark.parametrize("kind", FORGERIES)
def test_a_forged_frame_arrives_unless_it_is_filtered(wire: Wire, kind: str) -> None:
    sent = {str(number): frame for number, frame in enumerate(forge.forged(kind, ME, THEM, 0x12345))}
    assert wire.judge(sent) == set(sent)
    owned = (ip_network(frames.ME4), ip_network(frames.ME6))
    kernel.nft(filters.guard(filters.PortGuard(wire.tap, frames.ME, owned)))
    assert wire.judge({**sent, "honest": forge.honest(frames.ME, 0x12345)}) == {"honest"}


@pytest.mark.parametrize("kind", FORGERIES)
def test_checksums_are_right(kind: str) -> None:
    for frame in forge.forged(kind, ME, THEM, 0xFEDCB):
        seen = Ether(frame)
        for layer in (IP, UDP, ICMPv6ND_NA, ICMPv6ND_RA):
            field = "cksum" if layer in (ICMPv6ND_NA, ICMPv6ND_RA) else "chksum"
            if layer in seen and getattr(seen[layer], field):
                again = Ether(frame)
                delattr(again[layer], field)
                assert getattr(Ether(bytes(again))[layer], field) == getattr(seen[layer], field), (kind, layer)


def test_each_kind_lies_where_it_says() -> None:
    def only(kind: str) -> list[Ether]:
        return [Ether(frame) for frame in forge.forged(kind, ME, THEM)]

    assert [f.src for f in only("mac")] == [THEM.mac]
    assert {f[ARP].psrc for f in only("arp")} == {str(THEM.ip4), str(ME.ip4)}
    assert [f[IP].src for f in only("ipv4")] == [str(THEM.ip4)]
    assert [f[IPv6].src for f in only("ipv6")] == [str(THEM.ip6)]
    assert {f[ICMPv6ND_NA].tgt for f in only("nd")} == {str(THEM.ip6), str(ME.ip6)}
    assert all(ICMPv6ND_RA in f for f in only("ra"))
    assert {f[UDP].dport for f in only("dhcp-offer")} == {68}
