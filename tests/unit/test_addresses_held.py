"""Who has an address already: the judgement, the files that tell of servers, and answers from hostile LANs."""

from __future__ import annotations

import os
import time
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from libvirt_guestnet.datapath.netlink import probe
from libvirt_guestnet.datapath.netlink.packets import arp_request, icmpv6
from libvirt_guestnet.datapath.routing import servers
from libvirt_guestnet.datapath.routing.servers import DHCP, RESOLVER, HostsServer
from libvirt_guestnet.model.held_addresses import (
    FORWARD,
    GUEST,
    NEXT_HOP,
    OWN,
    SERVER,
    HeldAddress,
    RequestedAddress,
    refusals,
    suspects,
)

LAN = (ip_network("192.0.2.0/24"), "")


def asks(prefix: str, **fields: Any) -> RequestedAddress:
    return RequestedAddress(ip_network(prefix), "address", "domain 'a'")._replace(**fields)


def holds(prefix: str, kind: str = OWN, **fields: Any) -> HeldAddress:
    return HeldAddress(ip_network(prefix), kind, "somebody's", "go away")._replace(**fields)


@pytest.mark.parametrize(
    ("asked", "held", "refused"),
    [
        (asks("192.0.2.1"), holds("192.0.2.1"), True),
        (asks("192.0.2.1"), holds("192.0.2.2"), False),
        (asks("2001:db8::1"), holds("2001:db8::1", NEXT_HOP), True),
        (asks("192.0.2.1", vrf="red"), holds("192.0.2.1"), False),
        (asks("192.0.2.1", vrf="red"), holds("192.0.2.1", vrf="red"), True),
        (asks("192.0.2.1", forwarded=True, part=True), holds("192.0.2.1"), False),
        (asks("192.0.2.1", forwarded=True, part=True), holds("192.0.2.1", NEXT_HOP), True),
        (asks("192.0.2.1", forwarded=True, part=True), holds("192.0.2.1", FORWARD), False),
        (asks("192.0.2.1"), holds("192.0.2.1", FORWARD), True),
        # A prefix takes along whoever is in it, unless the host's subnet is nearer.
        (asks("192.0.2.0/28"), holds("192.0.2.1", NEXT_HOP), True),
        (asks("192.0.2.0/24"), holds("192.0.2.1", NEXT_HOP), True),
        (asks("192.0.0.0/16"), holds("192.0.2.1", NEXT_HOP), False),
        (asks("192.0.0.0/16", vrf="red"), holds("192.0.2.1", NEXT_HOP, vrf="red"), True),
        (asks("192.0.2.0/28"), holds("192.0.2.1", SERVER), False),
        (asks("192.0.2.1"), holds("192.0.2.0/28", GUEST), False),
        (asks("192.0.2.0/28"), holds("192.0.2.0/28", GUEST), True),
        # On a bridge the host's own address there alone counts.
        (asks("192.0.2.1", bridge="br0"), holds("192.0.2.1", device="br0"), True),
        (asks("192.0.2.1", bridge="br0"), holds("192.0.2.1", device="up0"), False),
        (asks("192.0.2.1", bridge="br0"), holds("192.0.2.1", NEXT_HOP, device="br0"), False),
        (asks("192.0.2.1", bridge="br0"), holds("192.0.2.1", SERVER), False),
    ],
)
def test_what_cannot_be_had(asked: RequestedAddress, held: HeldAddress, refused: bool) -> None:
    assert [str(each) for each in refusals([asked], [held], [LAN])] == [
        f"domain 'a': address {str(asked.prefix).removesuffix('/32').removesuffix('/128')}"
        + ("" if asked.prefix == held.prefix else ", which holds 192.0.2.1,")
        + " is somebody's: go away"
    ] * refused


def test_a_router_on_a_bridge_may_be_the_guest_itself() -> None:
    router = asks("192.0.2.1", bridge="br0")
    assert suspects([router, asks("192.0.2.1")], [holds("192.0.2.1", NEXT_HOP, device="br0")]) == [router]
    assert suspects([router], [holds("192.0.2.1", NEXT_HOP, device="br1")]) == []


def write(root: Path, path: str, data: bytes) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(data)


LATER = time.strftime("%Y/%m/%d %H:%M:%S", time.gmtime(time.time() + 86400))
DHCLIENT = f"""
lease {{
  interface "eth0";
  option domain-name-servers 192.0.2.50,192.0.2.51;
  option dhcp-server-identifier 192.0.2.52;
  expire 6 {LATER};
}}
lease {{
  option dhcp-server-identifier 192.0.2.53;
  expire epoch {int(time.time()) + 86400}; # whenever
}}
lease {{
  option dhcp-server-identifier 192.0.2.97;
  expire 2 2020/01/01 00:00:00;
}}
lease {{
  option dhcp-server-identifier 192.0.2.98;
  expire epoch 1577836800; # Wed
}}
"""
DHCPCD = bytes(236) + bytes.fromhex("63825363 350105 00 3604c0000236 0608c0000237c0000238 ff 3604c0000263")


def test_every_file_that_tells_of_servers(tmp_path: Path) -> None:
    files = {
        "etc/resolv.conf": b"# x\nnameserver 127.0.0.53\nnameserver 192.0.2.1 \nnameserver fe80::1%eth0\nsearch a b\n",
        "run/systemd/resolve/resolv.conf": b"nameserver 2001:db8::1\nnameserver 192.0.2.1\n",
        "run/NetworkManager/no-stub-resolv.conf": b"nameserver 192.0.2.2\n",
        "run/systemd/netif/leases/2": b"ADDRESS=192.0.2.9\nSERVER_ADDRESS=192.0.2.3\nDNS=192.0.2.4 192.0.2.5\n",
        "var/lib/NetworkManager/internal-x-eth0.lease": b"SERVER_ADDRESS=192.0.2.6\n",
        "var/lib/dhcp/dhclient.eth0.leases": DHCLIENT.encode(),
        "var/lib/dhcpcd/eth0.lease": DHCPCD,
    }
    for path, data in files.items():
        write(tmp_path, path, data)
    found = {(str(each.address), each.what, each.path) for each in servers.servers(f"{tmp_path}/")}
    resolve, manager, *_ = list(files)[1:]
    assert found == {
        (address, what, f"{tmp_path}/{path}")
        for address, what, path in (
            ("192.0.2.1", RESOLVER, "etc/resolv.conf"),
            ("2001:db8::1", RESOLVER, resolve),
            ("192.0.2.2", RESOLVER, manager),
            ("192.0.2.3", DHCP, "run/systemd/netif/leases/2"),
            ("192.0.2.4", RESOLVER, "run/systemd/netif/leases/2"),
            ("192.0.2.5", RESOLVER, "run/systemd/netif/leases/2"),
            ("192.0.2.6", DHCP, "var/lib/NetworkManager/internal-x-eth0.lease"),
            ("192.0.2.50", RESOLVER, "var/lib/dhcp/dhclient.eth0.leases"),
            ("192.0.2.51", RESOLVER, "var/lib/dhcp/dhclient.eth0.leases"),
            ("192.0.2.52", DHCP, "var/lib/dhcp/dhclient.eth0.leases"),
            ("192.0.2.53", DHCP, "var/lib/dhcp/dhclient.eth0.leases"),
            ("192.0.2.54", DHCP, "var/lib/dhcpcd/eth0.lease"),
            ("192.0.2.55", RESOLVER, "var/lib/dhcpcd/eth0.lease"),
            ("192.0.2.56", RESOLVER, "var/lib/dhcpcd/eth0.lease"),
        )
    }


HOSTILE = {
    "nothing": b"",
    "no text": bytes(range(256)) * 100,
    "a number for an address": b"nameserver 1\nnameserver 1e9\nnameserver 0x7f000001\nnameserver \xd9\xa1.2.3.4\n",
    "a line without end": b"nameserver " + b"1" * (1 << 20),
    "many": b"nameserver a\n" * (1 << 17),
    "many words": b"DNS=" + b"x " * (1 << 18) + b"\noption domain-name-servers " + b"y," * (1 << 18),
    "many braces": b"}" * (1 << 20),
    "an expiry beyond all numbers": b"lease {\n expire epoch "
    + b"9" * 5000
    + b";\n option dhcp-server-identifier x;\n}",
    "options that end early": bytes(236) + bytes.fromhex("63825363 36"),
    "an option longer than the rest": bytes(236) + bytes.fromhex("63825363 36ff0102"),
    "an odd address": bytes(236) + bytes.fromhex("63825363 3603c00002 00 00"),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_says_nothing_and_holds_nobody_up(tmp_path: Path, data: bytes) -> None:
    for path in ("etc/resolv.conf", "run/systemd/netif/leases/2", "var/lib/dhcp/a", "var/lib/dhcpcd/a"):
        write(tmp_path, path, data)
    write(tmp_path, "run/systemd/resolve/resolv.conf", b"nameserver 192.0.2.7\n")
    assert [str(each.address) for each in servers.servers(f"{tmp_path}/")] == ["192.0.2.7"]


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    for folder in ("etc", "run/systemd/netif/leases", "var/lib/dhcp"):
        (tmp_path / folder).mkdir(parents=True)
    os.mkfifo(tmp_path / "etc/resolv.conf")
    os.mkfifo(tmp_path / "run/systemd/netif/leases/2")
    (tmp_path / "var/lib/dhcp/a").symlink_to("a")
    (tmp_path / "var/lib/dhcp/b").symlink_to("/dev/zero")
    assert servers.servers(f"{tmp_path}/") == []


def test_the_end_of_a_long_file_counts(tmp_path: Path) -> None:
    write(tmp_path, "etc/resolv.conf", b"#\n" * (1 << 20) + b"nameserver 192.0.2.8\n")
    assert servers.servers(f"{tmp_path}/") == [
        HostsServer(ip_address("192.0.2.8"), RESOLVER, f"{tmp_path}/etc/resolv.conf")
    ]


MAC, IP4, IP6 = bytes.fromhex("020000000009"), IPv4Address("192.0.2.70"), IPv6Address("2001:db8::70")
GROUP = IPv6Address("ff02::1")
ND = icmpv6(MAC, IP6, GROUP, bytes([136, 0, 0, 0]) + bytes(4) + IP6.packed)
DAD = icmpv6(MAC, IPv6Address("::"), GROUP, bytes([135, 0, 0, 0]) + bytes(4) + IP6.packed)


@pytest.mark.parametrize(
    ("frame", "found"),
    [
        (arp_request(MAC, IP4, IPv4Address("192.0.2.1")), IP4.packed),  # it has the address
        (arp_request(MAC, IPv4Address("0.0.0.0"), IP4), IP4.packed),
        (arp_request(MAC, IPv4Address("192.0.2.1"), IP4), IPv4Address("192.0.2.1").packed),  # it only looks for it
        (ND, IP6.packed),
        (DAD, IP6.packed),
        (icmpv6(MAC, IP6, GROUP, bytes([135, 0, 0, 0]) + bytes(4) + IP6.packed), None),
        (ND[:21] + b"\x40" + ND[22:], None),  # from beyond a router
        (ND[:20] + b"\x06" + ND[21:], None),
        (ND[:77], None),
        (arp_request(MAC, IP4, IP4)[:41], None),
        (arp_request(MAC, IP4, IP4)[:18] + b"\x08" + arp_request(MAC, IP4, IP4)[19:], None),
        (b"", None),
    ],
)
def test_what_a_frame_claims(frame: bytes, found: bytes | None) -> None:
    assert probe.claimed(frame) == (None if found is None else (found, MAC))
