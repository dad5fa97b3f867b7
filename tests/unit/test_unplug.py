"""A guest that keeps a NIC which is to go: why that may be, and that it holds up nobody else."""

from __future__ import annotations

from collections.abc import Collection
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import pytest
from lxml import etree
from support.elements import inside

from libvirt_guestnet.apply.apply import UnfinishedError, apply
from libvirt_guestnet.changes import guest
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.libvirtd.snapshot import (
    DomainState,
    NetworkState,
    Snapshot,
    Wanted,
    WantedGuest,
    WantedNetwork,
    parse_xml,
    to_text,
)
from libvirt_guestnet.metadata.policy import NAMESPACE
from libvirt_guestnet.plan.order import Plan, plan

NIC = "<interface type='network'><mac address='52:54:00:00:00:01'/><source network='a'/></interface>"


@pytest.mark.parametrize(
    ("arch", "features", "said"),
    [
        ("x86_64", "", "it has no ACPI, without which it cannot: shut it down, and add <acpi/>"),
        ("x86_64", "<features><apic/></features>", "it has no ACPI"),
        ("x86_64", "<features><acpi/></features>", "is an operating system running in it"),
        ("s390x", "", "is an operating system running in it"),
    ],
)
def test_a_guest_that_keeps_its_nic(monkeypatch: pytest.MonkeyPatch, arch: str, features: str, said: str) -> None:
    monkeypatch.setattr(guest, "UNPLUG_SECONDS", 0.0)
    xml = f"<domain><os><type arch='{arch}'>hvm</type></os>{features}<devices>{NIC}</devices></domain>"
    run: Any = SimpleNamespace(libvirt=SimpleNamespace(live_xml=lambda _: xml, detach=lambda *_, **__: None))
    with pytest.raises(GuestnetError, match=f"has not let go of NIC 52:54:00:00:00:01 .*{said}"):
        guest.unplug(run, "g", NIC)


TENANTS = """<domain><name>{name}</name><uuid>{name}</uuid><metadata><g:domain xmlns:g="{namespace}" topology="t"
 guest="{name}"><g:port network="old" mac="{mac}" was="&lt;interface/&gt;"/></g:domain></metadata><devices><interface
 type="network"><mac address="{mac}"/><source network="old"/><target dev="{name}0"/></interface></devices></domain>"""
NET = """<network><name>{name}</name><uuid>{name}</uuid><metadata><g:network xmlns:g="{namespace}" topology="t"/>
</metadata><bridge name="br-{name}"/></network>"""
MACS = {"forger": "52:54:00:00:00:0f", "honest": "52:54:00:00:00:0a"}


class Tenants:
    """A host with two guests that are not in the file, and what is done to it: `keeping` never let go of a NIC,
    `refusing` cannot be told anything."""

    def __init__(self, keeping: Collection[str] = (), refusing: Collection[str] = ()) -> None:
        self.keeping, self.refusing = keeping, refusing
        text = {name: TENANTS.format(name=name, mac=mac, namespace=NAMESPACE) for name, mac in MACS.items()}
        self.live = {name: parse_xml(xml) for name, xml in text.items()}
        self.done: list[tuple[str, str]] = []
        self.notes: list[str] = []

    def plan(self, *staying: WantedGuest) -> Plan:
        networks = (NetworkState(name, name, net(name), net(name)) for name in ("old", "new"))
        domains = (DomainState(name, name, deepcopy(xml), xml) for name, xml in self.live.items())
        wanted = Wanted("t", (WantedNetwork("new", net("new"), autostart=False),), staying)
        return plan(wanted, Snapshot(tuple(networks), tuple(domains)))

    def apply(self, made: Plan) -> list[str]:
        doing: Any = self
        return [each.text() for each in apply(made, doing, doing, on_note=self.notes.append)]

    def live_xml(self, name: str) -> str:
        return to_text(self.live[name])

    def detach(self, name: str, _xml: str, *, live: bool) -> None:
        if live and name not in self.keeping:
            inside(self.live[name], "devices").clear()

    def set_domain_metadata(self, name: str, _xml: str | None, *, live: bool) -> None:
        if name in self.refusing:
            raise GuestnetError("libvirt says no")
        self.done += [("told", name)] if live else []

    def undefine_network(self, name: str) -> None:
        self.done.append(("removed", name))

    def __getattr__(self, name: str) -> Any:
        if name not in ("release", "guard", "stop_network", "attach"):
            raise AttributeError(name)
        return lambda *_args, **_more: None


def net(name: str) -> Any:
    return parse_xml(NET.format(name=name, namespace=NAMESPACE))


def test_who_forges_its_metadata_and_keeps_its_nic_takes_nothing_of_others_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It says that it is of a topology which has no such guest, and that its NIC was plugged in for that."""
    monkeypatch.setattr(guest, "UNPLUG_SECONDS", 0.0)
    host = Tenants(keeping=["forger"])
    made = host.plan()
    assert [change.text().split(":")[0] for change in made.changes] == [
        "detach NIC forger",
        "set guest metadata forger",
        "detach NIC honest",
        "set guest metadata honest",
        "remove network old",
    ]
    assert [each.split(":")[0] for each in host.apply(made)] == ["detach NIC honest", "set guest metadata honest"]
    assert host.done == [("told", "honest")], "its own metadata stays, and so does its network"
    kept, network = host.notes
    assert "detach NIC forger: " in kept
    assert "has not let go of NIC 52:54:00:00:00:0f" in kept
    assert network == "network old stays: forger has it still; shut forger off, and apply again"
    host.keeping, host.done = [], []
    host.apply(host.plan())
    assert [each for each in host.done if "honest" not in each] == [("told", "forger"), ("removed", "old")]


def test_who_goes_and_cannot_be_told_so_takes_nothing_of_others_back() -> None:
    host = Tenants(refusing=["forger"])
    host.apply(host.plan())
    assert host.done == [("told", "honest")]
    assert "set guest metadata forger" in host.notes[0]
    assert "libvirt says no" in host.notes[0]


def test_a_guest_of_the_file_that_keeps_a_nic_is_a_failure_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest, "UNPLUG_SECONDS", 0.0)
    host = Tenants(keeping=["forger"])
    mark = etree.fromstring(f'<g:domain xmlns:g="{NAMESPACE}" topology="t" guest="forger"/>')
    with pytest.raises(UnfinishedError, match=r"(?s)not this:.*detach NIC forger: .*has not let go.*network old stays"):
        host.apply(host.plan(WantedGuest("forger", (), mark)))
    assert (host.done, host.notes) == ([("told", "honest")], [])


def test_a_guest_that_goes_gets_its_nic_back_before_networks_change() -> None:
    """It was on a bridge of its own: unplugged first, then plugged in again, and only then may its network go."""
    host = Tenants()
    port = host.live["honest"].find("metadata/*/*")
    assert port is not None
    port.set("was", '<interface type="bridge"><source bridge="br0"/></interface>')
    said = [change.text().split(":")[0] for change in host.plan().changes if change.name in ("honest", "old")]
    assert said == [
        "update NIC honest",
        "detach NIC honest (interrupts honest)",
        "set guest metadata honest",
        "attach NIC honest",
        "remove network old",
    ]
