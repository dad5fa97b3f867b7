"""What a plan does for a virtual router, what its changes do, and how its health is tried by its document alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lxml import etree
from support.router_config import HEALTH_MAC, LAN, ROUTER, TIER, with_two_publics

from libvirt_guestnet import parse
from libvirt_guestnet.changes import router as changes
from libvirt_guestnet.changes.change import Run
from libvirt_guestnet.changes.router import ConfigureRouter, ForgetRouter, RemoveRouter, StartRouter
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.libvirtd.snapshot import DomainState, RouterSeen, WantedGuest, parse_xml
from libvirt_guestnet.metadata.policy import NAMESPACE
from libvirt_guestnet.model.router import Reservation, RouterConfig
from libvirt_guestnet.model.traffic import Rule, Verdict
from libvirt_guestnet.plan.guest import release_guest
from libvirt_guestnet.plan.router import differing, plan_router, router_notes
from libvirt_guestnet.router import control, disks, folder
from libvirt_guestnet.router.client import RefusedDocumentError
from libvirt_guestnet.router.document import decoded, digest, document
from libvirt_guestnet.router.folder import Owner
from libvirt_guestnet.router.health_guest import HealthGuest, health_guests

OLD, NEW = document(ROUTER).encoded(), document(replace(ROUTER, ingress=())).encoded()
DOMAIN = f"""<domain><name>edge</name><metadata><g:domain xmlns:g="{NAMESPACE}" topology="t" guest="edge"
image="router"/></metadata><devices><disk type="file"><source file="{folder.ROUTERS}/edge/config"/></disk>
<channel type="unix"><source mode="bind" path="/run/channel"/><target type="virtio"
name="org.libvirt-guestnet.router.0"/></channel></devices></domain>"""


def state(*, live: bool) -> DomainState:
    xml = parse_xml(DOMAIN)
    return DomainState("edge", "u", xml, xml if live else None)


def wanted(new: bytes | None, autostart: bool = True) -> WantedGuest:
    return WantedGuest("edge", (), etree.Element("m"), autostart=autostart, document=new)


@pytest.mark.parametrize(
    ("seen", "live", "lines"),
    [
        (RouterSeen(), None, ["configure router edge: what it does is new", "start router edge"]),
        (RouterSeen(NEW), False, ["start router edge"]),
        (RouterSeen(NEW, digest(NEW)), True, []),
        (RouterSeen(NEW, digest(OLD)), True, ["configure router edge: what is in force is not what its disk has"]),
        (RouterSeen(NEW, None), True, ["configure router edge: what is in force is not what its disk has"]),
        (RouterSeen(OLD, digest(NEW)), True, ["configure router edge: rules (-2)"]),
        (RouterSeen(NEW, None, "no answer"), True, []),
        (RouterSeen(OLD, None, "no answer"), True, ["configure router edge: rules (-2)"]),
    ],
)
def test_what_a_plan_says(seen: RouterSeen, live: bool | None, lines: list[str]) -> None:
    domain = None if live is None else state(live=live)
    made = list(plan_router(wanted(NEW), domain, seen))
    assert [change.text() for change in made] == lines
    told_now = [change.live for change in made if isinstance(change, ConfigureRouter)]
    assert told_now in ([], [bool(live) and not seen.silent])
    noted = list(router_notes(wanted(NEW), domain, seen))
    assert [("does not answer" in note, "guestnet router replace edge" in note) for note in noted] == (
        [(True, True)] if seen.silent else []
    )


def test_what_need_not_run_is_not_started() -> None:
    assert list(plan_router(wanted(NEW, autostart=False), state(live=False), RouterSeen(NEW))) == []
    assert list(plan_router(wanted(None), state(live=False), RouterSeen())) == []


def test_a_difference_in_a_few_words() -> None:
    changed = replace(ROUTER, guests=(replace(LAN, dhcp=replace(LAN.dhcp, reservations=(), lease=60)), TIER))
    assert differing(OLD, document(changed).encoded()) == (
        "DHCP ranges and domains (+1, -2), reservations (-2), DHCP options (-1), DNS names (-3)"
    )
    assert differing(b"rubbish", NEW) == "its disk has no document of this version"


@pytest.mark.parametrize("config", [ROUTER, with_two_publics()])
def test_a_document_is_read_again(config: RouterConfig) -> None:
    assert decoded(document(config).encoded()) == document(config)


@pytest.mark.parametrize(
    "spoilt", [b"", OLD[:-1], OLD + b"\n", OLD.replace(b" 1\n", b" 2\n", 1), OLD.replace(b"nft", b"ntf", 1)]
)
def test_what_is_no_document(spoilt: bytes) -> None:
    assert decoded(spoilt) is None


def test_a_router_is_known_by_its_disk_and_goes_with_it() -> None:
    mine = state(live=True)
    assert (mine.is_router, mine.ours, mine.channel) == (True, True, "/run/channel")
    (removal,) = release_guest(mine, "no longer in the topology")
    assert isinstance(removal, RemoveRouter)
    assert removal.text() == "remove router edge (interrupts edge): no longer in the topology"
    claimed = parse_xml(DOMAIN.replace("/edge/config", "/other/config"))
    assert not DomainState("edge", "u", claimed).ours, "metadata alone can be anybody's"


class Host:
    """libvirt, as far as these changes use it, beside real files."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.undos: list[Any] = []

    def qemu_owner(self) -> Owner:
        return Owner(os.geteuid(), os.getegid())

    def live_xml(self, _name: str) -> str:
        return DOMAIN

    def start_domain(self, name: str) -> None:
        self.calls.append(f"start {name}")

    def stop_domain(self, name: str) -> None:
        self.calls.append(f"stop {name}")

    def undefine_domain(self, name: str) -> None:
        self.calls.append(f"undefine {name}")

    def define_domain(self, _xml: str) -> None:
        self.calls.append("define")

    def run(self) -> Run:
        undo = lambda _what, undo: self.undos.append(undo)  # noqa: E731
        return Run(self, self, undo, lambda _what: None, self.calls.append)  # type: ignore[arg-type]

    def undo(self) -> None:
        while self.undos:
            self.undos.pop()()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setattr(folder, "ROUTERS", tmp_path / "libvirt-guestnet/routers")
    return Host()


@contextmanager
def answering(monkeypatch: pytest.MonkeyPatch, in_force: list[bytes], refuses: bytes = b"") -> Iterator[None]:
    """A router behind the channel: it takes every document but one."""

    def configure(encoded: bytes) -> None:
        if encoded == refuses:
            raise RefusedDocumentError("edge", "nft", 2, "nonsense")
        in_force.append(encoded)

    @contextmanager
    def connect(path: str, _name: str, _seconds: float = 0) -> Iterator[object]:
        assert path == "/run/channel"
        yield SimpleNamespace(state=lambda: SimpleNamespace(document=digest(in_force[-1])), configure=configure)

    monkeypatch.setattr(control, "RouterClient", SimpleNamespace(connect=connect))
    yield


def test_a_stopped_router_has_it_on_its_disk(host: Host) -> None:
    ConfigureRouter("edge", document=OLD).run(host.run())
    assert folder.document("edge") == OLD
    host.undo()
    assert not folder.exists("edge")


def test_a_running_router_does_it_at_once_and_goes_back(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.ensure("edge", host.qemu_owner())
    disks.write(folder.disk("edge", disks.CONFIG), OLD)
    in_force = [OLD]
    with answering(monkeypatch, in_force):
        ConfigureRouter("edge", document=NEW, old=OLD, live=True).run(host.run())
        assert (in_force[-1], folder.document("edge")) == (NEW, NEW)
        host.undo()
    assert (in_force[-1], folder.document("edge")) == (OLD, OLD)


def test_a_refused_document_is_shown_by_its_line(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.ensure("edge", host.qemu_owner())
    disks.write(folder.disk("edge", disks.CONFIG), OLD)
    with (
        answering(monkeypatch, [OLD], refuses=NEW),
        pytest.raises(GuestnetError, match="nft, line 2: nonsense: add counter inet guestnet denied"),
    ):
        ConfigureRouter("edge", document=NEW, old=OLD, live=True).run(host.run())
    assert folder.document("edge") == OLD


def test_a_start_that_takes_long_is_told_and_no_failure(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes.control, "await_serving", lambda name, channel: f"{name} {channel}")
    StartRouter("edge").run(host.run())
    assert host.calls == ["start edge", "router edge is started, and does not serve yet: edge /run/channel"]
    host.undo()
    assert host.calls[-1] == "stop edge"


def test_a_removed_router_comes_back_with_its_leases(host: Host) -> None:
    folder.ensure("edge", host.qemu_owner())
    disks.write(folder.disk("edge", disks.LEASES), b"leases")
    RemoveRouter("edge", xml=DOMAIN, running=True, autostart=False).run(host.run())
    assert (host.calls, folder.exists("edge")) == (["stop edge", "undefine edge"], False)
    host.undo()
    assert host.calls[2:] == ["define", "start edge"]
    assert disks.read(folder.disk("edge", disks.LEASES)) == b"leases"


def test_disks_that_a_router_left_go_and_come_back(host: Host) -> None:
    folder.ensure("edge", host.qemu_owner(), "t")
    disks.write(folder.disk("edge", disks.LEASES), b"leases")
    ForgetRouter("edge").run(host.run())
    assert (host.calls, folder.exists("edge")) == ([], False)
    host.undo()
    assert (folder.found(), disks.read(folder.disk("edge", disks.LEASES))) == ({"edge": "t"}, b"leases")


def _with_health(config: RouterConfig, egress: Verdict = Verdict.DENY, *rules: Rule) -> RouterConfig:
    guest = Reservation("router-health", HEALTH_MAC, (parse.address("10.1.1.254"),))
    lan = replace(LAN, dhcp=replace(LAN.dhcp, reservations=(guest,)), egress=egress, exceptions=rules)
    return replace(config, guests=(lan, config.guests[1]))


def test_health_is_tried_by_the_document_alone() -> None:
    address, gateway, target = (parse.address(each) for each in ("10.1.1.254", "10.1.1.1", "203.0.113.1"))
    (found,) = health_guests(document(_with_health(with_two_publics())))
    assert found == HealthGuest("eth0", LAN.mac, HEALTH_MAC, address, gateway, "r1.lan.internal", target)  # type: ignore[arg-type]


def test_no_way_out_is_tried_where_pings_stay_inside() -> None:
    for config in (
        _with_health(ROUTER, Verdict.ALLOW, Rule("all")),
        _with_health(ROUTER, Verdict.ALLOW, Rule("ping", (next(iter(LAN.exceptions[1].services)),))),
        replace(_with_health(ROUTER), public=(replace(ROUTER.public[0], gateways=()),)),
    ):
        assert [guest.target for guest in health_guests(document(config))] == [None]
    assert health_guests(document(ROUTER)) == ()
