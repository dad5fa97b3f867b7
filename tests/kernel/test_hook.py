"""The installed hook files, fed with what real libvirt daemons sent, against a real kernel."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from box import Box

from libvirt_guestnet import install

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

# The process that `reconnect` leaves behind has done its work.
REPAIRED = """
until [ -z "$(ls /run/libvirt-guestnet/reconnect)" ]; do sleep 0.01; done
flock -w 20 /run/libvirt-guestnet/reconnect.lock true
"""


class Hooks:
    """The hook files as `guestnet hooks install` writes them, called as libvirt calls them."""

    def __init__(self, box: Box, root: Path) -> None:
        self.box, self.root = box, root
        install.install(root, any_owner=True)

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
        keep = 'mkdir -p /run/libvirt/qemu && (echo "<status>"; cat; echo "</status>") >"/run/libvirt/qemu/$0.xml"'
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
    assert "ip saddr @learnt4-vnet1 jump" in allowed
    told = hooks.box.ok("nft", "list", "chain", "netdev", "guestnet", "told-vnet1")
    assert "ip saddr 10.61.1.1 udp sport 67" in told
    assert "timeout 1h" in told
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
from libvirt_guestnet.hook import log, repair
log.complain = print
sys.exit(repair.main())
"""


def repaired(hooks: Hooks, **spool: bytes) -> str:
    """What the repair of these guests complains about."""
    for name, xml in spool.items():
        keep = "mkdir -p /run/libvirt-guestnet/reconnect && cat >/run/libvirt-guestnet/reconnect/$0"
        assert hooks.box.run("sh", "-c", keep, name, stdin=xml).returncode == 0
    argv = ["sh", "-c", 'exec 9>/run/libvirt-guestnet/reconnect.lock; exec "$@"', "sh", sys.executable, "-IS", "-c"]
    assert hooks.box.ok("sh", "-c", "ls /run/libvirt-guestnet/reconnect") != ""
    done = hooks.box.ok(*argv, PRINTING)
    assert hooks.box.ok("ls", "/run/libvirt-guestnet/reconnect") == ""
    return done


def test_one_guest_that_cannot_be_repaired_does_not_keep_the_others(hooks: Hooks) -> None:
    other = START.replace(b"61000001-", b"61000009-").replace(b">guesta<", b">other<").replace(b"10.61.1", b"bad")
    hooks.record("guesta", START)
    hooks.record("other", other)
    cut = START[: len(START) // 2]
    hooks.box.ok("mkdir", "-p", "/run/libvirt-guestnet/reconnect")
    complaints = repaired(hooks, a=other, b=START, c=cut)
    assert "'bad" in complaints
    assert "no element found" in complaints
    assert complaints.count("\n") == 2
    assert hooks.chains() == ["vnet0", "vnet1"]


def test_a_guest_that_ended_before_its_repair_gets_nothing_back(hooks: Hooks) -> None:
    assert repaired(hooks, a=START) == ""
    hooks.record("guesta", START.replace(b"vnet1", b"vnet7"))
    assert repaired(hooks, a=START) == ""
    assert (hooks.chains(), hooks.receipts()) == ([], [])


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


def test_a_start_without_nft_is_vetoed(hooks: Hooks) -> None:
    hooks.box.ok("mount", "--bind", "/dev/null", _real(hooks, "nft"))
    ((status, stderr),) = hooks.replay("9.0.0", "dom-start", "guesta-start-", DOMAIN)
    assert status == 1
    assert stderr.startswith("libvirt-guestnet: qemu guesta start: ")


def _real(hooks: Hooks, program: str) -> str:
    return hooks.box.ok("readlink", "-f", f"/usr/sbin/{program}").strip()


def test_a_missing_library_stops_only_guests_that_need_it(hooks: Hooks) -> None:
    for hook in install.HOOKS:
        path = hooks.root / f"etc/libvirt/hooks/{hook}.d/50-guestnet"
        library = str(Path(install.__file__).parent.parent)
        path.write_text(path.read_text().replace(library, "/nonexistent"))
    assert hooks.replay("9.0.0", "dom-start", "guesta-start-") == [(0, "")]
    ((status, stderr),) = hooks.replay("9.0.0", "dom-start", "guesta-start-", DOMAIN)
    assert status == 1
    assert "libvirt-guestnet: its library is gone" in stderr


def test_a_reused_tap_name_belongs_to_its_new_owner(hooks: Hooks) -> None:
    xml = _ours((DATA / "9.0.0/dom-start/003-qemu-guesta-start-begin.xml").read_bytes(), DOMAIN)
    assert hooks.call("qemu", "guesta", "start", "begin", xml) == (0, "")
    other = xml.replace(b"61000001-", b"61000009-").replace(b"<name>guesta<", b"<name>other<")
    assert hooks.call("qemu", "other", "start", "begin", other) == (0, "")
    # The late release of the old owner must not open the new owner's port.
    assert hooks.call("qemu", "guesta", "release", "end", xml) == (0, "")
    assert hooks.chains() == ["vnet0", "vnet1"]
    assert hooks.call("qemu", "other", "release", "end", other) == (0, "")
    assert (hooks.chains(), hooks.receipts()) == ([], [])


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
