"""Roles against real frames: each lets pass what its protocol sends, and nothing else."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator
from ipaddress import ip_network

import frames
import pytest
from make import ME, ME4, ME6, THEM4, marked, mine
from roles import CLIENTS4, FORGED_AS, HONEST_AS
from scapy.all import IP, UDP  # type: ignore[attr-defined]
from support.taps import Wire, ip

from libvirt_guestnet.datapath.netlink import kernel
from libvirt_guestnet.datapath.port import filters, notes, port_facts
from libvirt_guestnet.datapath.port.port_facts import PortGuard, Trunk
from libvirt_guestnet.datapath.run.nft import nft
from libvirt_guestnet.model.topology import Role

OWN = (ip_network(ME4), ip_network(ME6))
# Every frame that some role lets pass, once.
SPECIAL = {f"{role}: {name}": frame for role, listed in HONEST_AS.items() for name, frame in listed.items()}


@pytest.fixture
def open_wire(wire: Wire) -> Iterator[Wire]:
    """A bridge that forwards what it would keep to its link, but for pauses, which the kernel never lets it."""
    ip(f"link set {wire.tap} type bridge_slave group_fwd_mask 0xfffd")
    yield wire


def _guard(wire: Wire, *roles: str, **policy: object) -> None:
    port = PortGuard(wire.tap, ME, OWN, roles=roles)
    nft(filters.guard(port._replace(**policy)))  # type: ignore[arg-type]


# What is another role's, too: DHCP's clients and relays get from relays what they get from servers.
_SHARED = {"dhcp-server": ("an answer handed", "a relay-reply", "a relayed DHCPv6"), "dhcp-relay": ("a relay-reply",)}


def _expected(role: str) -> set[bytes]:
    shared = [f for listed in HONEST_AS.values() for n, f in listed.items() if n.startswith(_SHARED.get(role, "-"))]
    return {*HONEST_AS[role].values(), *shared}


def test_every_role_has_frames() -> None:
    assert set(HONEST_AS) == set(FORGED_AS) == set(port_facts.ROLES) - {"ra-sender", "own-sources", "router-protocols"}
    assert set(port_facts.ROLES) == set(Role)


def test_without_its_role_nothing_special_passes(open_wire: Wire) -> None:
    forged = {f"{role}: {name}": frame for role, listed in FORGED_AS.items() for name, frame in listed.items()}
    assert open_wire.judge({**SPECIAL, **forged}) == {*SPECIAL, *forged}
    _guard(open_wire)
    assert open_wire.silent({**SPECIAL, **forged}, frames.sentinel(0))


@pytest.mark.parametrize("role", HONEST_AS)
def test_a_role_lets_pass_what_its_protocol_sends_and_nothing_else(open_wire: Wire, role: str) -> None:
    _guard(open_wire, role, routed=(ip_network(CLIENTS4),))
    honest, corpus, expected = HONEST_AS[role], {**SPECIAL, **frames.FORGED}, _expected(role)
    assert open_wire.judge(honest) == set(honest)
    others = {name: frame for name, frame in corpus.items() if frame not in expected}
    assert open_wire.silent({**FORGED_AS[role], **others}, frames.sentinel(0))


@pytest.mark.parametrize(("kind", "service"), [(0x8100, False), (0x88A8, True)])
def test_roles_hold_inside_a_trunks_tags(open_wire: Wire, kind: int, service: bool) -> None:
    open_wire.tags = [(kind, 100)]
    for role, honest in HONEST_AS.items():
        _guard(open_wire, role, trunk=Trunk([(100, 110)], service))
        assert open_wire.judge(honest) == set(honest), role
        assert open_wire.judge(FORGED_AS[role]) == set(), role
        other_vlan = [frames.inside(frame, (kind, 99)) for frame in honest.values()]
        assert not any(open_wire.delivered(frame, within=0.02) for frame in other_vlan), role


def test_a_relay_may_ask_for_the_clients_behind_it_in_the_name_of_its_sources(wire: Wire) -> None:
    import roles as corpus

    behind = {"asks": corpus._relayed(1, ME4, corpus._SERVER4, corpus._BEHIND4)}
    _guard(wire, "dhcp-relay")
    assert wire.judge(behind) == set()
    _guard(wire, "dhcp-relay", routed=(ip_network(CLIENTS4),))
    assert wire.judge(behind) == {"asks"}


def test_a_multicast_router_forwards_to_groups_from_its_sources_alone(wire: Wire) -> None:
    def sent(source: str) -> bytes:
        return mine(IP(src=source, dst="239.1.2.3", ttl=9) / UDP(sport=5000, dport=5000) / marked())

    forwarded = {source: sent(source) for source in ("10.61.9.7", ME4, THEM4)}
    _guard(wire, "multicast-router")
    assert wire.judge(forwarded) == {ME4}
    _guard(wire, "multicast-router", routed=(ip_network(CLIENTS4),))
    assert wire.judge(forwarded) == {ME4, "10.61.9.7"}


def test_roles_add_up(open_wire: Wire) -> None:
    _guard(open_wire, *HONEST_AS)
    assert open_wire.judge(SPECIAL) == set(SPECIAL)
    assert open_wire.judge(frames.HONEST) == set(frames.HONEST)


def test_an_observed_port_tells_which_roles_it_would_need(open_wire: Wire) -> None:
    for role, honest in HONEST_AS.items():
        _guard(open_wire, observed=True)
        before = kernel.drops_by_reason().get(open_wire.tap, {})
        assert open_wire.judge(honest) == set(honest)
        told = set(notes.read()[open_wire.tap].roles)
        assert role in told, (role, told, before)
        assert told <= {role, *_ambiguous(role)}, (role, told)
        _guard(open_wire, role, observed=True)
        open_wire.judge(honest)
        assert (kernel.drops_by_reason().get(open_wire.tap), notes.read()[open_wire.tap].roles) == ({}, ()), role


def _ambiguous(role: str) -> set[str]:
    """What of a role's frames some other may send, too."""
    return {"dhcp-server": {"dhcp-relay"}, "dhcp-relay": {"dhcp-server"}, "pppoe-server": {"pppoe"}}.get(role, set())


def test_what_a_relay_asks_is_limited_and_what_it_hands_to_clients_is_not(wire: Wire) -> None:
    """A relay's own leases are not counted, so that nothing else keeps it from flooding a server."""
    _guard(wire, "dhcp-relay")
    before = 0
    for name in ("a relayed request (RFC 1542)", "a relay-forward (RFC 8415)"):
        begin = time.monotonic()
        for _ in range(2000):
            wire.send(HONEST_AS["dhcp-relay"][name])
        most = 201 + 100 * (time.monotonic() - begin)
        dropped = kernel.drops_by_reason()[wire.tap].get("DHCP rate", 0)
        assert dropped - before >= 2000 - most
        before = dropped
    while select.select([wire.ear], [], [], 1)[0]:  # its buffer may be full of what passed
        wire.ear.recv(65536)
    handed = HONEST_AS["dhcp-relay"]["an answer handed to a client"]
    assert all(wire.passing({"handed": handed}, frames.sentinel(number)) for number in range(50))
