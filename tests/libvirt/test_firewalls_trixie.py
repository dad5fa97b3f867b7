"""Beside the firewalls of Debian 13, as their own units start, reload and restart them, under a real systemd.

docs/coexistence.md says what passes: `scripts/coexistence-table` writes it again from a run of this. Nobody calls
guestnet after a firewall has done something: its service sees to that. What it cannot arrange `guestnet doctor` names,
and what that says to do is done here, and helps.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.booted import Booted, booted
from support.libvirt_lan import Net, forward_rules
from support.reached import Reached
from support.sandboxes import WITHOUT_NODEDEV, rules_in

from libvirt_guestnet import sandbox as sandboxes

pytestmark = pytest.mark.trixie

STAYS_SECONDS = 2.0
DOCUMENT = Path(__file__).parents[2] / "docs/coexistence.md"
REGENERATE = "`scripts/coexistence-table` writes docs/coexistence.md again"


@dataclass(frozen=True)
class Firewall:
    """`start` is what an administrator does once, `again` what reloads and restarts it, `end` what takes it away."""

    name: str
    start: tuple[str, ...] = ()
    again: tuple[str, ...] = ()
    end: tuple[str, ...] = ()


FIREWALLS = {
    firewall.name: firewall
    for firewall in (
        Firewall("libvirt alone", again=("systemctl restart libvirtd", "nft flush ruleset")),
        Firewall(
            "Docker",
            # Its policy is DROP where it is the one to switch forwarding on, as when it starts first at boot.
            ("sysctl -qw net.ipv4.ip_forward=0", "systemctl start docker"),
            ("systemctl reload docker", "systemctl restart docker"),
            ("systemctl stop docker.socket docker containerd",),
        ),
        Firewall(
            "firewalld",
            # It answers once its rules are there; its unit counts as started before.
            ("systemctl start firewalld && firewall-cmd --state",),
            ("systemctl reload firewalld", "systemctl restart firewalld && firewall-cmd --state"),
            ("systemctl stop firewalld",),
        ),
        Firewall(
            "ufw", ("ufw --force enable",), ("ufw reload", "systemctl restart ufw"), ("ufw --force reset",)
        ),
        Firewall(
            "nftables.service",
            ("systemctl start nftables",),
            ("systemctl reload nftables", "systemctl restart nftables"),
            ("systemctl stop nftables",),
        ),
    )
}  # fmt: skip
# What must be done by hand, because libvirt's accepts are in a table of its own and do not count in iptables'.
BY_HAND = {
    ("nftables", "Docker"): {"NAT guest to the LAN"},
    ("nftables", "ufw"): {"NAT guest to the LAN"},
}


BACKENDS = ("iptables", "nftables")


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def host(backend: str, trixie_root: Path) -> Iterator[Booted]:
    prepare = [WITHOUT_NODEDEV, *rules_in(backend)]  # hooks are installed as a user does it
    started = sandboxes.start(f"units-{backend}-{os.getpid()}", root=trixie_root, prepare=prepare)
    with started as sandbox, booted(sandbox) as host:
        host.guestnet("hooks", "install")
        host.restart_libvirtd()
        yield host


@pytest.fixture(scope="module")
def net(host: Booted) -> Iterator[Net]:
    with Net(host) as net:
        yield net


@pytest.mark.parametrize("name", list(FIREWALLS))
def test_a_firewall(net: Net, host: Booted, backend: str, name: str, regenerate: bool, newest: bool) -> None:
    firewall, by_hand = FIREWALLS[name], BY_HAND.get((backend, name), set())
    try:
        with Reached(net) as guests:
            assert refused(guests) == set()
            run(host, firewall.start)
            soon(net, guests, by_hand)
            for event in firewall.again:
                run(host, (event,))
                soon(net, guests, by_hand)
            beside = guests.passing()
        # The other way round: it is there when the guests come.
        with Reached(net) as guests:
            soon(net, guests, by_hand)
            without = bare(host, guests)
            # Docker 28 does not close FORWARD where packets are forwarded already, as here by now.
            open_already = newest and name == "Docker" and not refused(guests)
            if by_hand and not open_already:
                follow_the_doctor(host, guests, by_hand)
            assert advice(host) == []
        found = Row(backend, name, beside, without)
        if regenerate:
            DOCUMENT.write_text(found.written_into(DOCUMENT.read_text()))
        if not open_already:
            assert {found.heading(), found.text()} <= set(DOCUMENT.read_text().splitlines()), REGENERATE
        assert [line for line in forward_rules(net) if "table" not in line] == []
    finally:
        run(host, (*firewall.end, "nft flush ruleset"))
        host.restart_libvirtd()


def run(host: Booted, commands: tuple[str, ...]) -> None:
    for command in commands:
        host.run(["sh", "-c", command], timeout=240)


def refused(guests: Reached, but: Container[str] = ()) -> set[str]:
    return {way for way, passes in guests.passing(but).items() if not passes}


def soon(net: Net, guests: Reached, by_hand: set[str]) -> None:
    """All but these pass, before long; and then stay so: while a firewall restarts, everything may pass."""
    since: list[float] = []

    def stays() -> bool:
        if refused(guests, by_hand):
            since.clear()
            return False
        since.append(time.monotonic())
        return since[-1] - since[0] > STAYS_SECONDS

    net.soon(stays)


def bare(host: Booted, guests: Reached) -> dict[str, bool]:
    """What passes when our accepts are taken out, and nobody puts them back."""
    host.run(["systemctl", "stop", "libvirt-guestnet"])
    sources = (
        "for each in $(firewall-cmd --zone=libvirt-routed --list-sources); do firewall-cmd --remove-source=$each; done"
    )
    flush = "for t in iptables ip6tables; do for c in GUESTNET-FORWARD GUESTNET-ROUTED; do $t -F $c; done; done"
    ours = "for f in ip ip6; do nft flush chain $f libvirt_network guestnet; done"
    host.run(["sh", "-c", f"({flush}; {ours}; {sources}) >/dev/null 2>&1"], check=False)
    found = guests.passing()
    host.guestnet("hooks", "sync")
    host.run(["systemctl", "start", "libvirt-guestnet"])
    return found


def advice(host: Booted) -> list[dict[str, str]]:
    """What must be done, as doctor says."""
    rows = json.loads(host.guestnet("doctor", "--json", check=False))
    return [row for row in rows if row["level"] == "must"]


def follow_the_doctor(host: Booted, guests: Reached, by_hand: set[str]) -> None:
    assert refused(guests) == by_hand
    rows = advice(host)
    assert {row["found"].rpartition(": ")[2] for row in rows} == {"guests of web cannot get out"}
    run(host, tuple(row["do"].removesuffix(", at every boot") for row in rows))
    assert refused(guests) == set()


@dataclass(frozen=True)
class Row:
    """One of the document's table: which connections pass with guestnet's accepts, and which without."""

    backend: str
    firewall: str
    beside: dict[str, bool]
    without: dict[str, bool]

    def heading(self) -> str:
        return f"| firewall | libvirt's rules in | {' | '.join(self.beside)} |"

    def text(self) -> str:
        return f"{begin(self.backend, self.firewall)} {' | '.join(map(self._cell, self.beside))} |"

    def written_into(self, document: str) -> str:
        """The document with this row in the place of what it says of the same."""
        line = re.compile(rf"^{re.escape(begin(self.backend, self.firewall))}.*$", re.MULTILINE)
        return line.sub(lambda _: self.text(), document)

    def _cell(self, way: str) -> str:
        if not self.beside[way]:
            return "by hand"
        return "yes" if self.without[way] else "**yes**"


def begin(backend: str, firewall: str) -> str:
    return f"| {firewall} | {backend} |"


def test_the_document_has_a_row_of_each() -> None:
    lines = DOCUMENT.read_text().splitlines()
    first = lines.index(next(line for line in lines if line.startswith("| firewall |"))) + 2
    rows = lines[first : first + len(BACKENDS) * len(FIREWALLS)]
    wanted = [begin(backend, name) for backend in BACKENDS for name in FIREWALLS]
    assert [row[: len(start)] for row, start in zip(rows, wanted, strict=True)] == wanted
