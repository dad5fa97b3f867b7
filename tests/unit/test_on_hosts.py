"""Changes on several hosts: all of them, or none; and what a plan from afar leaves to the host itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from lxml import etree

from libvirt_guestnet.apply.apply import Within
from libvirt_guestnet.apply.hosts import Choice, HostPlan, HostPlans, HostsError, LibvirtAlone, _in_file, _make_all
from libvirt_guestnet.apply.reaching import Reached
from libvirt_guestnet.changes.change import Change, Replacement, Run
from libvirt_guestnet.changes.guest import AttachInterface, DetachInterface, NicKeptError, SetDomainMetadata
from libvirt_guestnet.changes.network import (
    AdoptNetwork,
    DefineNetwork,
    LeftNic,
    NetworkBackup,
    Plugged,
    RemoveNetwork,
    RestartNetwork,
    StartNetwork,
)
from libvirt_guestnet.changes.router import ConfigureRouter
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hostmap import MAPPED_BY
from libvirt_guestnet.libvirtd.snapshot import DomainState, NetworkState, Snapshot
from libvirt_guestnet.metadata.policy import NAMESPACE
from libvirt_guestnet.model.host import Host
from libvirt_guestnet.model.topology import Topology
from libvirt_guestnet.plan.order import Plan
from libvirt_guestnet.plan.remote import beyond
from libvirt_guestnet.status.hosts import DOWN, REACHED, host_row, port_rows

NAMES = ("alpha", "beta", "gamma")


@dataclass(frozen=True, kw_only=True)
class Step(Change):
    """Notes what is done and undone; fails where it is told to."""

    log: Any
    error: GuestnetError | None = None
    sticks: bool = False
    VERB = "define"
    KIND = "network"

    def run(self, run: Run) -> None:
        if self.error:
            raise self.error
        self.log.append(f"made {self.name}")
        run.done("made", f"undo {self.name}", self._undo)

    def _undo(self) -> None:
        if self.sticks:
            raise GuestnetError("it sticks")
        self.log.append(f"undone {self.name}")


def plans(log: list[str], **of: dict[str, Any]) -> HostPlans:
    found = []
    for name in NAMES:
        reached: Any = Reached(Host(name, f"qemu+ssh://{name}/system"), False, None, Snapshot())  # type: ignore[arg-type]
        found.append(HostPlan(reached, Plan("t", (Step(name, log=log, **of.get(name, {})),))))
    return HostPlans(tuple(found), {})


FAILS = {"error": GuestnetError("no such device")}


def test_a_failure_takes_back_what_was_made_on_the_others() -> None:
    log: list[str] = []
    with pytest.raises(HostsError) as caught:
        _make_all(plans(log, gamma=FAILS), Choice())
    assert log == ["made alpha", "made beta", "undone beta", "undone alpha"]
    assert str(caught.value).splitlines() == [
        "host gamma: define network gamma",
        "  failed: no such device",
        *(f"host {name}: everything is as before" for name in NAMES),
    ]


def test_what_cannot_be_taken_back_is_said_of_its_host() -> None:
    log: list[str] = []
    with pytest.raises(HostsError) as caught:
        _make_all(plans(log, alpha={"sticks": True}, beta=FAILS), Choice())
    assert log == ["made alpha"]
    assert caught.value.stands == {"alpha": ["undo alpha: it sticks"], "beta": [], "gamma": []}
    assert str(caught.value).splitlines()[2:4] == ["host alpha: rolled back, except:", "  undo alpha: it sticks"]
    assert str(caught.value).endswith("run `guestnet apply` again once the cause is removed")


def test_allowed_to_be_partial_the_others_are_finished() -> None:
    log: list[str] = []
    failures = _make_all(plans(log, beta=FAILS), Choice(allow_partial=True))
    assert log == ["made alpha", "made gamma"]
    assert list(failures) == ["beta"]
    assert "rolled back: everything is as before" in failures["beta"]


def test_a_guest_that_keeps_its_nic_takes_back_nothing_anywhere() -> None:
    log: list[str] = []
    failures = _make_all(plans(log, beta={"error": NicKeptError("it keeps it")}), Choice())
    assert log == ["made alpha", "made gamma"]
    assert list(failures) == ["beta"]


def test_an_interruption_takes_back_all() -> None:
    log: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        _make_all(plans(log, gamma={"error": KeyboardInterrupt()}), Choice())
    assert log == ["made alpha", "made beta", "undone beta", "undone alpha"]


def test_a_host_that_is_not_in_the_file() -> None:
    found = Topology("t", "t.yaml", hosts=tuple(Host(name, "") for name in NAMES))
    assert [host.name for host in Choice(("gamma", "alpha")).of(found)] == ["alpha", "gamma"]
    with pytest.raises(GuestnetError, match="--host delta: topology 't' has the hosts alpha, beta, gamma"):
        Choice(("delta",)).of(found)


def test_undos_of_a_plan_that_nothing_follows_are_forgotten() -> None:
    assert Within().not_undone == []


NET = etree.fromstring("<network><name>n</name></network>")
BACKUP = NetworkBackup("n", "", None, False, None)
MARK = Replacement(None, "<network/>")
TAP = (Plugged("g", "tap0"),)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (DefineNetwork("n", xml=""), ""),
        (StartNetwork("n"), ""),
        (StartNetwork("n", taps=TAP), "put back onto it by their host alone"),
        (RestartNetwork("n", xml="", bridge="b", taps=(), backup=BACKUP), ""),
        (RestartNetwork("n", xml="", bridge="b", taps=TAP, backup=BACKUP), "put back onto it by their host alone"),
        (RemoveNetwork("n", backup=BACKUP), ""),
        (RemoveNetwork("n", backup=BACKUP, left=(LeftNic("g", "u", "tap0"),)), "put back onto it by their host alone"),
        (AdoptNetwork("idle", mark=MARK), ""),
        (AdoptNetwork("active", mark=MARK), "its hooks are told by its host alone"),
        (SetDomainMetadata("g", config=MARK), ""),
        (SetDomainMetadata("g", live=MARK), "guarded by its host alone"),
        (AttachInterface("g", mac="m", xml="", live=False, config=True), ""),
        (AttachInterface("g", mac="m", xml="", live=True, config=True), "guarded by its host alone"),
        (DetachInterface("g", mac="m", live="<interface/>"), "guarded by its host alone"),
        (ConfigureRouter("r", document=b""), "its disks are made by its host alone"),
    ],
)
def test_what_is_left_to_the_host_itself(change: Change, why: str) -> None:
    snapshot = Snapshot((NetworkState("idle", "u", NET), NetworkState("active", "v", NET, NET)))
    found = beyond(Plan("t", (change,)), snapshot)
    assert len(found) == bool(why)
    assert all(text.startswith(f"{change.text()}: ") and why in text for text in found)


def test_where_a_label_is_mapped() -> None:
    error = GuestnetError(f"this host has no device eth9: map the label to one that it has {MAPPED_BY}")
    said = "this host has no device eth9: map the label to one that it has (labels: of host beta)"
    assert _in_file(error, Host("beta", "")) == said


def test_what_was_refused_is_not_done_all_the_same() -> None:
    effects = LibvirtAlone("beta")
    with pytest.raises(GuestnetError, match="only host beta itself can guard a guest that runs"):
        effects.guard(b"<domain/>")
    with effects.kept_open("br0"):
        pass


def test_status_says_what_libvirt_says_of_each_host() -> None:
    host = Host("beta", "", chassis="beta")
    domain = etree.fromstring(
        f"<domain><metadata><g:domain xmlns:g='{NAMESPACE}' topology='t' guest='g'><g:port mac='52:54:00:00:00:01' "
        "name='p' network='n'><g:address ip='10.0.0.1'/></g:port></g:domain></metadata><devices><interface>"
        "<mac address='52:54:00:00:00:01'/><target dev='vme1'/></interface></devices></domain>"
    )
    snapshot = Snapshot(domains=(DomainState("g", "u", domain, domain), DomainState("other", "v", NET)))
    assert host_row(host, REACHED, snapshot, "t")["running"] == ["g"]
    assert host_row(host, DOWN, None, "t", "gone")["trouble"] == "gone"
    (row,) = port_rows(host, snapshot, "t")
    assert (row["guest"], row["port"], row["tap"], row["addresses"]) == ("g", "p", "vme1", ["10.0.0.1"])
