"""Apply and destroy of adopted networks and guests, killed before each of their steps: the next one finishes them or
takes them back. The host is simulated; tests/libvirt/test_adopted_killed.py does some of it for real."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from lxml import etree

from libvirt_guestnet.apply.topology import wanted
from libvirt_guestnet.changes.change import Run
from libvirt_guestnet.changes.network import plug_taps
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.read.domain import Domain
from libvirt_guestnet.hook.read.network_receipts import external_receipt, network_receipt
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.libvirtd.snapshot import (
    DOMAIN_MARK,
    DomainState,
    NetworkState,
    Snapshot,
    Wanted,
    marked,
    parse_xml,
    to_text,
)
from libvirt_guestnet.metadata.elements import node_of
from libvirt_guestnet.metadata.policy import NAMESPACE
from libvirt_guestnet.plan.external import resolved
from libvirt_guestnet.plan.network import _taps
from libvirt_guestnet.plan.order import Plan, plan, plan_destroy
from libvirt_guestnet.state.receipts import NetworkReceipt, PortReceipt
from libvirt_guestnet.status.overdue import overdue
from libvirt_guestnet.topology import loads

NAT = """<network><name>default</name><uuid>n1</uuid><forward mode='nat'/><bridge name='virbr0'/>
<ip address='192.168.122.1' netmask='255.255.255.0'><dhcp><range start='192.168.122.2' end='192.168.122.254'/></dhcp>
</ip></network>"""
DOMAIN = """<domain><name>{name}</name><uuid>{name}</uuid><metadata/><devices><interface type='network'>
<mac address='{mac}'/><source network='default'/><target dev='{tap}'/></interface></devices></domain>"""
GUESTS = {"web": ("52:54:00:aa:00:01", "tap1"), "other": ("52:54:00:aa:00:02", "tap2")}
TOPOLOGY = """
name: t
networks: {{ default: {{ external: true{network} }} }}
guests: {{ web: {{ ports: [ {{ network: default{port} }} ] }} }}
"""
FILES = [
    TOPOLOGY.format(network=network, port=port)
    for network in ("", ", guarded: observe", ", guarded: true")
    for port in ("", ", addresses: [192.168.122.9]")
]
Kernel = tuple[dict[str, NetworkReceipt], dict[str, PortReceipt]]


class KilledError(BaseException):
    """The process is gone before a step."""


class Host:
    """libvirt and the hooks, as far as it matters here; killed before step `left`, 0: never."""

    def __init__(self) -> None:
        xml = parse_xml(NAT)
        domains = {n: parse_xml(DOMAIN.format(name=n, mac=mac, tap=tap)) for n, (mac, tap) in GUESTS.items()}
        self.networks = {"default": NetworkState("default", "n1", xml, xml)}
        self.domains = {name: DomainState(name, name, xml, xml) for name, xml in domains.items()}
        self.known: dict[str, NetworkReceipt] = {}
        self.ports: dict[str, PortReceipt] = {}
        self.left = 0

    def snapshot(self) -> Snapshot:
        found = Snapshot(tuple(self.networks.values()), tuple(self.domains.values()))
        adopted = {each.name: each.topology for each in self.known.values()}
        state = SimpleNamespace(networks=self.known.values, bridges=lambda: None, sound_port=self.ports.get)
        networks, wrong = overdue(found, state)  # type: ignore[arg-type]
        return replace(found, adopted=adopted, overdue=networks, wrong=wrong)

    def _step(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise KilledError

    def set_network_mark(self, name: str, _old: str | None, new: str | None) -> None:
        self._step()
        state = self.networks[name]
        self.networks[name] = replace(state, config=marked(state.config, None if new is None else parse_xml(new)))

    def live_network(self, name: str) -> str:
        return to_text(self.networks[name].live)  # type: ignore[arg-type]

    def update_network(self, name: str, command: str, _section: str, xml: str, parent: int, *, live: bool) -> None:
        self._step()
        side, element = "live" if live else "config", parse_xml(xml)
        root: Any = parse_xml(to_text(getattr(self.networks[name], side)))
        hosts = root.findall("ip")[parent].find("dhcp")
        assert hosts is not None
        if command == "add":
            hosts.append(element)
        else:
            hosts.remove(next(each for each in hosts if sorted(each.items()) == sorted(element.items())))
        self.networks[name] = replace(self.networks[name], **{side: root})
        if live and name in self.known:  # libvirt calls the hook
            self.known[name] = external_receipt(self.known[name], node_of(root))

    def set_domain_metadata(self, name: str, xml: str | None, *, live: bool) -> None:
        self._step()
        side = "live" if live else "config"
        mark = None if xml is None else parse_xml(xml)
        for each in () if mark is None else mark.iter(etree.Element):
            each.tag = f"{{{NAMESPACE}}}{each.tag}"
        changed: Any = marked(getattr(self.domains[name], side), mark, DOMAIN_MARK)
        self.domains[name] = replace(self.domains[name], **{side: changed})

    def live_xml(self, name: str) -> str:
        return to_text(self.domains[name].live)  # type: ignore[arg-type]

    def kept_open(self, _bridge: str) -> AbstractContextManager[None]:
        return nullcontext()

    def adopt_network(self, xml: bytes) -> None:
        self._step()
        if receipt := network_receipt(node_of(parse_xml(xml.decode()))):
            self.known[receipt.name] = receipt
        else:
            self.known.clear()
            self.ports = {tap: port for tap, port in self.ports.items() if port.own}

    def guard(self, xml: bytes, settle: bool = True) -> None:
        self._step()
        domain = Domain(node_of(parse_xml(xml.decode())), self.known.get)
        for nic in domain.nics:
            self.ports.pop(nic.tap, None)
            if nic.is_guarded:
                addresses = tuple(map(str, nic.policy.addresses)) if nic.policy else ()
                port = PortReceipt(nic.tap, nic.mac, domain.name, domain.uuid, "default", owned=addresses)
                self.ports[nic.tap] = port._replace(own=nic.policy is not None, observed=nic.is_observed)

    def kernel(self) -> Kernel:
        return dict(self.known), dict(self.ports)

    def texts(self) -> list[bytes]:
        states: list[Any] = [*self.networks.values(), *self.domains.values()]
        roots = [root for state in states for root in (state.config, state.live)]
        return [etree.tostring(parse_xml(to_text(each).replace("<metadata/>", "")), method="c14n") for each in roots]


def planned(text: str, host: Host) -> Plan:
    snapshot = host.snapshot()
    return plan(wanted(resolved(loads(text, "t.yaml"), snapshot), HostMap()), snapshot)


def make(made: Plan, host: Host, kill: int = 0) -> bool:
    """Makes the changes, unless killed before that step; returns whether it was."""
    host.left = kill
    run = Run(host, host, lambda _what, _undo: None, lambda _what: None)  # type: ignore[arg-type]
    try:
        for change in made.changes:
            change.run(run)
    except KilledError:
        return True
    return False


def assert_taken_back(host: Host) -> None:
    make(plan_destroy("t", host.snapshot()), host)
    assert host.texts() == Host().texts()
    assert host.kernel() == ({}, {})


@pytest.mark.parametrize("text", FILES)
def test_what_is_killed_is_finished_or_taken_back_by_the_next(text: str) -> None:
    whole = Host()
    make(planned(text, whole), whole)
    assert whole.known
    for kill in range(1, 40):
        again, back = Host(), Host()
        if not make(planned(text, again), again, kill):
            break
        make(planned(text, again), again)
        assert again.kernel() == whole.kernel(), kill
        assert again.texts() == whole.texts(), kill
        assert planned(text, again).changes == ()
        make(planned(text, back), back, kill)
        assert_taken_back(back)
    assert kill > 4


@pytest.mark.parametrize("text", FILES)
def test_a_destroy_that_is_killed_is_finished_by_the_next(text: str) -> None:
    for kill in range(1, 40):
        host = Host()
        make(planned(text, host), host)
        if not make(plan_destroy("t", host.snapshot()), host, kill):
            break
        assert_taken_back(host)
    assert kill > 4


@pytest.mark.parametrize(("old", "new"), list(zip(FILES, reversed(FILES), strict=True)))
def test_so_is_a_change_from_one_file_to_another(old: str, new: str) -> None:
    whole = Host()
    make(planned(new, whole), whole)
    for kill in range(1, 40):
        host = Host()
        make(planned(old, host), host)
        if not make(planned(new, host), host, kill):
            break
        make(planned(new, host), host)
        assert host.kernel() == whole.kernel(), kill
        assert planned(new, host).changes == ()
        assert_taken_back(host)


class Spoilt(Host):
    """One guest's own metadata cannot be carried out; `followed` are the others that were guarded anew."""

    def __init__(self) -> None:
        super().__init__()
        self.followed: list[str] = []

    def guard(self, xml: bytes, settle: bool = True) -> None:
        if b"<name>other</name>" in xml:
            raise GuestnetError("bad metadata")
        self.followed.append(parse_xml(xml.decode()).findtext("name") or "")
        super().guard(xml)


def test_a_guest_with_damaged_metadata_keeps_nobody_else_without_a_guard_and_no_network_adopted() -> None:
    host = Spoilt()
    with pytest.raises(GuestnetError, match="guest other: bad metadata"):
        make(planned(FILES[4], host), host)
    assert host.followed == ["web"]
    (release,) = (change for change in plan_destroy("t", host.snapshot()).changes if change.KIND == "network")
    host.followed.clear()
    with pytest.raises(GuestnetError, match="guest other: bad metadata"):
        make(Plan("t", (release,)), host)
    assert (host.followed, host.snapshot().networks[0].mark, host.known) == (["web"], None, {})


def test_whoever_asks_by_its_own_metadata_for_what_is_the_hosts_fails_for_nobody_else() -> None:
    """Nothing but the host itself says so, once the guest is to follow."""
    host = Spoilt()
    mark = parse_xml(f"<g:domain xmlns:g='{NAMESPACE}' topology='direct' guest='other'/>")
    xml = marked(host.domains["other"].config, mark, DOMAIN_MARK)
    host.domains["other"] = replace(host.domains["other"], config=xml, live=xml)
    notes: list[str] = []
    run = Run(host, host, lambda _what, _undo: None, lambda _what: None, notes.append)  # type: ignore[arg-type]
    for change in planned(FILES[4], host).changes:
        change.run(run)
    assert notes == ["guest other: bad metadata: it stays as it is, guarded or not; the others go on"]
    assert "web" in host.followed and host.snapshot().networks[0].mark is not None


def test_what_the_hooks_know_of_a_network_goes_when_somebody_took_its_metadata_out() -> None:
    host = Host()
    make(planned(FILES[-2], host), host)
    state = host.networks["default"]
    host.networks["default"] = replace(state, config=marked(state.config, None))
    assert host.kernel() != ({}, {})
    assert_taken_back(host)


@pytest.mark.parametrize("whose", ["topology='theirs'", "topology='t'", ""])
def test_a_network_of_ours_starts_again_past_a_guest_that_asks_for_the_impossible(whose: str) -> None:
    """Also past one of the same file's, whose metadata somebody changed: what the file says comes after this."""
    host, notes = Spoilt(), list[str]()
    run = Run(host, host, lambda _what, _undo: None, lambda _what: None, notes.append)  # type: ignore[arg-type]
    host.enslave = lambda *_: None  # type: ignore[attr-defined]
    mark = parse_xml(f"<g:domain xmlns:g='{NAMESPACE}' {whose} guest='other'/>")
    xml = marked(host.domains["other"].config, mark, DOMAIN_MARK)
    host.domains["other"] = replace(host.domains["other"], config=xml, live=xml)
    ours = marked(parse_xml(NAT), parse_xml(f"<g:network xmlns:g='{NAMESPACE}' topology='t' name='default'/>"))
    taps = _taps("default", host.snapshot(), ours)
    assert sorted((each.domain, each.other) for each in taps) == [("other", True), ("web", False)]
    assert not any(each.other for each in _taps("default", host.snapshot(), ours, {"other"}))
    plug_taps(run, taps, "virbr0")
    assert (host.followed, len(notes)) == (["web"], 1)
    assert notes[0].startswith("guest other: bad metadata: it stays as it is")
    with pytest.raises(GuestnetError, match="bad metadata"):
        plug_taps(run, tuple(replace(each, other=False) for each in taps), "virbr0")


@pytest.mark.parametrize("whose", ["topology='theirs'", "topology='t' image='tiny'", ""])
def test_a_network_of_ours_goes_past_a_guest_that_asks_for_the_impossible(whose: str) -> None:
    host, notes = Spoilt(), list[str]()
    run = Run(host, host, lambda _what, _undo: None, lambda _what: None, notes.append)  # type: ignore[arg-type]
    for name in ("stop_network", "undefine_network", "release"):
        setattr(host, name, lambda *_: None)
    ours = marked(parse_xml(NAT), parse_xml(f"<g:network xmlns:g='{NAMESPACE}' topology='mine' name='default'/>"))
    host.networks["default"] = replace(host.networks["default"], config=ours, live=ours)
    mark = parse_xml(f"<g:domain xmlns:g='{NAMESPACE}' {whose} guest='other'/>")
    xml = marked(host.domains["other"].config, mark, DOMAIN_MARK)
    host.domains["other"] = replace(host.domains["other"], config=xml, live=xml)
    for made in (plan_destroy("mine", host.snapshot()), plan(Wanted("mine"), host.snapshot())):
        (removal,) = made.changes
        removal.run(run)
    assert host.followed == ["web", "web"]
    assert notes == ["guest other: bad metadata: it stays as it is, guarded or not; the others go on"] * 2
