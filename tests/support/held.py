"""Two guests' ports on one bridge, and every way of being an address."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address

import frames
from make import (
    GATEWAY4,
    GATEWAY6,
    ME,
    THEM,
    arp,
    from_ll,
    marked,
    mine,
    na,
    ns,
    tll,
)
from scapy.all import IP, UDP  # type: ignore[attr-defined]

from libvirt_guestnet import xmlread
from libvirt_guestnet.datapath.run import nft
from libvirt_guestnet.hook.calls import domain as domain_calls
from libvirt_guestnet.metadata.policy import NAMESPACE
from libvirt_guestnet.state.locked import UnlockedState
from libvirt_guestnet.state.receipts import NetworkReceipt
from support.taps import Wire, ip, open_tap

THEIR_TAP = "vme0000000b"
PAIR4, PAIR6, RESERVED, FREE4, FREE6 = "10.61.1.100", "fd61:1::100", "10.61.1.50", "10.61.1.77", "fd61:1::77"
NETWORK = NetworkReceipt(
    name="lab",
    topology="t",
    guarded=True,
    bridge="br0",
    subnets=("10.61.0.0/16", "fd61:1::/64"),
    hosts=(GATEWAY4, GATEWAY6),
    reservations=(("52:54:00:00:00:0c", RESERVED),),
    mac="52:54:00:00:00:01",
    strict=True,  # what guests claim themselves has a test of its own
)
RARP = "RARP: QEMU's announcement after a migration"


def guest_domain(name: str, mac: str, tap: str, policy: str, attributes: str) -> xmlread.Node:
    uuid = f"00000000-0000-4000-8000-{mac.replace(':', '')}"
    return xmlread.parse(
        f"""<domain><name>{name}</name><uuid>{uuid}</uuid><metadata>
        <g:domain xmlns:g="{NAMESPACE}" topology="t" guest="{name}">
        <g:port mac="{mac}" name="p" network="lab" guarded="yes" {attributes}>{policy}</g:port></g:domain></metadata>
        <devices><interface type="network"><mac address="{mac}"/><source network="lab" bridge="br0"/>
        <target dev="{tap}"/></interface></devices></domain>""".encode()
    )


class Lab:
    """Two guests' ports on one bridge: mine, whose frames are judged, and theirs."""

    def __init__(self, wire: Wire, state: UnlockedState) -> None:
        self.wire, self.state = wire, state
        self.theirs = open_tap(THEIR_TAP)
        ip(f"link set {THEIR_TAP} master br0 up")
        self.put_network(NETWORK)

    def put_network(self, receipt: NetworkReceipt) -> None:
        with self.state.lock() as locked:
            locked.put_network(receipt)

    def me(self, policy: str = "", attributes: str = "") -> None:
        domain_calls.guard(guest_domain("me", ME, self.wire.tap, policy, attributes), self.state)

    def them(self, policy: str = "", attributes: str = "") -> None:
        domain_calls.guard(guest_domain("them", THEM, THEIR_TAP, policy, attributes), self.state)

    def they_end(self) -> None:
        domain_calls.release(guest_domain("them", THEM, THEIR_TAP, "", ""), self.state)

    def passing(self, corpus: Mapping[str, bytes]) -> set[str]:
        return self.wire.passing(corpus, last_frame())


def last_frame() -> bytes:
    return frames.HONEST[RARP]


def uses_of(address: str) -> dict[str, bytes]:
    """Every way of being an address."""
    if ":" in address:
        digits = ip_address(address).exploded.replace(":", "")[-6:]
        group = f"ff02::1:ff{digits[:2]}:{digits[2:]}"
        group_mac = f"33:33:ff:{digits[:2]}:{digits[2:4]}:{digits[4:]}"
        return {
            f"{address} as source": mine(from_ll(UDP(sport=9, dport=9), marked(), src=address)),
            f"{address} in an NA": mine(na(address, tll(ME), src=address)),
            f"{address} in an NA from the link-local": mine(na(address, tll(ME))),
            f"{address} in DAD": mine(ns(address, src="::", dst=group), group_mac),
        }
    return {
        f"{address} as source": mine(IP(src=address, dst=GATEWAY4) / UDP(sport=9, dport=9) / marked()),
        f"{address} asking": mine(arp(address)),
        f"{address} answering": mine(arp(address, op=2)),
        f"{address} in a probe": mine(arp("0.0.0.0", target=address)),
    }


def all_uses(*addresses: str) -> dict[str, bytes]:
    return {name: frame for address in addresses for name, frame in uses_of(address).items()}


def numbers_in(name: str) -> set[str]:
    return set(map(hex, nft.numbers(name)))
