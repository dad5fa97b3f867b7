"""Ends of the host's own tunnels, as `ip -details -json link show up` tells them (iproute2 6.1)."""

from __future__ import annotations

import json

import pytest

from libvirt_guestnet.datapath.forwards import tunnels
from libvirt_guestnet.datapath.run.program import Output
from libvirt_guestnet.model.claims import Claim

DEVICES = [
    {"ifname": "lo", "link_type": "loopback"},
    {"ifname": "br0", "linkinfo": {"info_kind": "bridge", "info_data": {"forward_delay": 0}}},
    {
        "ifname": "gre1",
        "linkinfo": {"info_kind": "gre", "info_data": {"remote": "192.0.2.9", "local": "192.0.2.1", "ttl": 64}},
    },
    {"ifname": "tap6", "linkinfo": {"info_kind": "ip6gretap", "info_data": {"remote": "any", "local": "any"}}},
    {"ifname": "he", "linkinfo": {"info_kind": "sit", "info_data": {"remote": "192.0.2.9", "local": "192.0.2.1"}}},
]
STATE = "src 192.0.2.9 dst 192.0.2.1\n\tproto esp spi 0x00001234 reqid 0 mode tunnel\n"


def ends(monkeypatch: pytest.MonkeyPatch, *wanted: Claim, status: int = 0) -> list[tuple[str, str, str]]:
    def run(argv: list[str], _stdin: str, _package: str) -> Output:
        if "link" in argv:
            return Output(status, json.dumps(DEVICES), "no netlink")
        return Output(0, STATE if "192.0.2.1" in argv else "", "")

    monkeypatch.setattr(tunnels.program, "run", run)
    return [(each.protocol, each.at, each.owner) for each in tunnels.ends(wanted)]


def test_devices_and_associations_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = (Claim("192.0.2.1", "esp", 0, 0), Claim("192.0.2.2", "esp", 0, 0), Claim("192.0.2.3", "gre", 0, 0))
    assert ends(monkeypatch, *wanted) == [
        ("gre", "192.0.2.1", "tunnel gre1"),
        ("gre", "::", "tunnel tap6"),
        ("6in4", "192.0.2.1", "tunnel he"),
        ("ipip", "192.0.2.1", "tunnel he"),
        ("esp", "192.0.2.1", "an IPsec security association"),
    ]


def test_what_cannot_be_found_out_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Exception, match="ip -details -json link show up: no netlink"):
        ends(monkeypatch, status=1)
