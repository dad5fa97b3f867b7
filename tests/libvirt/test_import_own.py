"""Networks on a real libvirtd that become guestnet's own: public ones as people wrote them, and one with guests on it,
while these speak."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from lxml import etree
from support.adopted_host import OTHER, WEB, Flow, Host, leased, two_on_default, wires

from libvirt_guestnet.sandbox import Sandbox

FOLDER = Path(__file__).parents[1] / "data/networks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
RESERVED = f"<host mac='{WEB}' ip='192.168.122.50'/>"


@pytest.fixture(scope="module")
def sandbox(each_sandbox: Sandbox) -> Sandbox:
    each_sandbox.run(["mkdir", "-p", "/run/tftpboot"])  # the host's own folders are not the sandbox's to write to
    return each_sandbox


@pytest.fixture
def host(sandbox: Sandbox) -> Iterator[Host]:
    made = Host(sandbox)
    yield made
    made.guestnet("destroy", "--name", "mine", "--allow-interrupt", status=None)
    made.clear()


def own(host: Host, name: str) -> str:
    """The file of a network alone, as `import` writes it."""
    return host.guestnet("import", "--own", "--name", "mine", name).rpartition("imported: ")[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_public_network_that_runs_is_taken_over(host: Host, name: str) -> None:
    found = (FOLDER / f"{name}.found.xml").read_text().replace("/var/lib/tftpboot", "/run/tftpboot")
    root = etree.fromstring(found.encode())
    forward = root.find("forward")
    network, outside = root.findtext("name") or "", "" if forward is None else forward.get("dev", "")
    mapped = ("--map", f"{outside}={outside}") if outside else ()
    if outside:
        host.sandbox.run(["ip", "link", "add", outside, "type", "veth", "peer", "name", f"{outside}-out"])
    host.define("net-define", found)
    host.virsh("net-start", network)
    text = own(host, network)
    server = server_of(host, network)
    said = host.guestnet("apply", "/tmp/mine.yaml", *mapped, topology=text)
    # What it says in other words than guestnet would, libvirt could change in no network that runs: it stays.
    assert f"take over network {network}: from now on it is guestnet's own" in said
    assert "restart" not in said
    assert server_of(host, network) == server
    assert host.guestnet("plan", "/tmp/mine.yaml", *mapped, topology=text) == "nothing to do\n"
    host.guestnet("destroy", "/tmp/mine.yaml", topology=text)
    assert network not in host.virsh("net-list", "--all", "--name").split()
    if outside:
        host.sandbox.run(["ip", "link", "del", outside])


def server_of(host: Host, network: str) -> str:
    """The process of its DHCP and DNS server, if it has one."""
    return host.sandbox.run(["cat", f"/run/libvirt/network/{network}.pid"], check=False).stdout


def test_guests_that_run_on_it_lose_no_frame_and_keep_their_nics(host: Host) -> None:
    two_on_default(host)
    host.virsh("net-update", "default", "add", "ip-dhcp-host", RESERVED, "--live", "--config")
    before, uuid = host.texts(), host.virsh("net-uuid", "default")
    sender, receiver = wires(host)
    with sender, receiver:
        ip = leased(sender, WEB)
        assert ip == "192.168.122.50"
        with Flow(sender, receiver, ip) as flow:
            text = own(host, "default")
            assert "2 guests" in host.guestnet("import", "--own", "web", status=0)
            said = host.guestnet("plan", "/tmp/mine.yaml", topology=text, status=3)
            assert "take over network default: from now on it is guestnet's own, and guestnet destroy removes" in said
            assert "interrupts" not in said
            assert host.differences(before) == [], "plan changes nothing"
            flow.mark("apply")
            host.guestnet("apply", "/tmp/mine.yaml", topology=text)
            assert host.macs() == {WEB, OTHER}
            assert_only_our_metadata_came(host, before)
            known = host.files("networks")["default"]
            assert (known["topology"], known.get("external", False), known["observed"]) == ("mine", False, True)
            assert "nothing to do" in host.guestnet("plan", "/tmp/mine.yaml", topology=text)
            guarded = text.replace("guarded: observe", "guarded: true")
            flow.mark("guarded")
            assert "restart" not in host.guestnet("apply", "/tmp/mine.yaml", topology=guarded)
            flow.forge()
            assert "nothing to do" in host.guestnet("plan", "/tmp/mine.yaml", topology=guarded)
        # libvirt tells hooks of the network without our word; by that, it loses frames itself (decision 17).
        another = "<host mac='52:54:00:aa:00:09' ip='192.168.122.99'/>"
        for verb in ("add", "delete"):
            host.virsh("net-update", "default", verb, "ip-dhcp-host", another, "--live", "--config")
        assert host.files("networks")["default"] == known | {"guarded": True, "observed": False}
        host.restart_daemon()
        host.soon(lambda: {"web", "other"} <= set(host.running()), "libvirt is back")
        assert "nothing to do" in host.guestnet("plan", "/tmp/mine.yaml", topology=guarded)
        assert host.virsh("net-uuid", "default") == uuid
    said = host.guestnet("destroy", "/tmp/mine.yaml", topology=guarded, status=1)
    assert re.search(r"remove network default \(interrupts other, web\)", said)
    assert host.macs() == {WEB, OTHER}, "nothing was changed"
    host.guestnet("destroy", "/tmp/mine.yaml", "--allow-interrupt", topology=guarded)
    assert host.guarded() == {}
    assert host.virsh("net-list", "--all", "--name").split() == []
    for name in ("web", "other"):
        assert host.virsh("dumpxml", "--inactive", name) == before[f"domain {name}"]


def assert_only_our_metadata_came(host: Host, before: dict[str, str]) -> None:
    new = [line.partition(": ")[2][1:].strip() for line in host.differences(before)]
    assert new
    assert [line for line in new if not re.fullmatch(r"</?(metadata|guestnet:\w+)\b.*>", line)] == []


def test_what_fails_on_the_way_gives_it_back_as_it_was(host: Host) -> None:
    """Nobody lacks a frame by that either: the bridge had been closed to who has no guard."""
    two_on_default(host)
    host.sandbox.run(["sh", "-c", "ip link add busy0 up type bridge; ip address add 10.61.9.1/24 dev busy0"])
    before = host.texts()
    text = own(host, "default").replace("guarded: observe", "guarded: true")
    sender, receiver = wires(host)
    with sender, receiver:
        ip = leased(sender, WEB)
        with Flow(sender, receiver, ip):
            # libvirt refuses to start a network whose addresses the host has on another device.
            more = "  more: { mode: nat, subnets: [10.61.9.0/24] }\n\nguests:"
            said = host.guestnet("apply", "/tmp/mine.yaml", topology=text.replace("\nguests:", more), status=1)
            assert "take over network default" in said
            assert "rolled back: everything is as before" in said, said
            assert (host.guarded(), host.files("networks")) == ({}, {})
    # Of a domain that had no metadata, libvirt 9.0 keeps an empty element until it is off.
    assert [each for each in host.differences(before) if not each.endswith("+  <metadata/>")] == []
    host.sandbox.run(["ip", "link", "del", "busy0"])
