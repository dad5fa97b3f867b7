"""Who can change the state, and which versions' state is read: this one's, the one before's, and no later one's."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.old_state import FORWARDS, ROUTES, placed

from libvirt_guestnet import hook
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook import concern, dispatch, lifecycle_qemu, main, strangers
from libvirt_guestnet.hook.admission.taps import OthersTapError
from libvirt_guestnet.hook.calls import repair
from libvirt_guestnet.hook.enforce import bridge_guard, checksum_guard
from libvirt_guestnet.hook.processes import notes
from libvirt_guestnet.hook.processes.deadline import DeadlineError
from libvirt_guestnet.hook.read.hostwide import REFUSE, HostWide
from libvirt_guestnet.state.folder import State
from libvirt_guestnet.state.locked import Lock, LockedState, UnlockedState
from libvirt_guestnet.state.receipts import ForwardsInKernel, HostRoutes, PortReceipt, UplinkVlans

PORT = PortReceipt("vnet0", "52:54:00:00:00:01", "a", "u")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "run"


def test_only_the_lock_gives_what_can_change_the_state(root: Path) -> None:
    """mypy refuses the lines with `type: ignore`, and would say so if it did not."""
    with pytest.raises(AttributeError):
        bridge_guard.changing(UnlockedState(str(root)))  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        LockedState(str(root)).put_ports("u", [PORT])  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="is not held"):
        LockedState(Lock(str(root))).put_ports("u", [PORT])
    assert not root.exists()


def test_who_has_the_lock_cannot_take_it_again(root: Path) -> None:
    with UnlockedState(str(root)).lock() as locked:
        assert not hasattr(locked, "lock")
        assert isinstance(locked, State)


def test_what_the_lock_gave_is_of_no_use_without_it(root: Path) -> None:
    with UnlockedState(str(root)).lock() as locked:
        locked.put_ports("u", [PORT])
        os.fstat(locked.descriptor)
    for use in (lambda: locked.drop_ports(["vnet0"]), lambda: locked.put_shared(""), lambda: locked.descriptor):
        with pytest.raises(RuntimeError, match="is not held"):
            use()
    assert locked.ports() == [PORT]


def test_the_first_who_has_the_lock_writes_the_number(root: Path) -> None:
    with UnlockedState(str(root)).lock():
        assert (root / "format").read_text() == "2\n"


@pytest.fixture
def old(root: Path) -> Path:
    placed(root)
    return root


def _is_as_before(root: Path) -> None:
    state = UnlockedState(str(root))
    assert (state.host_routes(), state.forwards()) == (ROUTES, FORWARDS)
    known = state.forwards_in_kernel()
    assert known is not None
    assert (known.forwards, known.changing, len(known.sources)) == (tuple(FORWARDS), False, 2)
    assert {port.tap for port in state.ports()} == {"vnet0", "vnet1", "vme0000000a"}
    assert [each.tap for each in state.tap_vlans()] == ["vnet0"]
    assert state.owned() == {port.uuid: port.domain for port in state.ports()}
    assert (state.checksum().guard > 0, state.shared()) == (True, "")
    assert {path.name for path in root.iterdir()} >= {"format", "host-routes", "forwards"}
    assert not {"reach", "ways", "settled"} & {path.name for path in root.iterdir()}


def test_what_the_version_before_wrote_is_taken_over_by_whoever_comes_first(old: Path) -> None:
    _is_as_before(old)
    _is_as_before(old)


def test_nobody_reads_it_as_if_it_were_this_versions(old: Path) -> None:
    assert State(str(old)).ports() != []  # these have the same form
    with UnlockedState(str(old)).lock() as locked:
        assert locked.host_routes() == ROUTES


class _KilledError(BaseException):
    pass


def _killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Has the process die before that many changes to files; gives how many there were."""
    done = 0

    def counted(change: Callable[..., None]) -> Callable[..., None]:
        def one(*arguments: object, **more: object) -> None:
            nonlocal done
            if done == step:
                raise _KilledError
            done += 1
            change(*arguments, **more)

        return one

    for name in ("replace", "unlink", "rmdir", "mkdir"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    return lambda: done


def test_who_is_killed_meanwhile_is_followed_by_somebody_who_goes_on(tmp_path: Path) -> None:
    for step in range(100):
        root = tmp_path / str(step)
        placed(root)
        with pytest.MonkeyPatch.context() as monkeypatch:
            steps = _killed_at(step, monkeypatch)
            try:
                UnlockedState(str(root))
            except _KilledError:
                pass
            else:
                break
        assert steps() == step
        _is_as_before(root)
    assert step > 8


def test_what_a_process_of_the_version_before_writes_later_is_taken_over_too(old: Path) -> None:
    _is_as_before(old)
    (late,) = ROUTES[:1]
    (old / "reach").mkdir()
    (old / f"reach/{late.tap}.json").write_text(json.dumps(late._replace(domain="later")._asdict()))
    shutil.copy(old / "forwards-in-kernel.json", old / "kept")
    with UnlockedState(str(old)).lock() as locked:
        assert [each.domain for each in locked.host_routes()][:1] == ["later"]
    assert (old / "kept").read_bytes() == (old / "forwards-in-kernel.json").read_bytes()


def test_a_note_of_the_version_before_is_taken_over_with_its_lock(old: Path) -> None:
    """Its process ends by itself; should it be killed, this version finds that out by the new name."""
    (old / "arriving").mkdir()
    with (old / "arriving/guesta").open("w") as note:
        fcntl.flock(note, fcntl.LOCK_EX)
        state = UnlockedState(str(old))
        assert (notes.names(state, notes.CONNECTING), notes.broken(state, notes.CONNECTING)) == (["guesta"], [])
    assert (notes.broken(state, notes.CONNECTING), (old / "arriving").exists()) == (["guesta"], False)


@pytest.mark.parametrize("said", ["{", '{"is": "damaged"}', '{"is": {"changing": true, "ways": [7]}}', "\udcff"])
def test_of_what_was_damaged_nobody_knows(old: Path, said: str) -> None:
    """So it is settled again: as if nothing of it were there."""
    (old / "settled/ways.json").write_bytes(said.encode(errors="surrogateescape"))
    assert UnlockedState(str(old)).forwards_in_kernel() == ForwardsInKernel()


@pytest.mark.parametrize("made", ["reach/vnet7.json", "settled/ways.json", "settled", "shared", "ways"])
def test_what_cannot_be_taken_over_is_told_of_and_holds_up_nobody(
    root: Path, capfd: pytest.CaptureFixture[str], made: str
) -> None:
    placed(root)
    if made == "ways":
        (root / made).rename(root / "elsewhere")
        (root / made).symlink_to("elsewhere")
    elif made == "settled":
        (root / made / "more").touch()
    else:
        (root / made).unlink(missing_ok=True)
        (root / made).mkdir()
        (root / "host-routes/vnet7.json/full").mkdir(parents=True)
    with UnlockedState(str(root)).lock() as locked:
        assert (locked.host_routes(), locked.forwards()) == (ROUTES, FORWARDS)
        locked.put_ports("u", [PORT])
    assert f"{root / made} is damaged" in capfd.readouterr().err


def test_a_file_in_a_folders_place_is_looked_at_and_refuses_no_stranger(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    root.mkdir()
    (root / "reach").touch()
    monkeypatch.setattr(concern, "_STATE", str(root))
    assert concern.CONCERNS["qemu", "release"]("other", b"<domain/>")
    with UnlockedState(str(root)).lock() as locked:
        assert locked.host_routes() == []
    assert f"{root}/reach is damaged" in capfd.readouterr().err


def test_a_process_that_is_left_behind_does_not_wait_for_the_lock_of_its_parent(root: Path) -> None:
    """Which it has itself until it lets go of it. What cannot be taken over has everybody ask for the lock."""
    root.mkdir()
    (root / "reach").touch()
    with UnlockedState(str(root)).lock() as locked:
        checksum_guard.settle(checksum_guard.Put("", (1,)), locked)
    file, end = os.open(root / "lock", os.O_RDWR), time.monotonic() + 20
    while time.monotonic() < end and not repair.locked(file):
        time.sleep(0.05)
    assert repair.locked(file), "somebody has the lock still"
    os.close(file)


def test_a_change_that_was_not_finished_stays_one(old: Path) -> None:
    said = {"changing": True, "ways": [], "sources": ["10.61.1.10/32"]}
    (old / "settled/ways.json").write_text(json.dumps({"is": said}))
    assert UnlockedState(str(old)).forwards_in_kernel() == ForwardsInKernel((), (), ("10.61.1.10/32",), True)


LATER = (
    "says 3: a later version of guestnet wrote {0}, and this one reads up to 2: install that version again, or restart "
    "the host, which empties {0} and ends all guests"
)
DAMAGED = "is damaged (it is not a number: this version writes 2): remove it and run `guestnet hooks sync`"


@pytest.mark.parametrize(
    ("text", "why"), [("3\n", LATER), *((text, DAMAGED) for text in ("", "two", "-2", "2.5", "\xff"))]
)
def test_another_versions_state_is_refused_by_name(root: Path, text: str, why: str) -> None:
    with UnlockedState(str(root)).lock() as locked:
        locked.put_ports("u", [PORT])
    (root / "format").write_text(text, encoding="latin1")
    before = sorted(root.rglob("*"))
    asking: list[Callable[[], object]] = [
        lambda: State(str(root)),
        lambda: UnlockedState(str(root)),
        Lock(str(root)).__enter__,
    ]
    for ask in asking:
        with pytest.raises(GuestnetError) as refused:
            ask()
        assert str(refused.value) == f"{root}/format {why.format(root)}"
    assert sorted(root.rglob("*")) == before


OURS = b'<domain xmlns:guestnet="https://libvirt-guestnet.org/xmlns/1"><name>a</name><uuid>u</uuid></domain>'


def test_a_hooks_call_is_refused_by_name_unless_it_does_not_concern_us(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(UnlockedState().root)
    with UnlockedState().lock():
        pass
    (root / "format").write_text("3\n")
    for operation, status in (("start", 1), ("release", 0)):  # VETO, REPORT
        assert dispatch.dispatch("qemu", ["qemu", "a", operation], OURS) == status
        said = capsys.readouterr().err
        assert said == f"libvirt-guestnet: qemu a {operation}: {root}/format {LATER.format(root)}\n"
    monkeypatch.setattr("libvirt_guestnet.hook.concern.read", lambda: OURS.replace(b"libvirt-guestnet", b"x"))
    assert main.run("qemu", ["qemu", "a", "start"]) == 0
    assert capsys.readouterr().err == ""


MARKED = b"<networkstatus><network><name>web</name><bridge name='gn-web'/><metadata>%s</metadata></network>"
STRANGER = b"<domain><name>a</name><uuid>u</uuid><devices>%s</devices></domain>"
NIC = b"<interface type='network'><source network='%s' bridge='%s'/><target dev='%s'/></interface>"


@pytest.mark.parametrize(
    ("domain", "status"),
    [
        (STRANGER % b"", 0),
        (STRANGER % (NIC % (b"default", b"virbr0", b"vnet9")), 0),
        (STRANGER % (NIC % (b"web", b"gn-web", b"vnet9")), 1),
        (STRANGER % (NIC % (b"theirs", b"gn-web", b"vnet9")), 1),
        (STRANGER % (NIC % (b"default", b"virbr0", b"vnet0")), 1),  # a tap that has a receipt
        (OURS, 1),
    ],
)
def test_only_who_needs_us_is_held_up_by_a_state_that_nobody_can_read(
    domain: bytes,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = Path(UnlockedState().root)
    with UnlockedState().lock() as locked:
        locked.put_ports("v", [PORT])
    (root / "format").write_text("3\n")
    monkeypatch.setattr(strangers, "ROOT", str(root))
    monkeypatch.setattr(strangers, "_NETWORKS", str(tmp_path / "networks"))
    (tmp_path / "networks").mkdir()
    (tmp_path / "networks/web.xml").write_bytes(MARKED % b"https://libvirt-guestnet.org/xmlns/1")
    (tmp_path / "networks/default.xml").write_bytes(MARKED.replace(b"web", b"default") % b"")
    told: list[str] = []
    monkeypatch.setattr("libvirt_guestnet.log.complain", told.append)
    assert dispatch.dispatch("qemu", ["qemu", "a", "start"], domain) == status
    assert f"{root}/format {LATER.format(root)}" in capsys.readouterr().err
    assert [line.endswith("; it goes on, as it has nothing of guestnet") for line in told] == [True] * (1 - status)


@pytest.mark.parametrize("fault", [MemoryError("x"), GuestnetError("nft refused the change: x"), DeadlineError("late")])
def test_no_fault_of_ours_holds_up_a_stranger_but_whom_we_refuse_is_refused(
    fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise fault

    monkeypatch.setattr(strangers, "_NETWORKS", "/nonexistent")
    monkeypatch.setattr("libvirt_guestnet.log.complain", lambda _: None)
    call = lifecycle_qemu.TABLE["start"]._replace(work=fails)
    monkeypatch.setitem(lifecycle_qemu.TABLE, "start", call)
    assert dispatch.dispatch("qemu", ["qemu", "a", "start"], STRANGER % b"") == 0
    assert dispatch.dispatch("qemu", ["qemu", "a", "start"], OURS) == 1
    assert dispatch.dispatch("qemu", ["qemu", "a", "start"], None) == 1
    fault = OthersTapError("it is another's")
    assert dispatch.dispatch("qemu", ["qemu", "a", "start"], STRANGER % b"") == 1


def test_a_new_nic_is_held_up_by_what_its_guest_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call is one of its network's, and has the guest's name alone."""
    monkeypatch.setattr(strangers, "_NETWORKS", "/nonexistent")
    monkeypatch.setattr(strangers, "_DOMAINS", str(tmp_path))
    (tmp_path / "ours.xml").write_bytes(OURS)
    (tmp_path / "theirs.xml").write_bytes(STRANGER % b"")
    port = "<networkport><owner><name>{}</name></owner></networkport>"
    names = ("ours", "theirs", "new", "../x", "a&amp;b")
    said = {each: strangers.is_held_up("network", port.format(each).encode(), GuestnetError("x")) for each in names}
    assert said == {"ours": True, "theirs": False, "new": False, "../x": True, "a&amp;b": True}
    monkeypatch.setattr("libvirt_guestnet.hook.read.hostwide.read", lambda: HostWide(REFUSE))
    assert strangers.is_held_up("network", port.format("theirs").encode(), GuestnetError("x")), "what may it be?"


def test_who_may_not_read_it_is_told_nothing_of_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr("builtins.open", refused)
    UnlockedState(str(root))


def test_all_receipts_go_through_one_serialiser(root: Path) -> None:
    """As they were written they are read, lists of others in them too."""
    with UnlockedState(str(root)).lock() as locked:
        for routes in ROUTES:
            locked.put_host_routes(routes)
        for forwards in FORWARDS:
            locked.put_forwards(forwards)
        kept = ForwardsInKernel(tuple(FORWARDS), (("gn-a", "10.0.0.0/24"),), ("10.0.0.5/32",))
        locked.put_forwards_in_kernel(kept)
        locked.put_joined("up0", {7, 3})
        locked.put_shared("add table x\n")
        assert (locked.host_routes(), locked.forwards()) == (ROUTES, FORWARDS)
        assert (locked.forwards_in_kernel(), locked.joined("up0"), locked.shared()) == (kept, {3, 7}, "add table x\n")
        locked.drop_forwards_in_kernel()
        assert locked.forwards_in_kernel() is None
    assert json.loads((root / "uplinks/up0.json").read_text()) == UplinkVlans((3, 7))._asdict() | {"vlans": [3, 7]}
    assert all(isinstance(each, HostRoutes) for each in ROUTES)


@pytest.mark.parametrize(("operation", "status"), [("start", 1), ("release", 0)])
@pytest.mark.parametrize("broken", ["lifecycle_qemu", "dispatch"])
def test_a_part_that_cannot_be_imported_fails_as_the_calls_row_says(
    broken: str, operation: str, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With one line: what a damaged installation does to a guest is what any other failure does."""
    monkeypatch.delattr(hook, broken)
    monkeypatch.setitem(sys.modules, f"libvirt_guestnet.hook.{broken}", None)
    monkeypatch.setattr(concern, "read", lambda: OURS)
    assert main.run("qemu", ["qemu", "a", operation]) == status
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"libvirt-guestnet: qemu a {operation}: ")
    assert "ModuleNotFoundError" in said or "ImportError" in said


def test_a_broken_table_holds_up_no_stranger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "_NETWORKS", "/nonexistent")
    monkeypatch.setattr("libvirt_guestnet.log.complain", lambda _: None)
    monkeypatch.delattr(hook, "lifecycle_qemu")
    monkeypatch.setitem(sys.modules, "libvirt_guestnet.hook.lifecycle_qemu", None)
    assert dispatch.dispatch("qemu", ["qemu", "a", "start"], STRANGER % b"") == 0
    monkeypatch.delattr(hook, "strangers")
    monkeypatch.setitem(sys.modules, "libvirt_guestnet.hook.strangers", None)
    assert dispatch.dispatch("qemu", ["qemu", "a", "start"], STRANGER % b"") == 1
