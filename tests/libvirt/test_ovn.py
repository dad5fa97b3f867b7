"""Networks of OVN on two real hosts: databases, northd, controllers, libvirt's guests, and packets between them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest
from scapy.all import BOOTP, DHCP, DNS, DNSQR, IP, UDP, Ether, Raw  # type: ignore[attr-defined]
from support import ovn
from support.libvirt_lan import Puppet
from support.libvirt_wire import Wire, domain
from support.ovn import Central, Chassis, guestnet
from support.sandboxes import install_hooks

from libvirt_guestnet import sandbox as sandboxes

TOPOLOGY = f"""
name: t
hosts:
  left: {{ uri: "qemu+ssh://left/system", underlay: {ovn.UNDERLAY["left"]}, labels: {{ wan: br-wan }} }}
  right: {{ uri: "qemu+ssh://right/system", underlay: {ovn.UNDERLAY["right"]}, labels: {{ wan: br-wan }} }}
fabric: {{ kind: ovn, northbound: "tcp:{ovn.UNDERLAY["left"]}:6641" }}
physical-networks:
  wan:
    subnets: [198.18.1.0/24, "fd61:1::/64"]
    stand-in: [{ovn.LAN_HOST}, "{ovn.LAN_HOST6}"]
    host: [198.18.1.2, "fd61:1::2"]
networks:
  office:
    mode: nat
    physical-network: wan
    subnets: [10.1.1.0/24, "fd11:1::/64"]
    dhcp: {{ lease: 2h, options: {{ ntp-server: 10.1.1.9 }} }}
    domain: office.example
    dns: {{ printer.office.example: [10.1.1.250] }}
  lone: {{ mode: isolated, gateway: host, isolated-ports: true, subnets: [10.1.2.0/24] }}
guests:
  web:
    ports:
      - network: office
        mac: "52:54:00:00:00:0a"
        model: rtl8139
        addresses: [10.1.1.11, "fd11:1::11"]
        floating: [198.18.1.60, "fd61:1::60"]
      - {{ network: lone, model: rtl8139, mac: "52:54:00:00:01:0a", addresses: [10.1.2.11] }}
  mail:
    ports:
      - network: office
        mac: "52:54:00:00:00:0b"
        model: rtl8139
        addresses: [10.1.1.12, "fd11:1::12"]
        forwards: [{{ services: [udp/5300], to: 53 }}]
      - {{ network: lone, model: rtl8139, mac: "52:54:00:00:01:0b", addresses: [10.1.2.12] }}
"""
WEB, MAIL = ("10.1.1.11", "fd11:1::11"), ("10.1.1.12", "fd11:1::12")
WEB_MAC, MAIL_MAC = "52:54:00:00:00:0a", "52:54:00:00:00:0b"


class Bed(NamedTuple):
    left: Central
    right: Chassis
    web: Wire
    mail: Wire


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Central, Chassis]]:
    prepare = [*ovn.unpacked(), *install_hooks()]
    with ExitStack() as stack:
        named = {n: sandboxes.start(f"ovn-{n}-{os.getpid()}", prepare=prepare) for n in ovn.UNDERLAY}
        for each in named.values():
            stack.enter_context(each)
        yield ovn.two(named)


@pytest.fixture(scope="module")
def bed(hosts: tuple[Central, Chassis]) -> Iterator[Bed]:
    """The topology applied on both hosts, with web on the left and mail on the right."""
    left, right = hosts
    for host in hosts:
        for name in ("web", "mail"):
            host.sandbox.run(["virsh", "-q", "define", "/dev/stdin"], stdin=domain(name))
        done = guestnet(host, TOPOLOGY, "apply")
        assert done.returncode == 0, done.stderr
    left.sandbox.run(["virsh", "-q", "start", "web"], timeout=240)
    right.sandbox.run(["virsh", "-q", "start", "mail"], timeout=240)
    ports = re.findall(r"port ([0-9a-f-]{36})", left.nbctl("show"))
    assert len(ports) == 4
    left.soon(lambda: all(map(left.is_up, ports)), "OVN has bound every port")
    with Wire(left.sandbox, "web") as web, Wire(right.sandbox, "mail") as mail:
        yield Bed(left, right, web, mail)


def seen(wire: Wire, asked: Ether, wanted: str, seconds: float = 60.0) -> Ether:
    """The first frame with such a layer that answers what is asked, again and again."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        wire.send(bytes(asked))
        until = time.monotonic() + 2
        while (frame := wire.next_frame(max(0, until - time.monotonic()))) is not None:
            if wanted in (found := Ether(frame)) and found.dst == asked.src:
                return found
    raise AssertionError(f"no {wanted} within {seconds:.0f} s")


def test_a_second_plan_has_nothing_to_do(bed: Bed) -> None:
    for host in (bed.left, bed.right):
        assert guestnet(host, TOPOLOGY, "plan").stdout == "nothing to do\n"


def test_each_host_has_what_libvirt_needs(bed: Bed) -> None:
    (nic, lone) = re.findall(r"interfaceid='([^']+)'", bed.left.sandbox.run(["virsh", "dumpxml", "web"]).stdout)
    assert bed.left.nbctl("lsp-get-addresses", nic) == "52:54:00:00:00:0a 10.1.1.11 fd11:1::11"
    assert bed.left.nbctl("lsp-get-addresses", lone) == "52:54:00:00:01:0a 10.1.2.11"
    chassis = bed.left.sh("ovn-sbctl --db=unix:/run/ovn/ovnsb_db.sock show")
    assert re.search(rf'Chassis left\n(?s:.*?)Port_Binding "{nic}"', chassis)


def test_dhcp_tells_what_the_file_says(bed: Bed) -> None:
    ask = (
        Ether(src=WEB_MAC, dst="ff:ff:ff:ff:ff:ff") / IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67)
    )
    boot = BOOTP(chaddr=bytes.fromhex(WEB_MAC.replace(":", "")), xid=7)
    offered = seen(bed.web, ask / boot / DHCP(options=[("message-type", "discover"), "end"]), "DHCP options")
    options = dict(each for each in offered[DHCP].options if isinstance(each, tuple) and len(each) == 2)
    assert offered[BOOTP].yiaddr == "10.1.1.11"
    wanted = {"router": "10.1.1.1", "name_server": "10.1.1.1", "lease_time": 7200, "interface-mtu": 1442}
    assert {key: options.get(key) for key in wanted} == wanted
    assert (options["domain"], options["NTP_server"]) == (b"office.example", "10.1.1.9")


def test_names_are_answered(bed: Bed) -> None:
    for name, address in (("mail.office.example", "10.1.1.12"), ("printer.office.example", "10.1.1.250")):
        ask = Ether(src=WEB_MAC, dst="52:54:00:99:99:99") / IP(src=WEB[0], dst="10.1.1.1") / UDP(sport=4000, dport=53)
        answer = seen(bed.web, ask / DNS(rd=1, qd=DNSQR(qname=name)), "DNS")
        assert answer[DNS].an.rdata == address


def test_guests_reach_each_other_across_hosts_and_outside(bed: Bed) -> None:
    with Puppet(bed.mail, *MAIL, mac=MAIL_MAC):
        for mine, theirs in zip(WEB, MAIL, strict=True):
            assert asked(bed, mine, theirs) == mine


def asked(bed: Bed, mine: str, theirs: str) -> str:
    """With what address web is seen by whom it asks."""
    from scapy.all import IPv6  # type: ignore[attr-defined]

    layer = IPv6 if ":" in mine else IP
    frame = Ether(src=WEB_MAC, dst=MAIL_MAC) / layer(src=mine, dst=theirs) / UDP(sport=4001, dport=53) / Raw(b"hello")
    found = seen(bed.web, frame, "UDP")
    return str(found[UDP].payload.load.decode().split()[0])


def test_a_floating_address_is_its_guests_and_a_forward_reaches_it(bed: Bed) -> None:
    with Puppet(bed.web, *WEB, mac=WEB_MAC), Puppet(bed.mail, *MAIL, mac=MAIL_MAC):
        assert ovn.from_lan(bed.left, "198.18.1.60", 53) == ovn.LAN_HOST
        assert ovn.from_lan(bed.left, "fd61:1::60", 53) == ovn.LAN_HOST6
        assert ovn.from_lan(bed.left, "198.18.1.2", 5300) == ovn.LAN_HOST
        # Nobody opens a connection to what is behind NAT by a route of his own, nor by a port that is not forwarded.
        bed.left.sh("ip -n lan route add 10.1.1.0/24 via 198.18.1.2")
        assert ovn.from_lan(bed.left, "10.1.1.12", 53, times=2) == ""
        assert ovn.from_lan(bed.left, "198.18.1.2", 53, times=1) == ""
