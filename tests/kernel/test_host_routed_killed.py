"""A hook killed at any of its steps leaves no route and no published entry that the next call does not find."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.kernel_routed import A, B, RoutedLab, both, domain, led_to, tap
from support.killed import PREPARE, THIRD

# Makes hook calls, each in a process of its own that dies before its Nth step (0: never). Prints how they end.
DRIVER = f"""
import json
{PREPARE}
from libvirt_guestnet import log
log.complain = lambda text: print(text, file=sys.stderr, flush=True)
def call(operation, xml, step):
    end = os.memfd_create("stdin")
    os.write(end, xml.encode())
    os.lseek(end, 0, 0)
    sys.stdin = open(end)
    kill_before(step)
    os._exit(main.run("qemu", ["qemu", "guest", operation, "begin", "-"]))

ends = []
for request in json.loads(sys.stdin.read()):
    child = os.fork()
    if not child:
        call(*request)
    ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(ends))
"""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[RoutedLab]:
    lab = RoutedLab(tmp_path)
    yield lab
    lab.box.close()


def calls(lab: RoutedLab, *requests: tuple[str, bytes, int]) -> list[int]:
    """How hook calls (operation, XML, step to be killed before) end: 0, or -9 when killed."""
    text = json.dumps([(operation, xml.decode(), step) for operation, xml, step in requests])
    done = lab.box.run(sys.executable, "-IS", "-c", DRIVER, stdin=text.encode(), timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    print(done.stderr.decode(), end="")  # what the log would have been told, for whoever reads of a failure
    return list(json.loads(done.stdout))


def plug(lab: RoutedLab, *who: tuple[int, int]) -> None:
    for each in who:
        lab.ip(f"tuntap add {tap(each)} mode tap")
        lab.ip(f"link set {tap(each)} up")


def nothing(lab: RoutedLab) -> None:
    assert (lab.routes(), lab.published(), lab.hooks.receipts(), lab.hooks.chains()) == (set(), set(), [], [])
    assert lab.box.run("nft", "list", "table", "arp", "guestnet").returncode != 0


@pytest.mark.parametrize("operation", ["start", "started", "reconnect"])
def test_what_a_killed_call_leaves_is_taken_by_the_next(lab: RoutedLab, operation: str) -> None:
    plug(lab, A)
    xml, step, going = domain("a", A), 1, True
    while going:
        before = [("start", xml, 0)] if operation != "start" else []
        *_, end = calls(lab, *before, (operation, xml, step))
        going = end == -9
        if step % 2:
            assert calls(lab, ("start", xml, 0), ("started", xml, 0)) == [0, 0]
            assert (lab.routes(), lab.published(), lab.hooks.chains()) == (*led_to(A), [tap(A)])
        assert calls(lab, ("release", xml, 0)) == [0]
        nothing(lab)
        step += THIRD
    assert step > 10, "it was hardly ever killed"


def test_what_a_killed_release_leaves_is_swept_by_anybodys_call(lab: RoutedLab) -> None:
    plug(lab, B)
    xml, step, going = domain("a", A), 1, True
    while going:
        plug(lab, A)
        assert calls(lab, ("start", xml, 0), ("started", xml, 0)) == [0, 0]
        assert (lab.routes(), lab.published()) == led_to(A)
        lab.ip(f"link delete {tap(A)}")
        going = calls(lab, ("release", xml, step)) == [-9]
        assert calls(lab, ("start", domain("b", B), 0), ("release", domain("b", B), 0)) == [0, 0]
        assert (lab.routes(), lab.published()) == (set(), set())
        assert lab.box.run("nft", "list", "table", "arp", "guestnet").returncode != 0
        step += THIRD
    assert step > 10


def test_a_hundred_guests_leave_nothing_with_the_owner_killed_half_way(lab: RoutedLab) -> None:
    guests = [(100 + number, 0x100 + number) for number in range(100)]
    plug(lab, *guests)
    xmls = [domain(f"g{number}", who) for number, who in enumerate(guests)]
    started = calls(lab, *(call for xml in xmls for call in (("start", xml, 0), ("started", xml, 0))))
    assert started == [0] * 200
    assert (lab.routes(), lab.published()) == led_to(*guests)
    assert len(lab.routes()) == len(lab.published()) == 200
    # Every second release is killed, each a little later than the one before; what they left is on taps that then go.
    ends = calls(lab, *(("release", xml, number // 2 % 12 + 1 if number % 2 else 0) for number, xml in enumerate(xmls)))
    assert (set(ends), ends.count(-9) > 20) == ({0, -9}, True)
    assert len(lab.published()) > 20
    for who in guests:
        lab.ip(f"link delete {tap(who)}")
    plug(lab, A)
    # Nor does it matter that the one who sweeps is killed half-way, twice.
    assert calls(lab, *(("start", domain("a", A), step) for step in (40, 80))) == [-9, -9]
    assert calls(lab, ("start", domain("a", A), 0), ("release", domain("a", A), 0)) == [0, 0]
    assert (lab.routes(), lab.published(), lab.hooks.chains()) == (set(), set(), [])
    assert both(A)[0] not in lab.ip("neigh show proxy")
