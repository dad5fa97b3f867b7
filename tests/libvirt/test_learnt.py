"""A port that the host's DHCP server gives its address, with libvirt's own dnsmasq: only that address, and it lasts."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import frames
import pytest
from dhcp6 import DUIDS, address_of, answers, association, question, server_of
from make import MY_LL, THEIR_LL, arp, dhcp, marked, mine
from scapy.all import (  # type: ignore[attr-defined]
    BOOTP,
    DHCP,
    DUID_LL,
    DUID_UUID,
    IP,
    UDP,
    DHCP6_Rebind,
    DHCP6_Request,
    DHCP6_Solicit,
    DHCP6OptRapidCommit,
    Ether,
    IPv6,
)
from support.libvirt_wire import NO_ROM, Wire, domain
from support.own_programs import watching

from libvirt_guestnet.metadata.policy import NAMESPACE
from libvirt_guestnet.sandbox import Sandbox, python_inside
from libvirt_guestnet.xmlgen.dnsmasq import DNSMASQ

NETWORK = f"""<network xmlns:dnsmasq="{DNSMASQ}"><name>leases</name><metadata>
  <g:network xmlns:g="{NAMESPACE}" topology="t" name="leases" guarded="yes">
    <g:subnet prefix="10.61.1.0/24" host="10.61.1.1"/><g:subnet prefix="fd61:1::/64" host="fd61:1::1"/></g:network>
  </metadata>
  <bridge name="leases0" stp="off"/><mac address="52:54:00:61:01:01"/>
  <ip address="10.61.1.1" netmask="255.255.255.0"><dhcp><range start="10.61.1.100" end="10.61.1.200">
    <lease expiry="20"/></range></dhcp></ip>
  <ip family="ipv6" address="fd61:1::1" prefix="64"><dhcp><range start="fd61:1::100" end="fd61:1::1ff"/></dhcp></ip>
  <dnsmasq:options><dnsmasq:option value="dhcp-ignore-clid"/></dnsmasq:options></network>"""
NIC = """<interface type='network'><mac address='{}'/><source network='leases'/><model type='rtl8139'/>{}
</interface>"""
THIEF, BOOTING = "52:54:00:00:00:0c", "52:54:00:00:00:0d"
LINK_LOCAL = {frames.ME: MY_LL, frames.THEM: THEIR_LL, THIEF: "fe80::5054:ff:fe00:c"}
# These have a policy of their own, which says nothing about addresses; the others get the network's.
MARKED = {
    name: f'<g:domain xmlns:g="{NAMESPACE}" topology="t" guest="{name}">'
    f'<g:port mac="{mac}" name="p" network="leases"/></g:domain>'
    for name, mac in (("me", frames.ME), ("booting", BOOTING))
}
# This one is forwarded to, wherever it is.
MARKED["led"] = (
    MARKED["me"]
    .replace('"me"', '"led"')
    .replace(
        'network="leases"/>',
        'network="leases"><g:forward protocol="tcp" ports="8080" to="lease4" first="80"/></g:port>',
    )
)
_numbers = itertools.count(1000)


def _beacon(mac: str = frames.ME, client: bytes = b"") -> bytes:
    """A DHCP question, which passes before there is an address; no two are alike."""
    question = dhcp("discover", mac=mac)
    if client:
        question[DHCP].options = [("message-type", "discover"), ("client_id", client), "end"]
    question[BOOTP].xid = next(_numbers)
    return bytes(Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / question)


@pytest.fixture(scope="module")
def sandbox(each_sandbox: Sandbox) -> Sandbox:
    return each_sandbox


@pytest.fixture(scope="module")
def network(sandbox: Sandbox) -> Iterator[None]:
    sandbox.run(["virsh", "-q", "net-create", "/dev/stdin"], stdin=NETWORK)
    yield
    sandbox.run(["virsh", "-q", "net-destroy", "leases"])


class Started(Protocol):
    def __call__(self, name: str, mac: str, boots: bool = False) -> Wire: ...


@pytest.fixture
def started(sandbox: Sandbox, network: None) -> Iterator[Started]:
    wires = []

    def start(name: str, mac: str, boots: bool = False) -> Wire:
        sandbox.run(
            ["virsh", "-q", "create", "/dev/stdin"],
            stdin=domain(name, NIC.format(mac, "" if boots else NO_ROM), metadata=MARKED.get(name, "")),
        )
        wires.append(Wire(sandbox, name).__enter__())
        return wires[-1]

    yield start
    for wire in wires:
        wire.stack.close()
        sandbox.run(["virsh", "-q", "destroy", wire.domain], timeout=240, check=False)


def _answer(wire: Wire, kind: int, mac: str = frames.ME, seconds: float = 30) -> Ether | None:
    deadline = time.monotonic() + seconds
    while (frame := wire._frame(deadline)) is not None:
        packet = Ether(frame)
        asked = DHCP in packet and bytes(packet[BOOTP].chaddr[:6]).hex(":") == mac
        if asked and ("message-type", kind) in packet[DHCP].options:
            return packet
    return None


def _lease(wire: Wire, wish: str = "") -> str:
    """Asks libvirt's dnsmasq for an address as a guest does, with a client identifier that others may know."""
    wire.send(_beacon(client=b"\xffwhoever"))
    offer = _answer(wire, 2)
    assert offer is not None, "no offer"
    address = wish or str(offer[BOOTP].yiaddr)
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


def _ask6(wire: Wire, message: object, *options: object, client: object, mac: str = frames.ME) -> Ether | None:
    asked = question(message, *options, client=client, mac=mac, source=LINK_LOCAL[mac])
    for _ in range(20):
        wire.send(asked)
        deadline = time.monotonic() + 0.5
        while (frame := wire._frame(deadline)) is not None:
            if answers(frame, message):
                return Ether(frame)
    return None


def _lease6(wire: Wire, client: object) -> str:
    offer = _ask6(wire, DHCP6_Solicit(), association(), client=client)
    assert offer is not None, "no advertisement"
    reply = _ask6(wire, DHCP6_Request(), server_of(offer), association(address_of(offer)), client=client)
    assert reply is not None, "no reply"
    return address_of(reply)


def _passes6(sender: Wire, hearer: Wire, address: str, mac: str = frames.ME) -> bool:
    packet = Ether(src=mac, dst="33:33:00:00:00:01") / IPv6(src=address, dst="ff02::1") / UDP(sport=9, dport=9)
    last = _beacon(mac)
    sender.send(bytes(packet / marked()), last)
    return any(b"guestnet" in frame for frame in hearer.receive_until(last))


def _nobody_answers_neighbour_solicitations(sandbox: Sandbox) -> None:
    for mac, address in LINK_LOCAL.items():
        sandbox.run(["ip", "neigh", "replace", address, "lladdr", mac, "dev", "leases0"])


def test_the_dhcpv6_lease_and_nobody_elses(sandbox: Sandbox, started: Started) -> None:
    hearer, me, thief = started("hearer", frames.THEM), started("me", frames.ME), started("thief", THIEF)
    _nobody_answers_neighbour_solicitations(sandbox)
    client = DUIDS["UUID (RFC 6355)"]
    assert not _passes6(me, hearer, "fd61:1::100")
    address = _lease6(me, client)
    assert _passes6(me, hearer, address)
    # The server would give the same address to whoever asks for it, or says that he is the same client.
    claims = (
        (DHCP6_Rebind(), association(address, iaid=9), DUID_LL(lladdr=THIEF)),
        (DHCP6_Rebind(), association(address), client),
    )
    for message, claim, who in claims:
        assert _ask6(thief, message, claim, client=who, mac=THIEF) is None
        assert not _passes6(thief, hearer, address, THIEF)
    # What the server wrote down about that is not believed either, with our state lost or not.
    for lose in ([], ["nft", "flush", "chain", "netdev", "guestnet", f"ip6own-{tap(sandbox, 'me')}"]):
        if lose:
            sandbox.run(lose)
        sandbox.run(python_inside(["-m", "libvirt_guestnet.cli", "hooks", "sync"]))
        assert _passes6(me, hearer, address)
        assert not _passes6(thief, hearer, address, THIEF)
    sandbox.restart_libvirtd()
    assert _passes6(me, hearer, address)
    assert not _passes6(thief, hearer, address, THIEF)
    assert address in _learnt(sandbox, "me")


def _sync(sandbox: Sandbox) -> None:
    sandbox.run(python_inside(["-m", "libvirt_guestnet.cli", "hooks", "sync"]))


def _restart(sandbox: Sandbox) -> None:
    sandbox.restart_libvirtd()
    repaired = """until [ -z "$(ls /run/libvirt-guestnet/reconnect)" ]; do sleep 0.02; done"""
    sandbox.run(["sh", "-c", f"sleep 1; {repaired}; flock /run/libvirt-guestnet/reconnect.lock true"])


@pytest.mark.parametrize("repair", [_sync, _restart])
def test_the_lease_file_tells_dhcpv6_addresses_too(
    sandbox: Sandbox, started: Started, repair: Callable[[Sandbox], None]
) -> None:
    hearer, me = started("hearer", frames.THEM), started("me", frames.ME)
    _nobody_answers_neighbour_solicitations(sandbox)
    address = _lease6(me, DUIDS["link-layer"])
    sandbox.run(["nft", "flush", "ruleset"])
    repair(sandbox)
    assert address in _learnt(sandbox, "me")
    assert _passes6(me, hearer, address)
    other = "fd61:1::100" if address != "fd61:1::100" else "fd61:1::101"
    assert not _passes6(me, hearer, other)


def test_made_up_identities_leave_addresses_for_others(sandbox: Sandbox, started: Started) -> None:
    """With a DUID for each question, one guest took all 256."""
    thief, me = started("thief", THIEF), started("me", frames.ME)
    _nobody_answers_neighbour_solicitations(sandbox)
    for number in range(300):
        duid = DUID_UUID(uuid=f"63000000-0000-4000-8000-{number:012x}")
        message = DHCP6_Solicit()
        thief.send(
            question(message, DHCP6OptRapidCommit(), association(), client=duid, mac=THIEF, source=LINK_LOCAL[THIEF])
        )
    assert _lease6(me, DUIDS["link-layer"])
    leases = json.loads(sandbox.run(["cat", "/var/lib/libvirt/dnsmasq/leases0.status"]).stdout)
    taken = [lease for lease in leases if ":" in lease["ip-address"] and lease["mac-address"] == THIEF]
    assert 0 < len(taken) <= 16 + 8 + 4


def test_nothing_is_held_by_a_guest_that_is_gone(sandbox: Sandbox, started: Started) -> None:
    me = started("me", frames.ME)
    _lease(me)
    assert "held4-leases0" in sandbox.run(["nft", "list", "ruleset"]).stdout
    sandbox.run(["virsh", "-q", "destroy", "me"])
    held = sandbox.run(["nft", "list", "set", "netdev", "guestnet", "held4-leases0"]).stdout
    assert "elements" not in held, "what a guest held is free again"


def test_sync_gives_back_what_nobody_has_learnt(sandbox: Sandbox, started: Started) -> None:
    _lease(started("me", frames.ME))
    sandbox.run(["nft", "add element netdev guestnet held4-leases0 { 0x0a3d0163 timeout 1h }"])
    assert "a3d0163" in _held(sandbox)
    sandbox.run(python_inside(["-m", "libvirt_guestnet.cli", "hooks", "sync"]), timeout=240)
    assert "a3d0163" not in _held(sandbox)


def _held(sandbox: Sandbox) -> str:
    return sandbox.run(["nft", "list", "set", "netdev", "guestnet", "held4-leases0"]).stdout


def tap(sandbox: Sandbox, name: str) -> str:
    return sandbox.run(["virsh", "-q", "domiflist", name]).stdout.split()[0]


def _learnt(sandbox: Sandbox, name: str) -> list[str]:
    """What `guestnet status` says that a guest has learnt."""
    argv = python_inside(["-m", "libvirt_guestnet.cli", "status", "--json"])
    rows = json.loads(sandbox.run(argv).stdout)
    return [address for row in rows if row.get("guest") == name for address in row["learnt"]]


def test_a_real_client_gets_both_its_addresses(sandbox: Sandbox, started: Started) -> None:
    """The NIC's own boot ROM (iPXE), which asks by DHCP and DHCPv6 as soon as it hears our router advertisements."""
    started("booting", BOOTING, True)
    end = time.monotonic() + 240
    while len({":" in address for address in _learnt(sandbox, "booting")}) < 2:
        assert time.monotonic() < end, "not learnt"
        time.sleep(1)


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


def _forwarded_to(sandbox: Sandbox) -> str:
    """Where the kernel sends what is asked for at the host's port 8080."""
    listed = sandbox.run(["nft", "list", "table", "inet", "guestnet"], check=False).stdout
    found = re.search(r"tcp \. 8080 : (\S+) \. 80 ", listed)
    return found[1] if found else ""


def _soon_forwarded_to(sandbox: Sandbox, address: str) -> None:
    deadline = time.monotonic() + 240
    while (found := _forwarded_to(sandbox)) != address:
        assert time.monotonic() < deadline, f"forwarded to {found or 'nobody'}, not to {address or 'nobody'}"
        time.sleep(0.1)


def _release(wire: Wire, address: str) -> None:
    options = [("message-type", "release"), ("server_id", "10.61.1.1"), ("client_id", b"\xffwhoever"), "end"]
    body = BOOTP(chaddr=bytes.fromhex(frames.ME.replace(":", "")), ciaddr=address, xid=8) / DHCP(options=options)
    packet = IP(src=address, dst="10.61.1.1") / UDP(sport=68, dport=67) / body
    wire.send(bytes(Ether(src=frames.ME, dst="52:54:00:61:01:01") / packet))


def test_a_forward_follows_the_lease(sandbox: Sandbox, started: Started) -> None:
    led = started("led", frames.ME)
    with watching(sandbox):
        _release(led, known := _lease(led))  # one of an earlier test's guest may be written down yet
        _soon_forwarded_to(sandbox, "")
        _soon_forwarded_to(sandbox, address := _lease(led))
        assert address == known
        _release(led, address)
        _soon_forwarded_to(sandbox, "")
        _soon_forwarded_to(sandbox, moved := _lease(led, "10.61.1.177"))
        assert moved != address
        rows = json.loads(sandbox.run(python_inside(["-m", "libvirt_guestnet.cli", "status", "--json"])).stdout)
        assert [(row["to"], row["open"]) for row in rows if row["kind"] == "way"] == [("10.61.1.177:80", True)]
    # Without the service, a guest that starts is forwarded to by the lease file.
    led.stack.close()
    sandbox.run(["virsh", "-q", "destroy", "led"], timeout=240)
    assert _forwarded_to(sandbox) == ""
    started("led", frames.ME)
    assert _forwarded_to(sandbox) == "10.61.1.177"
