"""Tunnels of the host's own, which a kernel with such devices has: no forward of their protocol cuts them off."""

from __future__ import annotations

import subprocess

import pytest

from libvirt_guestnet.datapath.forwards import listeners
from libvirt_guestnet.model.claims import Claim

AT, ELSEWHERE, AT6 = "198.18.77.1", "198.18.77.2", "fd77::1"
KEYS = "enc cbc(aes) 0x00112233445566778899aabbccddeeff auth hmac(sha1) 0x0011223344556677889900112233445566778899"


def ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True)


def refused(protocol: str, at: str) -> str:
    found = listeners.taken([Claim(at, protocol, 0, 0)])
    return found[1].owner if found else ""


@pytest.mark.parametrize(
    ("kind", "protocols"),
    [("gre", ["gre"]), ("gretap", ["gre"]), ("ipip", ["ipip"]), ("sit", ["6in4", "ipip"])],
)
def test_a_tunnel_device_has_its_protocol_where_it_ends(kind: str, protocols: list[str]) -> None:
    try:
        ip(f"link add tunnel0 type {kind} local {AT} remote 198.18.77.9")
        assert [refused(each, AT) for each in protocols] == [""] * len(protocols), "it is down"
        ip("link set tunnel0 up")
        assert [refused(each, AT) for each in protocols] == ["tunnel tunnel0"] * len(protocols)
        assert [refused(each, ELSEWHERE) for each in protocols] == [""] * len(protocols)
        assert refused("esp", AT) == ""
    finally:
        ip("link del tunnel0")


def test_one_over_ipv6() -> None:
    try:
        ip(f"link add tunnel0 type ip6gre local {AT6} remote fd77::9")
        ip("link set tunnel0 up")
        assert (refused("gre", AT6), refused("gre", "fd77::2"), refused("gre", AT)) == ("tunnel tunnel0", "", "")
    finally:
        ip("link del tunnel0")


def test_an_ipsec_association_has_esp_where_it_ends() -> None:
    ends = f"src 198.18.77.9 dst {AT} proto esp spi 0x1234"
    try:
        ip(f"xfrm state add {ends} mode tunnel {KEYS}")
        assert (refused("esp", AT), refused("esp", ELSEWHERE)) == ("an IPsec security association", "")
    finally:
        ip("xfrm state flush")
