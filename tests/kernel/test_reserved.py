"""What a network reserves for MAC addresses, where that is too much to be told to each of its ports."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from make import GATEWAY4, ME, ME4, dhcp
from scapy.all import BOOTP, Ether  # type: ignore[attr-defined]
from support.held import FREE4, RESERVED, Lab, all_uses, guest_domain, numbers_in

from libvirt_guestnet import xmlread
from libvirt_guestnet.datapath.netlink import kernel
from libvirt_guestnet.datapath.port import filters
from libvirt_guestnet.hook.calls import domain as domain_calls
from libvirt_guestnet.hook.calls import networks
from libvirt_guestnet.hook.enforce import address_sets, port_guard
from libvirt_guestnet.metadata.policy import NAMESPACE

SERVER_MAC = "52:54:00:00:00:01"
FIRST, SECOND = ("10.61.1.150", RESERVED), ("10.61.1.151", "10.61.1.51")
MANY = [f"10.61.2.{number}" for number in range(1, 201)]
ANY = 'addresses="any"'


def _network(reserved: tuple[str, ...], *, mine: str = "") -> xmlread.Node:
    """One whose server gives what is in a range, with addresses of that, and many others, reserved."""
    hosts = [f"<host mac='52:54:00:01:00:{number:02x}' ip='{text}'/>" for number, text in enumerate((*reserved, *MANY))]
    own = f"<host mac='{ME}' ip='{mine}'/>" if mine else ""
    return xmlread.parse(
        f"""<hookData><network><name>lab</name><bridge name="br0"/><mac address="{SERVER_MAC}"/><metadata>
        <g:network xmlns:g="{NAMESPACE}" topology="t" name="lab" guarded="yes" privacy="strict">
        <g:subnet prefix="10.61.0.0/16"/></g:network></metadata>
        <ip address="{GATEWAY4}" netmask="255.255.0.0"><dhcp><range start="10.61.1.10" end="10.61.2.250"/>
        {own}{"".join(hosts)}</dhcp></ip></network></hookData>""".encode()
    )


def _told(lab: Lab, address: str) -> bool:
    """Whether the port learns an address from the server's answer."""
    answer = dhcp("ack", mac=ME, op=2, sport=67, dport=68, src=GATEWAY4)
    answer[BOOTP].yiaddr = address
    lab.wire.ear.send(bytes(Ether(src=SERVER_MAC, dst="ff:ff:ff:ff:ff:ff") / answer))
    uses = all_uses(address)
    return lab.passing(uses) == set(uses)


@pytest.fixture
def many(lab: Lab) -> Lab:
    networks.remember_network(_network(FIRST), lab.state)
    return lab


def test_nobody_is_what_is_reserved(many: Lab) -> None:
    many.me(attributes=ANY)
    assert not (receipt := many.state.port(many.wire.tap)) or len(receipt.excluded) < 10
    free = all_uses(ME4, FREE4, *SECOND)
    assert many.passing({**free, **all_uses(*FIRST, MANY[-1])}) == set(free)


def test_a_reservation_is_its_owners(lab: Lab) -> None:
    networks.remember_network(_network(FIRST, mine=ME4), lab.state)
    lab.me()
    own = all_uses(ME4)
    assert lab.passing({**own, **all_uses(FREE4, *FIRST)}) == set(own)


def test_what_is_reserved_is_not_learnt(many: Lab) -> None:
    many.me()
    assert [_told(many, each) for each in (*FIRST, MANY[0], *SECOND)] == [False, False, False, True, True]


def test_ports_know_what_a_network_reserves_now(many: Lab) -> None:
    many.me(attributes=ANY)
    networks.remember_network(_network(SECOND), many.state)
    free = all_uses(*FIRST)
    assert many.passing({**free, **all_uses(*SECOND)}) == set(free)
    # Fewer than would be told once to all: who runs looks there all the same.
    networks.remember_network(_network(SECOND, mine=FREE4), many.state)
    assert many.passing({**free, **all_uses(*SECOND, FREE4)}) == set(free)


def test_a_call_that_was_killed_is_finished_by_the_next(many: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    many.me(attributes=ANY)
    with monkeypatch.context() as patched:
        patched.setattr(networks, "nft", killed)
        with pytest.raises(KeyboardInterrupt):
            networks.remember_network(_network(SECOND), many.state)
    networks.remember_network(_network(SECOND), many.state)
    free = all_uses(*FIRST)
    assert many.passing({**free, **all_uses(*SECOND)}) == set(free)


@pytest.mark.parametrize("taken", ["everything", "what is reserved"])
def test_a_repair_has_it_again(many: Lab, taken: str) -> None:
    many.me(attributes=ANY)
    kernel.nft(filters.remove() if taken == "everything" else "flush set netdev guestnet reserved4-br0\n")
    if taken == "everything":
        many.me(attributes=ANY)
    else:
        with many.state.lock() as locked:
            port_guard.settle_held(locked)
    free = all_uses(ME4)
    assert many.passing({**free, **all_uses(*FIRST)}) == set(free)


def test_a_lease_of_what_another_has_by_now_is_not_put_back(many: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest that starts again before its lease ended has it by the server's file, unless that was reserved since."""
    leases = tuple((ip_address(text), 60) for text in (FIRST[0], SECOND[0]))
    monkeypatch.setattr(address_sets, "leases", lambda *_: leases)
    many.me()
    assert numbers_in(f"learnt4-{many.wire.tap}") == {hex(int(ip_address(SECOND[0])))}


def test_it_goes_with_the_network_and_its_last_port(many: Lab) -> None:
    many.me(attributes=ANY)
    assert kernel.segments() >= {"br0"}
    networks.forget("lab", many.state)
    assert len(numbers_in("reserved4-br0")) == 202, "a port looks into it"
    networks.remember_network(_network(FIRST), many.state)
    domain_calls.release(guest_domain("me", ME, many.wire.tap, "", ""), many.state)
    networks.forget("lab", many.state)
    assert kernel.segments() == set()
