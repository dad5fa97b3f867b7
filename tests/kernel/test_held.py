"""Which addresses a port has by the metadata of its domain, and that nobody else has them, whoever starts first."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_network

import frames
import pytest
from make import (
    GATEWAY4,
    GATEWAY6,
    ME,
    ME4,
    ME6,
    MY_LL,
    THEIR_LL,
    THEM,
    THEM4,
    THEM6,
    dhcp,
    mine,
    na,
    tll,
)
from scapy.all import BOOTP, DHCP, Ether  # type: ignore[attr-defined]
from support.held import (
    FREE4,
    FREE6,
    NETWORK,
    PAIR4,
    PAIR6,
    RARP,
    RESERVED,
    THEIR_TAP,
    Lab,
    all_uses,
    guest_domain,
    last_frame,
    numbers_in,
    uses_of,
)
from support.server import Dnsmasq
from support.taps import ip

from libvirt_guestnet import xmlread
from libvirt_guestnet.datapath.netlink import kernel
from libvirt_guestnet.datapath.port import filters, held_sets
from libvirt_guestnet.datapath.port.port_facts import Trunk
from libvirt_guestnet.datapath.run import nft
from libvirt_guestnet.hook.calls import domain as domain_calls
from libvirt_guestnet.hook.calls import networks
from libvirt_guestnet.hook.enforce import bridge_guard
from libvirt_guestnet.metadata.policy import NAMESPACE

LARGE4, IN_LARGE4 = "10.61.2.0/23", "10.61.3.9"
DISCOVER = frames.HONEST["DHCP discover"]


ADDRESSES = f'<g:address ip="{THEM4}"/><g:address ip="{THEM6}"/>'
PAIRS = f'<g:pair prefix="{PAIR4}/32"/><g:pair prefix="{PAIR6}/128"/><g:pair prefix="{LARGE4}"/>'
HELD = all_uses(THEM4, THEM6, THEIR_LL, PAIR4, PAIR6, IN_LARGE4)


def test_none_is_none(lab: Lab) -> None:
    """A domain whose metadata says addresses="none" sends nothing with an IP source, and asks for nothing."""
    lab.me(attributes='addresses="none"')
    judged = {name: frame for name, frame in frames.HONEST.items() if name != RARP}
    assert lab.wire.silent({**judged, **frames.FORGED, **all_uses(ME4, ME6, MY_LL, THEM4, FREE4, FREE6)}, last_frame())


def test_pairs_alone_are_all_there_is(lab: Lab) -> None:
    lab.me(f'<g:pair prefix="{PAIR4}/32"/><g:pair prefix="{PAIR6}/128"/>', 'addresses="none"')
    own, others = (
        all_uses(PAIR4, PAIR6),
        all_uses(ME4, ME6, THEM4, THEM6, FREE4, FREE6, GATEWAY4, GATEWAY6, THEIR_LL),
    )
    assert lab.passing(own) == set(own)
    assert lab.wire.silent({**others, "discover": DISCOVER}, last_frame())


@pytest.mark.parametrize("told", ["pairs", "nothing"])
def test_what_nobody_told_is_asked_for_and_not_taken(lab: Lab, told: str) -> None:
    """Metadata without addresses, as was written for `addresses: []`: DHCP, and what follows from the MAC."""
    lab.me(PAIRS if told == "pairs" else "")
    own = {"discover": DISCOVER, **all_uses(MY_LL), **(all_uses(PAIR4, PAIR6) if told == "pairs" else {})}
    assert lab.passing(own) == set(own)
    others = all_uses(ME4, ME6, THEM4, THEM6, FREE4, FREE6, RESERVED, GATEWAY4, GATEWAY6, THEIR_LL)
    assert lab.wire.silent(others, last_frame())


@pytest.mark.parametrize("first", ["me", "them"])
def test_any_address_is_none_that_somebody_holds(lab: Lab, first: str) -> None:
    """In either family, whoever starts first; and once the other guest is gone, it holds nothing."""
    starts: list[Callable[[], object]] = [
        lambda: lab.me(attributes='addresses="any"'),
        lambda: lab.them(ADDRESSES + PAIRS),
    ]
    for start in starts if first == "me" else reversed(starts):
        start()
    free = all_uses(FREE4, FREE6)
    assert lab.passing(free) == set(free)
    assert lab.wire.silent({**HELD, **all_uses(GATEWAY4, GATEWAY6, RESERVED)}, last_frame())
    lab.they_end()
    now = all_uses(THEM4, THEM6, PAIR4, PAIR6)
    assert lab.passing(now) == set(now)


@pytest.mark.parametrize("first", ["me", "them"])
def test_privacy_addresses_are_none_that_somebody_holds(lab: Lab, first: str) -> None:
    starts: list[Callable[[], object]] = [
        lambda: lab.me(f'<g:address ip="{ME4}"/>', 'privacy="yes"'),
        lambda: lab.them(ADDRESSES + PAIRS),
    ]
    for start in starts if first == "me" else reversed(starts):
        start()
    private = all_uses("fd61:1::4c1f:9d2e:77aa:1", "fe80::4c1f:9d2e:77aa:2")
    assert lab.passing(private) == set(private)
    assert lab.wire.silent({**HELD, **all_uses(GATEWAY6)}, last_frame())


def test_what_was_learnt_and_is_held_by_policy_later_is_lost(lab: Lab) -> None:
    lab.put_network(NETWORK._replace(dynamic=(("10.61.1.10", "10.61.1.200"),), lease=3600))
    lab.me()
    kernel.nft(f"add element netdev guestnet learnt4-{lab.wire.tap} {{ 0x0a3d010b timeout 60s }}\n")
    used = all_uses(THEM4)
    assert lab.passing(used) == set(used)
    lab.them(ADDRESSES)
    assert lab.wire.silent(used, last_frame())


@pytest.mark.parametrize("how", ["address", "reservation", "none"])
def test_what_was_learnt_is_given_back_when_a_port_stops_learning(lab: Lab, how: str) -> None:
    """While the guest runs, and whoever changed it: nobody could have it for as long as the lease would have lasted."""
    learns = NETWORK._replace(dynamic=(("10.61.1.10", "10.61.1.200"),), lease=3600)
    lab.put_network(learns)
    lab.them()
    for name in (f"learnt4-{THEIR_TAP}", "held4-br0"):
        kernel.nft(f"add element netdev guestnet {name} {{ 0x0a3d010b timeout 60s }}\n")
    lab.them()
    assert numbers_in("held4-br0") == {"0xa3d010b"}, "it learns still"
    if how == "reservation":
        lab.put_network(learns._replace(reservations=((THEM, "10.61.1.12"),)))
    lab.them(ADDRESSES if how == "address" else "", 'addresses="none"' if how == "none" else "")
    assert numbers_in("held4-br0") == set()


def test_a_repair_has_others_kept_from_what_was_learnt_and_nothing_else(lab: Lab) -> None:
    lab.put_network(NETWORK._replace(dynamic=(("10.61.1.10", "10.61.1.200"),), lease=3600))
    lab.them()
    kernel.nft(
        f"add element netdev guestnet learnt4-{THEIR_TAP} {{ 0x0a3d010b timeout 60s }}\n"
        "add element netdev guestnet held4-br0 { 0x0a3d010c timeout 60s }\n"
    )
    domain_calls.guard_all(
        [bridge_guard.joined(guest_domain("them", THEM, THEIR_TAP, "", ""), lab.state)], lab.state, rewrite=True
    )
    assert numbers_in("held4-br0") == {"0xa3d010b"}
    (left,) = nft.times_of_all()["held4-br0"].values()
    assert 0 < left <= 60, "for as long as the port has it"


@pytest.fixture
def dnsmasq(lab: Lab) -> Iterator[Dnsmasq]:
    """The host's server, whose ranges hold what the other guest has by its policy."""
    served = [(PAIR4, "10.61.1.200"), (IN_LARGE4, "10.61.3.20")]
    running = Dnsmasq(lab.wire, "--dhcp-ignore-clid", *(f"--dhcp-range={a},{b},255.255.0.0,1h" for a, b in served))
    ip(f"link set br0 address {running.mac}")  # whatever ports it will have
    ip(f"addr del {GATEWAY4}/24 dev br0")
    ip(f"addr add {GATEWAY4}/16 dev br0")
    lab.put_network(NETWORK._replace(dynamic=tuple(served), lease=3600, mac=running.mac))
    yield running
    running.close()


def _granted(lab: Lab, address: str) -> bool:
    """Whether the guest that asks the real server for an address (option 50) is told that it has it."""
    asked = dhcp("request")
    asked[DHCP].options = [("message-type", "request"), ("requested_addr", address), "end"]
    for _ in range(6):
        os.write(lab.wire.fd, mine(asked))
        end = time.monotonic() + 0.5
        while (left := end - time.monotonic()) > 0 and select.select([lab.wire.fd], [], [], left)[0]:
            answer = Ether(os.read(lab.wire.fd, 4096))
            if BOOTP in answer and answer[BOOTP].op == 2 and answer[BOOTP].yiaddr == address:
                return ("message-type", 5) in answer[DHCP].options
    return False


@pytest.mark.parametrize("taken", [PAIR4, IN_LARGE4, "10.61.1.111"])
@pytest.mark.parametrize("first", ["me", "them"])
def test_the_hosts_own_server_gives_nobody_what_another_port_holds(
    lab: Lab, dnsmasq: Dnsmasq, first: str, taken: str
) -> None:
    """By its policy or a pair, in the range and not reserved, whoever starts first."""

    def them() -> None:
        lab.them('<g:address ip="10.61.1.111"/>' + PAIRS)

    if first == "them":
        them()
    lab.me()
    granted = _granted(lab, taken)
    assert granted is (first == "me")
    if first == "me":
        assert lab.passing(uses_of(taken)) == set(uses_of(taken))
        them()
    assert lab.wire.silent(uses_of(taken), last_frame())
    lab.they_end()
    assert _granted(lab, taken)
    assert lab.passing(uses_of(taken)) == set(uses_of(taken))


FLOATING = '<g:address ip="10.62.0.9"/><g:floating ip="10.61.1.177" to="10.62.0.9"/>'
ROUTED = '<g:address ip="10.61.1.177"/><g:routed gateway="169.255.30.1" publish="yes" device="br0"/>'
NIC = {
    FLOATING: '<interface type="bridge"><source bridge="br1"/>',
    ROUTED: '<interface type="ethernet">',
}


def _behind_the_host(policy: str) -> xmlread.Node:
    """A guest on another link than mine, to which the host leads an address of my link's."""
    nic = f'{NIC[policy]}<mac address="{THEM}"/><target dev="{THEIR_TAP}"/></interface>'
    return xmlread.parse(
        f"""<domain><name>them</name><uuid>00000000-0000-4000-8000-00000000000b</uuid><metadata>
        <g:domain xmlns:g="{NAMESPACE}" topology="t" guest="them">
        <g:port mac="{THEM}" name="p" network="far" guarded="yes" probe="no">{policy}</g:port></g:domain></metadata>
        <devices>{nic}</devices></domain>""".encode()
    )


@pytest.mark.parametrize("policy", NIC, ids=["floating", "published"])
@pytest.mark.parametrize("first", ["me", "them", "them, before the network"])
def test_nobody_is_an_address_that_the_host_routes_to_another_port(
    lab: Lab, dnsmasq: Dnsmasq, first: str, policy: str
) -> None:
    """A floating address, or one of a host-routed guest's, inside the range of the server on the link that it is of."""
    taken, theirs = uses_of("10.61.1.177"), _behind_the_host(policy)
    ip("link add br1 type bridge")
    ip(f"link set {THEIR_TAP} {'master br1' if policy is FLOATING else 'nomaster'}")
    if first == "them, before the network":
        ip(f"addr del {GATEWAY4}/16 dev br0")
        ip(f"addr add {GATEWAY4}/32 dev br0")
    if first != "me":
        domain_calls.guard(theirs, lab.state)
    if first == "them, before the network":
        ip(f"addr add {GATEWAY4}/16 dev br0")
        networks.start_network(_started(dnsmasq), lab.state)
    lab.me()
    assert _granted(lab, "10.61.1.177") is (first == "me")
    if first == "me":
        assert lab.passing(taken) == set(taken)
        domain_calls.guard(theirs, lab.state)
    assert lab.wire.silent(taken, last_frame())
    domain_calls.release(theirs, lab.state)
    assert _granted(lab, "10.61.1.177")
    assert lab.passing(taken) == set(taken)


def _started(dnsmasq: Dnsmasq) -> xmlread.Node:
    """What libvirt says when it has started the network of mine."""
    return xmlread.parse(
        f"""<hookData><network><name>lab</name><bridge name="br0"/><mac address="{dnsmasq.mac}"/><metadata>
        <g:network xmlns:g="{NAMESPACE}" topology="t" name="lab" guarded="yes"><g:subnet prefix="10.61.0.0/16"/>
        </g:network></metadata><ip address="{GATEWAY4}" prefix="16"><dhcp><range start="{PAIR4}" end="10.61.1.200"/>
        </dhcp></ip></network></hookData>""".encode()
    )


def test_what_a_port_that_nobody_guards_is_said_to_have_is_its_own(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a bridge that is closed to strangers, as it would be if this kernel could."""
    monkeypatch.setattr(bridge_guard, "closed", lambda _state: {"br0"})
    lab.me(attributes='addresses="any"')
    domain = guest_domain("them", THEM, THEIR_TAP, ADDRESSES + PAIRS, "")
    port = domain.one(f"metadata|{NAMESPACE} domain|{NAMESPACE} port", "|")
    assert port
    port.attributes["guarded"] = "no"
    domain_calls.guard(domain, lab.state)
    assert lab.wire.silent(all_uses(THEM4, THEM6, PAIR4, IN_LARGE4), last_frame())
    lab.they_end()
    assert lab.passing(all_uses(THEM4)) == set(all_uses(THEM4))


def test_large_pairs_may_overlap(lab: Lab) -> None:
    lab.me(attributes='addresses="any"')
    lab.them(f'<g:pair prefix="{LARGE4}"/><g:pair prefix="10.61.0.0/18"/>', 'addresses="none"')
    assert lab.wire.silent(all_uses(IN_LARGE4, "10.61.60.9"), last_frame())
    lab.them(f'<g:pair prefix="{LARGE4}"/>', 'addresses="none"')
    assert lab.passing(all_uses("10.61.60.9")) == set(all_uses("10.61.60.9"))
    assert lab.wire.silent(all_uses(IN_LARGE4), last_frame())


def test_the_hosts_own_server_may_give_a_port_what_it_holds_itself(lab: Lab, dnsmasq: Dnsmasq) -> None:
    lab.me(PAIRS)
    assert _granted(lab, PAIR4)
    assert lab.passing(uses_of(PAIR4)) == set(uses_of(PAIR4))


def test_a_shared_pair_is_held_while_one_of_its_ports_is_there(lab: Lab) -> None:
    """An open port that has the pair itself uses it, and one that has not never does."""
    pair = f'<g:pair prefix="{PAIR4}/32"/>'
    lab.them(ADDRESSES + pair)
    lab.me(f'<g:address ip="{ME4}"/>{pair}')
    assert lab.passing(all_uses(PAIR4)) == set(all_uses(PAIR4))
    lab.they_end()
    lab.them(attributes='addresses="any"')
    listed = kernel.drops_by_reason  # both taps are guarded
    assert set(listed()) == {lab.wire.tap, THEIR_TAP}
    # Mine still holds it: the last of two that shared it.
    assert f"{int.from_bytes(bytes(map(int, PAIR4.split('.'))), 'big'):#x}" in numbers_in("owned4-br0")
    lab.me(f'<g:address ip="{ME4}"/>')
    assert f"{int.from_bytes(bytes(map(int, PAIR4.split('.'))), 'big'):#x}" not in numbers_in("owned4-br0")


def test_what_is_taken_away_from_a_running_guest_is_gone_at_once(lab: Lab) -> None:
    """Addresses, pairs, the last of both: what `apply` does to a running guest, with traffic."""
    pair = f'<g:pair prefix="{PAIR4}/32"/><g:pair prefix="{PAIR6}/128"/>'
    four, six = f'<g:address ip="{ME4}"/>', f'<g:address ip="{ME6}"/>'
    have = {four: {ME4}, six: {ME6}, pair: {PAIR4, PAIR6}}
    everything = (ME4, ME6, PAIR4, PAIR6, THEM4, THEM6)
    for policy in ([four, six, pair], [four, pair], [four], [], [six, pair], [six], [pair], [], [four, six, pair]):
        lab.me("".join(policy), "" if four in policy or six in policy else 'addresses="none"')
        mine_ = {address for part in policy for address in have[part]}
        own = all_uses(*sorted(mine_))
        assert lab.passing(own) == set(own), policy
        assert lab.wire.silent(all_uses(*(a for a in everything if a not in mine_)), last_frame()), policy


@pytest.mark.parametrize("policy", ["", f'<g:address ip="{ME4}"/>', f'<g:address ip="{ME6}"/>'])
def test_what_a_guest_claims_first_is_its_own_until_it_ends_or_may_not(lab: Lab, policy: str) -> None:
    """That is the default, whatever else is declared; `strict` says no, to a running guest, too."""
    lab.put_network(NETWORK._replace(strict=False))
    asked, used = _claimed()
    lab.me(policy)
    lab.them()
    assert lab.wire.silent(used, last_frame())
    assert lab.passing(asked) == set(asked)
    assert lab.passing(used) == set(used)
    os.write(lab.theirs, _theirs(asked))
    assert numbers_in(f"claimed6-{THEIR_TAP}") == set()
    lab.me(policy)  # put back: it keeps what it has
    assert lab.passing(used) == set(used)
    lab.me(policy, 'privacy="strict"')
    assert lab.wire.silent({**asked, **used}, last_frame())
    assert numbers_in("held6-br0") == set()


def test_a_neighbour_may_claim_what_a_guest_that_ended_had(lab: Lab) -> None:
    lab.put_network(NETWORK._replace(strict=False))
    asked, used = _claimed()
    lab.them()
    lab.me()
    os.write(lab.theirs, _theirs(asked))
    assert numbers_in(f"claimed6-{THEIR_TAP}") == numbers_in("held6-br0") != set()
    assert lab.wire.silent({**asked, **used}, last_frame())
    lab.they_end()
    assert lab.passing(asked) == set(asked)
    assert lab.passing(used) == set(used)


def test_a_guest_that_runs_already_need_not_ask_for_a_while(lab: Lab) -> None:
    """After somebody flushed the host's rules, or a migration, nobody knows what it asked for."""
    lab.put_network(NETWORK._replace(strict=False))
    asked, used = _claimed()
    lab.me()
    lab.passing(asked)
    kernel.nft("delete table netdev guestnet\n")
    domain_calls.guard_all(
        [bridge_guard.joined(guest_domain("me", ME, lab.wire.tap, "", ""), lab.state)],
        lab.state,
        rewrite=True,
        late=True,
    )
    assert lab.passing(used) == set(used)
    # What it uses now is bound as if it had asked; what it has not used by then is not.
    kernel.nft("flush set netdev guestnet late-ports\n")
    assert lab.passing(used) == set(used)
    assert lab.wire.silent({name: frame for name, frame in uses_of(FREE6).items() if "DAD" not in name}, last_frame())


def test_a_repair_has_others_kept_from_what_was_claimed_and_nothing_else(lab: Lab) -> None:
    lab.put_network(NETWORK._replace(strict=False))
    asked, used = _claimed()
    lab.me()
    lab.passing(asked)
    mine_ = numbers_in(f"claimed6-{lab.wire.tap}")
    assert mine_ == numbers_in("held6-br0") != set()
    for damage in ("flush set {}", "add element {} {{ 0x1 timeout 60s }}"):
        kernel.nft(damage.format("netdev guestnet held6-br0") + "\n")
        domain_calls.guard_all(
            [bridge_guard.joined(guest_domain("me", ME, lab.wire.tap, "", ""), lab.state)],
            lab.state,
            rewrite=True,
            late=True,
        )
        assert mine_ == numbers_in("held6-br0") == numbers_in(f"claimed6-{lab.wire.tap}")
        assert lab.passing(used) == set(used)


def test_a_repair_leaves_what_somebody_else_answered_for(lab: Lab) -> None:
    lab.put_network(NETWORK._replace(strict=False))
    asked, used = _claimed()
    lab.me()
    assert lab.passing(asked) == set(asked)
    answer = Ether(src=THEM, dst="33:33:00:00:00:01") / na("fd61:1::4c1f:9d2e:77aa:1", tll(THEM), src=THEIR_LL)
    lab.wire.ear.send(bytes(answer))
    while os.read(lab.wire.fd, 4096) != bytes(answer):
        pass
    domain_calls.guard_all(
        [bridge_guard.joined(guest_domain("me", ME, lab.wire.tap, "", 'privacy="yes"'), lab.state)],
        lab.state,
        rewrite=True,
        late=True,
    )
    assert numbers_in("held6-br0") != numbers_in(f"claimed6-{lab.wire.tap}") == set()
    assert lab.wire.silent({**asked, **used}, last_frame())


def test_a_repair_reads_past_the_ports_that_need_not_ask(lab: Lab) -> None:
    lab.put_network(NETWORK._replace(strict=False))
    for _ in range(2):
        domain_calls.guard_all(
            [bridge_guard.joined(guest_domain("me", ME, lab.wire.tap, "", ""), lab.state)],
            lab.state,
            rewrite=True,
            late=True,
        )
    assert "held6-br0" in nft.times_of_all()


def _claimed() -> tuple[dict[str, bytes], dict[str, bytes]]:
    """How a guest asks for an address that it forms itself, and how it uses that."""
    uses = uses_of("fd61:1::4c1f:9d2e:77aa:1")
    asked = {name: frame for name, frame in uses.items() if name.endswith("in DAD")}
    return asked, {name: frame for name, frame in uses.items() if name not in asked}


def _theirs(asked: Mapping[str, bytes]) -> bytes:
    """The same question from the neighbour."""
    (frame,) = asked.values()
    return frame[:6] + bytes.fromhex(THEM.replace(":", "")) + frame[12:]


def test_a_port_that_is_released_leaves_nothing(lab: Lab) -> None:
    lab.me(f'<g:address ip="{ME4}"/>')
    lab.them(ADDRESSES)
    lab.they_end()
    domain_calls.release(guest_domain("me", ME, lab.wire.tap, "", ""), lab.state)
    assert numbers_in("owned4-br0") == numbers_in("owned6-br0") == set()
    assert kernel.segments() == {"br0"}
    networks.forget("lab", lab.state)
    assert kernel.segments() == set()


def test_no_port_fills_the_account_that_is_everybodys(lab: Lab) -> None:
    """What there is no room for of one port is kept from others all the same."""
    pairs = "".join(f'<g:pair prefix="10.61.{number}.0/24"/>' for number in range(255))
    lab.them(ADDRESSES + pairs + "".join(f'<g:address ip="fd61:1::a:{number:x}"/>' for number in range(600)))
    lab.me("".join(f'<g:address ip="10.62.{number // 200}.{number % 200}"/>' for number in range(300)))
    lab.me(attributes='addresses="any"')
    assert lab.wire.silent(all_uses("10.61.3.9", "10.61.254.9", "fd61:1::a:257", "fd61:1::a:5"), last_frame())
    assert lab.passing(all_uses("10.61.255.9", FREE6)) == set(all_uses("10.61.255.9", FREE6))


@pytest.mark.parametrize("attributes", ['addresses="any"', 'privacy="yes"'])
def test_what_the_host_is_on_a_bridge_that_was_there_before(lab: Lab, attributes: str) -> None:
    """Its network says nothing of the host, who is on it all the same, and has a router there."""
    lab.put_network(NETWORK._replace(hosts=(), reservations=(), mac=""))
    for address in (f"{GATEWAY4}/24", f"{GATEWAY6}/64"):
        ip(f"address add {address} dev br0")
    ip("-6 route add default via fe80::abcd dev br0")
    lab.me(attributes=attributes)
    link_local = ip("-o -6 address show dev br0 scope link").split()[3].partition("/")[0]
    others = all_uses(GATEWAY4, GATEWAY6, link_local, *(("fe80::abcd",) if "privacy" in attributes else ()))
    assert lab.wire.silent(others, last_frame())
    assert lab.passing(all_uses(FREE6)) == set(all_uses(FREE6))


def test_what_has_claimed_an_address_may_be_the_hosts_router_there(lab: Lab) -> None:
    """It is known by then, and another's start is no reason to cut it off."""
    lab.put_network(NETWORK._replace(strict=False))
    asked, used = _claimed()
    ip(f"address add {GATEWAY6}/64 dev br0")
    lab.me()
    assert lab.passing(asked) == set(asked)
    ip("-6 route add fd99::/64 via fd61:1::4c1f:9d2e:77aa:1 dev br0")
    lab.them()
    lab.me()
    assert lab.passing(used) == set(used)
    domain_calls.release(guest_domain("me", ME, lab.wire.tap, "", ""), lab.state)
    lab.them()
    lab.me()
    assert lab.wire.silent({**asked, **used}, last_frame())


def _port(tap: str, mac: str, segment: str, *owned: str, trunk: bool = False) -> filters.PortGuard:
    tags = Trunk([(10, 20)]) if trunk else None
    return filters.PortGuard(tap, mac, tuple(map(ip_network, owned)), segment=segment, trunk=tags)


def test_what_a_trunk_holds_is_nobody_elses_in_any_vlan(lab: Lab) -> None:
    """A virtual router with a trunk into several networks, and guests in them."""
    shared, anything = filters.shared(), ("10.61.0.0/16", "fd61:1::/64")
    router = _port(THEIR_TAP, THEM, "br0", THEM4, THEM6, trunk=True)
    for first in (True, False):
        mine_ = filters.own(_port(lab.wire.tap, ME, "br0/10", *anything))
        kernel.nft(shared + (filters.own(router) + mine_ if first else mine_ + filters.own(router)))
        assert lab.wire.silent(all_uses(THEM4, THEM6, THEIR_LL), last_frame())
        assert lab.passing(all_uses(FREE4, FREE6)) == set(all_uses(FREE4, FREE6))
        kernel.nft(filters.release([lab.wire.tap, THEIR_TAP]))
        kernel.nft("".join(f"{line}\n" for line in held_sets.give_up(held_sets.held(router))))


def test_nobody_claims_in_a_vlan_what_a_trunk_holds(lab: Lab) -> None:
    asked, used = _claimed()
    (address,) = {name.split()[0] for name in used}
    router = _port(THEIR_TAP, THEM, "br0", trunk=True)
    mine_ = _port(lab.wire.tap, ME, "br0/10", ME6)._replace(claims=(ip_network("fd61:1::/64"),))
    kernel.nft(filters.shared() + filters.own(router) + filters.own(mine_))
    assert lab.passing(asked) == set(asked)
    assert lab.passing(used) == set(used)
    kernel.nft(filters.own(router._replace(owned=(ip_network(address),))))
    assert lab.wire.silent({**asked, **used}, last_frame())


@pytest.mark.parametrize(("vlan", "silent"), [(10, True), (30, False)])
def test_what_is_held_in_one_vlan_is_free_in_another(lab: Lab, vlan: int, silent: bool) -> None:
    kernel.nft(filters.shared() + filters.own(_port(THEIR_TAP, THEM, "br0/10", THEM4, THEM6)))
    kernel.nft(filters.own(_port(lab.wire.tap, ME, f"br0/{vlan}", "10.61.0.0/16", "fd61:1::/64")))
    theirs = all_uses(THEM4, THEM6)
    assert lab.passing(theirs) == (set() if silent else set(theirs))


def test_a_trunk_with_any_address_has_none_of_any_vlan(lab: Lab) -> None:
    kernel.nft(filters.shared() + filters.own(_port(lab.wire.tap, ME, "br0", "10.61.0.0/16", trunk=True)))
    kernel.nft(filters.own(_port(THEIR_TAP, THEM, "br0/10", THEM4)))
    lab.wire.tags = [(0x8100, 15)]
    assert lab.passing(all_uses(FREE4, THEM4)) == set(all_uses(FREE4))
