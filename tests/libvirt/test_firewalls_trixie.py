"""Beside the firewalls of Debian 13, as their own units start, reload and restart them, under a real systemd.

docs/coexistence.md says what passes: `scripts/coexistence-table` writes it anew from a run of this. Nobody calls
guestnet after a firewall has done something: its service sees to that. What it cannot arrange `guestnet doctor` names,
and what that says to do is done here, and helps.
"""

from __future__ import annotations

import json
import os
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from booted import Booted, booted
from conftest import WITHOUT_NODEDEV
from reached import Reached
from test_ways_in import Net, forward_rules
from test_ways_in_trixie import prepared

from libvirt_guestnet import sandbox as sandboxes

pytestmark = pytest.mark.trixie

DOCUMENT = Path(__file__).parents[2] / "docs/coexistence.md"


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
            ("systemctl start firewalld",),
            ("systemctl reload firewalld", "systemctl restart firewalld"),
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


@dataclass
class Findings:
    """By backend, firewall and way: whether it passes without guestnet's accepts, and with them."""

    without: dict[tuple[str, str, str], bool] = field(default_factory=dict)
    beside: dict[tuple[str, str, str], bool] = field(default_factory=dict)


@pytest.fixture(scope="module")
def findings() -> Findings:
    return Findings()


@pytest.fixture(scope="module", params=["iptables", "nftables"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def host(backend: str, trixie_root: Path) -> Iterator[Booted]:
    prepare = [WITHOUT_NODEDEV, *prepared(trixie_root, backend)[-2:]]  # hooks are installed as a user does it
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
def test_a_firewall(net: Net, host: Booted, backend: str, name: str, findings: Findings) -> None:
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
            if by_hand:
                follow_the_doctor(host, guests, by_hand)
            assert advice(host) == []
        for way, passes in beside.items():
            findings.beside[backend, name, way], findings.without[backend, name, way] = passes, without[way]
        assert [line for line in forward_rules(net) if "table" not in line] == []
    finally:
        run(host, (*firewall.end, "nft flush ruleset"))
        host.restart_libvirtd()


def run(host: Booted, commands: tuple[str, ...]) -> None:
    for command in commands:
        host.run(["sh", "-c", command], timeout=60)


def refused(guests: Reached, but: Container[str] = ()) -> set[str]:
    return {way for way, passes in guests.passing(but).items() if not passes}


def soon(net: Net, guests: Reached, by_hand: set[str]) -> None:
    """All but these pass, before long; and then stay so."""
    net.soon(lambda: not refused(guests, by_hand))
    assert refused(guests, by_hand) == set()


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


def test_the_document_says_what_was_found(findings: Findings, regenerate: bool) -> None:
    """Last, when every firewall has been tried with either backend."""
    text = filled(DOCUMENT.read_text(), table(findings))
    if regenerate:
        DOCUMENT.write_text(text)
    assert DOCUMENT.read_text() == text, "scripts/coexistence-table writes it anew"


def table(findings: Findings) -> str:
    ways = list(dict.fromkeys(way for _, _, way in findings.beside))
    lines = [f"| firewall | libvirt's rules in | {' | '.join(ways)} |", f"|---|---|{':-:|' * len(ways)}"]
    for backend in ("iptables", "nftables"):
        for name in FIREWALLS:
            cells = (cell(findings, (backend, name, way)) for way in ways)
            lines.append(f"| {name} | {backend} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(findings: Findings, where: tuple[str, str, str]) -> str:
    if not findings.beside[where]:
        return "by hand"
    return "yes" if findings.without[where] else "**yes**"


_BEGIN, _END = "<!-- begin: generated -->\n", "\n<!-- end: generated -->"


def filled(document: str, made: str) -> str:
    head, _, rest = document.partition(_BEGIN)
    return head + _BEGIN + made + _END + rest.partition(_END)[2]
