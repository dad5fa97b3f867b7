"""What a network's DHCP and DNS server says by a topology file: as a guarded guest gets it from libvirt's dnsmasq."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any

import frames
import pytest
from dhcp6 import DUIDS, address_of, answers, association, question
from make import MY_LL, THEIR_LL, dhcp
from scapy.all import (  # type: ignore[attr-defined]
    BOOTP,
    DHCP,
    DNS,
    DNSQR,
    IP,
    TFTP,
    TFTP_DATA,
    TFTP_RRQ,
    UDP,
    DHCP6_Solicit,
    DHCP6OptOptReq,
    Ether,
    Raw,
)
from support.libvirt_host import Host as BareHost
from support.libvirt_wire import NO_ROM, Wire, domain

from libvirt_guestnet.sandbox import Sandbox, python_inside

TOPOLOGY = """
name: services
networks:
  office:
    mode: isolated
    subnets: [10.63.1.0/24, "fd63:1::/64"]
    bridge: office0
    mac: "52:54:00:63:01:01"
    domain: office.example
    dhcp:
      range: [10.63.1.100, 10.63.1.199]
      lease: 12h
      options:
        ntp-server: [10.63.1.7, 10.63.1.8]
        netbios-ns: 10.63.1.5
        "252": http://wpad.office.example/wpad.dat
      boot:
        file: pxelinux.0
        tftp-root: /run/tftp
        uefi: { x86-64: grubx64.efi }
        http: { x86-64: "http://10.63.1.9/boot.efi" }
      reservations:
        - { mac: "%s", address: 10.63.1.150, hostname: printer, options: { mtu: 1400, ntp-server: 10.63.1.9 } }
    dhcp6:
      range: ["fd63:1::1:100", "fd63:1::1:1ff"]
      lease: 6h
      options: { ntp-server: "fd63:1::7" }
      reservations: [{ mac: "%s", address: "fd63:1::150" }, { duid: "%s", address: "fd63:1::151" }]
    dns-forwarders: [{ domain: corp.example, address: 198.18.0.53 }]
    dns-services:
      - { service: ldap, protocol: tcp, domain: office.example, target: dc.office.example, port: 389, priority: 1 }
    dns-texts: [{ name: office.example, text: "v=spf1 -all" }]
    dns-wildcards: { apps.office.example: 10.63.1.20 }
    dns-local: [lab.example]
    dns: { dc.office.example: [10.63.1.2] }
"""
THEIR_DUID = bytes(DUIDS["UUID (RFC 6355)"])
TOPOLOGY %= (frames.ME, frames.ME, THEIR_DUID.hex(":"))
NIC = f"""<interface type='network'><mac address='{{}}'/><source network='office'/><model type='rtl8139'/>{NO_ROM}
</interface>"""
HOST_MAC, SERVER = "52:54:00:63:01:01", "10.63.1.1"
_numbers = itertools.count(70000)


class Host(BareHost):
    def guestnet(self, *words: str, topology: str = TOPOLOGY) -> str:
        self.sandbox.run(["tee", "/tmp/services.yaml"], stdin=topology)
        argv = python_inside(["-m", "libvirt_guestnet.cli", *words, "/tmp/services.yaml"], self.sandbox.root)
        done = self.sandbox.run(argv, timeout=240, check=False)
        assert done.returncode == 0 or (words[0], done.returncode) == ("plan", 3), done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def host(each_sandbox: Sandbox) -> Iterator[Host]:
    made = Host(each_sandbox)
    each_sandbox.run(["sh", "-c", "mkdir -p /run/tftp && echo booted >/run/tftp/pxelinux.0 && chmod -R a+rX /run/tftp"])
    made.guestnet("apply")
    yield made
    made.guestnet("destroy")


@pytest.fixture(scope="module")
def started(host: Host) -> Iterator[dict[str, Wire]]:
    wires = {}
    for name, mac in (("me", frames.ME), ("them", frames.THEM)):
        host.sandbox.run(["virsh", "-q", "create", "/dev/stdin"], stdin=domain(name, NIC.format(mac)))
        wires[name] = Wire(host.sandbox, name).__enter__()
    for address, mac in ((MY_LL, frames.ME), (THEIR_LL, frames.THEM)):
        host.sandbox.run(["ip", "neigh", "replace", address, "lladdr", mac, "dev", "office0"])
    yield wires
    for name, wire in wires.items():
        wire.stack.close()
        host.sandbox.run(["virsh", "-q", "destroy", name], timeout=240, check=False)


@pytest.fixture
def me(started: dict[str, Wire]) -> Wire:
    return started["me"]


@pytest.fixture
def them(started: dict[str, Wire]) -> Wire:
    return started["them"]


def heard(wire: Wire, frame: bytes, wanted: Callable[[Any], bool], seconds: float = 120) -> Any:
    """What the guest gets in answer to a frame, which it sends again every second."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        wire.send(frame)
        until = time.monotonic() + 1
        while (got := wire._frame(until)) is not None:
            if wanted(packet := Ether(got)):
                return packet
    raise AssertionError("no answer")


def offer(wire: Wire, mac: str, *options: Any) -> dict[Any, Any]:
    """The options of the server's offer, with the boot file as "file"."""
    asked = dhcp("discover", mac=mac)
    number = asked[BOOTP].xid = next(_numbers)
    wished = ("param_req_list", [1, 3, 6, 26, 42, 44, 51, 66, 67, 252])
    asked[DHCP].options = [("message-type", "discover"), *options, wished, "end"]
    frame = bytes(Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / asked)
    found = heard(wire, frame, lambda p: DHCP in p and p[BOOTP].xid == number and p[BOOTP].op == 2)
    said = {each[0]: each[1] if len(each) == 2 else each[1:] for each in found[DHCP].options if len(each) > 1}
    return {**said, "file": found[BOOTP].file.rstrip(b"\0"), "address": found[BOOTP].yiaddr}


def test_options_of_the_network_and_of_one_machine(me: Wire, them: Wire) -> None:
    mine_, theirs = offer(me, frames.ME), offer(them, frames.THEM)
    assert mine_["address"] == "10.63.1.150"
    assert theirs["address"] != "10.63.1.150"
    assert theirs["address"] in {f"10.63.1.{number}" for number in range(100, 200)}
    assert theirs["NTP_server"] == ("10.63.1.7", "10.63.1.8")
    assert theirs["NetBIOS_server"] == mine_["NetBIOS_server"] == "10.63.1.5"
    assert theirs[252] == mine_[252] == b"http://wpad.office.example/wpad.dat"
    assert theirs["lease_time"] == mine_["lease_time"] == 43200
    assert theirs["file"] == b"pxelinux.0"
    assert mine_["NTP_server"] == "10.63.1.9"
    assert (mine_.get("interface-mtu"), theirs.get("interface-mtu")) == (1400, None)


@pytest.mark.parametrize(
    ("arch", "file"), [(0, b"pxelinux.0"), (7, b"grubx64.efi"), (16, b"http://10.63.1.9/boot.efi")]
)
def test_what_is_booted_by_the_firmware(them: Wire, arch: int, file: bytes) -> None:
    client = b"HTTPClient" if arch == 16 else b"PXEClient"
    said = offer(
        them,
        frames.THEM,
        ("vendor_class_id", client + b":Arch:%05d:UNDI:003001" % arch),
        ("pxe_client_architecture", arch.to_bytes(2, "big")),
    )
    assert said.get("boot-file-name", said["file"]).rstrip(b"\0") == file
    if arch == 16:
        assert said["vendor_class_id"] == b"HTTPClient"


def _leased(wire: Wire) -> None:
    """The guest with a reservation takes its address, so that it may send from it."""
    asked = dhcp("request", mac=frames.ME)
    number = asked[BOOTP].xid = next(_numbers)
    wish = [("requested_addr", "10.63.1.150"), ("server_id", SERVER)]
    asked[DHCP].options = [("message-type", "request"), *wish, "end"]
    frame = bytes(Ether(src=frames.ME, dst="ff:ff:ff:ff:ff:ff") / asked)
    heard(wire, frame, lambda p: DHCP in p and p[BOOTP].xid == number and ("message-type", 5) in p[DHCP].options)


def _known(wire: Wire) -> None:
    """The guest answers no ARP; and dnsmasq itself writes a neighbour entry whenever it answers a DHCP question."""
    wire.sandbox.run(["ip", "neigh", "replace", "10.63.1.150", "lladdr", frames.ME, "dev", "office0"])


def _sent(payload: Any, port: int, source: int = 4000) -> bytes:
    packet = IP(src="10.63.1.150", dst=SERVER) / UDP(sport=source, dport=port) / payload
    return bytes(Ether(src=frames.ME, dst=HOST_MAC) / packet)


def test_the_boot_file_comes_by_tftp(me: Wire) -> None:
    _leased(me)
    _known(me)
    asked = TFTP() / TFTP_RRQ(filename=b"pxelinux.0", mode=b"octet")
    found = heard(me, _sent(asked, 69), lambda p: UDP in p and p[UDP].dport == 4000)
    data = TFTP(bytes(found[UDP].payload))
    assert TFTP_DATA in data and bytes(data[Raw]).rstrip(b"\0") == b"booted\n"  # the frame is padded


@pytest.mark.parametrize("duid", ["vendor (systemd)", "link-layer and time"])
def test_a_machine_has_its_ipv6_address_by_its_mac_address(me: Wire, duid: str) -> None:
    message = DHCP6_Solicit()
    asked = question(
        message, association(), DHCP6OptOptReq(reqopts=[56]), client=DUIDS[duid], mac=frames.ME, source=MY_LL
    )
    found = heard(me, asked, lambda p: answers(bytes(p), message))
    assert address_of(found) == "fd63:1::150"
    assert ip_address("fd63:1::7").packed in bytes(found), "the NTP server (RFC 5908)"


def test_a_machine_has_its_ipv6_address_by_its_duid(them: Wire) -> None:
    found = {}
    for name in ("UUID (RFC 6355)", "vendor (systemd)"):
        message = DHCP6_Solicit()
        asked = question(message, association(), client=DUIDS[name], mac=frames.THEM, source=THEIR_LL)
        found[name] = address_of(heard(them, asked, lambda p, m=message: answers(bytes(p), m)))  # type: ignore[misc]
    assert found["UUID (RFC 6355)"] == "fd63:1::151"
    first, last = ip_address("fd63:1::1:100"), ip_address("fd63:1::1:1ff")
    assert int(first) <= int(ip_address(found["vendor (systemd)"])) <= int(last)


def ask(wire: Wire, name: str, kind: str) -> Any:
    _known(wire)
    number = next(_numbers) & 0xFFFF
    query = DNS(id=number, rd=1, qd=DNSQR(qname=name, qtype=kind))
    found = heard(
        wire, _sent(query, 53), lambda p: UDP in p and p[UDP].sport == 53 and DNS in p and p[DNS].id == number
    )
    return found[DNS]


def test_what_the_dns_server_answers(me: Wire) -> None:
    _leased(me)
    srv = ask(me, "_ldap._tcp.office.example", "SRV").an[0]
    assert (srv.target, srv.port, srv.priority, srv.weight) == (b"dc.office.example.", 389, 1, 0)
    assert ask(me, "office.example", "TXT").an[0].rdata == [b"v=spf1 -all"]
    assert ask(me, "whatever.apps.office.example", "A").an[0].rdata == "10.63.1.20"
    assert ask(me, "printer.office.example", "A").an[0].rdata == "10.63.1.150"
    nobody = ask(me, "nobody.lab.example", "A")
    assert (nobody.rcode, nobody.ancount) == (3, 0), "a local domain is asked of nobody"


def test_a_domain_has_its_own_forwarder(host: Host, me: Wire) -> None:
    _leased(me)
    run = host.sandbox.run
    run(["ip", "addr", "add", "198.18.0.53/32", "dev", "lo"])
    server = "dnsmasq --conf-file=/dev/null --no-resolv --no-hosts --bind-interfaces --listen-address=198.18.0.53"
    server += " --user=root"
    run(["sh", "-c", f"{server} --address=/erp.corp.example/192.0.2.80 --pid-file=/run/corp.pid"])
    try:
        assert ask(me, "erp.corp.example", "A").an[0].rdata == "192.0.2.80"
    finally:
        run(["sh", "-c", "kill $(cat /run/corp.pid); ip addr del 198.18.0.53/32 dev lo"])


def test_what_changes_while_it_runs_and_what_does_not(host: Host, me: Wire) -> None:
    _leased(me)
    assert host.guestnet("plan").strip() in ("", "nothing to do")
    changed = TOPOLOGY.replace("port: 389", "port: 636").replace("v=spf1 -all", "v=spf1 +all").replace("12h", "3h")
    changed = changed.replace("address: 10.63.1.150, hostname: printer", "address: 10.63.1.150, hostname: plotter")
    said = host.guestnet("plan", topology=changed)
    assert "restart" not in said
    assert "dns-srv" in said and "dns-txt" in said and "dhcp-range" in said
    host.guestnet("apply", topology=changed)
    assert ask(me, "_ldap._tcp.office.example", "SRV").an[0].port == 636
    assert ask(me, "office.example", "TXT").an[0].rdata == [b"v=spf1 +all"]
    assert offer(me, frames.ME)["lease_time"] == 3 * 3600
    assert host.guestnet("plan", topology=changed).strip() in ("", "nothing to do")
    rigid = changed.replace("10.63.1.5", "10.63.1.6")
    assert "restart" in host.guestnet("plan", topology=rigid)
    host.guestnet("apply", topology=TOPOLOGY)
    assert ask(me, "_ldap._tcp.office.example", "SRV").an[0].port == 389


def test_the_hostname_of_a_guest_with_any_name(host: Host) -> None:
    guests = 'guests: { "Windows 10 – Büro": { ports: [{ network: office, addresses: [10.63.1.11] }] } }\n'
    said = host.guestnet("render", "-o", "/tmp/rendered", topology=TOPOLOGY + guests)
    assert said
    assert "Windows-10-Buero" in host.sandbox.run(["cat", "/tmp/rendered/networks/office.xml"]).stdout
