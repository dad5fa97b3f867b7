"""Every parser that root runs, fed by chance: no input ends in an internal error, hangs, reaches a program, or hurts
another guest.

`pytest tests/kernel/test_by_chance.py --fuzz 3600 [--fuzz-seed NAME]` runs each for an hour of a processor; a failure
prints the seed of one input, and `--fuzz 0 --fuzz-seed THAT` is this input again.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.box import Box

FUZZ = Path(__file__).parent.parent / "fuzz"
PARSERS = ("stdin", "chain", "metadata", "receipts", "leases", "records", "topologies")
# What the unchanged seeds need not reach, and why.
ELSEWHERE = {
    "stand-ins take their place": (
        r"(run/program|forwards/conntrack|processes/detached|^log)\.py|notes\.py let_go|vlan_bridge\.py _(read|write)$"
        r"|links\.py (Watch|_attributes|all_links|links|tap_mac|is_vlan_aware)|probe\.py|address_sets\.py _moved$"
        r"|incoming\.py (_heard|_runs|_wait|repeat)|hotplug\.py (_candidates|_taps_of_port)"
    ),
    "faults of ours, not of what is read": r"hook/strangers\.py",
    "nobody's text goes there": r"port/(bpf|bpfload|checksum)\.py|netlink/tc\.py|enforce/checksum_guard\.py",
    "loops around what is reached": (
        r"(services/watch|calls/repair)\.py (main|_heard|_wait|_locked|_settle|_taken)$|netlink/events\.py"
        r"|libvirt_records\.py version$|lease_forwards\.py Files|hook/(concern|processes/deadline)\.py .*expired$"
        r"|hook/concern\.py _(age|exists)$|hook/main\.py"
    ),
    "commands of a person's, and labs": (
        r"firewalls/(base_chains|docker|ufw|nftables|flows)\.py|netlink/(lan|kernel)\.py|run/iptables\.py|host_devices\.py"
        r"|links\.py (ports_of|is_user_space)$|firewalls/registry\.py (named|survey|surveyed|managed|advice)$"
        r"|firewalls/\w+\.py (\w+\.)?(survey|_survey|chains|_described|_whose|knows|advice|legacy|_words)$"
        r"|firewalls/iptables\.py (_refuses|_devices)$|firewalls/chains\.py"
        r"|missing_state\.py by_port$|forwards/table\.py elements$|rtnl\.py Rtnl\.neighbours$"
        r"|address_owners\.py (refused_now|_requested_by_(routes|forwards))$|hostwide\.py (read|write)$"
        r"|port/(filters\.py (guard|_without_notes)$|notes\.py)|nft\.py numbers_of_all$"
        r"|hook/live\.py (take_over_state|remove_unused|_open)$|netlink/offloads\.py"
    ),
    "no guest of the seeds is a virtual router: tests/libvirt/test_router_*.py have them": (
        r"processes/(arbiters|revive)\.py|links\.py (set_up|_set_flags)$"
    ),
    "no network of the seeds is in a zone: test_zones.py has those": r"(routing|enforce)/zones\.py",
    "no guest of the seeds has others inside: test_lent_macs.py has those": r"port_receipts\.py _lending$",
    "run when modules are imported": r"(dhcp_requests|port/shared|grammar)\.py (shared|_set|_chain|_layouts|_words)$",
    "kernels and hosts that this one is not": (
        r"subinterface\.py|vlan_bridge\.py (turn_on|untag)|rtnl\.py Rtnl\.(vrf_table|set_master)"
        r"|gateway\.py _?table(_of)?$|routing/servers\.py|nics\.py pci_nic$"
    ),
    "on the way to a refusal, or past one": (
        r"routes\.py _why$|is_without_ipv6$"
        r"|_taken$|_elsewhere$|_program$|doctype$|set_down$|_refused?$|_refusal$|_nothing$"
        r"|values\.py _name$|enforce/forwards\.py _names"
        r"|guardable\.py _check_devices$|culprits\.py|port_guard\.py (_guard_living|restore)"
        r"|address_owners\.py (_answering|_published_on)$|forward_targets\.py (_lives|_may_use|Targets\._holding)$"
        r"|plug_marks\.py _(guard|is_guarded|is_wanted)$|hotplug\.py _guard_as_recorded$"
        r"|calls/domain\.py keep$|ports\.py _put_back$|repair\.py _keep$|host_routes\.py gateways$|hook/caller\.py"
    ),
    "the seeds' hosts have no default for guests: test_host_default_hook.py has": (
        r"read/host_default\.py|calls/domain\.py _(know|go_on)$|calls/networks\.py (know|_default)$"
        r"|port_receipts\.py _by_host$|bridge_guard\.py _libvirts$|ports\.py guard_by_default$"
        r"|plug_marks\.py _is_by_host$|libvirt_records\.py network$|undeclared_receipt$"
        r"|read/domain\.py Nic\.is_declared$"
    ),
    "no netem where the seeds run: tests/labvm/inside/test_bad_links.py has": r"netlink/netem\.py _parts$",
    "no two NICs of the seeds have one MAC address": r"read/domain\.py Domain\._with_tap$",
    "no NIC of the seeds moves from bridge to bridge": r"enforce/(host_routes|forwards)\.py delete_on_bridge$",
    "nothing to do on a host whose kernel never loses anything": (
        r"iptables\.py _is_last_in_place|learning\.py (give_back|replace_held|is_held_set)$"
        r"|nft\.py (in_set|_times|_is_absent|_is_of_addresses)$|observing\.py forgotten$"
        r"|present\.py _is_whole|address_sets\.py _(held|span)$"
        r"|links\.py is_(up|isolated)$|libvirt_rules\.py (_children|Libvirts\._is_resting)$"
        r"|routes\.py present|Rtnl\.published|repair\.py _ports|fdb\.py silence|announce\.py unsolicited_advertisement"
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
    done = _run(box, str(FUZZ / "run.py"), parser, str(seconds), seed, seconds=20 * seconds + 120)
    print(done.stdout.decode())
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    assert seconds == 0 or int(re.findall(rb"(\d+) inputs", done.stdout)[0]) > seconds / 10


def test_the_seeds_reach_every_function_that_acts(box: Box) -> None:
    done = _run(box, str(FUZZ / "reach.py"), seconds=600)
    assert done.returncode == 0, done.stderr.decode()
    missed = done.stdout.decode().splitlines()
    unexplained = [each for each in missed if not any(re.search(why, each) for why in ELSEWHERE.values())]
    assert unexplained == []
    for reason, pattern in ELSEWHERE.items():
        assert any(re.search(pattern, each) for each in missed), f"nothing is left out any more because of: {reason}"
