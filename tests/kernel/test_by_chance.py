"""Every parser that root runs, fed by chance: no input ends in an internal error, hangs, reaches a program, or hurts
another guest.

`pytest tests/kernel/test_by_chance.py --fuzz 3600 [--fuzz-seed NAME]` runs each for an hour; a failure prints the seed
of one input, and `--fuzz 0 --fuzz-seed THAT` is this input again.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from box import Box

FUZZ = Path(__file__).parent.parent / "fuzz"
PARSERS = ("stdin", "chain", "metadata", "receipts", "leases", "records", "topologies")
# What the unchanged seeds need not reach, and why.
ELSEWHERE = {
    "stand-ins take their place": (
        r"datapath/(program|conntrack)\.py|hook/(detached|log)\.py|promises\.py let_go|datapath/vlan\.py _(read|write)$"
        r"|datapath/links\.py (Watch|_attributes|all_links|links|tap_mac)|datapath/probe\.py"
        r"|hook/known\.py _moved$"
        r"|hook/incoming\.py (_heard|_runs|_wait|repeat)|hook/hotplug\.py (_candidates|_taps_of_port)"
    ),
    "nobody's text goes there": r"datapath/(bpf|bpfload|checksum|tc)\.py|hook/offload\.py",
    "loops around what is reached": (
        r"hook/(watch|repair)\.py (main|_heard|_wait|_locked|_settle|_taken)$|datapath/changes\.py|hotplug\.py version$"
        r"|hook/leased\.py Files|hook/(entry|lifecycle)\.py .*expired|hook/lifecycle\.py _(age|is_there)$"
    ),
    "commands of a person's, and labs": (
        r"datapath/(firewalls|flows|lan|kernel|iptables|devices)\.py|datapath/links\.py ports_of|lost\.py by_port$"
        r"|datapath/ways\.py elements$"
        r"|hook/taken\.py (refused_now|_reached_by|_asked_by)$|hook/hostwide\.py (read|write)$"
        r"|datapath/filters\.py guard$|datapath/nft\.py numbers_of_all$"
    ),
    "run when modules are imported": r"datapath/(asking|shared|grammar)\.py (shared|_set|_chain|_layouts|_words)$",
    "kernels and hosts that this one is not": (
        r"datapath/subinterface\.py|datapath/vlan\.py (turn_on|untag)|datapath/rtnl\.py Rtnl\.(vrf_table|set_master)"
        r"|datapath/routed\.py _?table(_of)?$|datapath/servers\.py|hook/nics\.py pci_nic$"
    ),
    "on the way to a refusal, or past one": (
        r"routes\.py _why$|is_without_ipv6$"
        r"|_taken$|_elsewhere$|_program$|doctype$|set_down$|_refused?$|_refusal$|_nothing$"
        r"|values\.py _name$|ways\.py _names"
        r"|admitting\.py _check_devices$|culprits\.py|guarding\.py (_guard_living|restore)"
        r"|taken\.py (_answering|_published_on)$"
        r"|plugged\.py _(guard|is_guarded|is_wanted)$|hotplug\.py _guard_as_recorded$"
        r"|entry\.py keep$|netports\.py _put_back$|repair\.py _keep$|reaching\.py gateways$|hook/caller\.py"
    ),
    "no NIC of the seeds moves from bridge to bridge": r"hook/(reaching|ways)\.py leave$",
    "nothing to do on a host whose kernel never loses anything": (
        r"accepts\.py leads_last|learning\.py (give_back|hold|is_held_set)$|nft\.py (in_set|_times)$"
        r"|present\.py _is_whole|known\.py _(held|span)$"
        r"|links\.py is_up$|libvirts\.py (_children|Libvirts\._is_resting)$"
        r"|routes\.py there|Rtnl\.published|repair\.py _ports|fdb\.py silence|announce\.py unsolicited_advertisement"
    ),
}


@pytest.fixture
def box() -> Iterator[Box]:
    box = Box(seconds=100_000)
    yield box
    box.close()


def _run(box: Box, *argv: str, seconds: float = 60) -> subprocess.CompletedProcess[bytes]:
    return box.run(sys.executable, *argv, timeout=seconds)


@pytest.mark.parametrize("parser", PARSERS)
def test_a_parser_by_chance(box: Box, parser: str, request: pytest.FixtureRequest) -> None:
    seconds, seed = request.config.getoption("--fuzz"), request.config.getoption("--fuzz-seed")
    done = _run(box, str(FUZZ / "run.py"), parser, str(seconds), seed, seconds=2 * seconds + 120)
    print(done.stdout.decode())
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    assert seconds == 0 or int(re.findall(rb"(\d+) inputs", done.stdout)[0]) > seconds / 10


def test_the_seeds_reach_every_function_that_acts(box: Box) -> None:
    done = _run(box, str(FUZZ / "reach.py"))
    assert done.returncode == 0, done.stderr.decode()
    missed = done.stdout.decode().splitlines()
    unexplained = [each for each in missed if not any(re.search(why, each) for why in ELSEWHERE.values())]
    assert unexplained == []
    for reason, pattern in ELSEWHERE.items():
        assert any(re.search(pattern, each) for each in missed), f"nothing is left out any more because of: {reason}"
