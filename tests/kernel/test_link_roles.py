"""Link-layer protocols through a real bridge and the hooks: it forwards what it would keep to its link, from a port
with the role and as long as it has it. And a bridge that speaks the spanning tree protocol hears no guest that does."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from support.kernel_bridge import ANN, BOB, MACS, TOM, Host, domain, on_one, send

LLDP, NEAREST = "88cc 0207", "01:80:c2:00:00:0e"
LACP, SLOW = "8809 0101", "01:80:c2:00:00:02"
EAPOL, PAE = "888e 0101", "01:80:c2:00:00:03"
STP, BRIDGES = "0026 4242030000020278", "01:80:c2:00:00:00"
FRAMES = {"lldp": (NEAREST, LLDP), "lacp": (SLOW, LACP), "eapol": (PAE, EAPOL), "stp": (BRIDGES, STP)}
ADDRESS = '<guestnet:address ip="10.0.0.2"/>'


@pytest.fixture
def host() -> Iterator[Host]:
    with on_one() as host:
        yield host


def speaking(*roles: str, name: str = "ann", more: str = "") -> bytes:
    listed = "".join(f'<guestnet:role name="{role}"/>' for role in roles)
    return domain(name, f"{more}>{ADDRESS}{listed}</guestnet:port>")


def forwarded(host: Host, tap: str) -> int:
    (port,) = json.loads(host.box.ok("ip", "-d", "-j", "link", "show", tap))
    return int(str(port["linkinfo"]["info_slave_data"]["group_fwd_mask"]), 0)


def passing(host: Host, sender: str) -> set[str]:
    """The protocols of which the port to the outside hears a frame."""
    with host.wire() as wire:
        assert wire.stdout and wire.stdout.readline() == "ready\n"
        heard = {role for role, (to, rest) in FRAMES.items() if "nic" in send(wire, sender, to, MACS[sender], rest)}
        assert wire.stdin
        wire.stdin.close()
    return heard


def test_each_protocol_passes_the_bridge_from_a_port_with_its_role_alone(host: Host) -> None:
    host.start(ANN, BOB, TOM)
    assert passing(host, "ann") == set()
    assert passing(host, "tom") == {"stp"}, "a bridge keeps the others to its link by itself"
    for role in FRAMES:
        host.start(speaking(role))
        assert passing(host, "ann") == {role}
        assert passing(host, "bob") == set()
    host.start(speaking(*FRAMES))
    assert passing(host, "ann") == set(FRAMES)


def test_what_the_bridge_forwards_goes_with_the_role(host: Host) -> None:
    host.box.ok("ip", "link", "set", "ann", "type", "bridge_slave", "group_fwd_mask", "0x20")
    host.start(speaking("lldp"))
    assert forwarded(host, "ann") == 0x4009 | 0x20, "what somebody else has set stays"
    host.start(speaking("lacp", "ospf"))
    assert forwarded(host, "ann") == 0x4 | 0x20
    assert host.call("qemu", "ann", "release", speaking("lacp")) == (0, "")
    assert (forwarded(host, "ann"), forwarded(host, "nic")) == (0x20, 0)


def test_what_is_lost_of_it_is_put_back(host: Host) -> None:
    host.start(speaking("lldp"))
    host.box.ok("ip", "link", "set", "ann", "type", "bridge_slave", "group_fwd_mask", "0")
    assert host.lost() == {"ann": "ann"}
    host.start(speaking("lldp"))
    assert host.lost() == {}


def test_the_spanning_tree_of_the_hosts_own_bridge_is_nobodys_to_change(host: Host) -> None:
    host.box.ok("ip", "link", "set", "br-one", "type", "bridge", "stp_state", "1")
    host.start(BOB, speaking("lldp"))
    status, said = host.call("qemu", "ann", "start", speaking("stp"))
    assert status == 1
    assert "its role stp lets it speak the spanning tree protocol, in which bridge br-one takes part" in said
    host.box.ok("ip", "link", "set", "br-one", "type", "bridge", "stp_state", "0")
    host.start(speaking("stp"))
    # Switched on behind its back: what the guest says passes by the bridge's own protocol.
    before = root(host)
    host.box.ok("ip", "link", "set", "br-one", "type", "bridge", "forward_delay", "200", "stp_state", "1")
    host.box.ok("ip", "link", "set", "br-one", "type", "bridge", "stp_state", "1")
    with host.wire() as wire:
        assert wire.stdout and wire.stdout.readline() == "ready\n"
        better = "0026 424203" + "0000000000" + "0000" + "000000000001" + "00000000" + "0000000000000001"
        send(wire, "ann", BRIDGES, MACS["ann"], better + "8001" + "0000140002000f00")
        assert wire.stdin
        wire.stdin.close()
    assert root(host) == before


def root(host: Host) -> str:
    (bridge,) = json.loads(host.box.ok("ip", "-d", "-j", "link", "show", "br-one"))
    return str(bridge["linkinfo"]["info_data"]["root_id"])
