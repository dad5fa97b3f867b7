"""Forwards to what a guest has by the host's DHCP server: what may be asked for, what it becomes, where it leads."""

from __future__ import annotations

import json
import time
from ipaddress import ip_address
from pathlib import Path

import pytest
from lxml import etree

from libvirt_guestnet import xmlgen, xmlread
from libvirt_guestnet.datapath.forwards.table import ForwardRule, PortForwards, claims
from libvirt_guestnet.errors import TopologyError
from libvirt_guestnet.hook.enforce import address_sets, lease_forwards
from libvirt_guestnet.hook.read import wanted_forwards
from libvirt_guestnet.hook.read.domain import Domain
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.libvirtd.snapshot import DomainState
from libvirt_guestnet.model.topology import AddressWord
from libvirt_guestnet.state.locked import UnlockedState
from libvirt_guestnet.state.receipts import PortReceipt
from libvirt_guestnet.status.forwards import forward_rows
from libvirt_guestnet.topology import loads

MAC = "52:54:00:00:00:01"
TOPOLOGY = """
name: t
networks:
  web: {{ mode: nat, subnets: [10.9.0.0/24, "fd09::/64"], dhcp: {{}} }}
  bare: {{ mode: nat, subnets: [10.8.0.0/24] }}
guests:
  a: {{ {image}ports: [{{ network: {network}, mac: "{mac}", addresses: {addresses},
    forwards: [{{ services: [tcp/8080], to: 80{at} }}] }}] }}
"""
FOLLOWING = ForwardRule("tcp", 8080, 8080, "lease4", 80)


def text(addresses: str, network: str = "web", image: str = "", at: str = "") -> str:
    return TOPOLOGY.format(addresses=addresses, network=network, image=image, at=at, mac=MAC)


@pytest.mark.parametrize(
    ("asked_for", "message"),
    [
        (text("[]", image="image: tiny, "), "8:16: port 'web' has no address that could be forwarded to: leave addr"),
        (text("[]"), "8:16: port 'web' has no address that could be forwarded to"),
        (text("any"), "8:16: port 'web' has no address that could be forwarded to"),
        (text("[]", at=", at: [198.18.1.1]"), "port 'web' has no IPv4 address to forward 198.18.1.1 to"),
        (text("dhcp", at=', at: ["fd99::1"]'), "port 'web' has no IPv6 address to forward fd99::1 to"),
        (text("dhcp", network="bare"), "7:70: addresses: dhcp: the host has no DHCP server on network 'bare'"),
        (text("dhcp", image="image: tiny, "), "addresses: dhcp is for guests of your own: a lab guest is told its"),
    ],
)
def test_a_forward_without_a_target_is_refused_with_its_line(asked_for: str, message: str) -> None:
    with pytest.raises(TopologyError) as caught:
        loads(asked_for, "t.yaml")
    assert message in str(caught.value)


def metadata(asked_for: str) -> etree._Element:
    topology = loads(asked_for, "t.yaml")
    assert topology.guests[0].ports[0].address_word is AddressWord.DHCP
    return xmlgen.domain_metadata(topology, topology.guests[0], HostMap({}))


def test_a_forward_that_follows_the_lease_is_said_so_in_metadata() -> None:
    for at in ("", ", at: [198.18.1.1]"):
        found = metadata(text("dhcp", at=at))
        assert found[0].get("addresses") is None
        (forward,) = found[0]
        assert (forward.get("to"), forward.get("at")) == ("lease4", "198.18.1.1" if at else None)
        schema = etree.RelaxNG(etree.parse(Path(__file__).parents[2] / "xml/metadata.rng"))
        schema.assertValid(etree.fromstring(etree.tostring(found)))


def test_two_that_ask_for_one_port_are_refused_whatever_their_leases() -> None:
    other = "  b: { ports: [{ network: web, forwards: [{ services: [tcp/8080] }] }] }\n"
    with pytest.raises(TopologyError, match=r"tcp/8080 is already forwarded to port 'a\.web'"):
        loads(text("dhcp") + other, "t.yaml")
    assert [str(claim) for claim in claims(PortForwards("t", MAC, "u", "d", "b", forwards=(FOLLOWING,)))] == [
        "tcp/8080"
    ]


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UnlockedState:
    """Port t0 learns on bridge br0, where another port holds 10.9.0.201."""
    return _state(tmp_path, monkeypatch)


def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *learnt: str) -> UnlockedState:
    mine, other = [int(ip_address(each)) for each in learnt], int(ip_address("10.9.0.201"))
    held = {"learnt4-t0": mine, "held4-br0": [*mine, other]}
    monkeypatch.setattr(address_sets.learnt, "__defaults__", (lambda name: held.get(name, []),))
    monkeypatch.setattr(address_sets, "_LEASES", str(tmp_path / "{}.status"))
    monkeypatch.setattr(
        address_sets.leases, "__defaults__", (lambda name: held.get(name, []), str(tmp_path / "{}.status"))
    )
    found = UnlockedState(str(tmp_path / "run"))
    with found.lock() as locked:
        locked.put_ports("u", [PortReceipt("t0", MAC, "a", "u", dhcp=("10.9.0.1",), bridge="br0", lease=3600)])
    return found


def followed(
    state: UnlockedState, tmp_path: Path, *addresses: str, mac: str = MAC, left: int = 60
) -> list[tuple[str, str]]:
    leases = [{"ip-address": ip, "mac-address": mac, "expiry-time": int(time.time()) + left} for ip in addresses]
    (tmp_path / "br0.status").write_text(json.dumps(leases))
    fixed = ForwardRule("udp", 53, 53, "10.9.0.7", 53)
    forwards = PortForwards("t0", MAC, "u", "a", "br0", 1, True, (FOLLOWING, fixed, FOLLOWING._replace(to="lease6")))
    return [(forward.protocol, forward.to) for forward in lease_forwards.followed(forwards, state).forwards]


def test_forwards_go_where_the_lease_says(state: UnlockedState, tmp_path: Path) -> None:
    fixed = ("udp", "10.9.0.7")
    assert followed(state, tmp_path) == [fixed]
    assert followed(state, tmp_path, "10.9.0.200") == [("tcp", "10.9.0.200"), fixed]
    assert followed(state, tmp_path, "10.9.0.202", "fd09::5") == [("tcp", "10.9.0.202"), fixed]  # no IPv6 lease here
    assert followed(state, tmp_path, "10.9.0.200", left=-1) == [fixed], "it is over"
    assert followed(state, tmp_path, "10.9.0.200", mac="52:54:00:00:00:02") == [fixed], "another's"
    assert followed(state, tmp_path, "10.9.0.201") == [fixed], "another port holds it, whatever the server wrote"
    with state.lock() as locked:
        locked.put_ports("u", [PortReceipt("t0", MAC, "a", "u", bridge="br0", trusted=True)])
    assert followed(state, tmp_path, "10.9.0.200", "fd09::5") == [
        ("tcp", "10.9.0.200"),
        fixed,
        ("tcp", "fd09::5"),
    ], "one that learns nothing has what its server wrote"


def test_what_a_port_has_learnt_is_its_own_whatever_the_server_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A neighbour with its identity had the lease written as his: what he released himself is not forwarded to."""
    state, fixed = _state(tmp_path, monkeypatch, "10.9.0.204", "10.9.0.205"), ("udp", "10.9.0.7")
    assert followed(state, tmp_path) == [fixed]
    assert followed(state, tmp_path, "10.9.0.204", mac="52:54:00:00:00:02") == [("tcp", "10.9.0.204"), fixed]
    assert followed(state, tmp_path, "10.9.0.200", "10.9.0.205") == [("tcp", "10.9.0.205"), fixed]


def test_a_domain_asks_for_it() -> None:
    port = metadata(text("dhcp"))
    nic = f"<mac address='{MAC}'/><source network='web' bridge='br0'/><target dev='t0'/>"
    nic = f"<interface type='network'>{nic}</interface>"
    xml = f"<domain><name>a</name><uuid>u</uuid><metadata/><devices>{nic}</devices></domain>"
    domain = etree.fromstring(xml)
    domain.find("metadata").append(port)
    (forwards,) = wanted_forwards.port_forwards(Domain(xmlread.parse(etree.tostring(domain)), lambda _name: None))
    assert forwards.forwards == (FOLLOWING._replace(hide=False),)
    rows = {}
    unleased, leased = forwards._replace(forwards=()), lease_forwards.any_of(forwards)
    for name, active in (("none", None), ("no lease", unleased), ("lease", leased)):
        applied = [] if active is None else [active._replace(active=True)]
        (row,) = forward_rows([DomainState("a", "u", domain, domain)], applied)
        rows[name] = (row.to, row.open)
    assert rows == {"none": ("lease4:80", False), "no lease": ("lease4:80", False), "lease": ("192.0.2.1:80", True)}
