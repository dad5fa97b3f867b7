"""The installed hook files, fed with what real libvirt daemons sent, against a real kernel."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from support.hooks import (
    A1,
    A2,
    DATA,
    DOMAIN,
    NETWORK,
    PRINTING,
    REPAIR,
    START,
    VERSIONS,
    Hooks,
    mac_in,
    numbered,
    own_table,
    recorded,
    repaired,
    with_metadata,
)

from libvirt_guestnet.datapath.port import filters
from libvirt_guestnet.install import hook_files


@pytest.mark.parametrize("version", VERSIONS)
def test_a_start_guards_and_a_release_removes(hooks: Hooks, version: str) -> None:
    assert hooks.replay(version, "dom-start", "guesta", DOMAIN) == [(0, "")] * 3
    assert hooks.chains() == ["vnet0", "vnet1"]
    # What libvirt sends at the end has no metadata of ours any more, and no taps: receipts must do.
    assert hooks.replay(version, "dom-destroy", "-") == [(0, "")] * 3
    assert (hooks.chains(), hooks.receipts()) == ([], [])


@pytest.mark.parametrize("version", VERSIONS)
def test_strangers_are_left_alone(hooks: Hooks, version: str) -> None:
    for scenario in ("dom-start", "dom-destroy", "net-lifecycle", "detach-iface-network"):
        assert set(hooks.replay(version, scenario, "-")) == {(0, "")}
    assert hooks.box.run("ls", "/run/libvirt-guestnet").returncode != 0
    assert hooks.chains() == []


@pytest.mark.parametrize("version", VERSIONS)
def test_a_plain_domain_gets_the_defaults_of_a_marked_network(hooks: Hooks, version: str) -> None:
    assert hooks.replay(version, "dom-start", "port-created", NETWORK) == [(0, "")]
    assert hooks.replay(version, "dom-start", "guesta-start-") == [(0, "")]
    # Only the NIC on the marked network: the other one sits on a plain bridge.
    assert hooks.chains() == ["vnet1"]
    allowed = hooks.box.ok("nft", "list", "chain", "netdev", "guestnet", "tap-vnet1")
    # Its address is what the host's DHCP server will tell it.
    assert "ip saddr @learnt4-vnet1 ip saddr != @owned4-virbr1 ip saddr != @wide4-virbr1 jump" in allowed
    leases = hooks.box.ok("nft", "list", "chain", "netdev", "guestnet", "leases-vnet1")
    assert "ip saddr 10.61.1.1 udp sport 67" in leases
    assert "timeout 1h" in leases
    assert "10.61.1.1 " not in allowed


@pytest.mark.parametrize("version", VERSIONS)
def test_reconnect_repairs_and_never_fails(hooks: Hooks, version: str) -> None:
    guest = "guesta" if version == "9.0.0" else "guestb"
    xml = next((DATA / version / "libvirtd-restart-running").glob(f"*{guest}-reconnect*")).read_bytes()
    metadata = DOMAIN.replace(A1, mac_in(xml, 0)).replace(A2, mac_in(xml, 1))
    for tap in set(re.findall(r"<target dev='(vnet\d+)'/>", xml.decode())) - {"vnet0", "vnet1"}:
        hooks.box.ok("ip", "tuntap", "add", tap, "mode", "tap")
    assert hooks.replay(version, "libvirtd-restart-running", f"{guest}-reconnect", metadata) == [(0, "")]
    guarded = hooks.chains()
    assert len(guarded) == 2
    hooks.box.ok("nft", "flush", "ruleset")
    assert hooks.replay(version, "libvirtd-restart-running", f"{guest}-reconnect", metadata) == [(0, "")]
    assert hooks.chains() == guarded
    broken = metadata.replace("10.61.11.10", "10.61.11.999")
    assert hooks.replay(version, "libvirtd-restart-running", f"{guest}-reconnect", broken) == [(0, "")]
    assert hooks.chains() == guarded


def _shared(hooks: Hooks) -> list[str]:
    """What of our table is the same for all ports."""
    names = set(re.findall(r"^add (?:chain|set) netdev guestnet (\S+)", filters.shared(), re.M))
    found = [each for each in own_table(hooks) if each.split()[1] in names]
    assert len(found) == len(names)
    return found


def test_one_guest_that_cannot_be_repaired_does_not_keep_the_others(hooks: Hooks) -> None:
    names = [recorded(hooks, number) for number in range(1, 6)]
    hooks.record("g2", numbered(2).replace(b"10.61.1", b"bad"))
    hooks.record("g4", numbered(4)[:900])
    done = repaired(hooks, *names)
    complaints = [line for line in done if line != "transaction"]
    assert len(complaints) == 2
    assert "guest g2 is not repaired after the daemon's restart: metadata: <guestnet:address> ip: 'bad" in complaints[0]
    assert "guest g4 is not repaired after the daemon's restart: XML cannot be read" in complaints[1]
    assert hooks.chains() == ["v1a", "v1b", "v3a", "v3b", "v5a", "v5b"]


def test_all_guests_are_repaired_in_one_transaction(hooks: Hooks) -> None:
    names = [recorded(hooks, number) for number in range(1, 6)]
    assert repaired(hooks, *names) == ["transaction"]
    whole = own_table(hooks)
    assert len(hooks.chains()) == 10
    assert repaired(hooks, *names) == ["transaction"]
    assert own_table(hooks) == whole


@pytest.mark.parametrize(
    "damage",
    [
        "delete table netdev guestnet",
        "flush chain netdev guestnet tap-v3a; delete chain netdev guestnet tap-v3a",
        "flush chain netdev guestnet ip4sent-v2b",
        "insert rule netdev guestnet tap-v1a accept",
        "add chain netdev guestnet tap-v4b { policy accept; }",
        "flush set netdev guestnet icmp-types",
        "flush ruleset",
    ],
)
def test_whatever_somebody_changed_is_undone(hooks: Hooks, damage: str) -> None:
    names = [recorded(hooks, number) for number in range(1, 6)]
    repaired(hooks, *names)
    whole = own_table(hooks)
    hooks.box.ok("nft", damage)
    assert own_table(hooks) != whole
    assert repaired(hooks, *names) == ["transaction"]
    assert own_table(hooks) == whole


def test_a_changed_policy_counts_after_the_repair(hooks: Hooks) -> None:
    names = [recorded(hooks, number) for number in range(1, 4)]
    repaired(hooks, *names)
    hooks.record("g2", numbered(2).replace(b"10.61.11.10", b"10.61.11.77"))
    repaired(hooks, *names)
    listed = {tap: hooks.box.ok("nft", "list", "chain", "netdev", "guestnet", f"tap-{tap}") for tap in hooks.chains()}
    assert [tap for tap, rules in listed.items() if "10.61.11.77" in rules] == ["v2a"]
    assert [tap for tap, rules in listed.items() if "10.61.11.10" in rules] == ["v1a", "v3a"]


def test_a_tap_that_one_guest_lost_to_another_is_the_others(hooks: Hooks) -> None:
    names = [recorded(hooks, number) for number in range(1, 4)]
    repaired(hooks, *names)
    # g3 has a new tap of the name of g1's second one now, and g1 one of another name.
    hooks.box.ok("ip", "link", "del", "v1b")
    for tap in ("new", "v1b"):
        hooks.box.ok("ip", "tuntap", "add", tap, "mode", "tap")
    hooks.record("g1", numbered(1).replace(b"v1b", b"new"))
    hooks.record("g3", numbered(3).replace(b"v3b", b"v1b"))
    repaired(hooks, *names)
    assert hooks.chains() == ["new", "v1a", "v1b", "v2a", "v2b", "v3a"]
    assert "52:54:00:61:03" in hooks.box.ok("nft", "list", "chain", "netdev", "guestnet", "tap-v1b")
    assert '"6200' + "0003" in hooks.box.ok("cat", "/run/libvirt-guestnet/ports/v1b.json")


def test_a_guest_that_ended_before_its_repair_gets_nothing_back(hooks: Hooks) -> None:
    names = [recorded(hooks, number) for number in range(1, 4)]
    hooks.box.ok("rm", "/run/libvirt/qemu/g2.xml")
    assert repaired(hooks, *names) == ["transaction"]
    assert hooks.chains() == ["v1a", "v1b", "v3a", "v3b"]


@pytest.mark.parametrize("ending", ["rm /run/libvirt/qemu/g2.xml", "sed -i s/v2b/v9b/ /run/libvirt/qemu/g2.xml"])
def test_a_guest_that_ends_while_its_repair_waits_gets_nothing_back(hooks: Hooks, ending: str) -> None:
    names = [recorded(hooks, number) for number in range(1, 4)]
    hooks.box.ok("sh", "-c", "mkdir -p /run/libvirt-guestnet/reconnect; touch /run/libvirt-guestnet/lock")
    for name in names:
        hooks.box.ok("touch", f"/run/libvirt-guestnet/reconnect/{name}")
    # The repair has read the records when it waits for the lock.
    waiting = "until grep -q -- '-> FLOCK' /proc/locks; do sleep 0.05; done"
    script = f'"$@" & flock /run/libvirt-guestnet/lock sh -c "{waiting}; {ending}"; wait'
    hooks.box.ok("sh", "-c", script, "sh", "sh", "-c", *REPAIR, PRINTING)
    assert hooks.chains() == ["v1a", "v1b", "v3a", "v3b"]
    assert hooks.receipts() == sorted(
        ["62000001-0000-4000-8000-000000000001.json", "62000003-0000-4000-8000-000000000001.json"]
        + [f"{tap}.json" for tap in hooks.chains()]
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_networks_are_remembered_while_they_run(hooks: Hooks, version: str) -> None:
    hooks.replay(version, "net-lifecycle", "started", NETWORK)
    assert hooks.receipts() == ["bridges.json", "vlan1.json"]
    assert hooks.box.ok("stat", "-c", "%a", "/run/libvirt-guestnet", "/run/libvirt-guestnet/networks").split() == ["700", "700"]  # fmt: skip  # noqa: E501
    hooks.replay(version, "net-lifecycle", "stopped", NETWORK)
    assert hooks.receipts() == []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ((b"10.61.1.10", b"10.61.1.0/99"), "10.61.1.0/99"),
        ((b"<target dev='vnet0'/>", b"<target dev='a;b'/>"), "device name 'a;b' cannot be guarded"),
        ((b"<target dev='vnet0'/>", b""), "no <target dev> in the live XML"),
        ((b"type='bridge'", b"type='direct'"), "type 'direct' has no tap to guard"),
        ((b"<domain ", b"<!DOCTYPE d [<!ENTITY e 'x'>]><domain "), "DOCTYPE refused"),
        ((b"</domain>", b""), "XML cannot be read"),
    ],
)
def test_a_start_that_cannot_be_guarded_is_vetoed_with_one_line(
    hooks: Hooks, damage: tuple[bytes, bytes], message: str
) -> None:
    xml = with_metadata((DATA / "9.0.0/dom-start/003-qemu-guesta-start-begin.xml").read_bytes(), DOMAIN).replace(
        *damage
    )
    status, stderr = hooks.call("qemu", "guesta", "start", "begin", xml)
    assert status == 1
    assert stderr.count("\n") == 1
    assert message in stderr
    assert hooks.chains() == []


@pytest.mark.parametrize(
    "damage",
    [
        "nft delete table netdev guestnet",
        "nft flush ruleset",
        "nft flush set netdev guestnet icmp-types; echo of an older version >/run/libvirt-guestnet/shared",
        "nft flush chain netdev guestnet plain4; rm /run/libvirt-guestnet/shared",
    ],
)
def test_what_all_ports_share_is_there_after_any_start(hooks: Hooks, damage: str) -> None:
    recorded(hooks, 1)
    assert hooks.call("qemu", "guesta", "start", "begin", START) == (0, "")
    shared = _shared(hooks)
    assert len(shared) > 20
    hooks.box.ok("sh", "-c", damage)
    assert hooks.call("qemu", "g1", "start", "begin", numbered(1)) == (0, "")
    assert _shared(hooks) == shared
    assert {"v1a", "v1b"} <= set(hooks.chains())


def test_a_start_without_nft_is_vetoed(hooks: Hooks) -> None:
    hooks.box.ok("mount", "--bind", "/dev/null", _real(hooks, "nft"))
    ((status, stderr),) = hooks.replay("9.0.0", "dom-start", "guesta-start-", DOMAIN)
    assert status == 1
    assert stderr.startswith("libvirt-guestnet: qemu guesta start: ")


def _real(hooks: Hooks, program: str) -> str:
    return hooks.box.ok("readlink", "-f", f"/usr/sbin/{program}").strip()


LOGGER = '#!/bin/sh\necho "$*" >>/run/logged\n'


@pytest.mark.parametrize(
    ("library", "python", "said"),
    [
        ("/nonexistent", sys.executable, "its library is gone"),
        ("", "/nonexistent", "its library is gone"),
        # What `[ -x ]` passes and exec refuses, as with what AppArmor forbids: EACCES, then ENOENT.
        ("", "/usr", "its Python cannot be run (exit 126)"),
        ("", "/run/python", "its Python cannot be run (exit 127)"),
    ],
)
@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_a_missing_library_or_python_stops_only_guests_that_need_it(
    hooks: Hooks, shell: str, library: str, python: str, said: str
) -> None:
    _write_over(hooks, "/usr/bin/logger", LOGGER)
    hooks.box.ok("sh", "-c", "echo '#!/nonexistent' >/run/python && chmod 755 /run/python")
    for hook in hook_files.HOOKS:
        path = hooks.root / f"etc/libvirt/hooks/{hook}.d/50-guestnet"
        text = path.read_text().replace(sys.executable, python).replace("#!/bin/sh", f"#!{shell}")
        path.write_text(text.replace(str(Path(hook_files.__file__).parents[2]), library) if library else text)
    assert [status for status, _ in hooks.replay("9.0.0", "dom-start", "guesta-start-")] == [0]
    ((status, stderr),) = hooks.replay("9.0.0", "dom-start", "guesta-start-", DOMAIN)
    assert (status, f"libvirt-guestnet: {said}" in stderr) == (1, True)
    assert [call[0] for call in hooks.replay("9.0.0", "dom-start", "port-created")] == [0]
    ports = hooks.replay("9.0.0", "dom-start", "port-created", NETWORK)
    assert [(status, said in stderr) for status, stderr in ports] == [(1, True)], ports
    qemu = str(hooks.root / "etc/libvirt/hooks/qemu.d/50-guestnet")
    hooks.box.ok(qemu, "guesta", "reconnect", "begin", "-")
    logged = hooks.box.ok("sh", "-c", "until grep -q reconnect /run/logged; do sleep 0.1; done; cat /run/logged")
    assert f"-- qemu guesta start: {said}" in logged
    assert f"-- qemu guesta reconnect: {said}" in logged


def _write_over(hooks: Hooks, path: str, text: str) -> None:
    """A program that is another one inside of the box."""
    hooks.box.run("tee", "/run/instead", stdin=text.encode())
    hooks.box.ok("chmod", "755", "/run/instead")
    hooks.box.ok("mount", "--bind", "/run/instead", path)


def test_a_reused_tap_name_belongs_to_its_new_owner(hooks: Hooks) -> None:
    xml = with_metadata((DATA / "9.0.0/dom-start/003-qemu-guesta-start-begin.xml").read_bytes(), DOMAIN)
    assert hooks.call("qemu", "guesta", "start", "begin", xml) == (0, "")
    other = xml.replace(b"61000001-", b"61000009-").replace(b"<name>guesta<", b"<name>other<")
    for tap in ("vnet0", "vnet1"):
        hooks.box.ok("ip", "link", "del", tap)
        hooks.box.ok("ip", "tuntap", "add", tap, "mode", "tap")
    assert hooks.call("qemu", "other", "start", "begin", other) == (0, "")
    # The late release of the old owner must not open the new owner's port.
    assert hooks.call("qemu", "guesta", "release", "end", xml) == (0, "")
    assert hooks.chains() == ["vnet0", "vnet1"]
    assert hooks.call("qemu", "other", "release", "end", other) == (0, "")
    assert (hooks.chains(), hooks.receipts()) == ([], [])


def test_a_port_that_learns_no_more_forgets(hooks: Hooks) -> None:
    hooks.replay("9.0.0", "dom-start", "port-created", NETWORK)
    hooks.replay("9.0.0", "dom-start", "guesta-start-")
    assert {"leases-vnet1", "learnt4-vnet1"} <= set(re.findall(r"(?:chain|set) (\S+)", "".join(own_table(hooks))))
    hooks.replay("9.0.0", "dom-start", "guesta-start-", DOMAIN)
    assert "learnt" not in "".join(own_table(hooks))
    # What it is given all the same is counted, as long as the server is there.
    assert "leases-vnet1" in "".join(own_table(hooks))


def test_a_port_that_is_guarded_no_more_loses_its_chain(hooks: Hooks) -> None:
    hooks.replay("9.0.0", "dom-start", "guesta-start-", DOMAIN)
    relaxed = DOMAIN.replace(f'mac="{A1}"', f'mac="{A1}" guarded="no"')
    assert hooks.replay("9.0.0", "dom-start", "guesta-start-", relaxed) == [(0, "")]
    assert hooks.chains() == ["vnet1"]
    assert hooks.receipts() == ["61000001-0000-4000-8000-000000000001.json", "vnet1.json"]


def test_an_unplugged_nic_loses_its_chain_once_its_tap_is_gone(hooks: Hooks) -> None:
    xml = with_metadata((DATA / "9.0.0/dom-start/003-qemu-guesta-start-begin.xml").read_bytes(), DOMAIN)
    hooks.call("qemu", "guesta", "start", "begin", xml)
    portid = xml.decode().split("portid='")[1].split("'")[0]
    uuid = "61000001-0000-4000-8000-000000000001"
    gone = (
        f"<hookData><network><name>vlan1</name></network><networkport><uuid>{portid}</uuid>"
        f"<owner><uuid>{uuid}</uuid></owner></networkport></hookData>"
    ).encode()
    assert hooks.call("network", "vlan1", "port-deleted", "begin", gone) == (0, "")
    assert hooks.chains() == ["vnet0", "vnet1"], "the tap is still there: its NIC only moved"
    hooks.box.ok("ip", "link", "del", "vnet1")
    assert hooks.call("network", "vlan1", "port-deleted", "begin", gone) == (0, "")
    assert hooks.chains() == ["vnet0"]
