"""libvirt's own firewall rules: whether they are complete, and asking its daemon to make them again.

The daemon makes all its rules again at firewalld's D-Bus signal `Reloaded`, whoever sends it (9.0 to 11.3); at SIGHUP
it does not make missing chains. Each signal makes it go through all networks, and signals queue, which takes a slow
daemon minutes. So it is asked once, and again only if rules are still missing when it rests. The nftables backend of
11.3 deletes rules by the handles of flushed ones, and may so delete rules that it has just made, of any network; but
its records say how many rules each chain should have. Only what is found missing is logged.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Set
from contextlib import suppress

from libvirt_guestnet import log, xmlread
from libvirt_guestnet.datapath.run import program
from libvirt_guestnet.datapath.run.nft import listed, sizes_of, tables
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.light_typing import NamedTuple

_LIBVIRT, _TABLE = "/run/libvirt", "ip libvirt_network"
# Rules of its iptables backend (5.1 and later); others, such as ours, name its bridges, too.
_CHAINS = "-A LIBVIRT_"
# The counter in a rule of its nftables backend, which changes all the time.
_COUNTED = re.compile(r"counter packets \d+ bytes \d+")
_DAEMONS = ("/run/libvirtd.pid", "/run/virtnetworkd.pid")
_RELOADED = ("busctl", "emit", "/org/fedoraproject/FirewallD1", "org.fedoraproject.FirewallD1", "Reloaded")
_REST_SECONDS, _LONGEST_REST, _TIMES = 1.5, 30.0, 4
# How long the daemon is observed: a shorter time might fall between two programs that it runs.
_LOOK_SECONDS = 0.5
# An idle daemon takes less processor time than this.
_WORK_TICKS = 3
# It is not waited for longer: the daemon may have other work all day.
_MOST_WORK_SECONDS = 120.0


class Ruled(NamedTuple):
    """A network with rules of libvirt's: its bridge and, for the nftables backend, how many in which (table, chain)."""

    bridge: str
    chains: Counter[tuple[str, str]]


class Seen(NamedTuple):
    """The bridges whose rules are incomplete; whether other bridges' are complete; and all rules, to compare them."""

    lost: frozenset[str]
    some_left: bool
    rules: str


class Libvirts:
    """Has the daemon put missing rules back; `patience` is in how many seconds to look again if some are missing."""

    def __init__(self, looks: log.Looks) -> None:
        self._looks = looks
        self._reset()

    def _reset(self) -> None:
        self._noticed, self._reloaded, self._worked, self._times, self._complained = 0.0, 0.0, 0.0, 0, False
        self._rules, self._ticks = "", 0
        self.patience: float | None = None

    def see_to(self) -> None:
        """Looks, and asks the daemon if rules are missing. Raises GuestnetError if it cannot look."""
        found, now = look(self._looks), time.monotonic()
        if not found.lost:
            self._reset()
            return
        self._noticed = self._noticed or now
        self._watch_work(found, now)
        self.patience = _LONGEST_REST if self._complained else _LOOK_SECONDS
        stopping = found.some_left and now - self._noticed < _REST_SECONDS  # perhaps one network is just being stopped
        if not stopping and (not self._times or self._is_resting(now)):
            self._tell(found, now)
            self._ask(now)

    def _watch_work(self, found: Seen, now: float) -> None:
        ticks = _ticks()
        if found.rules != self._rules or abs(ticks - self._ticks) >= _WORK_TICKS or _runs_programs():
            self._rules, self._ticks, self._worked = found.rules, ticks, now

    def _is_resting(self, now: float) -> bool:
        """Whether the daemon has done what it was asked. We wait longer each time: it may not react to us at all."""
        rest: float = min(_REST_SECONDS * 2 ** (self._times - 1), _LONGEST_REST)
        worked = self._worked if now - self._reloaded < _MOST_WORK_SECONDS else 0.0
        return now - max(worked, self._reloaded) >= rest

    def _ask(self, now: float) -> None:
        self._reloaded, self._times = now, self._times + 1
        with suppress(GuestnetError):
            program.run(list(_RELOADED), "", "systemd")

    def _tell(self, found: Seen, now: float) -> None:
        if self._times >= _TIMES and not self._complained:
            self._complained = True
            bridges, seconds = ", ".join(sorted(found.lost)), now - self._noticed
            log.complain(
                f"rules of libvirt's for {bridges} are missing, and were {seconds:.0f} s ago: its daemon was asked "
                f"{self._times} times to make them again, and changes none now; if they stay away, restart it "
                f"(systemctl restart libvirtd)"
            )


def look(looks: log.Looks) -> Seen:
    """Looks for missing rules. A record that cannot be read is only logged. Raises GuestnetError."""
    ruled = [found for name in recorded("network") if (found := _ruled(name, looks))]
    bridges = frozenset(each.bridge for each in ruled)
    if not bridges:
        return Seen(bridges, False, "")
    rules = _rules(ruled)
    present = _named(bridges, rules)
    lost = bridges - present
    if not lost and _lacks_any(ruled):  # of which network is unknown: rules for NAT name no bridge
        lost = frozenset(each.bridge for each in ruled if each.chains)
    return Seen(lost, bool(present), rules)


def _rules(ruled: list[Ruled]) -> str:
    """libvirt's rules of both backends: one's table stays when libvirt is configured to use the other."""
    rules = "\n".join(listed("table", *_TABLE.split())) if _TABLE in tables() else ""
    rules = _COUNTED.sub("counter", rules)
    bridges = {each.bridge for each in ruled}
    if _named(bridges, rules) == bridges:
        return rules
    try:
        others = program.said(["iptables", "-w", "5", "-S"], "iptables").splitlines()
        return "\n".join([rules, *(rule for rule in others if rule.startswith(_CHAINS))])
    except GuestnetError:
        if all(each.chains for each in ruled):
            return rules  # the program is not installed, so libvirt has made no rules with it
        raise


def _named(bridges: Set[str], rules: str) -> frozenset[str]:
    """The bridges that rules name."""
    return frozenset(bridges).intersection(rules.replace('"', " ").split())


def _lacks_any(ruled: list[Ruled]) -> bool:
    """Whether a chain has fewer rules than libvirt has made there."""
    wanted = sum((each.chains for each in ruled), Counter())
    sizes = {table: sizes_of(table) for table in {table for table, _ in wanted}}
    return any(sizes[table].get(chain, 0) < number for (table, chain), number in wanted.items())


def recorded(kind: str) -> list[str]:
    """The names in libvirt's records of a kind: running domains, or active networks."""
    folder = f"{_LIBVIRT}/{kind}"
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return [name.removesuffix(".xml") for name in sorted(names) if name.endswith(".xml")]


def _ruled(network_name: str, looks: log.Looks) -> Ruled | None:
    """The network, if libvirt has rules for it."""
    try:
        with open(f"{_LIBVIRT}/network/{network_name}.xml", "rb") as file:
            record = xmlread.parse(file.read(xmlread.MAX_BYTES + 1))
    except FileNotFoundError:  # it has just been stopped
        return None
    except GuestnetError as error:
        looks.complain(f"network {network_name}: whether libvirt's rules for it are there is not known: {error}")
        return None
    network = record.one("network")
    bridge, forward = (network.one("bridge"), network.one("forward")) if network else (None, None)
    is_ruled = forward is None or (forward.get("mode") or "nat") in ("nat", "route")
    return Ruled(bridge.get("name"), _chains(record)) if bridge and is_ruled else None


def _chains(record: xmlread.Node) -> Counter[tuple[str, str]]:
    """The number of rules by (table, chain), from the commands by which the nftables backend (10.4 and later) will
    remove them: delete rule FAMILY TABLE CHAIN handle NUMBER."""
    removals = (action.all("args/item") for action in record.all("firewall/group/action"))
    words = ([item.text for item in items] for items in removals)
    return Counter((f"{each[2]} {each[3]}", each[4]) for each in words if each[:2] == ["delete", "rule"] and each[4:])


def _ticks(pid_files: Iterable[str] = _DAEMONS) -> int:
    """The processor time that the daemons and the programs that they ran have taken."""
    return sum(map(_ticks_of, pid_files))


def _ticks_of(pid_file: str) -> int:
    try:
        with open(f"/proc/{_pid(pid_file)}/stat") as stat:
            return sum(map(int, stat.read().rpartition(")")[2].split()[11:15]))
    except (OSError, ValueError):
        return 0  # it does not run


def _runs_programs(pid_files: Iterable[str] = _DAEMONS) -> bool:
    """Whether a daemon runs a program, such as iptables. Guests and DHCP servers are not its children."""
    return any(map(_runs_program, pid_files))


def _runs_program(pid_file: str) -> bool:
    try:
        threads = f"/proc/{_pid(pid_file)}/task"
        return any(_children(f"{threads}/{thread}/children") for thread in os.listdir(threads))
    except (OSError, ValueError):
        return False


def _children(file: str) -> str:
    try:
        with open(file) as children:
            return children.read().strip()
    except OSError:  # that thread has just ended, or the kernel does not tell (CONFIG_PROC_CHILDREN)
        return ""


def _pid(pid_file: str) -> int:
    with open(pid_file) as file:
        return int(file.read())
