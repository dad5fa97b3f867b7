"""The frame corpus on a host-routed tap: nobody but the host is on its link, so the port's counters judge.

What is honest goes where the host routes it: computer X on the uplink hears that.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import frames
import pytest
from scapy.all import ICMP, IP, UDP, Ether, ICMPv6EchoRequest, IPv6  # type: ignore[attr-defined]
from support.taps import ETH_P_ALL, ip

from libvirt_guestnet import xmlread
from libvirt_guestnet.datapath.netlink import kernel
from libvirt_guestnet.hook.calls import domain as domain_calls
from libvirt_guestnet.hook.enforce import bridge_guard, reachability
from libvirt_guestnet.metadata.policy import NAMESPACE
from libvirt_guestnet.state.locked import UnlockedState

TAP, X4, X6 = "vme0000000a", "10.61.1.9", "fd61:1::9"
_TUNSETIFF, _TAP_NO_PI = 0x400454CA, 0x1002
DOMAIN = f"""<domain><name>me</name><uuid>00000000-0000-4000-8000-00000000000a</uuid><metadata>
  <g:domain xmlns:g="{NAMESPACE}" topology="t" guest="me"><g:port mac="{frames.ME}" name="p" network="n" guarded="yes">
    <g:address ip="{frames.ME4}"/><g:address ip="{frames.ME6}"/>
    <g:routed gateway="169.255.30.1" publish="yes" label="lan" device="up0"/></g:port></g:domain></metadata>
  <devices><interface type="ethernet"><mac address="{frames.ME}"/><target dev="{TAP}"/></interface></devices>
</domain>"""
# The 802.1D addresses and source MACs that a bridge would stop get as far as any other frame here; tags that end too
# soon are thrown away before any filter.
ATTACKS = {name: frame for name, frame in frames.FORGED.items() if not name.endswith("octets of a tag")}


class Routed:
    """A tap that the hook made host-routed, with our end of it as the guest; `ear` is X's."""

    def __init__(self, state: UnlockedState) -> None:
        self.fd = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(self.fd, _TUNSETIFF, struct.pack("16sH22x", TAP.encode(), _TAP_NO_PI))
        for command in (
            f"link set {TAP} up",
            "link add up0 type veth peer name x0",
            "link set x0 up",
            "link set up0 up",
            "address add 10.61.1.1/24 dev up0",
            "address add fd61:1::1/64 dev up0 nodad",
            f"neigh add {X4} lladdr 02:00:00:00:00:09 dev up0",
            f"neigh add {X6} lladdr 02:00:00:00:00:09 dev up0",
        ):
            ip(command)
        domain = xmlread.parse(DOMAIN.encode())
        domain_calls.guard(domain, state)
        reachability.connect(bridge_guard.joined(domain, state), state)
        self.ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self.ear.bind(("x0", 0))
        self.gateway = _mac(TAP)

    def dropped(self, corpus: dict[str, bytes], expected: int) -> int:
        """How many of these frames the guard drops. A frame that it always drops follows, so that all are judged."""
        before = self._drops()
        for frame in corpus.values():
            os.write(self.fd, frame)
        os.write(self.fd, b"\xff" * 6 + bytes.fromhex("fe0000000001") + b"\x88\xb5" + bytes(46))
        deadline = time.monotonic() + 240
        while self._drops() - before < expected + 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        return self._drops() - before - 1

    def _drops(self) -> int:
        return kernel.dropped_frames()[TAP]

    def routes(self, packet: object) -> bool:
        """Whether X receives what the guest sends by way of its gateway."""
        sent = bytes(Ether(src=frames.ME, dst=self.gateway) / packet)
        os.write(self.fd, sent)
        self.ear.settimeout(2)
        try:
            while True:
                if sent[-8:] in self.ear.recv(65536):
                    return True
        except TimeoutError:
            return False

    def close(self) -> None:
        self.ear.close()
        os.close(self.fd)


def _mac(device: str) -> str:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        sock.bind((device, 0))
        return str(sock.getsockname()[4].hex(":"))


@pytest.fixture
def routed(namespace: None, tmp_path: Path) -> Iterator[Routed]:
    routed = Routed(UnlockedState(str(tmp_path)))
    yield routed
    routed.close()


def test_every_attack_is_dropped(routed: Routed) -> None:
    assert len(ATTACKS) > 300
    if routed.dropped(ATTACKS, len(ATTACKS)) != len(ATTACKS):  # slowly, one by one, for their names
        assert [name for name, frame in ATTACKS.items() if routed.dropped({name: frame}, 1) != 1] == []
        raise AssertionError("what is dropped one by one is not dropped together")


def test_no_honest_frame_is_dropped(routed: Routed) -> None:
    assert routed.dropped(frames.HONEST, 0) == 0
    # One dropped frame among them would have been counted.
    assert routed.dropped({**frames.HONEST, "forged": frames.FORGED["arp: another's address"]}, 1) == 1


def test_honest_packets_are_routed_and_others_sources_are_not(routed: Routed) -> None:
    echo4, echo6 = ICMP() / frames.marked(), ICMPv6EchoRequest() / frames.marked()
    assert routed.routes(IP(src=frames.ME4, dst=X4) / echo4)
    assert routed.routes(IPv6(src=frames.ME6, dst=X6) / echo6)
    assert not routed.routes(IP(src="10.61.1.77", dst=X4) / UDP(sport=9, dport=9) / b"forged-4")
    assert not routed.routes(IPv6(src="fd61:1::77", dst=X6) / UDP(sport=9, dport=9) / b"forged-6")


def test_the_hosts_own_check_of_sources_stands_behind_the_guard(routed: Routed) -> None:
    """Without a guard, reverse path filtering still stops IPv4 sources that the host would not route to this tap."""
    kernel.nft("delete table netdev guestnet\n")
    assert routed.routes(IP(src=frames.ME4, dst=X4) / UDP(sport=9, dport=9) / b"honest-4")
    assert not routed.routes(IP(src="10.61.1.77", dst=X4) / UDP(sport=9, dport=9) / b"forged-4")
