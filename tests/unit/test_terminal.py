"""What people see at a terminal: in colour, and without a tenant's orders to it; elsewhere it is plain text."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from support.terminals import Terminal

from libvirt_guestnet import terminal
from libvirt_guestnet.apply import topology as applying
from libvirt_guestnet.changes import files, guest, network, northbound, router
from libvirt_guestnet.changes.change import MEANINGS, Change, Run
from libvirt_guestnet.plan.order import Plan
from libvirt_guestnet.status import meanings, nic_states
from libvirt_guestnet.styled import ADDS, BAD, CHANGES, GOOD, INTERRUPTS, line
from libvirt_guestnet.table import Block, Table, as_text, made

HOSTILE = "[bold]x[/]\x1b[2J\x07:smile:\N{RIGHT-TO-LEFT OVERRIDE}\x9b31m"
SAFE = r"[bold]x[/]\x1b[2J\x07:smile:\u202e\x9b31m"
ROWS = [
    {"guest": "web", "state": "guarded", "addresses": ["10.0.0.1", "fd00::1"], "note": "", "drops": 0},
    {"guest": HOSTILE, "state": "unguarded", "addresses": [], "note": "", "drops": 7},
]
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def blocks() -> list[Block]:
    table = made(ROWS, meaning=meanings.meaning)
    assert table is not None
    return [table, line((f"UNGUARDED {HOSTILE}", BAD), ": ", HOSTILE)]


def shown(patch: pytest.MonkeyPatch, *what: Block, between: str = "\n", width: int = 120) -> str:
    with Terminal(patch, width=width) as seen:
        terminal.show(what, between)
    return seen.text


def test_states_have_colours_and_names_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, *blocks())
    assert "\x1b[32mguarded\x1b[0m" in text and "\x1b[1;31munguarded\x1b[0m" in text and "\x1b[33m7" in text
    assert f"\n{SAFE}  " in text, "a name is written as it is, without a colour"
    assert f"\x1b[1;31mUNGUARDED {SAFE}\x1b[0m: {SAFE}\n" in text
    assert set(re.findall(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", COLOUR.sub("", text))) == set()


def test_a_column_in_which_nothing_stands_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = COLOUR.sub("", shown(monkeypatch, *blocks()))
    assert "NOTE" not in plain and "NOTE" in as_text(blocks())
    words = [head for head in as_text(blocks()).splitlines()[0].split() if head != "NOTE"]
    assert plain.splitlines()[0].split() == words


@pytest.mark.parametrize("width", [20, 60, 61, 64, 70, 80, 300])
def test_no_word_is_broken_however_narrow_it_is(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    words = COLOUR.sub("", shown(monkeypatch, *blocks(), width=width)).split()
    assert {"10.0.0.1", "fd00::1", "ADDRESSES", "unguarded", SAFE} <= set(words)


def test_cells_are_folded_at_blanks_where_that_makes_it_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"addresses": ["10.0.0.1", "fd00::1"], "state": "guarded"}]
    table = made(rows)
    assert table is not None

    def lines(width: int) -> list[list[str]]:
        return [each.split() for each in COLOUR.sub("", shown(monkeypatch, table, width=width)).splitlines()]

    assert lines(27) == [["ADDRESSES", "STATE"], ["10.0.0.1", "fd00::1", "guarded"]]
    assert lines(20) == [["ADDRESSES", "STATE"], ["10.0.0.1", "guarded"], ["fd00::1"]]
    assert lines(10) == lines(27), "the terminal wraps what can never fit"


def test_what_is_measured_is_what_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever made the table: a tab or an escape takes the room of what stands in its place."""
    table = Table(["A\tB", "NEXT"], [["\x1b" * 10, "x"]])
    lines = [each.rstrip() for each in COLOUR.sub("", shown(monkeypatch, table)).splitlines()]
    assert lines == [f"{'A' + chr(92) + 'tB':40}  NEXT", f"{chr(92) + 'x1b':4}" * 10 + "  x"]


def test_every_state_means_something() -> None:
    names = ("GUARDED", "OBSERVED", "TRUSTED", "UNGUARDED", "CANNOT", "STOPPED", "NOTHING")
    assert set(meanings.OF_STATE) == {getattr(nic_states, name) for name in names}
    assert meanings.meaning("GUEST", "guarded") == "" != meanings.meaning("STATE", "guarded") == GOOD


@contextmanager
def plain_of(kind: str, patch: pytest.MonkeyPatch) -> Iterator[Terminal | io.StringIO]:
    """Standard output where text is to be plain."""
    if kind == "pipe":
        patch.setattr(sys, "stdout", io.StringIO())
        yield sys.stdout  # type: ignore[misc]
        return
    with Terminal(patch, encoding="latin-1" if kind == "LANG=latin-1" else "utf-8") as seen:
        name, _, value = kind.partition("=")
        patch.setenv(name, value)
        if kind == "rich=missing":
            patch.setitem(sys.modules, "libvirt_guestnet.terminal.drawn", None)
        yield seen


@pytest.mark.parametrize("kind", ["pipe", "NO_COLOR=1", "TERM=dumb", "TERM=", "LANG=latin-1", "rich=missing"])
def test_it_is_plain_text_elsewhere(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    with plain_of(kind, monkeypatch) as seen:
        terminal.show(blocks())
    text = seen.text if isinstance(seen, Terminal) else seen.getvalue()
    assert text == as_text(blocks())
    assert "\x1b" not in text and SAFE in text


def test_an_empty_no_color_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with Terminal(monkeypatch) as seen:
        monkeypatch.setenv("NO_COLOR", "")
        terminal.show(blocks())
    assert "\x1b[32mguarded" in seen.text


def test_rich_is_loaded_at_a_terminal_alone() -> None:
    code = """import sys
from libvirt_guestnet import terminal
from libvirt_guestnet.cli import main, topologies, status, watching
from libvirt_guestnet.apply import topology, sync
from libvirt_guestnet.styled import line
terminal.show([line("shown")])
with terminal.Progress(sys.stdout, sys.stderr) as progress:
    progress("doing", 1, 2)
    progress.say(line("said"))
print("rich" in sys.modules)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert (done.stdout, done.stderr) == ("shown\nsaid\nFalse\n", "")


class Made(Change):
    """A change that does nothing."""

    KIND = "network"

    def __init__(self, verb: str, name: str = "n", interrupts: tuple[str, ...] = (), detail: str = "") -> None:
        super().__init__(name, detail, interrupts)
        object.__setattr__(self, "VERB", verb)

    def run(self, run: Run) -> None:
        pass


def plan_of(*changes: Change, notes: tuple[str, ...] = ()) -> Plan:
    return Plan("t", changes, notes)


def test_a_plan_is_coloured_by_what_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [Made("define"), Made("update", detail="its MTU"), Made("remove", HOSTILE), Made("restart", "r", ("a", "b"))]
    plan = plan_of(*made, notes=("look",))
    text = shown(monkeypatch, *plan.lines(), between="")
    assert text.splitlines() == [
        "\x1b[32mdefine network n\x1b[0m",
        "\x1b[33mupdate network n\x1b[0m: its MTU",
        f"\x1b[31mremove network {SAFE}\x1b[0m",
        "\x1b[33mrestart network r\x1b[0m \x1b[1;37;41m(interrupts a, b)\x1b[0m",
        "\x1b[33mnote\x1b[0m: look",
    ]
    assert COLOUR.sub("", text) == f"{plan.text()}\n"


def test_every_verb_means_something() -> None:
    modules = (files, guest, network, northbound, router)
    classes = [each for module in modules for each in vars(module).values() if isinstance(each, type)]
    verbs = {each.VERB for each in classes if issubclass(each, Change) and hasattr(each, "VERB")}
    assert len(verbs) > 8 and verbs | {"redefine", "release"} == set(MEANINGS)
    assert INTERRUPTS not in MEANINGS.values()
    assert guest.DefineDomain("g", xml="", old="<domain/>").line().parts[0] == ("redefine guest g", CHANGES)
    assert guest.DefineDomain("g", xml="").line().parts[0] == ("define guest g", ADDS)


def test_many_changes_have_a_bar_below_their_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    many = plan_of(*(Made("define", f"n{number}") for number in range(applying.MANY)))
    monkeypatch.setattr("libvirt_guestnet.terminal.drawn._REDRAW_SECONDS", 0.0)
    with Terminal(monkeypatch, "stdout", "stderr") as seen, applying.telling(many) as tell:
        for change in many.changes:
            tell(change)
    text = COLOUR.sub("", seen.text)
    assert all(f"define network n{number}\n" in text for number in range(applying.MANY))
    assert "7 of 10 define network n7 …" in " ".join(text.split())
    assert seen.text.endswith("\x1b[2K"), "the bar is gone in the end"
    assert "\x1b[?25l" not in seen.text, "nobody would show the cursor again after a kill"


def test_few_changes_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    few = plan_of(*(Made("define", f"n{number}") for number in range(applying.MANY - 1)))
    with Terminal(monkeypatch, "stdout", "stderr") as seen, applying.telling(few) as tell:
        for change in few.changes:
            tell(change)
    assert COLOUR.sub("", seen.text) == f"{few.text()}\n"


def test_lines_of_changes_go_to_a_file_and_the_bar_to_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    many = plan_of(*(Made("define", f"n{number}") for number in range(applying.MANY)))
    with Terminal(monkeypatch, "stderr") as seen:
        monkeypatch.setattr(sys, "stdout", out := io.StringIO())
        with applying.telling(many) as tell:
            for change in many.changes:
                tell(change)
    assert out.getvalue() == f"{many.text()}\n"
    assert "0 of 10" in COLOUR.sub("", seen.text)


def test_a_bar_ends_with_a_failure_and_says_no_more_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    with Terminal(monkeypatch, "stderr") as seen, pytest.raises(KeyError), terminal.Progress(sys.stderr) as progress:
        progress(f"domain {HOSTILE}", 1, 3)
        raise KeyError
    assert SAFE in COLOUR.sub("", seen.text)
    assert seen.text.endswith("\x1b[2K")


def test_a_screen_without_width_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    with Terminal(monkeypatch, width=0):
        found = terminal.of(sys.stdout)
        assert found is not None
        with found.screen() as screen:
            screen.draw(blocks(), lambda _lines: line("more"))
