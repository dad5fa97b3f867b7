"""One process repairs all guests: within the service's memory, and whatever one guest's record is like."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from libvirt_guestnet.hook.calls import repair
from libvirt_guestnet.hook.processes import notes
from libvirt_guestnet.hook.read import libvirt_records
from libvirt_guestnet.xmlread import MAX_MARKS

ROOT = Path(__file__).parents[2]
RECORD = "<domstatus><domain><name>{0}</name><uuid>{0}-uuid</uuid>{1}</domain></domstatus>"

# All but the work itself, in no more memory than the service has.
REPAIR = """
import resource, sys
sys.path.insert(0, sys.argv[1])
memory = int(sys.argv[3]) << 20
resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
from libvirt_guestnet import log
from libvirt_guestnet.hook.calls.domain import RepairResult
from libvirt_guestnet.hook.enforce import reachability, zones
from libvirt_guestnet.hook.processes import notes
from libvirt_guestnet.hook.read import libvirt_records
from libvirt_guestnet.hook.calls import repair
from libvirt_guestnet.state.locked import UnlockedState
UnlockedState.__init__.__defaults__ = (sys.argv[2] + "/state",)
libvirt_records.STATUS = sys.argv[2] + "/{}.xml"
log.complain = lambda text: print("said", text)
def repair_all(domains, _state):
    print("repaired", *[domain.name for domain in domains])
    return RepairResult([], [], [])
repair.repair_all = repair_all
reachability.open_forwards_of = lambda uuids, *_, **__: print("opened", *sorted(uuids))
zones.settle = lambda _: print("zones")
repair.repair(sys.argv[4:], "now")
"""


def service_memory() -> int:
    """MiB."""
    found = re.search(r"^MemoryMax=(\d+)M$", (ROOT / "hooks/libvirt-guestnet.service").read_text(), re.MULTILINE)
    assert found
    return int(found[1])


def test_hostile_records_are_repaired_one_by_one_or_named(tmp_path: Path) -> None:
    large = "<x " + " ".join(f'a{n}="{n}"' for n in range(MAX_MARKS - 20)) + "/>"
    records = {f"large{n}": RECORD.format(f"large{n}", large) for n in range(4)}
    records |= {f"small{n}": RECORD.format(f"small{n}", "") for n in range(3)}
    records |= {
        "damaged": "<domstatus>",
        "huge": RECORD.format("huge", "<a/>" * MAX_MARKS),
        "no-domain": "<domstatus/>",
    }
    for name, text in records.items():
        (tmp_path / f"{name}.xml").write_text(text)
    names = sorted([*records, "gone"])
    argv = [sys.executable, "-IS", "-c", REPAIR, str(ROOT), str(tmp_path), str(service_memory()), *names]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    said = done.stdout.splitlines()
    good = sorted(name for name in records if name.startswith(("large", "small")))
    assert sorted(word for line in said if line.startswith("repaired") for word in line.split()[1:]) == good
    assert said[-2].split() == ["opened", *(f"{name}-uuid" for name in good)]
    assert said[-1] == "zones"
    complaints = [line for line in said if line.startswith("said")]
    assert complaints == [
        "said guest damaged is not repaired now: XML cannot be read: no element found: line 1, column 11",
        f"said guest huge is not repaired now: XML of more than {MAX_MARKS} tags and attributes refused",
    ]


def test_usual_guests_are_repaired_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libvirt_records, "STATUS", f"{tmp_path}/{{}}.xml")
    names = [f"guest{n:03}" for n in range(130)]
    for name in names:
        (tmp_path / f"{name}.xml").write_text(RECORD.format(name, "x" * 15_000))
    chunks = list(repair._chunks(names))
    assert [len(chunk) for chunk in chunks] == [64, 64, 2]
    assert [name for chunk in chunks for name in chunk] == names
    (tmp_path / "guest001.xml").write_bytes(b" " * (3 << 20))
    assert [len(chunk) for chunk in repair._chunks(names)][:3] == [1, 1, 64]
    assert list(repair._chunks([])) == []


def test_what_has_been_said_is_not_remembered_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guests write their own names and texts into it, for as long as the service runs."""
    monkeypatch.setattr(repair, "_said", set())
    told = [f"guest {number} cannot be routed to" for number in range(50)]
    assert repair._news(told) == told
    assert repair._news(told) == []
    for number in range(100):
        repair._news([f"{number} {each}" for each in told])
        assert len(repair._said) <= 2 * repair._MOST_SAID


def test_a_program_of_ours_does_not_hold_the_repairs_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were we killed, it would keep the next one from repairing for as long as it runs."""
    monkeypatch.setattr(repair, "spooled", list)
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    os.set_inheritable(lock, True)  # as the hook file leaves it
    try:
        assert repair.main(lock) == 0
        assert not os.get_inheritable(lock)
    finally:
        notes.close(lock)
