"""Two neighbours on one bridge who claim addresses by asking for them."""

from __future__ import annotations

import os
from ipaddress import IPv6Address, ip_network

import frames
from make import GATEWAY6, ME, ME6, MY_LL, THEIR_LL, THEM, THEM6, from_ll, marked, na, ns, tll
from scapy.all import UDP, Ether  # type: ignore[attr-defined]

from libvirt_guestnet.datapath.port import filters
from libvirt_guestnet.datapath.port.port_facts import PortGuard
from libvirt_guestnet.datapath.run.nft import nft
from support.held import last_frame
from support.taps import Wire, ip, open_tap

THEIRS = "vme0000000b"
FREE, OTHER, FREE_LL = "fd61:1::4c1f:9d2e:77aa:1", "fd61:1::77aa:2", "fe80::4c1f:9d2e:77aa:2"
CLAIMS = tuple(map(ip_network, ("fd61:1::/64", "fe80::/64")))
UNCLAIMED = tuple(map(ip_network, (GATEWAY6, "fe80::1")))


def guarded_port(tap: str, mac: str, own: str, **policy: object) -> PortGuard:
    facts = {"owned": (ip_network(own),), "claims": CLAIMS, "unclaimed": UNCLAIMED, "segment": "br0"}
    return PortGuard(tap=tap, mac=mac, **{**facts, **policy})  # type: ignore[arg-type]


def group_of(address: str) -> str:
    digits = f"{int(IPv6Address(address)) & 0xFFFFFF:06x}"
    return f"ff02::1:ff{digits[:2]}:{digits[2:]}"


def dad_for(address: str, *options: object, mac: str = ME) -> bytes:
    group = int(IPv6Address(address)) & 0xFFFFFF
    to = f"33:33:ff:{group >> 16:02x}:{group >> 8 & 0xFF:02x}:{group & 0xFF:02x}"
    return bytes(Ether(src=mac, dst=to) / ns(address, *options, src="::", dst=group_of(address)))


def uses_by(address: str, mac: str = ME) -> dict[str, bytes]:
    def sent(payload: object) -> bytes:
        return bytes(Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / payload)

    link_local = MY_LL if mac == ME else THEIR_LL
    return {
        f"{address} as source": sent(from_ll(UDP(sport=9, dport=9), marked(), src=address)),
        f"{address} in an NA": sent(na(address, tll(mac), src=address)),
        f"{address} in an NA from the link-local address": sent(na(address, tll(mac), src=link_local)),
        f"{address} asking": sent(ns(THEM6 if mac == ME else ME6, src=address)),
    }


class Neighbours:
    """Mine, whose frames the wire judges, and theirs on the same bridge, whose frames come out of their tap."""

    def __init__(self, wire: Wire) -> None:
        self.wire, self.theirs = wire, open_tap(THEIRS)
        ip(f"link set {THEIRS} master br0 up")
        ip(f"link set {THEIRS} type bridge_slave learning off")

    def guard(self, **policy: object) -> None:
        nft(filters.guard(guarded_port(self.wire.tap, ME, ME6, **policy)))
        nft(filters.guard(guarded_port(THEIRS, THEM, THEM6)))

    def passing(self, *frames_: dict[str, bytes]) -> set[str]:
        return self.wire.passing({name: frame for each in frames_ for name, frame in each.items()}, last_frame())

    def none(self, *frames_: dict[str, bytes]) -> bool:
        return self.wire.silent({name: frame for each in frames_ for name, frame in each.items()}, last_frame())

    def they_send(self, frames_: dict[str, bytes]) -> set[str]:
        """What passes of what the neighbour sends."""
        for frame in frames_.values():
            os.write(self.theirs, frame)
        heard = list(self.wire._until(last_frame()))
        return {name for name, frame in frames_.items() if any(frames.is_same(each, frame) for each in heard)}

    def they_claim(self, address: str) -> None:
        frame = dad_for(address, mac=THEM)
        os.write(self.theirs, frame)
        assert any(frames.is_same(each, frame) for each in self.wire._until(last_frame()))
