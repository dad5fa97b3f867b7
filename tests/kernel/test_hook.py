"""The installed hook files, fed with what real libvirt daemons sent, against a real kernel."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.box import Box

from libvirt_guestnet.datapath.port import filters
from libvirt_guestnet.install import hook_files

DATA = Path(__file__).parent.parent / "data/hooks"
VERSIONS = ("9.0.0", "11.3.0")
A1, A2 = "52:54:00:61:0a:0b", "52:54:00:61:0a:01"
NS = 'xmlns:guestnet="https://libvirt-guestnet.org/xmlns/1"'
DOMAIN = f"""<guestnet:domain {NS} topology="t" guest="a">
  <guestnet:port mac="{A1}" name="lan1" network="lan1"><guestnet:address ip="10.61.11.10"/></guestnet:port>
  <guestnet:port mac="{A2}" name="vlan1" network="vlan1"><guestnet:address ip="10.61.1.10"/></guestnet:port>
</guestnet:domain>"""
NETWORK = f"""<guestnet:network {NS} topology="t" name="vlan1"><guestnet:subnet prefix="10.61.1.0/24"/>
</guestnet:network>"""

# What starts leave behind, a moment later, has done its work.
SETTLED = "while ls /run/libvirt-guestnet/settling/* >/dev/null 2>&1; do sleep 0.02; done"
# The process that `reconnect` leaves behind has done its work.
REPAIRED = """
until [ -z "$(ls /run/libvirt-guestnet/reconnect)" ]; do sleep 0.01; done
flock -w 20 /run/libvirt-guestnet/reconnect.lock true
"""


class Hooks:
    """The hook files as `guestnet hooks install` writes them, called as libvirt calls them."""

    def __init__(self, box: Box, root: Path) -> None:
        self.box, self.root = box, root
        hook_files.install(root, any_owner=True)

    def call(self, hook: str, name: str, operation: str, sub: str, stdin: bytes) -> tuple[int, str]:
        path = str(self.root / f"etc/libvirt/hooks/{hook}.d/50-guestnet")
        if operation == "reconnect":
            self.record(name, stdin)
        done = self.box.run("env", "-i", "LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", path, name, operation, sub, "-", stdin=stdin)  # fmt: skip  # noqa: E501
        if operation == "reconnect":
            self.box.ok("sh", "-c", REPAIRED)
        assert done.stdout == b"", "on restore and migrate, stdout replaces the domain's XML"
        return done.returncode, done.stderr.decode()

    def record(self, name: str, domain: bytes) -> None:
        """What libvirt keeps of a running domain."""
        keep = 'cd /run/libvirt/qemu && (echo "<status>"; cat; echo "</status>") >"$0.new" && mv "$0.new" "$0.xml"'
        self.box.ok("mkdir", "-p", "/run/libvirt/qemu")
        assert self.box.run("sh", "-c", keep, name, stdin=domain).returncode == 0

    def replay(self, version: str, scenario: str, pick: str, metadata: str | None = None) -> list[tuple[int, str]]:
        """Calls the hooks with every file of a scenario whose name contains `pick`, in order."""
        results = []
        for file in sorted((DATA / version / scenario).glob(f"*{pick}*.xml")):
            _, hook, name, operation, sub = file.stem.split("-", 4) if "port-" not in file.stem else _port_call(file)
            xml = file.read_bytes() if metadata is None else _ours(file.read_bytes(), metadata)
            results.append(self.call(hook, name, operation, sub, xml))
        assert results, f"no call {pick} in {scenario}"
        return results

    def chains(self) -> list[str]:
        items = json.loads(self.box.ok("nft", "-j", "list", "chains"))["nftables"]
        names = [item["chain"]["name"] for item in items if "chain" in item]
        return sorted(name.removeprefix("tap-") for name in names if name.startswith("tap-"))

    def receipts(self) -> list[str]:
        listed = self.box.run("find", "/run/libvirt-guestnet", "-name", "*.json").stdout.decode().split()
        return sorted(Path(path).name for path in listed)


def _port_call(file: Path) -> tuple[str, str, str, str, str]:
    number, hook, name, port, operation, sub = file.stem.split("-")
    return number, hook, name, f"{port}-{operation}", sub


def _ours(xml: bytes, metadata: str) -> bytes:
    head, _, rest = xml.decode().partition("<metadata>")
    _, _, tail = rest.partition("</metadata>")
    return f"{head}<metadata>{metadata}</metadata>{tail}".encode()


START = _ours((DATA / "9.0.0/dom-start/003-qemu-guesta-start-begin.xml").read_bytes(), DOMAIN)


@pytest.fixture
def box() -> Iterator[Box]:
    box = Box()
    for tap in ("vnet0", "vnet1"):
        box.ok("ip", "tuntap", "add", tap, "mode", "tap")
    yield box
    box.close()


@pytest.fixture
def hooks(box: Box, tmp_path: Path) -> Hooks:
    return Hooks(box, tmp_path)


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
    metadata = DOMAIN.replace(A1, _mac(xml, 0)).replace(A2, _mac(xml, 1))
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


PRINTING = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from libvirt_guestnet.datapath.run import nft, program
from libvirt_guestnet import log
from libvirt_guestnet.hook.calls import repair
log.complain = print
run = program.run
def counted(argv, stdin, *more):
    if argv == ["nft", "-f", "-"]:
        print("transaction")
    return run(argv, stdin, *more)
program.run = counted
sys.exit(repair.main())
"""
# What a killed one leaves behind, a fork of it perhaps, may have the lock for a moment.
REPAIR = 'exec 9>/run/libvirt-guestnet/reconnect.lock; flock -w 60 9; exec "$@"', "sh", sys.executable, "-IS", "-c"


def repaired(hooks: Hooks, *names: str) -> list[str]:
    """What the repair of these guests complains about, and its transactions."""
    hooks.box.ok("mkdir", "-p", "/run/libvirt-guestnet/reconnect")
    for name in names:
        hooks.box.ok("touch", f"/run/libvirt-guestnet/reconnect/{name}")
    done = hooks.box.ok("sh", "-c", *REPAIR, PRINTING)
    assert hooks.box.ok("ls", "/run/libvirt-guestnet/reconnect") == ""
    return done.splitlines()


def recorded(hooks: Hooks, number: int) -> str:
    """A running guest of that number, with its taps, of which the hooks have not heard yet."""
    for tap in (f"v{number}a", f"v{number}b"):
        hooks.box.run("ip", "tuntap", "add", tap, "mode", "tap")
    hooks.record(f"g{number}", _numbered(number))
    return f"g{number}"


def _numbered(number: int) -> bytes:
    xml = START.replace(b"61000001-", b"6200%04d-" % number).replace(b"<name>guesta<", b"<name>g%d<" % number)
    xml = xml.replace(b"vnet0", b"v%da" % number).replace(b"vnet1", b"v%db" % number)
    return xml.replace(b"52:54:00:61:0a", b"52:54:00:61:%02x" % number)


def _shared(hooks: Hooks) -> list[str]:
    """What of our table is the same for all ports."""
    names = set(re.findall(r"^add (?:chain|set) netdev guestnet (\S+)", filters.shared(), re.M))
    found = [each for each in _table(hooks) if each.split()[1] in names]
    assert len(found) == len(names)
    return found


def _table(hooks: Hooks) -> list[str]:
    """Every set and chain of our table, but for counters."""
    listed = hooks.box.run("nft", "-s", "list", "table", "netdev", "guestnet").stdout.decode()
    return sorted(re.findall(r"^\t(?:chain|set) .*?^\t}$", listed, re.M | re.S))


def test_one_guest_that_cannot_be_repaired_does_not_keep_the_others(hooks: Hooks) -> None:
    names = [recorded(hooks, number) for number in range(1, 6)]
    hooks.record("g2", _numbered(2).replace(b"10.61.1", b"bad"))
    hooks.record("g4", _numbered(4)[:900])
    done = repaired(hooks, *names)
    complaints = [line for line in done if line != "transaction"]
    assert len(complaints) == 2
    assert "guest g2 is not repaired after the daemon's restart: metadata: <guestnet:address> ip: 'bad" in complaints[0]
    assert "guest g4 is not repaired after the daemon's restart: XML cannot be read" in complaints[1]
    assert hooks.chains() == ["v1a", "v1b", "v3a", "v3b", "v5a", "v5b"]


def test_all_guests_are_repaired_in_one_transaction(hooks: Hooks) -> None:
    names = [recorded(hooks, number) for number in range(1, 6)]
    assert repaired(hooks, *names) == ["transaction"]
    whole = _table(hooks)
    assert len(hooks.chains()) == 10
    assert repaired(hooks, *names) == ["transaction"]
    assert _table(hooks) == whole


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
    whole = _table(hooks)
    hooks.box.ok("nft", damage)
    assert _table(hooks) != whole
    assert repaired(hooks, *names) == ["transaction"]
    assert _table(hooks) == whole


def test_a_changed_policy_counts_after_the_repair(hooks: Hooks) -> None:
    names = [recorded(hooks, number) for number in range(1, 4)]
    repaired(hooks, *names)
    hooks.record("g2", _numbered(2).replace(b"10.61.11.10", b"10.61.11.77"))
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
    hooks.record("g1", _numbered(1).replace(b"v1b", b"new"))
    hooks.record("g3", _numbered(3).replace(b"v3b", b"v1b"))
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


def _mac(xml: bytes, index: int) -> str:
    return xml.decode().split("<mac address='")[index + 1].split("'")[0]


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
    xml = _ours((DATA / "9.0.0/dom-start/003-qemu-guesta-start-begin.xml").read_bytes(), DOMAIN).replace(*damage)
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
    assert hooks.call("qemu", "g1", "start", "begin", _numbered(1)) == (0, "")
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
    xml = _ours((DATA / "9.0.0/dom-start/003-qemu-guesta-start-begin.xml").read_bytes(), DOMAIN)
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
    assert {"leases-vnet1", "learnt4-vnet1"} <= set(re.findall(r"(?:chain|set) (\S+)", "".join(_table(hooks))))
    hooks.replay("9.0.0", "dom-start", "guesta-start-", DOMAIN)
    assert "learnt" not in "".join(_table(hooks))
    # What it is given all the same is counted, as long as the server is there.
    assert "leases-vnet1" in "".join(_table(hooks))


def test_a_port_that_is_guarded_no_more_loses_its_chain(hooks: Hooks) -> None:
    hooks.replay("9.0.0", "dom-start", "guesta-start-", DOMAIN)
    relaxed = DOMAIN.replace(f'mac="{A1}"', f'mac="{A1}" guarded="no"')
    assert hooks.replay("9.0.0", "dom-start", "guesta-start-", relaxed) == [(0, "")]
    assert hooks.chains() == ["vnet1"]
    assert hooks.receipts() == ["61000001-0000-4000-8000-000000000001.json", "vnet1.json"]


def test_an_unplugged_nic_loses_its_chain_once_its_tap_is_gone(hooks: Hooks) -> None:
    xml = _ours((DATA / "9.0.0/dom-start/003-qemu-guesta-start-begin.xml").read_bytes(), DOMAIN)
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
