"""Networks of OVN on two real hosts: databases, northd, controllers, libvirt's guests, and packets between them."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import count
from typing import NamedTuple

import frames
import pytest
from scapy.all import BOOTP, DHCP, DNS, DNSQR, ICMP, IP, UDP, Ether, IPv6, Raw  # type: ignore[attr-defined]
from support import ovn
from support.libvirt_lan import Puppet
from support.libvirt_many import LISTENING
from support.libvirt_wire import Wire, domain
from support.ovn import Central, Chassis, guestnet, telling
from support.sandboxes import install_hooks

from libvirt_guestnet import sandbox as sandboxes
from libvirt_guestnet.sandbox import NoSandboxError

LEFT, RIGHT = ovn.UNDERLAY["left"], ovn.UNDERLAY["right"]
HOSTS = f"""
hosts:
  left: {{ uri: "qemu+tcp://{LEFT}/system", underlay: {LEFT}, labels: {{ wan: "ovs:br-wan" }} }}
  right: {{ uri: "qemu+tcp://{RIGHT}/system", underlay: {RIGHT}, labels: {{ wan: "ovs:br-wan" }} }}
fabric: {{ kind: ovn, northbound: "tcp:{LEFT}:6641" }}
physical-networks:
  wan:
    subnets: [198.18.1.0/24, "fd61:1::/64"]
    stand-in: [{ovn.LAN_HOST}, "{ovn.LAN_HOST6}"]
    host: [198.18.1.2, "fd61:1::2"]
"""
TOPOLOGY = f"""
name: t
{HOSTS}
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
        mac: "52:54:00:00:02:0a"
        model: rtl8139
        addresses: [10.1.1.11, "fd11:1::11"]
        floating: [198.18.1.60, "fd61:1::60"]
      - {{ network: lone, model: rtl8139, mac: "52:54:00:00:01:0a", addresses: [10.1.2.11] }}
  mail:
    ports:
      - network: office
        mac: "52:54:00:00:02:0b"
        model: rtl8139
        addresses: [10.1.1.12, "fd11:1::12"]
        forwards: [{{ services: [udp/5300], to: 53 }}]
      - {{ network: lone, model: rtl8139, mac: "52:54:00:00:01:0b", addresses: [10.1.2.12] }}
"""
WEB, MAIL = ("10.1.1.11", "fd11:1::11"), ("10.1.1.12", "fd11:1::12")
WEB_MAC, MAIL_MAC = "52:54:00:00:02:0a", "52:54:00:00:02:0b"
LONE = ("52:54:00:00:01:0a", "52:54:00:00:01:0b")
ROUTER = "52:54:00:8b:fe:87"  # on network lone; derived from the names


class Bed(NamedTuple):
    left: Central
    right: Chassis
    web: Wire
    mail: Wire


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Central, Chassis]]:
    prepare = [*ovn.unpacked(), *install_hooks(), ["sh", "-c", LISTENING]]
    # One that has ended by itself as the other was stopped is as good as stopped.
    with suppress(NoSandboxError), ExitStack() as stack:
        named = {n: sandboxes.start(f"ovn-{n}-{os.getpid()}", prepare=prepare) for n in ovn.UNDERLAY}
        for each in named.values():
            stack.enter_context(each)
        yield ovn.two(named)


@pytest.fixture(scope="module")
def bed(hosts: tuple[Central, Chassis]) -> Iterator[Bed]:
    """The topology applied on both hosts, with web on the left and mail on the right."""
    left, right = hosts
    for host, name in ((left, "web"), (right, "mail")):
        host.sandbox.run(["virsh", "-q", "define", "/dev/stdin"], stdin=domain(name))
    done = guestnet(left, TOPOLOGY, "apply")
    assert done.returncode == 0, done.stderr
    left.sandbox.run(["virsh", "-q", "start", "web"], timeout=240)
    right.sandbox.run(["virsh", "-q", "start", "mail"], timeout=240)
    ports = re.findall(r"port ([0-9a-f-]{36})", left.nbctl("show"))
    assert len(ports) == 4
    left.soon(lambda: all(map(left.is_up, ports)), "OVN has bound every port")
    with Wire(left.sandbox, "web") as web, Wire(right.sandbox, "mail") as mail:
        yield Bed(left, right, web, mail)


def seen(wire: Wire, asked: Ether, wanted: str, port: int = 0, seconds: float = 60.0) -> Ether:
    """The first frame with such a layer, from that port, that answers what is asked, again and again. NICs' boot ROMs
    ask for addresses themselves."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        wire.send(bytes(asked))
        until = time.monotonic() + 2
        while (frame := wire.next_frame(max(0, until - time.monotonic()))) is not None:
            is_from = not port or (UDP in (found := Ether(frame)) and found[UDP].sport == port)
            if is_from and wanted in (found := Ether(frame)) and found.dst == asked.src:
                return found
    raise AssertionError(f"no {wanted} within {seconds:.0f} s")


def test_a_second_plan_has_nothing_to_do(bed: Bed) -> None:
    for host in (bed.left, bed.right):
        assert nothing_to_do(host)


def nothing_to_do(host: Chassis) -> bool:
    """But to say of the host's own networks that these sandboxes have no other datapath."""
    done = guestnet(host, TOPOLOGY, "plan")
    notes = [line for line in done.stdout.splitlines() if ": note: " in line]
    assert len(notes) == 2
    assert all("is of Open vSwitch's user-space datapath" in line for line in notes)
    rest = [line for line in done.stdout.splitlines() if line not in notes]
    return (done.returncode, rest) == (0, ["left: nothing to do", "right: nothing to do"])


def test_each_host_has_what_libvirt_needs(bed: Bed) -> None:
    (nic, lone) = re.findall(r"interfaceid='([^']+)'", bed.left.sandbox.run(["virsh", "dumpxml", "web"]).stdout)
    assert bed.left.nbctl("lsp-get-addresses", nic) == "52:54:00:00:02:0a 10.1.1.11 fd11:1::11"
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


def test_guests_go_out_with_the_routers_address_or_their_own_floating_one(bed: Bed) -> None:
    with telling(bed.left):
        for mac, wire, mine, seen_as in (
            (MAIL_MAC, bed.mail, MAIL[0], "198.18.1.2"),
            (WEB_MAC, bed.web, WEB[0], "198.18.1.60"),
        ):
            assert answered(wire, mac, "52:54:00:75:9e:de", mine, ovn.LAN_HOST, 9000) == seen_as


def asked(bed: Bed, mine: str, theirs: str) -> str:
    """With what address web is seen by mail, which it asks."""
    return answered(bed.web, WEB_MAC, MAIL_MAC, mine, theirs, 4002)


def answered(wire: Wire, mac: str, to: str, mine: str, theirs: str, port: int) -> str:
    """What a guest hears that asks by UDP."""
    layer = IPv6 if ":" in mine else IP
    frame = Ether(src=mac, dst=to) / layer(src=mine, dst=theirs) / UDP(sport=4001, dport=port) / Raw(b"hello")
    found = seen(wire, frame, "UDP", port)
    return str(found[UDP].payload.load.decode().split()[0])


def test_an_isolated_port_reaches_no_other_one(bed: Bed) -> None:
    """But the router."""
    with Wire(bed.left.sandbox, "web", "net1") as web, Wire(bed.right.sandbox, "mail", "net1") as mail:
        hello = (
            Ether(src=LONE[0], dst=LONE[1])
            / IP(src="10.1.2.11", dst="10.1.2.12")
            / UDP(sport=9, dport=9)
            / Raw(b"hello")
        )
        web.send(bytes(hello))
        ping = Ether(src=LONE[0], dst=ROUTER) / IP(src="10.1.2.11", dst="10.1.2.1") / ICMP(id=7)
        assert seen(web, ping, "ICMP")[ICMP].type == 0
        assert b"hello" not in b"".join(frame for frame in iter(lambda: mail.next_frame(1), None))


def test_a_floating_address_is_its_guests_and_a_forward_reaches_it(bed: Bed) -> None:
    with Puppet(bed.web, *WEB, mac=WEB_MAC), Puppet(bed.mail, *MAIL, mac=MAIL_MAC):
        assert ovn.from_lan(bed.left, "198.18.1.60", 53) == ovn.LAN_HOST
        assert ovn.from_lan(bed.left, "fd61:1::60", 53) == ovn.LAN_HOST6
        assert ovn.from_lan(bed.left, "198.18.1.2", 5300) == ovn.LAN_HOST
        # Nobody opens a connection to what is behind NAT by a route of his own, nor by a port that is not forwarded.
        bed.left.sh("ip -n lan route add 10.1.1.0/24 via 198.18.1.2")
        assert ovn.from_lan(bed.left, "10.1.1.12", 54, times=2) == ""
        assert ovn.from_lan(bed.left, "198.18.1.2", 53, times=1) == ""


CORPUS = f"""
name: c
{HOSTS}
networks:
  lab: {{ mode: isolated, privacy-addresses: strict, subnets: [10.61.1.0/24, "fd61:1::/64"] }}
guests:
  me: {{ ports: [{{ network: lab, model: rtl8139, mac: "{frames.ME}", addresses: [{frames.ME4}, "{frames.ME6}"] }}] }}
  them:
    ports:
      - network: lab
        model: rtl8139
        guarded: false
        mac: "{frames.THEM}"
        addresses: [{frames.THEM4}, "{frames.THEM6}"]
"""


@pytest.fixture(scope="module")
def forgers(bed: Bed) -> Iterator[tuple[Wire, Wire]]:
    """A guest on the left that forges, and one on the right that hears."""
    for host, name in ((bed.left, "me"), (bed.right, "them")):
        host.sandbox.run(["virsh", "-q", "define", "/dev/stdin"], stdin=domain(name))
    done = guestnet(bed.left, CORPUS, "apply")
    assert done.returncode == 0, done.stderr
    for host, name in ((bed.left, "me"), (bed.right, "them")):
        host.sandbox.run(["virsh", "-q", "start", name], timeout=240)
    with Wire(bed.left.sandbox, "me") as me, Wire(bed.right.sandbox, "them") as them:
        seen_by(me, them, {})
        yield me, them


NUMBERS = count(1)


def seen_by(me: Wire, them: Wire, corpus: dict[str, bytes]) -> set[str]:
    """Which frames arrive on the other host. What follows them arrives, be it only when the port is bound; but a first
    frame of its kind may be overtaken, as it takes the way through ovs-vswitchd."""
    heard = set[str]()
    for start in range(0, max(len(corpus), 1), 40):
        batch = dict(list(corpus.items())[start : start + 40])
        me.send(*batch.values())
        found = until_heard(me, them)
        found += until_heard(me, them)
        heard |= {name for name, frame in batch.items() if any(frames.is_same(each, frame) for each in found)}
    return heard


def until_heard(me: Wire, them: Wire) -> list[bytes]:
    found: list[bytes] = []
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        last = frames.sentinel(next(NUMBERS))
        me.send(last)
        while (frame := them.next_frame(1)) is not None:
            found.append(frame)
            if frame.startswith(last):
                return found
    raise AssertionError("nothing arrives")


def test_what_ovn_alone_lets_pass(forgers: tuple[Wire, Wire]) -> None:
    """On the user-space datapath, which reads a tap before its guard does, OVN's own port security is all there is: it
    holds what has a wrong MAC or IP address, and little else. On the kernel's there is the guard (labvm's test_ovs)."""
    alone = seen_by(*forgers, frames.FORGED)
    assert {"arp: RARP with an address (RFC 903)", "ra: router advertisement", "dhcp-offer: from port 67"} <= alone
    assert not [name for name in alone if name.startswith("mac: ")]
    assert "arp: another's address" not in alone
    kinds = Counter(name.partition(":")[0] for name in frames.FORGED)
    passing = Counter(name.partition(":")[0] for name in alone)
    print("".join(f"| {kind} | {count} | {passing[kind]} |\n" for kind, count in kinds.items()))


def test_while_the_databases_are_gone_guests_go_on(bed: Bed) -> None:
    left = bed.left
    left.sh("kill $(cat /run/ovn/ovnnb_db.pid)")
    with Puppet(bed.mail, *MAIL, mac=MAIL_MAC):
        assert asked(bed, WEB[0], MAIL[0]) == WEB[0]
    failed = guestnet(left, TOPOLOGY, "plan")
    assert failed.returncode == 1
    assert "northbound database tcp:192.0.2.1:6641 " in failed.stderr
    left.start_northbound()
    left.soon(lambda: nothing_to_do(left), "the database is back")


def test_what_somebody_changes_by_hand_is_found_and_put_back(bed: Bed) -> None:
    left = bed.left
    left.nbctl("lsp-set-addresses", "t/office/to/router", "02:00:00:00:00:01")
    left.nbctl("lr-nat-del", "t/router/wan", "snat", "10.1.1.0/24")
    left.nbctl("set", "logical_switch", "t/office", "other_config:mcast_snoop=true")
    found = guestnet(bed.right, TOPOLOGY, "plan")
    assert found.returncode == 3
    assert {line.partition(": ")[0] for line in found.stdout.splitlines()[:3]} == {
        "define OVN nat wan/10.1.1.0/24",
        "set OVN logical-switch office",
        "set OVN logical-port office/to/router",
    }
    assert guestnet(bed.right, TOPOLOGY, "apply").stdout.endswith("3 changes made\n")
    assert "10.1.1.0/24" in left.nbctl("lr-nat-list", "t/router/wan")
    assert nothing_to_do(left)


def test_a_failure_on_a_host_takes_the_databases_change_back(bed: Bed) -> None:
    """libvirt has no folder any more for what it keeps of a network that it starts."""
    before = bed.left.nbctl("show")
    more = TOPOLOGY.replace("guests:", "  more: { mode: isolated, subnets: [10.1.3.0/24] }\nguests:")
    bed.left.sandbox.run(["sh", "-c", "mv /run/libvirt/network /run/libvirt/away && touch /run/libvirt/network"])
    try:
        failed = guestnet(bed.left, more, "apply")
    finally:
        bed.left.sandbox.run(["sh", "-c", "rm /run/libvirt/network && mv /run/libvirt/away /run/libvirt/network"])
    assert failed.returncode == 1
    assert "OVN's database: everything is as before" in failed.stderr
    assert sorted(bed.left.nbctl("show").split()) == sorted(before.split())


def test_rows_of_others_are_neither_changed_nor_taken(bed: Bed) -> None:
    left = bed.left
    left.nbctl("ls-add", "u/inside")
    left.nbctl("ls-add", "theirs")
    left.nbctl("lsp-add", "t/lone", "their-port")
    head = f"name: u\n{HOSTS}"
    other = head + "networks: { inside: { mode: isolated, subnets: [10.9.0.0/24] } }\n"
    refused = guestnet(left, other, "apply")
    assert refused.returncode == 1
    assert "logical-switch 'u/inside'" in refused.stderr
    assert "somebody else than guestnet made it" in refused.stderr
    gone = TOPOLOGY.replace("  lone: {", "  left: {").replace("network: lone", "network: left")
    held = guestnet(left, gone, "plan")
    assert held.returncode == 1
    assert "has Logical_Switch_Port their-port, which guestnet did not make" in held.stderr
    left.nbctl("lsp-del", "their-port")
    assert {"u/inside", "theirs"} <= set(left.nbctl("--bare", "--columns=name", "list", "logical_switch").split())


def test_a_chassis_that_is_up_stays_as_it_is_and_one_of_another_kind_is_no_ones(bed: Bed) -> None:
    for host in (bed.left, bed.right):
        said = guestnet(host, TOPOLOGY, "ovn", "up")
        assert said.stdout == f"chassis {host.name} is up already: nothing to do\n", said.stderr
    elsewhere = TOPOLOGY.replace("underlay: 192.0.2.2", "chassis: elsewhere, underlay: 192.0.2.2")
    other = guestnet(bed.right, elsewhere, "ovn", "up")
    assert other.returncode == 1
    assert "whose system-id is right, and the topology says elsewhere" in other.stderr


def test_a_host_is_made_a_chassis(bed: Bed) -> None:
    """One that is none any more; which datapath it has is not guestnet's to say."""
    right = bed.right
    ids = ("system-id", "ovn-remote", "ovn-encap-type", "ovn-encap-ip", "ovn-bridge-mappings")
    right.sh("ovn-appctl -t ovn-controller exit")
    right.soon(lambda: "ovn-controller" not in ovn.programs_of(right), "it has ended")
    for each in ids:
        right.sh(f"ovs-vsctl remove open_vswitch . external_ids {each}")
    made = guestnet(right, TOPOLOGY, "ovn", "up")
    assert made.returncode == 0, made.stderr
    assert made.stdout.splitlines()[-2:] == ["start ovn-controller", "chassis right is up"]
    assert [line.split()[1] for line in made.stdout.splitlines()[:-2]] == list(ids)
    with Puppet(bed.mail, *MAIL, mac=MAIL_MAC):
        assert asked(bed, WEB[0], MAIL[0]) == WEB[0]


def test_destroy_takes_its_own_rows_and_nothing_else(bed: Bed) -> None:
    for host, guest in ((bed.left, "web"), (bed.right, "mail"), (bed.left, "me"), (bed.right, "them")):
        host.sandbox.run(["virsh", "-q", "destroy", guest], check=False)
    for text in (CORPUS, TOPOLOGY):
        done = guestnet(bed.left, text, "destroy")
        assert done.returncode == 0, done.stderr
    assert set(bed.left.nbctl("--bare", "--columns=name", "list", "logical_switch").split()) == {"u/inside", "theirs"}
    for table in ("logical_router", "acl", "nat", "load_balancer", "dhcp_options", "dns", "port_group"):
        assert bed.left.nbctl("--bare", "--columns=_uuid", "list", table) == ""
