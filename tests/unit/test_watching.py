"""`guestnet status --watch`: what changed from look to look, as lines and at a terminal, until a signal ends it."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from support.terminals import Terminal

from libvirt_guestnet.cli import main as cli
from libvirt_guestnet.cli import watching
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.status.changed import events
from libvirt_guestnet.status.filters import Only
from libvirt_guestnet.status.forwards import ForwardRow
from libvirt_guestnet.status.ports import PortRow
from libvirt_guestnet.status.routes import RouteRow
from libvirt_guestnet.status.rows import NetworkRow
from libvirt_guestnet.status.unguarded import UnguardedRow

Rows = list[dict[str, object]]
NETWORK = NetworkRow("t", "lan", "nat", "virbr0", True, False, 1).json()


def port(guest: str = "web", name: str = "p", mac: str = "52:54:00:00:00:01", **more: Any) -> dict[str, object]:
    row = PortRow("t", guest, name, mac, "lan", True, "vnet0", "up", ("10.0.0.1",), True, 0, state="guarded").json()
    return {**row, **more}


def texts(before: Rows | None, now: Rows) -> list[str]:
    return [each.text("T") for each in events(before, now)]


def test_at_first_all_is_said_and_then_what_changed() -> None:
    first = texts(None, [NETWORK, port()])
    assert first[0] == "T network lan is topology=t mode=nat bridge=virbr0 active=yes ports=1"
    assert first[1].startswith("T port web.p is topology=t mac=52:54:00:00:00:01 network=lan running=yes tap=vnet0 ")
    assert first[1].endswith(" addresses=10.0.0.1 guarded=yes state=guarded")
    assert texts([NETWORK, port()], [NETWORK, port()]) == []
    why = "its tap has no rules in the kernel"
    assert texts([port()], [port(state="unguarded", reason=why, drops=9)]) == [
        f'T port web.p changed state=unguarded (was guarded) reason="{why}" (was -)'
    ]
    assert texts([NETWORK, port()], [port("new")])[0].startswith("T port new.p new topology=t ")
    assert texts([NETWORK, port()], [port("new")])[1:] == ["T network lan gone", "T port web.p gone"]


def test_every_kind_of_row_has_a_name() -> None:
    found = [
        ForwardRow("t", "web", "p", "", "tcp/80", [], "10.0.0.1:80", True).json(),
        RouteRow("t", "web", "p", "10.1.0.0/24", "", "vnet0", "main", True, "", None).json(),
        UnguardedRow("t", "web", "52:54:00:00:00:02", "user", "", "why", "instead", False).json(),
    ]
    names = ["forward web.p.tcp/80", "route web.p.10.1.0.0/24", "unguarded web.52:54:00:00:00:02"]
    assert [text.removeprefix("T ").partition(" is ")[0] for text in texts(None, found)] == names
    assert texts(found, []) == [f"T {name} gone" for name in names]


def test_nics_that_nothing_tells_apart_are_told_apart_by_their_order() -> None:
    twins = [port(tap="vnet0"), port(tap="vnet1"), port(tap="vnet2")]
    assert texts(twins, twins) == []
    assert texts(twins, twins[:2]) == ["T port web.p gone"]


def test_a_tenants_name_is_one_word_and_gives_no_orders() -> None:
    for hostile in ("a gone\nT port b", "\x1b[2J", 'x" state="guarded', "a=b", "a (was b)", "[bold]"):
        (text,) = texts(None, [port(hostile)])
        name = text.removeprefix("T port ").partition(" is topology=t ")[0]
        assert text.isprintable() and text.count("\n") == 0
        word = re.fullmatch(r'("(?:[^"\\]|\\.)*"|[^ ="]+)\.p', name)
        assert word, name
    assert texts([port("a b")], []) == ['T port "a b".p gone']


def test_as_json_it_has_the_row_and_what_was() -> None:
    (event,) = events([port()], [port(state="unguarded", drops=3)])
    told = event.json("T")
    assert (told["time"], told["event"], told["was"]) == ("T", "changed", {"state": "guarded"})
    assert {key: told[key] for key in port()} == port(state="unguarded", drops=3)


Look = Rows | Exception | Callable[[], None]


def run(patch: pytest.MonkeyPatch, looks: Sequence[Look], *argv: str) -> tuple[int, list[bool]]:
    """Watches these looks and ends by Ctrl-C: the exit status, and whether names had to be known at each look."""
    left, asked = list(looks), []

    def look(_uri: str | None, only: Only, *, known: bool = True) -> Rows:
        asked.append(known)
        found = left.pop(0) if left else KeyboardInterrupt()
        if isinstance(found, BaseException):
            raise found
        return found() or [] if callable(found) else found

    patch.setattr(watching, "status_rows", look)
    patch.setattr(watching, "_PAUSE", 0.0)
    patch.setattr(watching, "_now", lambda: "T")
    return cli.main(["status", "--watch", *argv]), asked


def test_lines_follow_until_ctrl_c(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, [[port()], [port()], []]) == (0, [True, False, False, False])
    out = capsys.readouterr()
    assert [each.split()[:4] for each in out.out.splitlines()] == [
        ["T", "port", "web.p", "is"],
        ["T", "port", "web.p", "gone"],
    ]
    assert out.err == ""


def test_sigterm_ends_it_as_well_and_is_as_before_then(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    status, asked = run(monkeypatch, [[], lambda: os.kill(os.getpid(), signal.SIGTERM), []])
    assert (status, len(asked)) == (0, 2)
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_first_look_may_fail_and_a_later_one_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, [GuestnetError("libvirt has no guest 'x'")])[0] == 1
    assert capsys.readouterr().err == "guestnet: libvirt has no guest 'x'\n"
    gone = GuestnetError("connecting: refused\nIs libvirtd running?")
    assert run(monkeypatch, [[port()], gone, gone, [port()], gone])[0] == 0
    out = capsys.readouterr()
    assert out.err == "guestnet: connecting: refused\nguestnet: Is libvirtd running?\n" * 2, "once each time"
    assert out.out.count("\n") == 1, "what was there is there"


def test_drops_and_json_are_followed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    looks: list[Look] = [[port(reasons={"forged MAC": frames})] for frames in (1, 1, 5)]
    run(monkeypatch, looks, "--drops")
    assert capsys.readouterr().out.splitlines() == [
        'T drop web.p."forged MAC" is network=lan tap=vnet0 frames=1',
        'T drop web.p."forged MAC" changed frames=5 (was 1)',
    ]
    run(monkeypatch, looks, "--drops", "--json")
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["event"], each["frames"]) for each in told] == [("is", 1), ("changed", 5)]


def screens(seen: Terminal) -> list[list[str]]:
    """What was drawn each time."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", seen.text.partition("\x1b[?1049h")[2].partition("\x1b[?1049l")[0])
    return [[line.rstrip() for line in each.split("\n")] for each in plain.split("\x1b[H") if each]


def test_a_terminal_is_drawn_again_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = "[bold]x[/]\x1b[2J"
    lost = port(hostile, state="unguarded", reason="its tap has no rules in the kernel")
    with Terminal(monkeypatch, height=30) as seen:
        assert run(monkeypatch, [[NETWORK, lost], GuestnetError("no libvirtd"), [NETWORK, port()]])[0] == 0
    first, failed, last = screens(seen)
    assert first[:3] == ["T  Ctrl-C ends this", "", r"UNGUARDED, try `guestnet hooks sync`: [bold]x[/]\x1b[2J.p"]
    assert any(each.split()[:1] == ["NAME"] for each in first) and len(first) == 30
    assert "guestnet: no libvirtd" in failed and any("[bold]x[/]" in each for each in failed)
    assert not any("UNGUARDED" in each for each in last)
    assert seen.text.startswith("\x1b[?1049h") and seen.text.endswith("\x1b[?1049l")
    assert "\x1b[2J" not in seen.text and "\x1b[?25l" not in seen.text


def test_a_terminal_that_is_too_small_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = [port(f"g{number}") for number in range(60)]
    with Terminal(monkeypatch, width=70, height=12) as seen:
        run(monkeypatch, [[NETWORK, *ports]])
    (lines,) = screens(seen)
    assert len(lines) == 12 and max(map(len, lines)) <= 70
    more = re.fullmatch(r"… (\d+) more lines: --guest, --network and --topology show some of it", lines[-1])
    assert more and int(more[1]) > 60


def test_with_no_color_a_terminal_has_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    with Terminal(monkeypatch) as seen:
        monkeypatch.setenv("NO_COLOR", "1")
        run(monkeypatch, [[port()], []])
    assert [each.split()[:4] for each in seen.text.splitlines()] == [
        ["T", "port", "web.p", "is"],
        ["T", "port", "web.p", "gone"],
    ]


def test_a_reader_that_goes_away_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    end, inner = os.pipe()
    os.close(end)
    with os.fdopen(inner, "w", closefd=False) as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert run(monkeypatch, [[port()], []])[0] == 1
    os.close(inner)
