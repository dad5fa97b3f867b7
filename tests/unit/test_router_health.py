"""What a router's health check reads of frames that somebody on the guests' network may have made."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.router import health

WANTED = health.Wanted(
    "52:54:00:13:00:fe",
    IPv4Address("10.1.1.254"),
    IPv4Address("10.1.1.1"),
    "web.lan.internal",
    IPv4Address("203.0.113.1"),
)
HEADS = (b"\x08\x00\x45\0", b"\x08\x00\x4f\0", b"\x08\x06\0\1\x08\0\6\4\0\1", b"")


def prober(timeout: float = 0.0) -> tuple[health._Prober, socket.socket]:
    ours, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return health._Prober(ours, WANTED, timeout), other


@given(head=st.sampled_from(HEADS), rest=st.binary(max_size=400))
def test_no_frame_fails_it(head: bytes, rest: bytes) -> None:
    probe, other = prober()
    frame = bytes(12) + head + rest
    assert probe._lease(frame, 2) is None
    assert probe._dns_answer(frame) is None
    assert probe._echo_answer(frame) is None
    probe._arp_answer(frame)
    probe._answer_arp(frame)
    health._options(rest)
    other.close()


def test_a_flood_of_others_frames_ends_at_the_deadline() -> None:
    probe, other = prober(0.2)
    for _ in range(50):
        other.send(bytes(60))
    assert probe.all()[0].ok is False


def test_its_own_echo_is_no_answer() -> None:
    probe, other = prober(0.1)
    checks = probe.all()
    assert [(check.name, check.detail) for check in checks] == [("dhcp", "no DHCP offer")]
    request = other.recv(2048)
    assert probe._lease(request, 1) is None


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(GuestnetError, match="nosuch0: a router's health cannot be tried from there"):
        health.check("nosuch0", WANTED)
