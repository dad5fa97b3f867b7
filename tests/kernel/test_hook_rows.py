"""Every row of the table of hook calls, with what real daemons of both versions sent for it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from box import Box
from test_hook import A1, A2, DATA, DOMAIN, NETWORK, VERSIONS, Hooks, _mac, _ours, _port_call

from libvirt_guestnet.hook.lifecycle import ARRIVALS, TABLE

NOTHING = sorted(row for row, (function, *_) in TABLE.items() if function is None)
# Migration was captured between two daemons of 9.0.0 only.
NOT_CAPTURED = {("11.3.0", "qemu", "migrate")}
ROWS = [(v, *row) for v in VERSIONS for row in sorted(TABLE) if (v, *row) not in NOT_CAPTURED]


@pytest.fixture
def hooks(tmp_path: Path) -> Iterator[Hooks]:
    box = Box()
    yield Hooks(box, tmp_path)
    box.close()


def captured(version: str, hook: str, operation: str) -> list[tuple[str, str, bytes]]:
    """(object, suboperation, stdin) of every captured call of a row, with metadata of ours."""
    found = []
    for file in sorted((DATA / version).glob(f"*/*-{hook}-*-{operation}-*.xml")):
        parts = _port_call(file) if "port-" in file.stem else file.stem.split("-", 4)
        xml = file.read_bytes()
        macs = [_mac(xml, index) for index in range(xml.count(b"<interface type"))]
        domain = DOMAIN.replace(A1, macs[0]).replace(A2, macs[-1]) if macs else DOMAIN
        found.append((parts[2], parts[4], _ours(xml, domain if hook == "qemu" else NETWORK)))
    return found


@pytest.mark.parametrize(("version", "hook", "operation"), ROWS)
def test_row(hooks: Hooks, version: str, hook: str, operation: str) -> None:
    calls = captured(version, hook, operation)
    assert calls, "no captured call"
    taps = {tap for *_, xml in calls for tap in re.findall(r"<target dev='([^']+)'/>", xml.decode())}
    for tap in taps:
        hooks.box.ok("ip", "tuntap", "add", tap, "mode", "tap")
    for name, sub, xml in calls:
        # `call` also checks that nothing is on stdout, which would replace a domain's XML.
        assert hooks.call(hook, name, operation, sub, xml) == (0, "")
        if (hook, operation) in NOTHING:
            assert hooks.box.run("ls", "/run/libvirt-guestnet").returncode != 0
            assert hooks.chains() == []


@pytest.mark.parametrize(("hook", "operation"), NOTHING)
def test_a_row_of_nothing_costs_a_shell(hooks: Hooks, hook: str, operation: str) -> None:
    path = hooks.root / f"etc/libvirt/hooks/{hook}.d/50-guestnet"
    path.write_text(path.read_text().replace("exec ", "exit 77; exec "))
    assert hooks.call(hook, "guesta", operation, "begin", DOMAIN.encode()) == (0, "")
    assert hooks.call(hook, "guesta", "start", "begin", DOMAIN.encode())[0] == 77


@pytest.mark.parametrize("version", VERSIONS)
def test_a_plugged_nic_is_guarded_when_its_tap_comes(hooks: Hooks, version: str) -> None:
    ((name, _, xml),) = [c for c in captured_in(version, "attach-iface-network") if c[1] == "port-created"]
    owner, uuid = re.findall(r"<owner>\s*<name>(.*?)</name>\s*<uuid>(.*?)</uuid>", xml.decode())[0]
    status = (
        f"<domstatus state='running'><domain><name>{owner}</name><uuid>{uuid}</uuid><devices/></domain></domstatus>"
    )
    hooks.box.ok("mkdir", "-p", "/run/libvirt/qemu")
    hooks.box.run("tee", f"/run/libvirt/qemu/{owner}.xml", stdin=status.encode())
    bridge = re.findall(r"<plug type='network' bridge='(.*?)'/>", xml.decode())[0]
    mac = re.findall(r"<mac address='(.*?)'/>\s*<plug", xml.decode())[0]
    hooks.box.ok("ip", "link", "add", bridge, "type", "bridge")
    assert hooks.call("network", name, "port-created", "begin", xml) == (0, "")
    assert hooks.chains() == []
    hooks.box.ok("ip", "tuntap", "add", "vnet7", "mode", "tap")
    hooks.box.ok("ip", "tuntap", "add", "vnet8", "mode", "tap")
    hooks.box.ok("ip", "link", "set", "vnet8", "master", bridge, "up")
    hooks.box.ok("ip", "link", "set", "vnet7", "address", f"fe{mac[2:]}", "master", bridge, "up")
    deadline, wanted = time.monotonic() + 5, [f"{uuid}.json", "bridges.json", f"{name}.json", "vnet7.json"]
    while (hooks.chains(), hooks.receipts()) != (["vnet7"], wanted):
        assert time.monotonic() < deadline, (hooks.chains(), hooks.receipts())


def captured_in(version: str, scenario: str) -> list[tuple[str, str, bytes]]:
    """(object, operation, stdin) of the network calls of one scenario, on a network of ours."""
    files = sorted((DATA / version / scenario).glob("*-network-*.xml"))
    return [(_port_call(file)[2], _port_call(file)[3], _ours(file.read_bytes(), NETWORK)) for file in files]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("scenario", ["update-link-down", "update-source-network", "update-source-bridge-type"])
def test_an_update_without_a_running_domain_leaves_no_helper(hooks: Hooks, version: str, scenario: str) -> None:
    """libvirt has no record of the domain (it starts, or the call is stray): there is nothing to wait for."""
    for name, operation, xml in captured_in(version, scenario):
        assert hooks.call("network", name, operation, "begin", xml) == (0, "")
    assert not [name for name in hooks.receipts() if name not in ("bridges.json", "vlan1.json", "vlan2.json")]


PORT = next((DATA / "9.0.0/dom-start").glob("*-port-created-begin.xml"))
NAME = PORT.stem.split("-")[2]


def port_created(hooks: Hooks, old: str = "", new: str = "") -> bool:
    """Whether a `port-created` call, with a text of its XML replaced, gets as far as Python."""
    path = hooks.root / "etc/libvirt/hooks/network.d/50-guestnet"
    path.write_text(path.read_text().replace("printf ", "exit 77; printf "))
    xml = _ours(PORT.read_bytes(), NETWORK).decode()
    assert old in xml
    status, _ = hooks.call("network", NAME, "port-created", "begin", xml.replace(old, new).encode())
    return {0: False, 77: True}[status]


def test_a_port_that_can_wait_costs_a_shell(hooks: Hooks) -> None:
    text = PORT.read_text().rpartition("<networkport>")[2]
    portid, owner = re.findall(r"<uuid>(.*?)</uuid>", text)[0], re.findall(r"<name>(.*?)</name>", text)[0]
    record, noted = f"/run/libvirt/network/{NAME}.xml", f"/run/libvirt-guestnet/networks/{NAME}.json"
    hooks.box.ok("mkdir", "-p", "/run/libvirt/network", "/run/libvirt/qemu", "/run/libvirt-guestnet/networks")
    hooks.box.ok("touch", "-d", "1 minute ago", noted)
    hooks.box.ok("touch", record)
    assert port_created(hooks), "the network may have changed"
    hooks.box.ok("touch", "-d", "1 hour ago", record)
    assert not port_created(hooks), "the domain starts"
    for odd in ("a&amp;b", "", "gäst"):
        assert port_created(hooks, f"<name>{owner}</name>", f"<name>{odd}</name>"), "which file is its record?"
    assert port_created(hooks, portid, "none")
    hooks.record(owner, b"<source portid='61000001-0000-4000-8000-00000000abcd'/>")
    assert port_created(hooks), "a NIC is plugged"
    hooks.record(owner, f"<source network='x' portid='{portid}'/>".encode())
    assert not port_created(hooks), "the daemon has restarted"
    decoy = "<x>\n<networkport>\n<uuid>none</uuid>\n<name>none</name>\n</networkport>\n</x></metadata>"
    assert not port_created(hooks, "</metadata>", decoy), "somebody's metadata is no port"
    hooks.box.ok("rm", noted)
    assert port_created(hooks), "nobody has told us of the network"
    assert not port_created(hooks, "libvirt-guestnet.org", "x.org"), "a plain network"


def test_the_shell_hands_on_what_it_has_read(hooks: Hooks) -> None:
    path = hooks.root / "etc/libvirt/hooks/network.d/50-guestnet"
    path.write_text(path.read_text().replace('printf %s "$xml" |', 'printf %s "$xml" >/run/handed-on; exit;'))
    xml = _ours(PORT.read_bytes(), f"<x>\n  back\\slash \\n % $HOME `ä`\t\n\n</x>{NETWORK}")
    for end in (b"", b"\n"):
        assert hooks.call("network", NAME, "port-created", "begin", xml.rstrip() + end) == (0, "")
        assert hooks.box.ok("cat", "/run/handed-on").encode() == xml.rstrip() + b"\n"


def test_a_guest_to_whom_nothing_leads_is_started_by_a_shell(hooks: Hooks) -> None:
    path = hooks.root / "etc/libvirt/hooks/qemu.d/50-guestnet"
    path.write_text(path.read_text().replace("printf ", "exit 77; printf "))
    assert hooks.call("qemu", "guesta", "started", "begin", DOMAIN.encode()) == (0, "")
    for word in ARRIVALS:
        assert hooks.call("qemu", "guesta", "started", "begin", f"{DOMAIN}<!-- {word} -->".encode()) == (77, "")
    hooks.box.ok("mkdir", "-p", "/run/libvirt-guestnet/ways")
    hooks.box.ok("touch", "/run/libvirt-guestnet/ways/vnet0.json")
    assert hooks.call("qemu", "guesta", "started", "begin", DOMAIN.encode()) == (77, "")
