"""The corpus of virtio-net headers is what it says: by arithmetic, without a kernel."""

from __future__ import annotations

import offload
from offload import NEEDS_CSUM, NONE, Header
from offload_attacks import ATTACKS, MISFITS, PLAIN
from offload_honest import FORWARDED, HONEST


def test_a_header_is_the_kernels_struct() -> None:
    packed = Header(NEEDS_CSUM, offload.TCPV4, 66, 1448, 34, 16).packed()
    assert packed == b"\x01\x01" + b"".join(number.to_bytes(2, "little") for number in (66, 1448, 34, 16))


def test_every_sum_writes_what_is_wanted_and_nothing_else() -> None:
    summed = {n: o for n, o in {**ATTACKS, **HONEST, **FORWARDED}.items() if o.header.flags & NEEDS_CSUM}
    for name, offered in summed.items():
        if offered.header.gso == NONE:
            assert (offload.finished(offered.frame, *offered.header[4:]),) == offered.seen, name


def test_an_attack_changes_two_octets_and_hides_in_them() -> None:
    for name, offered in ATTACKS.items():
        if offered.header.gso == NONE:
            (seen,) = offered.seen
            at = offered.header.start + offered.header.offset
            assert offered.frame != seen, name
            assert (offered.frame[:at], offered.frame[at + 2 :]) == (seen[:at], seen[at + 2 :]), name
            assert seen.startswith(PLAIN[name.rpartition(" (")[0]]), name


def test_every_class_of_field_and_every_kind_of_segmentation_is_there() -> None:
    kinds = {name.partition(":")[0].partition(" (")[0] for name in ATTACKS}
    for field in (
        *("Ethernet", "ARP operation", "ARP sender's MAC", "ARP sender", "ARP target"),
        *("IPv4 source", "IPv4 destination", "IPv4 TTL and protocol", "IPv6 source", "IPv6 next header"),
        *("UDP port", "DHCP operation", "ND target", "ND option", "ICMP type", "ICMPv6 type", "IGMP type"),
    ):
        assert field in kinds
    for packet in ("ARP", "ICMP", "ICMPv6", "IGMP", "ESP", "GRE", "SCTP", "IPv4 later fragment of UDP"):
        assert {f"{packet} to be cut as {kind}" for kind in offload.GSO} <= set(MISFITS)
    assert {offered.header.gso for offered in HONEST.values()} >= set(offload.GSO.values())
