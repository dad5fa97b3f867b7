"""Routers in `status` and `guestnet router`: in words for people and for programs; what a router says is a guest's."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from support.router_config import HEALTH_MAC, LAN, ROUTER

from libvirt_guestnet import parse
from libvirt_guestnet.cli import router as cli
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.libvirtd.snapshot import DomainState, Snapshot, parse_xml
from libvirt_guestnet.metadata.policy import NAMESPACE
from libvirt_guestnet.model.router import Reservation
from libvirt_guestnet.router import disks, folder
from libvirt_guestnet.router.client import Balanced, Counted, Lease, MemberState, RouterState
from libvirt_guestnet.router.document import digest, document
from libvirt_guestnet.router.health import Check
from libvirt_guestnet.status import changed, drift, routers
from libvirt_guestnet.status.text import status_text

HEALTHY = replace(LAN, dhcp=replace(LAN.dhcp, reservations=(Reservation("router-health", HEALTH_MAC, (parse.address("10.1.1.254"),)),)))  # fmt: skip  # noqa: E501
DOCUMENT = document(replace(ROUTER, guests=(HEALTHY, ROUTER.guests[1]))).encoded()
DOMAIN = f"""<domain><name>edge</name><metadata><g:domain xmlns:g="{NAMESPACE}" topology="t" guest="edge"
image="router"/></metadata><devices><disk type="file"><source file="{{routers}}/edge/config"/></disk>
<interface type="network"><mac address="{LAN.mac}"/><source network="lan" bridge="br-lan"/></interface>
<channel type="unix"><source mode="bind" path="/run/channel"/><target type="virtio"
name="org.libvirt-guestnet.router.0"/></channel></devices></domain>"""
HOSTILE = "all is \x1b[2Jwell\nhost: fine"


@pytest.fixture
def edge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DomainState:
    """A running router, with its disks."""
    monkeypatch.setattr(folder, "ROUTERS", tmp_path / "libvirt-guestnet/routers")
    folder.ensure("edge", folder.Owner(os.geteuid(), os.getegid()))
    disks.write(folder.disk("edge", disks.CONFIG), DOCUMENT)
    xml = parse_xml(DOMAIN.format(routers=folder.ROUTERS))
    return DomainState("edge", "u", xml, xml)


Says = Callable[..., None]


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> Says:
    """What the router answers."""

    def say(
        in_force: str = digest(DOCUMENT),
        *trouble: str,
        ruleset: str = "",
        members: Sequence[Balanced] = (),
        waits: bool = False,
    ) -> None:
        state = RouterState(in_force, 2.5, 70.0, True, 0, 62008, 45 << 10, 3, trouble, waits)
        lease = Lease(1764560000, HEALTH_MAC, parse.address("10.1.1.254"), "router-health")
        client = SimpleNamespace(
            state=lambda: state,
            leases=lambda: (lease,),
            counters=lambda: {"denied": Counted(2, 120)},
            rules=lambda: ruleset,
            balancers=lambda: members,
        )

        @contextmanager
        def connect(path: str, _name: str, _seconds: float) -> Iterator[object]:
            assert path == "/run/channel"
            yield client

        monkeypatch.setattr(routers, "RouterClient", SimpleNamespace(connect=connect))

    say()
    return say


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> list[Check]:
    """What becomes of each try."""
    found = [Check("dhcp", True, 0.01, "answered")]

    def tried(router: str, network: str, bridge: str, guest: Any, _seconds: float) -> tuple[Check, ...]:
        assert (router, network, bridge, guest.mac, str(guest.gateway)) == (
            "edge",
            "lan",
            "br-lan",
            HEALTH_MAC,
            "10.1.1.1",
        )
        return tuple(found)

    monkeypatch.setattr(routers.port, "tried", tried)
    return found


def row(edge: DomainState) -> dict[str, object]:
    (found,) = routers.router_rows(Snapshot((), (edge,)), None, tried=True)
    return found.json()


def test_a_router_that_serves(edge: DomainState, says: Says, tries: list[Check]) -> None:
    found = row(edge)
    assert found == {
        "kind": "router", "topology": "t", "guest": "edge", "active": True, "document": "in force", "leases": 1,
        "memory_free_mib": 45, "health": "serves", "trouble": [], "members": None, "members_left_out": [], "port": "",
    }  # fmt: skip
    assert status_text([found]) == (
        "TOPOLOGY  GUEST  ACTIVE  DOCUMENT  LEASES  MEMORY FREE MIB  HEALTH\n"
        "t         edge   yes     in force  1       45               serves\n"
    )


def test_a_router_that_does_not(edge: DomainState, says: Says, tries: list[Check]) -> None:
    tries.append(Check("gateway", False, 3.0, "no answer to ARP for 10.1.1.1"))
    says("f" * 64, HOSTILE)
    found = row(edge)
    assert (found["document"], found["health"]) == ("other in force", "lan: gateway: no answer to ARP for 10.1.1.1")
    assert "ROUTER edge: all is \\x1b[2Jwell\\nhost: fine\n" in status_text([found])


def test_a_router_that_is_off_or_hangs(edge: DomainState, tries: list[Check], monkeypatch: pytest.MonkeyPatch) -> None:
    assert row(replace(edge, live=None))["health"] == "stopped"

    def connect(*_: object) -> None:
        raise GuestnetError("no answer")

    monkeypatch.setattr(routers, "RouterClient", SimpleNamespace(connect=connect))
    assert (row(edge)["document"], row(edge)["trouble"]) == ("", ["no answer"])


def test_what_changes_all_the_time_is_no_event(edge: DomainState, says: Says, tries: list[Check]) -> None:
    before = row(edge)
    assert changed.events([before], [{**before, "memory_free_mib": 40}]) == []
    (event,) = changed.events([before], [{**before, "leases": 2}])
    assert event.text("now") == "now router edge changed leases=2 (was 1)"


def test_a_router_that_somebody_undefined(edge: DomainState) -> None:
    folder.ensure("gone", folder.Owner(os.geteuid(), os.getegid()), "other")
    rows = routers.router_rows(Snapshot((), (replace(edge, live=None),)), None, tried=True)
    assert [(each.guest, each.topology, each.health) for each in rows] == [
        ("edge", "t", "stopped"),
        ("gone", "other", "disks without a domain"),
    ]
    assert [each.guest for each in routers.router_rows(Snapshot(), "other", tried=True)] == ["gone"]


def run(
    verb: Callable[[Namespace], int], capsys: pytest.CaptureFixture[str], edge: DomainState, **options: bool
) -> str:
    args = Namespace(**{"router": "edge", "connect": None, "json": False, "nft": False, **options})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "_router", lambda _args: edge)
        assert verb(args) == options.get("status", 0)
    return capsys.readouterr().out


def test_show(edge: DomainState, says: Says, capsys: pytest.CaptureFixture[str]) -> None:
    says(digest(DOCUMENT), HOSTILE)
    text = run(cli.show, capsys, edge)
    assert "document: in force\n" in text and "serving: 2.5\n" in text
    assert "trouble: all is \\x1b[2Jwell\\nhost: fine\n" in text
    assert f"eth0  lan      {LAN.mac}  10.1.1.1/24 fd13:1::1/64\n" in text
    (shown,) = json.loads(run(cli.show, capsys, edge, json=True))
    assert (shown["on_disk"], shown["trouble"]) == (digest(DOCUMENT), [HOSTILE])


def test_leases(edge: DomainState, says: Says, capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(run(cli.leases, capsys, edge, json=True)) == [
        {"expires": 1764560000, "client": HEALTH_MAC, "address": "10.1.1.254", "name": "router-health"}
    ]
    assert "2025-12-0" in run(cli.leases, capsys, edge)
    disks.write(folder.disk("edge", disks.LEASES), b"0 52:54:00:13:00:0a 10.1.1.10 web *\n\xff\n")
    assert "never    52:54:00:13:00:0a  10.1.1.10  web\n" in run(cli.leases, capsys, replace(edge, live=None))


def test_rules(edge: DomainState, says: Says, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cli.rules, capsys, edge) == "RULE    PACKETS  OCTETS\ndenied  2        120\n"
    says(ruleset="table inet guestnet {\n\tchain \x1b[2J\n}")
    assert run(cli.rules, capsys, edge, nft=True) == "table inet guestnet {\n    chain \\x1b[2J\n}\n"


def members(*states: str) -> list[Balanced]:
    """web1, web2, … of the balancer web, in these states."""
    return [Balanced("web", f"web{n}", MemberState(state), n) for n, state in enumerate(states, 1)]


def test_show_has_the_members_of_balancers(edge: DomainState, says: Says, capsys: pytest.CaptureFixture[str]) -> None:
    says(members=members("up", "down"))
    text = run(cli.show, capsys, edge)
    assert text.endswith(
        "\n\nBALANCER  MEMBER  STATE  CONNECTIONS\n"
        "web       web1    up     1\n"
        "web       web2    down   2\n"
    )  # fmt: skip
    (shown,) = json.loads(run(cli.show, capsys, edge, json=True))
    assert shown["balancers"] == [
        {"balancer": "web", "member": "web1", "state": "up", "connections": 1},
        {"balancer": "web", "member": "web2", "state": "down", "connections": 2},
    ]
    (shown,) = json.loads(run(cli.show, capsys, replace(edge, live=None), json=True))
    assert shown["balancers"] == []


def test_a_member_that_is_down_is_said_aloud_and_is_no_fault_of_the_router(
    edge: DomainState, says: Says, tries: list[Check]
) -> None:
    says(members=members("up", "down", "new", "unchecked", "assumed"))
    found = row(edge)
    assert (found["health"], found["members"], found["members_left_out"]) == ("serves", 5, ["web/web2", "web/web3"])
    assert "ROUTER edge: balancers leave out web/web2 web/web3\n" in status_text([found])


def test_a_balancer_that_nobody_serves_is(edge: DomainState, says: Says, tries: list[Check]) -> None:
    says(members=members("down"))
    assert row(edge)["health"] == "balancer web: 0 of 1 members serve, not web1 (down)"
    tries.append(Check("dns", False, 3.0, "no DNS answer for x"))
    assert row(edge)["health"] == "lan: dns: no DNS answer for x; balancer web: 0 of 1 members serve, not web1 (down)"
    (untried,) = routers.router_rows(Snapshot((), (edge,)), None, tried=False)
    assert untried.health == ""


def test_of_a_router_that_waits_nobody_asks_for_members(edge: DomainState, says: Says, tries: list[Check]) -> None:
    says(members=members("new"), waits=True)
    assert (row(edge)["health"], row(edge)["members"]) == ("waits", None)
    assert routers.balancers(edge) == []


def test_health_of_balancers(
    edge: DomainState, says: Says, tries: list[Check], capsys: pytest.CaptureFixture[str]
) -> None:
    says(members=members("up", "down"))
    assert "-        balancer web  yes  0.0      1 of 2 members serve, not web2 (down)\n" in run(
        cli.health, capsys, edge
    )
    says(members=members("down", "new"))
    rows = json.loads(run(cli.health, capsys, edge, json=True, status=3))  # type: ignore[arg-type]
    assert (rows[-1]["check"], rows[-1]["ok"], rows[-1]["network"]) == ("balancer web", False, "")


def test_health(edge: DomainState, says: Says, tries: list[Check], capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run(cli.health, capsys, edge)
        == "NETWORK  CHECK  OK   SECONDS  DETAIL\nlan      dhcp   yes  0.01     answered\n"
    )
    tries.append(Check("dns", False, 10.0, "no DNS answer for r1.lan.internal"))
    rows = json.loads(run(cli.health, capsys, edge, json=True, status=3))  # type: ignore[arg-type]
    assert [(each["check"], each["ok"]) for each in rows] == [("dhcp", True), ("dns", False)]
    assert "it does not run" in run(cli.health, capsys, replace(edge, live=None), status=3)  # type: ignore[arg-type]


def test_health_of_one_that_does_not_answer_its_host(
    edge: DomainState, tries: list[Check], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is a finding beside the others; one from which no packet came is not asked at all, which takes long."""
    asked: list[float] = []

    def connect(_path: str, name: str, seconds: float) -> NoReturn:
        asked.append(seconds)
        raise GuestnetError(f"{name}: no answer")

    monkeypatch.setattr(routers, "RouterClient", SimpleNamespace(connect=connect))
    rows = json.loads(run(cli.health, capsys, edge, json=True, status=3))  # type: ignore[arg-type]
    assert [(each["check"], each["ok"]) for each in rows] == [("dhcp", True), ("balancers", False)]
    tries[:] = [Check("dhcp", False, 10.0, "no DHCP offer")]
    rows = json.loads(run(cli.health, capsys, edge, json=True, status=3))  # type: ignore[arg-type]
    assert ([each["check"] for each in rows], len(asked)) == (["dhcp"], 1)


@pytest.mark.parametrize("name", ["-2", "a b", "..", "-x", "édge", "e" * 300])
def test_a_domain_of_a_name_that_no_folder_has_is_no_router(name: str, edge: DomainState) -> None:
    """Whoever may define domains would else make `status`, `plan` and `doctor` of the whole host fail."""
    xml = parse_xml(DOMAIN.format(routers=folder.ROUTERS).replace("edge", name))
    domain = DomainState(name, "v", xml, xml)
    assert edge.is_router
    assert not domain.is_router
    assert not domain.ours
    assert drift.wrongs(Snapshot(domains=(domain,))) == ()
