"""libvirt's own rules after a flush: its daemon is asked once, and again only when it rests and some are missing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from libvirt_guestnet import log
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.services import libvirt_rules, watch
from libvirt_guestnet.hook.services.libvirt_rules import Libvirts, Seen
from libvirt_guestnet.log import Looks
from libvirt_guestnet.xmlread import MAX_MARKS


class Libvirt:
    """A daemon whose rules are there or not, that works or rests, and is asked to make them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lost, self.some_left, self.now, self.asked = False, False, 1000.0, 0
        self.rules, self.ticks, self.programs = "", 500, False
        self.told: list[str] = []
        self.failing = ""
        monkeypatch.setattr(libvirt_rules, "look", lambda _looks: self._seen())
        monkeypatch.setattr(libvirt_rules, "_ticks", lambda: self.ticks)
        monkeypatch.setattr(libvirt_rules, "_runs_programs", lambda: self.programs)
        monkeypatch.setattr(libvirt_rules.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(libvirt_rules.program, "run", self._asked)
        monkeypatch.setattr(libvirt_rules.log, "complain", self.told.append)

    def _seen(self) -> Seen:
        if self.failing:
            raise GuestnetError(self.failing)
        return Seen(frozenset({"virbr0"} if self.lost else ()), self.some_left, self.rules)

    def _asked(self, argv: list[str], *_: str) -> None:
        assert argv[:2] == ["busctl", "emit"]
        self.asked += 1

    def looks(self, service: Libvirts, seconds: float) -> tuple[int, int]:
        """How often it has been asked, and the log told, by then."""
        self.now += seconds
        service.see_to()
        return self.asked, len(self.told)


@pytest.fixture
def libvirt(monkeypatch: pytest.MonkeyPatch) -> Libvirt:
    return Libvirt(monkeypatch)


@pytest.mark.parametrize("sign", ["rules", "ticks", "programs"])
def test_one_that_works_is_asked_once(libvirt: Libvirt, sign: str) -> None:
    """A round takes a slow daemon 20 s, and rounds queue."""
    service = Libvirts(Looks())
    libvirt.lost = True
    assert libvirt.looks(service, 0) == (1, 0)
    for each in range(40):
        libvirt.rules += "rule\n" if sign == "rules" else ""
        libvirt.ticks += 5 if sign == "ticks" else 0
        libvirt.programs = sign == "programs"
        assert libvirt.looks(service, 1) == (1, 0), f"after {each} s"
        assert service.patience == 0.5
    libvirt.lost = False
    assert libvirt.looks(service, 1) == (1, 0)
    assert service.patience is None


def test_one_that_has_restarted_works_too(libvirt: Libvirt) -> None:
    """A new process begins to count at 0."""
    service = Libvirts(Looks())
    libvirt.lost = True
    assert libvirt.looks(service, 0) == (1, 0)
    libvirt.ticks = 0
    for _ in range(40):
        libvirt.ticks += 5
        assert libvirt.looks(service, 1) == (1, 0)


def test_one_that_rests_is_asked_ever_more_seldom_and_the_log_told_what_is_seen(libvirt: Libvirt) -> None:
    service = Libvirts(Looks())
    assert libvirt.looks(service, 0) == (0, 0)
    libvirt.lost = True
    assert libvirt.looks(service, 0) == (1, 0)
    assert libvirt.looks(service, 0.3) == (1, 0)
    for rest, asked in ((1.5, 2), (3, 3), (6, 4)):
        assert libvirt.looks(service, rest - 0.2) in ((asked - 1, 0), (asked, 0))
        assert libvirt.looks(service, 0.3) == (asked, 0)
    assert libvirt.looks(service, 11) == (4, 0), "the last one may still help"
    assert libvirt.looks(service, 1.5) == (5, 1)
    (said,) = libvirt.told
    assert "rules of libvirt's for virbr0 are missing" in said
    assert "asked 4 times to make them again, and changes none now" in said
    assert libvirt.looks(service, 30) == (6, 1), "the log is told once"
    libvirt.lost = False
    assert libvirt.looks(service, 1) == (6, 1)
    libvirt.lost = True
    assert libvirt.looks(service, 1) == (7, 1)


def test_what_is_missing_when_a_round_is_done_is_asked_for_again(libvirt: Libvirt) -> None:
    service = Libvirts(Looks())
    libvirt.lost = True
    libvirt.looks(service, 0)
    for _ in range(20):
        libvirt.ticks += 50
        libvirt.looks(service, 1)
    libvirt.some_left = True
    assert libvirt.looks(service, 1) == (1, 0)
    assert libvirt.looks(service, 1) == (2, 0)


def test_other_work_does_not_hold_it_up_for_ever(libvirt: Libvirt) -> None:
    service = Libvirts(Looks())
    libvirt.lost = True
    for _ in range(125):
        libvirt.ticks += 50
        libvirt.looks(service, 1)
    assert libvirt.asked == 2


def test_a_network_that_is_being_stopped_is_no_reason_to_ask(libvirt: Libvirt) -> None:
    service = Libvirts(Looks())
    libvirt.lost = libvirt.some_left = True
    assert libvirt.looks(service, 0) == (0, 0)
    assert libvirt.looks(service, 0.5) == (0, 0)
    assert libvirt.looks(service, 2) == (1, 0), "but one whose rules do not come is"


def test_the_service_looks_again_soon_while_something_is_missing(
    libvirt: Libvirt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "lost", lambda _state: watch.NOTHING)
    service = watch._Watch()
    for libvirt.lost, patience in ((False, 30.0), (True, 0.5), (False, 30.0)):
        service.look()
        assert service.patience == patience


def test_what_cannot_be_looked_at_is_told_once(libvirt: Libvirt, monkeypatch: pytest.MonkeyPatch) -> None:
    """While something is missing, the service looks twice a second."""
    monkeypatch.setattr(watch, "lost", lambda _state: watch.NOTHING)
    libvirt.lost = True
    service = watch._Watch()
    for libvirt.failing, told in (("", 0), ("nft is gone", 1), ("nft is slow", 2), ("", 2), ("nft is gone", 3)):
        for _ in range(5):
            service.look()
        assert len(libvirt.told) == told


def test_a_record_that_cannot_be_read_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    networks(tmp_path, monkeypatch, "web")
    monkeypatch.setattr(libvirt_rules, "listed", lambda *_: ['iifname "br-web"'])
    told: list[str] = []
    monkeypatch.setattr(log, "complain", told.append)
    looks, record = Looks(), tmp_path / "network/web.xml"
    sound = record.read_text()
    for text, times in (("<a", 1), (sound, 1), ("<a", 2), ("<b>", 3)):
        record.write_text(text)
        for _ in range(5):
            libvirt_rules.look(looks)
            looks.end()
        assert len(told) == times


def test_processor_time_is_that_of_a_daemon_and_of_what_it_ran(tmp_path: Path) -> None:
    pid_file, stat = tmp_path / "pid", Path("/proc/self/stat")
    pid_file.write_text(f"{os.getpid()}\n")
    times = os.times()
    before = stat.read_text()
    found = libvirt_rules._ticks([str(pid_file), "/nonexistent"])
    assert found >= sum(times[:4]) * os.sysconf("SC_CLK_TCK") - 4
    assert found >= sum(map(int, before.rpartition(")")[2].split()[11:15]))


def test_a_daemon_that_waits_for_a_program_is_at_work(tmp_path: Path) -> None:
    """Beside other work a program may take long, and little of the processor."""
    pid_file = tmp_path / "pid"
    pid_file.write_text(f"{os.getpid()}\n")
    with subprocess.Popen(["sleep", "60"]) as program:
        assert libvirt_rules._runs_programs([str(pid_file)])
        program.kill()
    pid_file.write_text("1999999999\n")
    assert not libvirt_rules._runs_programs([str(pid_file), "/nonexistent"])


def test_a_networks_hostile_record_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libvirt_rules, "_LIBVIRT", str(tmp_path))
    monkeypatch.setattr(libvirt_rules, "tables", lambda: {"ip libvirt_network"})
    monkeypatch.setattr(libvirt_rules, "listed", lambda *_: ['iifname "br-good"'])
    told: list[str] = []
    monkeypatch.setattr(log, "complain", told.append)
    (tmp_path / "network").mkdir()
    for name, text in (
        ("damaged", "<x>"),
        ("good", "<s><network><bridge name='br-good'/></network></s>"),
        ("huge", "<a/>" * MAX_MARKS),
    ):
        (tmp_path / f"network/{name}.xml").write_text(text)
    assert libvirt_rules.look(Looks())[:2] == (frozenset(), True)
    assert [line.partition(":")[0] for line in told] == ["network damaged", "network huge"]


# What libvirt 11.3 writes down of a rule that its nftables backend has made, to delete it by.
MADE = """<action layer='{layer}'><args><item>delete</item><item>rule</item><item>{family}</item>
  <item>libvirt_network</item><item>{chain}</item><item>handle</item><item>{handle}</item></args></action>"""


@pytest.mark.parametrize(
    ("there", "lost"),
    [
        ({"ip": {"guest_input": 2, "guest_nat": 2}, "ip6": {"guest_input": 1}}, set()),
        ({"ip": {"guest_input": 3, "guest_nat": 2}, "ip6": {"guest_input": 1}}, set()),
        ({"ip": {"guest_input": 2, "guest_nat": 1}, "ip6": {"guest_input": 1}}, {"br-web", "br-inside"}),
        ({"ip": {"guest_input": 2, "guest_nat": 2}, "ip6": {}}, {"br-web", "br-inside"}),
    ],
)
def test_a_single_rule_that_is_gone_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: dict[str, dict[str, int]], lost: set[str]
) -> None:
    """After a flush, 11.3 deletes by the flushed rules' handles what it has just made for another network."""
    monkeypatch.setattr(libvirt_rules, "_LIBVIRT", str(tmp_path))
    monkeypatch.setattr(libvirt_rules, "tables", lambda: {"ip libvirt_network", "ip6 libvirt_network"})
    monkeypatch.setattr(libvirt_rules, "listed", lambda *_: ['iifname "br-web"', 'iifname "br-inside"'])
    monkeypatch.setattr(libvirt_rules, "sizes_of", lambda table: there[table.partition(" ")[0]])
    (tmp_path / "network").mkdir()
    made = {
        "web": [("ip", "guest_input"), ("ip", "guest_nat"), ("ip", "guest_nat"), ("ip6", "guest_input")],
        "inside": [("ip", "guest_input")],
    }
    for name, rules in made.items():
        actions = "".join(MADE.format(layer="ipv4", family=at, chain=chain, handle=7) for at, chain in rules)
        network = f"<network><bridge name='br-{name}'/></network>"
        firewall = f"<firewall name='fwRemoval' backend='nftables'><group>{actions}</group></firewall>"
        (tmp_path / f"network/{name}.xml").write_text(f"<networkstatus>{network}{firewall}</networkstatus>")
    assert libvirt_rules.look(Looks())[:2] == (frozenset(lost), True)


def networks(root: Path, monkeypatch: pytest.MonkeyPatch, *names: str, record: str = "") -> None:
    """What libvirt has on record of active networks; its rules are all that the host has."""
    monkeypatch.setattr(libvirt_rules, "_LIBVIRT", str(root))
    monkeypatch.setattr(libvirt_rules, "tables", lambda: {"ip libvirt_network"})
    (root / "network").mkdir()
    for name in names:
        network = f"<network><bridge name='br-{name}'/></network>"
        (root / f"network/{name}.xml").write_text(f"<networkstatus>{network}{record}</networkstatus>")


def test_what_passes_is_no_work_of_the_daemons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its nftables backend counts in each rule: a guest that sends would have it look busy, and not asked again."""
    networks(tmp_path, monkeypatch, "web", "inside")
    monkeypatch.setattr(libvirt_rules.program, "run", lambda *_: libvirt_rules.program.Output(0, "", ""))
    seen = set()
    for frames in (1, 20):
        rule = f'iif "br-web" counter packets {frames} bytes {60 * frames} accept # handle 7'
        monkeypatch.setattr(libvirt_rules, "listed", lambda *_, rule=rule: [rule])
        seen.add(libvirt_rules.look(Looks()))
    assert {(tuple(each.lost), each.some_left) for each in seen} == {(("br-inside",), True)}
    assert len(seen) == 1


def rules_of(monkeypatch: pytest.MonkeyPatch, table: list[str], iptables: str | GuestnetError) -> None:
    """What nft and iptables say; the second may not be installed."""

    def run(*_: object) -> libvirt_rules.program.Output:
        if isinstance(iptables, GuestnetError):
            raise iptables
        return libvirt_rules.program.Output(0, iptables, "")

    monkeypatch.setattr(libvirt_rules, "listed", lambda *_: table)
    monkeypatch.setattr(libvirt_rules.program, "run", run)


def test_an_empty_table_of_the_other_backend_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """libvirt deletes its rules when it is told to use iptables again, and leaves the table."""
    networks(tmp_path, monkeypatch, "web")
    rules_of(monkeypatch, ["table ip libvirt_network {", "}"], "-A LIBVIRT_FWX -i br-web -o br-web -j ACCEPT")
    assert libvirt_rules.look(Looks())[:2] == (frozenset(), True)


@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_a_host_without_iptables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    """All rules were flushed: no reason not to see that, where none of them was made by it."""
    made = MADE.format(layer="ipv4", family="ip", chain="guest_input", handle=7) if backend == "nftables" else ""
    networks(tmp_path, monkeypatch, "web", record=f"<firewall name='fwRemoval'><group>{made}</group></firewall>")
    monkeypatch.setattr(libvirt_rules, "tables", set)
    rules_of(monkeypatch, [], GuestnetError("iptables cannot be run"))
    if backend == "nftables":
        assert libvirt_rules.look(Looks())[:2] == (frozenset({"br-web"}), False)
    else:
        with pytest.raises(GuestnetError):
            libvirt_rules.look(Looks())


def test_what_others_say_of_a_bridge_is_no_rule_of_libvirts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After `iptables -F` ours come back first, where something there refuses what is forwarded, such as Docker."""
    networks(tmp_path, monkeypatch, "web")
    theirs = ["-P FORWARD DROP", "-A FORWARD -j GUESTNET-FORWARD", "-A DOCKER-USER -i br-web -j ACCEPT"]
    ours = ["-A GUESTNET-FORWARD -o br-web -d 10.61.1.10/32 -m conntrack --ctdir ORIGINAL -j ACCEPT"]
    rules_of(monkeypatch, [], "\n".join([*theirs, *ours]))
    assert libvirt_rules.look(Looks())[:2] == (frozenset({"br-web"}), False)
