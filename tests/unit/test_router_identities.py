"""Which DHCPv6 requests a virtual router lets through to dnsmasq, by the program in its appliance: of each MAC address
a few identities, however they are written down."""

from __future__ import annotations

import struct
import subprocess
from importlib.resources import files

import pytest

from libvirt_guestnet import parse

pytestmark = pytest.mark.system

PROGRAM = files("libvirt_guestnet.router").joinpath("data/identities")
JUDGE = """
require $ARGV[0];
Identities::lease_times(600);
while (<STDIN>) {
    my ($mac, $now, $packet) = split;
    print Identities::may(pack("H*", $mac), $now, Identities::identities(pack "H*", $packet)) ? 1 : 0;
}
"""
SOLICIT, REQUEST, INFORMATION, RELAY = 1, 3, 11, 12
IA_NA, IA_TA = 3, 4
ONE, OTHER = "525400130011", "525400130012"


def option(code: int, value: bytes) -> bytes:
    return struct.pack("!HH", code, len(value)) + value


def duid(value: str) -> bytes:
    return option(1, value.encode())


def ia(number: int, code: int = IA_NA) -> bytes:
    return option(code, struct.pack("!III", number, 0, 0)[: 12 if code == IA_NA else 4])


def packet(*options: bytes, kind: int = SOLICIT, behind: bytes = b"", next_header: int = 17) -> bytes:
    message = struct.pack("!B3s", kind, b"abc") + b"".join(options)
    udp = struct.pack("!HHHH", 546, 547, 8 + len(message), 0) + message + behind
    addresses = parse.address("fe80::1").packed + parse.address("ff02::1:2").packed
    return struct.pack("!IHBB", 6 << 28, len(udp), next_header, 255) + addresses + udp


def judged(*asked: tuple[str, int, bytes]) -> str:
    """A 1 for each request that is let through."""
    said = "".join(f"{mac} {now} {frame.hex()}\n" for mac, now, frame in asked)
    argv = ["perl", "-e", JUDGE, str(PROGRAM)]
    return subprocess.run(argv, input=said, capture_output=True, text=True, check=True, timeout=60).stdout


def test_a_few_identities_and_then_no_more() -> None:
    many = [(ONE, 1, packet(duid(f"client\n{number}"), ia(1))) for number in range(12)]
    assert judged(*many) == "111111110000"
    assert judged(*((ONE, 1, packet(ia(number, IA_TA), duid("x"))) for number in range(12))) == "111111110000"
    assert judged(*many, (OTHER, 1, packet(duid("x"), ia(1))), many[0], many[11]) == "111111110000110"


def test_one_client_asks_as_often_as_it_likes() -> None:
    assert judged(*((ONE, now, packet(duid("x"), ia(1), ia(2), kind=REQUEST)) for now in range(20))) == "1" * 20


def test_one_message_has_no_more_than_that_either() -> None:
    assert judged((ONE, 1, packet(duid("x"), *map(ia, range(8))))) == "1"
    assert judged((ONE, 1, packet(duid("x"), *map(ia, range(9)))), (ONE, 1, packet(duid("x"), ia(1)))) == "01"


def test_an_identity_is_forgotten_when_its_lease_is_over() -> None:
    many = [(ONE, 1, packet(duid(str(number)), ia(1))) for number in range(8)]
    kept = (ONE, 500, packet(duid("0"), ia(1)))
    late = [(ONE, 602, packet(duid(f"late {number}"), ia(1))) for number in range(9)]
    assert judged(*many, (ONE, 600, packet(duid("new"), ia(1))), kept, *late) == "1" * 8 + "01" + "111111100"


def test_what_asks_for_nothing_passes() -> None:
    asked = ((ONE, 1, packet(duid(str(number)), kind=INFORMATION)) for number in range(20))
    assert judged(*asked) == "1" * 20


def test_what_dnsmasq_could_read_otherwise_does_not_pass() -> None:
    two = packet(duid("changes"), duid("stays"), ia(1))
    cut_off = packet(duid("x"), struct.pack("!HH", IA_NA, 400) + b"x")
    for wrong in (two, cut_off, packet(duid("x"), kind=RELAY), packet(duid("x"), next_header=0), packet()[:50]):
        assert judged((ONE, 1, wrong)) == "0", wrong
    hidden = packet(duid("x"), ia(1), behind=b"".join(map(ia, range(20))))
    assert judged((ONE, 1, hidden)) == "1", "what is behind the message is no part of it"


def test_what_is_longer_than_is_looked_at_does_not_pass() -> None:
    """The kernel hands over the first octets, and dnsmasq would read what stands behind them."""
    filler = option(16, b"x" * 1955)
    whole = packet(duid("x"), filler, *map(ia, range(20)))
    assert whole[:2048].endswith(ia(1)), "what is handed over ends with an option"
    assert judged((ONE, 1, whole[:2048]), (ONE, 1, packet(duid("x"), filler))) == "01"


def test_no_identity_is_longer_than_any_may_be() -> None:
    assert judged((ONE, 1, packet(duid("x" * 130), ia(1))), (ONE, 1, packet(duid("x" * 131), ia(1)))) == "10"


def test_without_port_security_memory_is_bounded_all_the_same() -> None:
    crowd = [(f"5254{number:08x}", 1, packet(duid("x"), ia(1))) for number in range(4097)]
    assert judged(*crowd) == "1" * 4096 + "0"
    assert judged(*crowd, (ONE, 700, packet(duid("x"), ia(1))))[-1] == "1"
