"""`guard:` of host.yaml, as the installed hooks carry it out for domains without metadata, against a real kernel."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.box import Box
from support.hooks import DATA, DOMAIN, VERSIONS, Hooks, own_table, repaired, with_metadata

from libvirt_guestnet.hook.read.hostwide import FILE

# What libvirt keeps of the running network, as its own start call has it.
START = (DATA / "9.0.0/dom-start/003-qemu-guesta-start-begin.xml").read_bytes()
NETWORK = (DATA / "9.0.0/dom-start/002-network-vlan1-port-created-begin.xml").read_text()
RECORD = NETWORK[NETWORK.index("<network ") : NETWORK.index("<networkport>")]
OVERLAY = """set -e
mkdir /run/upper /run/work
mount -t overlay -o lowerdir=/etc,upperdir=/run/upper,workdir=/run/work none /etc"""


@pytest.fixture
def told(hooks: Hooks) -> Hooks:
    """With a folder /etc of their own for the hooks to read."""
    hooks.box.ok("sh", "-c", OVERLAY)
    return hooks


def default(box: Box, guard: str) -> None:
    keep = 'mkdir -p "${0%/*}" && cat >"$0"' if guard != "declared" else 'rm -f "$0"'
    assert box.run("sh", "-c", keep, FILE, stdin=json.dumps({"guard": guard}).encode()).returncode == 0


def recorded(box: Box) -> None:
    keep = "mkdir -p /run/libvirt/network && cat >/run/libvirt/network/vlan1.xml"
    assert box.run("sh", "-c", keep, stdin=f"<networkstatus>{RECORD}</networkstatus>".encode()).returncode == 0


def port(hooks: Hooks, tap: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(hooks.box.ok("cat", f"/run/libvirt-guestnet/ports/{tap}.json"))
    return found


@pytest.mark.parametrize("guard", ["all", "observe"])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_plain_domain_is_covered_and_a_release_leaves_nothing(told: Hooks, version: str, guard: str) -> None:
    default(told.box, guard)
    recorded(told.box)
    assert set(told.replay(version, "dom-start", "-")) == {(0, "")}
    assert told.chains() == ["vnet0", "vnet1"]
    lan, leased = port(told, "vnet0"), port(told, "vnet1")
    assert [each["by_host"] for each in (lan, leased)] == [True, True]
    assert [each["observed"] for each in (lan, leased)] == [guard == "observe"] * 2
    assert (lan["owned"], leased["dhcp"]) == (["0.0.0.0/0", "::/0"], ["10.61.1.1"])
    assert set(told.replay(version, "dom-destroy", "-")) == {(0, "")}
    assert (told.chains(), told.receipts()) == ([], ["vlan1.json"])
    assert set(told.replay(version, "net-lifecycle", "stopped")) == {(0, "")}
    assert told.receipts() == []


def test_a_network_that_starts_is_known_before_its_guests(told: Hooks) -> None:
    default(told.box, "all")
    told.replay("9.0.0", "net-lifecycle", "started")
    known = json.loads(told.box.ok("cat", "/run/libvirt-guestnet/networks/vlan1.json"))
    assert (known["undeclared"], known["managed"], known["bridge"]) == (True, False, "virbr1")
    assert told.call("qemu", "guesta", "start", "begin", START) == (0, "")
    assert port(told, "vnet1")["dhcp"] == ["10.61.1.1"]


def test_a_guard_that_cannot_be_had_holds_up_nobody_that_nobody_named(told: Hooks) -> None:
    default(told.box, "all")
    recorded(told.box)
    told.box.ok("ip", "link", "del", "vnet0")
    status, said = told.call("qemu", "guesta", "start", "begin", START)
    assert status == 0
    assert "domain 'guesta': not guarded as this host's default says: " in said and "vnet0 does not exist" in said
    assert (told.chains(), told.receipts()) == ([], ["vlan1.json"])
    # With a policy for the NIC whose tap is there, its guard is what it was; that one's fault refuses the start.
    of_other = DOMAIN[: DOMAIN.index("<guestnet:port")] + DOMAIN[DOMAIN.rindex("<guestnet:port") :]
    assert told.call("qemu", "guesta", "start", "begin", with_metadata(START, of_other))[0] == 0
    assert told.chains() == ["vnet1"]
    status, said = told.call("qemu", "guesta", "start", "begin", with_metadata(START, DOMAIN))
    assert (status, "vnet0 does not exist" in said) == (1, True)


def test_a_policy_of_its_own_comes_first(told: Hooks) -> None:
    default(told.box, "all")
    recorded(told.box)
    trusted = DOMAIN.replace('network="lan1"', 'network="lan1" guarded="no"')
    assert told.call("qemu", "guesta", "start", "begin", with_metadata(START, trusted)) == (0, "")
    assert (told.chains(), port(told, "vnet1")["by_host"]) == (["vnet1"], False)


def test_a_repair_follows_the_default(told: Hooks) -> None:
    default(told.box, "all")
    recorded(told.box)
    told.running("guesta", START)
    guarded = own_table(told)
    for guard, chains in (("observe", ["vnet0", "vnet1"]), ("declared", []), ("all", ["vnet0", "vnet1"])):
        default(told.box, guard)
        repaired(told, "guesta")
        assert told.chains() == chains
    late = [each for each in own_table(told) if each not in guarded]
    assert ["set late-ports" in each and '"vnet1"' in each for each in late] == [True], "it may use what it has formed"
    assert len(own_table(told)) == len(guarded)


def test_without_libvirts_record_of_the_network_nobody_is_cut_off(told: Hooks, tmp_path: Path) -> None:
    default(told.box, "all")
    assert told.call("qemu", "guesta", "start", "begin", START) == (0, "")
    assert port(told, "vnet1")["owned"] == ["0.0.0.0/0", "::/0"]
