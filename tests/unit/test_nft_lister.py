"""What is not there is no error; that nft cannot say is one, and nothing is done on the strength of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from libvirt_guestnet.datapath.forwards.table import ForwardRule, PortForwards
from libvirt_guestnet.datapath.netlink import kernel, links, present
from libvirt_guestnet.datapath.run import iptables, nft, program
from libvirt_guestnet.datapath.run.program import NotInstalledError, Output
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.services import libvirt_rules, missing_state, watch
from libvirt_guestnet.log import Looks
from libvirt_guestnet.state.locked import UnlockedState
from libvirt_guestnet.state.receipts import PortReceipt

# The only answer that says so, of nft 1.0.6 and 1.1.3, and what a newer one may add.
ABSENT = {
    "table": "Error: No such file or directory\nlist table ip nope\n              ^^^^\n",
    "meant": "Error: No such file or directory; did you mean table 'guestnet' in family inet?\nlist table\n",
}
FAILURES = {
    "not root": (1, "Operation not permitted (you must be root)\nnetlink: Error: cache initialization failed: …\n"),
    "no nf_tables": (1, "netlink: Error: cache initialization failed: Protocol not supported\n"),
    "disturbed": (1, "netlink: Error: cache initialization failed: No such file or directory\n"),
    "out of memory": (1, "Error: Could not receive sets from kernel: Cannot allocate memory\n"),
    "a library is missing": (127, "nft: error while loading shared libraries: libnftables.so.1: cannot open shared "
                             "object file: No such file or directory\n"),
    "killed": (-9, ""),
    "of old": (2, "Error: No such file or directory\n"),
}  # fmt: skip
LISTINGS: dict[str, Callable[[], object]] = {
    "tables": nft.tables,
    "listed": lambda: nft.listed("chain", "ip", "libvirt_network", "forward"),
    "items": lambda: list(nft.items("table", "inet", "guestnet")),
    "numbers": lambda: nft.numbers("learnt4-vme0"),
    "numbers of all": lambda: nft.numbers_of_all()("learnt4-vme0"),
    "times of all": nft.times_of_all,
    "sizes": lambda: nft.sizes_of("inet guestnet"),
    "guarded ports": kernel.guarded_ports,
    "guarded taps": kernel.guarded_taps,
    "segments": kernel.segments,
    "elements of forwards": kernel.forward_elements,
    "bridge guard": kernel.bridge_guard,
}
NAMED = {"listed", "items", "numbers", "sizes", "guarded ports", "elements of forwards", "bridge guard"}


class Nft:
    """One that always answers the same; `asked` counts how often."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, status: int, stderr: str, stdout: str = "") -> None:
        self.asked, self.answer = 0, Output(status, stdout, stderr)
        monkeypatch.setattr(program, "run", self.run)

    def run(self, *_: object) -> Output:
        self.asked += 1
        return self.answer


@pytest.mark.parametrize("stderr", ABSENT.values(), ids=ABSENT)
@pytest.mark.parametrize("listing", sorted(NAMED))
def test_what_is_not_there_is_no_error(monkeypatch: pytest.MonkeyPatch, listing: str, stderr: str) -> None:
    asked = Nft(monkeypatch, 1, stderr)
    found = LISTINGS[listing]()
    assert found in ([], {}, set(), (set(), set()))
    assert asked.asked == 1


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
@pytest.mark.parametrize("listing", LISTINGS)
def test_what_nft_cannot_say_is_an_error(
    monkeypatch: pytest.MonkeyPatch, listing: str, failure: tuple[int, str]
) -> None:
    asked = Nft(monkeypatch, *failure)
    with pytest.raises(GuestnetError, match="nft cannot list"):
        LISTINGS[listing]()
    assert asked.asked == 3


@pytest.mark.parametrize("listing", sorted(set(LISTINGS) - NAMED))
def test_what_can_only_be_empty_is_never_absent(monkeypatch: pytest.MonkeyPatch, listing: str) -> None:
    Nft(monkeypatch, 1, ABSENT["table"])
    with pytest.raises(GuestnetError, match="nft cannot list"):
        LISTINGS[listing]()


@pytest.mark.parametrize("stdout", ["{", '{"other": []}', "[]"])
def test_half_an_answer_is_an_error(monkeypatch: pytest.MonkeyPatch, stdout: str) -> None:
    Nft(monkeypatch, 0, "", stdout)
    with pytest.raises(GuestnetError, match="nft cannot list table inet guestnet"):
        nft.sizes_of("inet guestnet")


def test_all_of_a_long_answer_is_read() -> None:
    """nft's listing of a thousand guarded ports."""
    assert len(program.run(["head", "-c", str(9 << 20), "/dev/zero"], "", "coreutils").stdout) == 9 << 20


def test_what_nobody_says_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut short it would be taken for the whole."""
    monkeypatch.setattr(program, "_LONGEST", 1 << 20)
    with pytest.raises(GuestnetError, match="more than 1 MiB"):
        program.run(["head", "-c", "2000000", "/dev/zero"], "", "coreutils")
    assert len(program.run(["head", "-c", "1000000", "/dev/zero"], "", "coreutils").stdout) == 1_000_000


def test_only_an_iptables_that_is_not_there_filters_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object) -> Output:
        raise error

    monkeypatch.setattr(program, "run", run)
    error: GuestnetError = NotInstalledError("iptables cannot be run")
    assert iptables.forward("iptables") is None
    error = GuestnetError("iptables did not finish within 10 s")
    with pytest.raises(GuestnetError, match="did not finish"):
        iptables.forward("iptables")
    monkeypatch.undo()
    with pytest.raises(NotInstalledError, match="install the package nothing"):
        program.run(["no-such-program"], "", "nothing")


def test_libvirts_rules_are_not_missing_where_iptables_cannot_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "network").mkdir()
    (tmp_path / "network/web.xml").write_text(
        "<networkstatus><network><bridge name='br-web'/></network></networkstatus>"
    )
    monkeypatch.setattr(libvirt_rules, "_LIBVIRT", str(tmp_path))
    monkeypatch.setattr(libvirt_rules, "tables", set)
    Nft(monkeypatch, 4, "Another app is currently holding the xtables lock\n")
    with pytest.raises(GuestnetError, match="xtables lock"):
        libvirt_rules.look(Looks())


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_the_service_says_so_once_and_repairs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: tuple[int, str]
) -> None:
    """It took every failure of nft for a host without a single rule, and put back all that there was."""
    state, told, repaired = UnlockedState(str(tmp_path)), list[str](), list[object]()
    with state.lock() as locked:
        locked.put_ports("u", [PortReceipt("vme0", "52:54:00:00:00:01", "g", "u", ifindex=7)])
        locked.put_forwards(
            PortForwards("vme0", "", "u", "g", "gn-one", 7, True, (ForwardRule("tcp", 80, 80, "10.0.0.5", 80),))
        )
    monkeypatch.setattr(watch, "UnlockedState", lambda: state)
    monkeypatch.setattr(watch.log, "complain", told.append)
    monkeypatch.setattr(watch.repair, "repair", lambda *given: repaired.append(given))
    monkeypatch.setattr(present, "missing", lambda _wanted: [])
    monkeypatch.setattr(links, "index_of", {"vme0": 7}.get)
    Nft(monkeypatch, *failure)
    service = watch._Watch()
    for _ in range(3):
        service.look()
    (line,) = told
    assert "is not put back yet: nft cannot list tables" in line
    assert repaired == []
    assert missing_state.tables is nft.tables
