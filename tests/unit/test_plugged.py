"""NICs whose plug helper is gone: what it leaves, and who makes it good."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from libvirt_guestnet import xmlread
from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.hook.enforce import port_guard
from libvirt_guestnet.hook.helpers import hotplug, plug_marks
from libvirt_guestnet.hook.helpers.hotplug import Plug
from libvirt_guestnet.hook.processes import notes
from libvirt_guestnet.hook.read import libvirt_records
from libvirt_guestnet.hook.services import watch
from libvirt_guestnet.state.locked import UnlockedState
from libvirt_guestnet.state.receipts import Plugging, PortReceipt

MAC = "52:54:00:00:00:02"
MARK = Plugging("p-1", "u-a", MAC, "a", "one")
RECORD = """<domstatus><domain><name>a</name><uuid>{uuid}</uuid><devices><interface type="network">
<mac address="52:54:00:00:00:02"/><source network="one" portid="{portid}"/><target dev="lo"/></interface></devices>
</domain></domstatus>"""


class Host:
    """A state, libvirt's record of one domain, and what was done and said."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.state, self.record, self.said, self.repaired = (
            UnlockedState(str(root / "run")),
            root / "a.xml",
            list[str](),
            list[str](),
        )
        self.down, self.chains, self.bare = list[str](), set[str](), dict[str, Any]()
        self.wanted = [PortReceipt("lo", MAC, "a", "u-a", "one", "p-1", ifindex=links.index_of("lo"))]
        monkeypatch.setattr(libvirt_records, "STATUS", str(root / "{}.xml"))
        for module in (hotplug, plug_marks):
            monkeypatch.setattr(module.log, "complain", self.said.append)
        monkeypatch.setattr(plug_marks.repair, "repair", self._repair)
        monkeypatch.setattr(plug_marks.links, "set_down", self.down.append)
        monkeypatch.setattr(plug_marks, "listed", lambda *chain: ["a rule"] if chain[-1] in self.chains else [])
        monkeypatch.setattr(plug_marks.checksum_guard, "lost", lambda _state: self.bare)
        monkeypatch.setattr(port_guard, "planned", lambda _domain, _state: self.wanted)

    def _repair(self, names: list[str], _when: str) -> None:
        self.repaired += names
        with self.state.lock() as locked:
            locked.put_ports("u-a", self.wanted)
        self.chains, self.bare = {"tap-lo"}, {}

    def runs(self, uuid: str = "u-a", portid: str = "p-1") -> None:
        self.record.write_text(RECORD.format(uuid=uuid, portid=portid))

    def mark(self, age: float = 5.0, **fields: Any) -> None:
        with self.state.lock() as locked:
            locked.put_plugging(MARK._replace(**fields))
        file = Path(self.state.root, "plugging", "p-1.json")
        os.utime(file, (file.stat().st_mtime - age,) * 2)

    def seen_to(self) -> tuple[list[str], list[Plugging]]:
        """Whose guests were repaired, and the marks that are left."""
        plug_marks.see_to(self.state)
        return self.repaired, self.state.pluggings()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


class NoTap(links.Watch):
    """An rtnetlink socket on which the tap never comes."""

    def __init__(self) -> None:
        """Opens none."""

    def tap(self, *_: object, **__: object) -> str:
        return ""


def found() -> Plug:
    domain = xmlread.parse(b"<domain><name>a</name><uuid>u-a</uuid></domain>")
    port = f"<networkport><uuid>p-1</uuid><mac address='{MAC}'/><plug type='network' bridge='br-one'/></networkport>"
    return Plug(domain, xmlread.parse(port.encode()), "one")


def test_a_helper_that_gives_up_says_so_and_leaves_a_mark(host: Host) -> None:
    host.mark(age=0)
    hotplug._help(
        NoTap(), found(), host.state, lambda _tap: pytest.fail("there is nothing to guard"), hotplug.Staying()
    )
    assert host.state.pluggings() == [MARK._replace(alone=True)]
    (said,) = host.said
    assert f"domain a: the tap of new NIC {MAC} on network one has not come within 10 s" in said
    assert "`guestnet hooks sync`" in said


def test_a_nic_that_was_unplugged_meanwhile_leaves_none(host: Host) -> None:
    hotplug._help(NoTap(), found(), host.state, lambda _tap: True, hotplug.Staying())
    assert (host.state.pluggings(), host.said) == ([], [])


@pytest.mark.parametrize("alone", [True, False])
def test_what_came_late_is_guarded(host: Host, alone: bool) -> None:
    host.runs()
    host.mark(alone=alone)
    assert host.seen_to() == (["a"], [])
    assert host.said == [f"domain a: new NIC {MAC}, whose plug helper gave up, is under guard"]


def test_a_helper_that_lives_is_left_to_it(host: Host) -> None:
    host.runs()
    host.mark(age=500)
    with host.state.lock() as locked:
        helper = notes.Promise(locked.plugging_path(MARK.portid), locked)
    assert host.seen_to() == ([], [MARK])
    helper.hand_over()
    assert host.seen_to() == (["a"], []), "it was killed"


def test_what_has_not_come_yet_is_waited_for(host: Host) -> None:
    host.runs(portid="another")
    host.mark(age=30, alone=True)
    assert host.seen_to() == ([], [MARK._replace(alone=True)])
    host.runs()
    assert host.seen_to() == (["a"], [])


def test_the_mark_of_what_is_gone_goes(host: Host) -> None:
    host.mark()
    assert host.seen_to() == ([], []), "the domain does not run"
    host.runs(uuid="another")
    host.mark()
    assert host.seen_to() == ([], []), "another domain has its name"
    host.runs(portid="another")
    host.mark(age=601)
    assert host.seen_to() == ([], []), "libvirt has never written it down"


def test_what_is_guarded_or_is_not_to_be_needs_nothing(host: Host) -> None:
    host.runs()
    host.mark()
    host.chains = {"tap-lo"}
    with host.state.lock() as locked:
        locked.put_ports("u-a", host.wanted)
    assert host.seen_to() == ([], [])
    host.mark()
    host.wanted = []
    with host.state.lock() as locked:
        locked.drop_ports(["lo"])
    assert host.seen_to() == ([], [])


def test_another_ports_guard_does_not_count(host: Host) -> None:
    host.runs()
    host.mark()
    with host.state.lock() as locked:
        locked.put_ports("u-a", [host.wanted[0]._replace(ifindex=999)])
    assert host.seen_to() == (["a"], [])


def test_a_receipt_alone_is_no_guard(host: Host) -> None:
    host.runs()
    host.mark()
    with host.state.lock() as locked:
        locked.put_ports("u-a", host.wanted)
    assert host.seen_to() == (["a"], [])


def test_chains_without_the_checksum_guard_are_no_guard(host: Host) -> None:
    """Where the NIC's bandwidth is limited, the helper is not done with the chains."""
    host.runs()
    host.mark()
    host.chains, host.bare = {"tap-lo"}, {"lo": "a"}
    with host.state.lock() as locked:
        locked.put_ports("u-a", host.wanted)
    assert host.seen_to() == (["a"], [])


def test_a_repair_that_fails_leaves_the_mark_and_takes_the_tap_down(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.runs()
    host.mark()
    monkeypatch.setattr(plug_marks.repair, "repair", lambda _names, _when: None)
    assert host.seen_to() == ([], [MARK])
    assert host.down == ["lo"]
    assert host.said == [f"domain a: new NIC {MAC}, whose plug helper gave up, cannot be guarded, lo is down"]


def test_one_record_that_cannot_be_read_does_not_keep_the_others(host: Host) -> None:
    host.runs()
    host.mark()
    with host.state.lock() as locked:
        locked.put_plugging(Plugging("p-0", "u-b", MAC, "b", "one", True))
    Path(host.record.parent, "b.xml").write_text("<domstatus")
    assert host.seen_to() == (["a"], [Plugging("p-0", "u-b", MAC, "b", "one", True)])


def test_the_service_looks_often_while_a_nic_is_awaited(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "UnlockedState", lambda: host.state)
    monkeypatch.setattr(watch, "lost", lambda _state: [])
    monkeypatch.setattr(watch.libvirt_rules, "look", lambda _: watch.libvirt_rules.Seen(frozenset(), False, ""))
    service = watch._Watch()
    host.runs(portid="another")
    host.mark()
    service.look()
    assert service.patience == 1
    host.runs()
    service.look()
    assert (service.patience, host.repaired) == (30, ["a"])
