"""Tests that run inside the lab VM, collected here as items of their own: every boot runs all that was selected for it.

All VMs boot before the first test and run side by side: each is busy on one processor for most of its time (decision
23).

A test of tests/labvm/inside/, and some of tests/kernel/, becomes one item per Debian: `test_x@bookworm` and
`test_x@trixie`. It shows the report that came out of that VM. `@pytest.mark.only("trixie")` keeps it to one of them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from runner import VM, LabVMError

SUITES = ("bookworm", "trixie")
BOOT_SECONDS = 7200  # some 600 on two processors that nobody else uses, and five times as many on a slow machine
_INSIDE = Path(__file__).parent / "inside"
_KERNEL = Path(__file__).parents[1] / "kernel"
# What depends on the kernel's version and on nft's; the rest would only take its time. Everything is slow inside.
# Debian 12 has the oldest of both. Debian 13's nft is tried in the tier `trixie`, and its kernel is between Debian 12's
# and those on which the tier `kernel` runs mostly: only what is vital runs on it, too.
_ON_BOTH = ("test_filters.py", "test_offload_corpus.py")
_KERNEL_TESTS = {
    "test_filters.py": (
        "test_honest_frames_pass",
        "test_jumbo_frames_pass",
        "test_forged_frames_arrive_nowhere",
        "test_guarding_again_and_releasing_twice",
        "test_a_chain_outliving_its_tap_is_replaced_for_the_next_owner",
        "test_drops_are_counted_and_belong_to_their_tap",
        "test_a_refused_batch_raises_and_changes_nothing",
    ),
    "test_trunks.py": (
        "test_every_vlan_of_a_trunk_passes_with_every_priority",
        "test_other_tags_are_dropped_and_counted",
        "test_what_is_in_a_tag_is_dropped_with_its_own_reason",
        "test_a_trunk_that_becomes_an_access_port_leaves_no_chain",
    ),
    "test_policy.py": ("test_routing_protocols_are_a_role",),
    "test_held.py": ("test_none_is_none", "test_any_address_is_none_that_somebody_holds[me]"),
    "test_claiming.py": (
        "test_what_a_guest_asked_for_is_its_own[nonce (RFC 7527)-fd61:1::4c1f:9d2e:77aa:1]",
        "test_who_answers_keeps_it",
        "test_nobody_claims_more_than_so_many",
        "test_what_is_claimed_lasts_while_it_is_used",
        "test_use_binds_where_nobody_has_to_ask",
    ),
    "test_claiming_attacks.py": (
        "test_a_question_that_nobody_hears_is_none[False-another group]",
        "test_a_question_with_a_wrong_checksum_is_none[what Linux 6.1 has]",
        "test_claims_that_somebody_undoes_are_not_without_end",
        "test_on_a_lan_that_nobody_knows_guests_form_what_a_router_announces[False-its MAC, MTU]",
    ),
    "test_observed.py": (
        "test_the_addresses_of_what_would_be_dropped_are_noted",
        "test_a_trunk_is_observed_inside_its_tags_and_by_its_vlans",
        "test_what_the_checksum_guard_would_drop_passes_and_is_counted",
    ),
    "test_learning.py": (
        "test_an_address_is_learnt_from_the_servers_acknowledgement_alone",
        "test_dhcpv6_is_believed_word_by_word",
        "test_what_one_port_holds_is_not_given_to_another[4]",
        "test_what_one_port_holds_is_not_given_to_another[6]",
        "test_what_is_learnt_survives_a_new_guard_and_ends_with_the_port",
        "test_an_address_is_learnt_from_the_real_server",
        "test_a_dhcpv6_address_is_learnt_from_the_real_server[UUID (RFC 6355)]",
        "test_a_rapid_commit_is_learnt_too[vendor (systemd)]",
        "test_answers_without_a_lease_teach_nothing",
        "test_nobody_rebinds_to_anothers_address",
    ),
    "test_forwards.py": (
        "test_forwards_keep_the_clients_address[nat]",
        "test_a_floating_address_is_the_guests_in_both_directions",
    ),
    "test_offload_corpus.py": (
        "test_the_address_filter_alone_lets_every_forgery_out",
        "test_no_forgery_leaves_the_host[the best that this kernel has]",
        "test_honest_offload_leaves_the_host_whole[the best that this kernel has]",
        "test_the_same_holds_inside_a_trunks_tag[what Linux 6.1 has]",
        "test_what_it_drops_is_counted",
    ),
    "test_hook.py": (
        "test_reconnect_repairs_and_never_fails[9.0.0]",
        "test_a_reused_tap_name_belongs_to_its_new_owner",
        "test_an_unplugged_nic_loses_its_chain_once_its_tap_is_gone",
    ),
    "test_offload.py": (
        "test_every_guarded_tap_has_it_from_start_to_release",
        "test_what_is_pinned_counts_only_while_it_is_ours[an upgrade]",
        "test_the_service_misses_it_and_a_repair_puts_it_back[False]",
        "test_it_shares_tc_ingress_with_what_is_there[ingress]",
    ),
}


class InsideTest(pytest.Item):
    """One test in one of the VMs."""

    def __init__(self, *, original: pytest.Item, suite: str, **more: Any) -> None:
        super().__init__(**more)
        self.suite = suite
        self.inside_id = original.nodeid
        for mark in original.own_markers:
            self.add_marker(mark.name)
        self.place = original.location
        self.add_marker(pytest.mark.labvm)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, self.place[1], self.name

    def runtest(self) -> None:
        raise AssertionError("runs in the lab VM only")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.pluginmanager.has_plugin("relay"):
        return  # this is the pytest in the VM
    copies = [copy for item in items if _runs_inside(item) for copy in _copies(item)]
    items[:] = [item for item in items if item.path.parent != _INSIDE]
    # The reports of one VM after those of the other.
    items.extend(copy for suite in SUITES for copy in copies if copy.suite == suite)


def _runs_inside(item: pytest.Item) -> bool:
    if item.path.parent == _KERNEL:
        return item.name in _KERNEL_TESTS.get(item.path.name, ())
    return item.path.parent == _INSIDE


def _copies(item: pytest.Item) -> Iterator[InsideTest]:
    assert item.parent is not None
    only = item.get_closest_marker("only")
    everywhere = SUITES if item.path.parent == _INSIDE or item.path.name in _ON_BOTH else SUITES[:1]
    for suite in only.args if only else everywhere:
        yield InsideTest.from_parent(item.parent, name=f"{item.name}@{suite}", original=item, suite=suite)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    if session.config.option.collectonly:
        return
    items = [item for item in getattr(session, "items", ()) if isinstance(item, InsideTest)]
    session.stash[_BOOTS] = {suite: Boot(suite, items) for suite in dict.fromkeys(item.suite for item in items)}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    if not isinstance(item, InsideTest):
        return None
    boots = item.session.stash[_BOOTS]
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in boots[item.suite].reports(item):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def pytest_sessionfinish(session: pytest.Session) -> None:
    for boot in session.stash.get(_BOOTS, {}).values():
        died = boot.vm.died if boot.vm else []
        boot.close()
        for why in died:
            session.config.get_terminal_writer().line(f"\nbooted again: {why}")


class Boot:
    """One run of a VM with all its tests: `reports` waits for those of one test."""

    def __init__(self, suite: str, items: list[InsideTest]) -> None:
        self.wanted = {item.inside_id for item in items if item.suite == suite}
        self.done: dict[str, list[dict[str, Any]]] = {}
        self.complete: set[str] = set()
        self.running = "its boot"
        self.trouble: list[str] = []
        self.said = False
        self.vm: VM | None = None
        self.events: Queue[dict[str, Any] | Exception | None] = Queue()
        try:
            self.vm = VM(suite, sorted(self.wanted), BOOT_SECONDS)
            self.reader = Thread(target=self._read, args=(self.vm,), daemon=True)
            self.reader.start()
        except (LabVMError, OSError) as error:
            self.trouble.append(str(error))
            self.events.put(None)

    def _read(self, vm: VM) -> None:
        """In a thread of its own: a VM whose reports nobody reads would wait."""
        try:
            for event in vm.stream():
                self.events.put(event)
        except (LabVMError, OSError, ValueError) as error:
            self.events.put(error)
        self.events.put(None)

    def reports(self, item: InsideTest) -> list[pytest.TestReport]:
        """What the VM reported for this test, or the reason why it reported nothing, as a failure."""
        while item.inside_id not in self.complete and self._next():
            pass
        if item.inside_id not in self.complete:
            self.trouble = self.trouble or ["the lab VM ended well, but did not run this test"]
            said, self.said = self.said, True
            why = "did not run: see the failure above" if said else "\n".join(self.trouble)
            return [_failure(item, f"while in {self.running}: {why}")]
        return [_as_outside(item, report) for report in self.done.pop(item.inside_id)]

    def _next(self) -> bool:
        event = self.events.get()
        if isinstance(event, Exception):
            self.trouble.append(str(event))
        if event is None or isinstance(event, Exception):
            self.events.put(None)  # nothing comes any more, however often somebody looks
            return False
        if "begins" in event:
            self.running = event["begins"]
        elif "broken" in event:
            self.trouble.append(f"{event['broken']} cannot be collected in the VM:\n{event['text']}")
        else:
            report = event["report"]
            self.done.setdefault(report["nodeid"], []).append(report)
            if report["when"] == "teardown":
                self.complete.add(report["nodeid"])
        return True

    def close(self) -> None:
        """Shuts the VM down; tests that it has not run yet fail."""
        if self.vm is not None:
            # What comes after the last test may still be a failure to end.
            while self.wanted <= self.complete and not self.trouble and self._next():
                pass
            self.vm.__exit__()
            self.reader.join()
            self.vm = None


_BOOTS: pytest.StashKey[dict[str, Boot]] = pytest.StashKey()


def _as_outside(item: InsideTest, report: dict[str, Any]) -> pytest.TestReport:
    made = pytest.TestReport._from_json(report)
    made.nodeid, made.location = item.nodeid, item.location
    if made.skipped and item.config.getoption("--no-skips") and not hasattr(made, "wasxfail"):
        made.outcome, made.longrepr = "failed", f"skipped, where nothing may be: {made.longrepr}"
    return made


def _failure(item: InsideTest, text: str) -> pytest.TestReport:
    return pytest.TestReport(item.nodeid, item.location, dict(item.keywords), "failed", text, "call")
