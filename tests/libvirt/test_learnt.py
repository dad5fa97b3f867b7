"""A port that the host's DHCP server gives its address, with libvirt's own dnsmasq: only that address, and it lasts."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

import frames
import pytest
from make import arp, dhcp, marked, mine
from scapy.all import BOOTP, DHCP, IP, UDP, Ether  # type: ignore[attr-defined]
from wire import Wire, domain

from libvirt_guestnet.metadata import NAMESPACE
from libvirt_guestnet.sandbox import Sandbox, python_inside
from libvirt_guestnet.xmlgen.network import DNSMASQ

NETWORK = f"""<network xmlns:dnsmasq="{DNSMASQ}"><name>leases</name><metadata>
  <g:network xmlns:g="{NAMESPACE}" topology="t" name="leases" guarded="yes">
    <g:subnet prefix="10.61.1.0/24" host="10.61.1.1"/></g:network></metadata>
  <bridge name="leases0" stp="off"/><mac address="52:54:00:61:01:01"/>
  <ip address="10.61.1.1" netmask="255.255.255.0"><dhcp><range start="10.61.1.100" end="10.61.1.200">
    <lease expiry="20"/></range></dhcp></ip>
  <dnsmasq:options><dnsmasq:option value="dhcp-ignore-clid"/></dnsmasq:options></network>"""
NIC = "<interface type='network'><mac address='{}'/><source network='leases'/><model type='rtl8139'/></interface>"
_numbers = itertools.count(1000)


def _beacon(mac: str = frames.ME, client: bytes = b"") -> bytes:
    """A DHCP question, which passes before there is an address; no two are alike."""
    question = dhcp("discover", mac=mac)
    if client:
        question[DHCP].options = [("message-type", "discover"), ("client_id", client), "end"]  # type: ignore[index]
    question[BOOTP].xid = next(_numbers)  # type: ignore[index]
    return bytes(Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / question)


@pytest.fixture(scope="module")
def sandbox(hooked_sandbox: Sandbox) -> Sandbox:
    return hooked_sandbox


@pytest.fixture(scope="module")
def network(sandbox: Sandbox) -> Iterator[None]:
    sandbox.run(["virsh", "-q", "net-create", "/dev/stdin"], stdin=NETWORK)
    yield
    sandbox.run(["virsh", "-q", "net-destroy", "leases"])


Started = Callable[[str, str], Wire]


@pytest.fixture
def started(sandbox: Sandbox, network: None) -> Iterator[Started]:
    wires = []

    def start(name: str, mac: str) -> Wire:
        sandbox.run(["virsh", "-q", "create", "/dev/stdin"], stdin=domain(name, NIC.format(mac)))
        wires.append(Wire(sandbox, name).__enter__())
        return wires[-1]

    yield start
    for wire in wires:
        wire.stack.close()
        sandbox.run(["virsh", "-q", "destroy", wire.domain], timeout=60)


def _answer(wire: Wire, kind: int, mac: str = frames.ME, seconds: float = 30) -> Ether | None:
    deadline = time.monotonic() + seconds
    while (frame := wire._frame(deadline)) is not None:
        packet = Ether(frame)
        asked = DHCP in packet and bytes(packet[BOOTP].chaddr[:6]).hex(":") == mac
        if asked and ("message-type", kind) in packet[DHCP].options:
            return packet
    return None


def _lease(wire: Wire) -> str:
    """Asks libvirt's dnsmasq for an address as a guest does, with a client identifier that others may know."""
    wire.send(_beacon(client=b"\xffwhoever"))
    offer = _answer(wire, 2)
    assert offer is not None, "no offer"
    address = str(offer[BOOTP].yiaddr)
    options = [("message-type", "request"), ("requested_addr", address), ("server_id", "10.61.1.1")]
    head = IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67)
    body = BOOTP(chaddr=bytes.fromhex(frames.ME.replace(":", "")), xid=7) / DHCP(
        options=[*options, ("client_id", b"\xffwhoever"), "end"]
    )
    wire.send(mine(head / body))
    assert _answer(wire, 5) is not None, "no acknowledgement"
    return address


def _passes(sender: Wire, hearer: Wire, address: str) -> bool:
    """Whether the hearer gets ARP and IP from that address; a DHCP question behind them always arrives."""
    question = mine(arp(address))
    packet = mine(IP(src=address, dst="255.255.255.255") / UDP(sport=9, dport=9) / marked())
    last = _beacon()
    sender.send(question, packet, last)
    heard = hearer.receive_until(last)
    found = {any(frames.is_same(frame, sent) for frame in heard) for sent in (question, packet)}
    assert len(found) == 1
    return found.pop()


def test_the_leased_address_and_no_other(sandbox: Sandbox, started: Started) -> None:
    hearer, me = started("hearer", frames.THEM), started("me", frames.ME)
    assert not _passes(me, hearer, "10.61.1.100")
    address = _lease(me)
    other = "10.61.1.100" if address != "10.61.1.100" else "10.61.1.101"
    assert _passes(me, hearer, address)
    assert not _passes(me, hearer, other)
    # Somebody flushes everybody's rules: the lease file of libvirt's server tells what was learnt.
    sandbox.run(["nft", "flush", "ruleset"])
    assert _passes(me, hearer, other)
    sandbox.run(python_inside(["-m", "libvirt_guestnet.cli", "hooks", "sync"]))
    assert _passes(me, hearer, address)
    assert not _passes(me, hearer, other)
    # So does a daemon that starts again, with nothing lost.
    sandbox.restart_libvirtd()
    assert _passes(me, hearer, address)
    assert not _passes(me, hearer, other)


def test_a_later_guest_inherits_nothing(sandbox: Sandbox, started: Started) -> None:
    hearer, me = started("hearer", frames.THEM), started("other", "52:54:00:00:00:0c")
    assert not any(_from(me, hearer, f"10.61.1.{host}") for host in range(100, 110))


def test_a_client_identifier_is_no_way_to_anothers_lease(started: Started) -> None:
    me, thief = started("me", frames.ME), started("thief", "52:54:00:00:00:0c")
    address = _lease(me)
    thief.send(_beacon("52:54:00:00:00:0c", client=b"\xffwhoever"))
    offer = _answer(thief, 2, "52:54:00:00:00:0c")
    assert offer is not None, "no offer"
    assert offer[BOOTP].yiaddr != address


def _from(sender: Wire, hearer: Wire, address: str) -> bool:
    packet = Ether(src="52:54:00:00:00:0c", dst="ff:ff:ff:ff:ff:ff") / IP(src=address, dst="255.255.255.255")
    last = _beacon("52:54:00:00:00:0c")
    sender.send(bytes(packet / UDP(sport=9, dport=9) / marked()), last)
    return any(b"guestnet" in frame for frame in hearer.receive_until(last))
