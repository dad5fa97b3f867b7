"""Addresses that a port learns from the DHCP server of a virtual router, which is a guest on the same bridge: from its
answers, and from nobody else's."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from dhcp6 import DUIDS, address_of, answers, association, question, server_of
from make import GATEWAY4, GATEWAY6, ME, MY_LL, THEM, dhcp
from scapy.all import (  # type: ignore[attr-defined]
    BOOTP,
    DHCP,
    DUID_LLT,
    UDP,
    DHCP6_Reply,
    DHCP6_Request,
    DHCP6_Solicit,
    DHCP6OptClientId,
    DHCP6OptServerId,
    Ether,
    IPv6,
)
from support.held import THEIR_TAP, Lab, all_uses, guest_domain, numbers_in
from support.router_config import LAN, ROUTER, own
from support.taps import ip, open_tap

from libvirt_guestnet import slots, xmlread
from libvirt_guestnet.hook.calls import domain as domain_calls
from libvirt_guestnet.hook.calls import networks
from libvirt_guestnet.metadata.policy import NAMESPACE
from libvirt_guestnet.model.network import DhcpRange, DhcpRange6
from libvirt_guestnet.model.router import Dhcp
from libvirt_guestnet.router import disks, dnsmasq, folder

ROUTER_TAP, ROUTER_MAC, ROUTER_LL = "vmerouter", "52:54:00:13:01:00", "fe80::5054:ff:fe13:100"
FIRST, LAST, FIRST6, LAST6 = "10.61.1.150", "10.61.1.159", "fd61:1::150", "fd61:1::1ff"
OUTSIDE, NOBODYS = "10.61.2.77", "10.61.1.255"
SERVES = '<g:role name="dhcp-server"/><g:role name="ra-sender"/>'
GATEWAY = f'<g:address ip="{GATEWAY4}"/><g:address ip="{GATEWAY6}"/>{SERVES}'
NETWORK = f"""<hookData><network><name>lab</name><bridge name="br0"/><metadata>
<g:network xmlns:g="{NAMESPACE}" topology="t" name="lab" guarded="yes" privacy="strict">
<g:subnet prefix="10.61.1.0/24"/><g:subnet prefix="fd61:1::/64"/>
<g:dhcp mac="{ROUTER_MAC}" lease="3600" lease6="3600"><g:server ip="{GATEWAY4}"/><g:server ip="{GATEWAY6}"/>
</g:dhcp></g:network></metadata></network></hookData>"""
CONFIG = replace(
    ROUTER,
    guests=(
        replace(
            LAN,
            mac=ROUTER_MAC,
            addresses=(own(f"{GATEWAY4}/24"), own(f"{GATEWAY6}/64")),
            dhcp=Dhcp(
                ranges=(
                    DhcpRange(ip_address(FIRST), ip_address(LAST)),  # type: ignore[arg-type]
                    DhcpRange6(ip_address(FIRST6), ip_address(LAST6)),  # type: ignore[arg-type]
                )
            ),
        ),
    ),
)


@pytest.fixture
def tier(lab: Lab) -> Iterator[Lab]:
    """A network that a router serves, with that router's guarded port, me, of whom nobody knows an address, and a
    neighbour, not guarded yet."""
    networks.remember_network(xmlread.parse(NETWORK.encode()), lab.state)
    router = open_tap(ROUTER_TAP)
    ip(f"link set {ROUTER_TAP} master br0 up")
    domain_calls.guard(guest_domain("router", ROUTER_MAC, ROUTER_TAP, GATEWAY, ""), lab.state)
    lab.me()
    lab.router = router  # type: ignore[attr-defined]
    yield lab
    os.close(router)


def router_of(lab: Lab) -> int:
    found = lab.router  # type: ignore[attr-defined]
    assert isinstance(found, int)
    return found


def given4(kind: str = "ack", yiaddr: str = FIRST, mac: str = ME, frm: str = ROUTER_MAC, src: str = GATEWAY4) -> bytes:
    message = dhcp(kind, mac=mac, op=2, sport=67, dport=68, src=src)
    message[BOOTP].yiaddr = yiaddr
    return bytes(Ether(src=frm, dst="ff:ff:ff:ff:ff:ff") / message)


def given6(address: str = FIRST6, frm: str = ROUTER_MAC, src: str = ROUTER_LL) -> bytes:
    packet: Any = Ether(src=frm, dst=ME) / IPv6(src=src, dst=MY_LL) / UDP(sport=547, dport=546) / DHCP6_Reply(trid=1)
    duid = DUID_LLT(timeval=700000000, lladdr=ROUTER_MAC)
    for option in (
        DHCP6OptClientId(duid=DUIDS["link-layer"]),
        DHCP6OptServerId(duid=duid),
        association(address, valid=3600),
    ):
        packet = packet / option
    return bytes(packet)


def has(lab: Lab, address: str) -> bool:
    """Whether I may use an address, in every way, or else in none."""
    uses = all_uses(address)
    passed = lab.passing(uses)
    assert passed in (set(), set(uses)), passed
    return bool(passed)


def heard(fd: int, sent: bytes) -> bool:
    """Whether a guest gets a frame, within a moment."""
    end = time.monotonic() + 10
    while (left := end - time.monotonic()) > 0 and select.select([fd], [], [], left)[0]:
        if os.read(fd, 4096).startswith(sent):
            return True
    return False


@pytest.mark.parametrize(("given", "address"), [(given4(), FIRST), (given6(), FIRST6)], ids=["IPv4", "IPv6"])
def test_an_address_is_learnt_from_the_routers_own_port(tier: Lab, given: bytes, address: str) -> None:
    assert not has(tier, address)
    os.write(router_of(tier), given)
    assert heard(tier.wire.fd, given)
    assert has(tier, address)


def test_only_what_the_router_hands_out_is(tier: Lab) -> None:
    odd = {
        "an offer": given4("offer"),
        "outside the network": given4(yiaddr=OUTSIDE),
        "the router's own": given4(yiaddr=GATEWAY4),
        "for nobody": given4(yiaddr=NOBODYS),
        "another's": given4(mac=THEM),
    }
    for frame in odd.values():
        os.write(router_of(tier), frame)
    os.write(router_of(tier), given4(yiaddr=LAST))
    assert heard(tier.wire.fd, given4(yiaddr=LAST))
    assert numbers_in(f"learnt4-{tier.wire.tap}") == {hex(int(ip_address(LAST)))}
    assert [has(tier, each) for each in (FIRST, OUTSIDE, LAST)] == [False, False, True]


@pytest.mark.parametrize("roles", ["", SERVES], ids=["a guest", "a guest that may serve DHCP"])
def test_a_neighbour_that_plays_server_teaches_nothing(tier: Lab, roles: str) -> None:
    tier.them(f'<g:address ip="10.61.1.11"/>{roles}')
    own_ll = "fe80::5054:ff:fe00:b"
    forged = [
        given4(),  # in the router's name
        given4(frm=THEM),
        given4(frm=THEM, src="10.61.1.11"),
        given6(),
        given6(frm=THEM, src=own_ll),
        given6(frm=THEM),
    ]
    for frame in forged:
        os.write(tier.theirs, frame)
    honest = given4(frm=THEM, src="10.61.1.11")
    if roles:
        os.write(tier.theirs, honest)
        assert heard(tier.wire.fd, honest), "who may serve DHCP does, to those whose addresses are known"
    assert not has(tier, FIRST)
    assert not has(tier, FIRST6)
    assert numbers_in(f"learnt4-{tier.wire.tap}") | numbers_in(f"learnt6-{tier.wire.tap}") == set()


@pytest.mark.parametrize(
    ("given", "address", "other", "another"),
    [(given4(), FIRST, given4(yiaddr=LAST), LAST), (given6(), FIRST6, given6(LAST6), LAST6)],
    ids=["IPv4", "IPv6"],
)
def test_what_another_port_holds_is_not_learnt(
    tier: Lab, given: bytes, address: str, other: bytes, another: str
) -> None:
    tier.them(f'<g:address ip="{address}"/>')
    for frame in (given, other):
        os.write(router_of(tier), frame)
    assert heard(tier.wire.fd, other)
    assert [has(tier, each) for each in (address, another)] == [False, True]


def test_what_another_port_has_learnt_is_its_own(tier: Lab) -> None:
    tier.them()
    os.write(router_of(tier), given4(mac=THEM))
    assert heard(tier.theirs, given4(mac=THEM))
    os.write(router_of(tier), given4())
    os.write(router_of(tier), given4(yiaddr=LAST))
    assert heard(tier.wire.fd, given4(yiaddr=LAST))
    assert [has(tier, each) for each in (FIRST, LAST)] == [False, True]
    assert numbers_in(f"learnt4-{THEIR_TAP}") == {hex(int(ip_address(FIRST)))}


# ---- the server that a router runs


class Server:
    """dnsmasq as a router runs it, with its document, behind the router's guarded port."""

    def __init__(self, lab: Lab, place: Path) -> None:
        ip(f"link add {ROUTER_TAP} type veth peer name eth0 address {ROUTER_MAC}")
        for name in (ROUTER_TAP, "eth0"):
            Path(f"/proc/sys/net/ipv6/conf/{name}/accept_dad").write_text("0")
        ip(f"link set {ROUTER_TAP} master br0 up")
        ip("link set eth0 up")
        for address in (f"{GATEWAY4}/24", f"{GATEWAY6}/64"):
            ip(f"addr add {address} dev eth0{' nodad' if ':' in address else ''}")
        ip(f"neigh add {MY_LL} lladdr {ME} dev eth0")  # nobody in the tap answers
        domain_calls.guard(guest_domain("router", ROUTER_MAC, ROUTER_TAP, GATEWAY, ""), lab.state)
        parts = {name: getattr(dnsmasq, name)(CONFIG) for name in ("hosts", "options", "names", "servers")}
        for name, lines in parts.items():
            (place / name).write_text("".join(f"{each}\n" for each in lines))
        main = "".join(f"{each}\n" for each in dnsmasq.main(CONFIG) if not each.startswith(("user=", "group=")))
        config = main.replace("/run/router/", f"{place}/").replace("/run/dnsmasq/", f"{place}/")
        (place / "dnsmasq").write_text(config)
        program = shutil.which("dnsmasq", path="/usr/sbin:/usr/bin")
        assert program, "these tests need dnsmasq: scripts/setup"
        options = ["--no-daemon", "--user=root", "--pid-file=", "--port=0", f"--conf-file={place}/dnsmasq"]
        self.process = subprocess.Popen([program, *options])

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        ip(f"link del {ROUTER_TAP}")


@pytest.fixture
def served(lab: Lab, tmp_path: Path) -> Iterator[Lab]:
    networks.remember_network(xmlread.parse(NETWORK.encode()), lab.state)
    lab.me()
    (tmp_path / "dnsmasq").mkdir()
    server = Server(lab, tmp_path / "dnsmasq")
    yield lab
    server.close()


def asked(lab: Lab, frame: bytes, is_answer: Any) -> Any:
    """Asks again until the answer comes: the server may just be starting."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        lab.wire.send(frame)
        again = time.monotonic() + 1
        while (left := again - time.monotonic()) > 0 and select.select([lab.wire.fd], [], [], left)[0]:
            if is_answer(found := os.read(lab.wire.fd, 4096)):
                return Ether(found)
    raise AssertionError("no answer")


def test_a_guest_learns_from_the_server_that_a_router_runs(served: Lab) -> None:
    def says(kind: int) -> Any:
        return lambda frame: DHCP in (packet := Ether(frame)) and ("message-type", kind) in packet[DHCP].options

    offer = asked(served, bytes(Ether(src=ME, dst="ff:ff:ff:ff:ff:ff") / dhcp("discover")), says(2))
    wish = [("requested_addr", offer[BOOTP].yiaddr), ("server_id", GATEWAY4)]
    request = dhcp("request")
    request[DHCP].options = [("message-type", "request"), *wish, "end"]
    found = asked(served, bytes(Ether(src=ME, dst="ff:ff:ff:ff:ff:ff") / request), says(5))[BOOTP].yiaddr
    assert int(ip_address(FIRST)) <= int(ip_address(found)) <= int(ip_address(LAST))
    assert has(served, found)


@pytest.mark.parametrize("client", list(DUIDS))
def test_it_learns_an_ipv6_address_too(served: Lab, client: str) -> None:
    solicit, request = DHCP6_Solicit(), DHCP6_Request()
    offer = asked(served, question(solicit, association(), client=DUIDS[client]), lambda f: answers(f, solicit))
    wish = (server_of(offer), association(address_of(offer)))
    reply = asked(served, question(request, *wish, client=DUIDS[client]), lambda f: answers(f, request))
    assert address_of(reply).startswith("fd61:1::1")
    assert has(served, address_of(reply))


# ---- a guard that is put back while its guest runs


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The disk on which the router `edge` keeps its leases."""
    monkeypatch.setattr(folder, "ROUTERS", tmp_path / "libvirt-guestnet/routers")
    monkeypatch.setattr(slots, "FOLDER", str(folder.ROUTERS))
    folder.ensure("edge", folder.Owner(os.geteuid(), os.getegid()))
    return folder.disk("edge", disks.LEASES)


def flushed(lab: Lab) -> set[str]:
    """What I have once somebody has flushed all rules, and mine are put back."""
    network = NETWORK.replace("<g:dhcp ", '<g:dhcp routers="edge gone" ')
    networks.remember_network(xmlread.parse(network.encode()), lab.state)
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    lab.me()
    return numbers_in(f"learnt4-{lab.wire.tap}") | numbers_in(f"learnt6-{lab.wire.tap}")


def test_what_the_router_leased_is_had_again(tier: Lab, disk: Path) -> None:
    soon, duid = int(time.time()) + 600, f"00:03:00:01:{ME}"
    lines = [
        f"{soon} {ME} {FIRST} me *",
        f"{soon} {THEM} {LAST} them *",
        f"duid 00:01:00:01:2e:00:00:00:{ROUTER_MAC}",
        f"{soon} 7 {FIRST6} me {duid}",
        f"{soon} 8 {LAST6} them 00:03:00:01:{THEM}",
    ]
    disks.write(disk, "".join(f"{each}\n" for each in lines).encode())
    assert flushed(tier) == {hex(int(ip_address(each))) for each in (FIRST, FIRST6)}
    assert has(tier, FIRST)
    assert has(tier, FIRST6)


def test_a_router_that_lies_gives_nobody_what_is_not_its_own(tier: Lab, disk: Path) -> None:
    soon, past = int(time.time()) + 600, int(time.time()) - 10
    lies = [f"{soon} {ME} {each} me *" for each in (OUTSIDE, GATEWAY4, "nonsense")]
    lies += [f"{past} {ME} {FIRST} me *", f"{'9' * 40} {ME} {FIRST} me *", "\x1b[2J"]
    disks.write(disk, "".join(f"{each}\n" for each in lies).encode())
    flushed(tier)
    assert [has(tier, each) for each in (OUTSIDE, GATEWAY4, FIRST)] == [False] * 3


def test_a_disk_that_is_no_disk_leaves_the_guard(tier: Lab, disk: Path) -> None:
    disk.unlink()
    disk.symlink_to("/dev/zero")
    assert flushed(tier) == set()
    assert not has(tier, FIRST)
