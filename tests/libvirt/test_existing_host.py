"""The host that somebody has already, made by hand: what the README's first page says, and all that follows from it,
while its guests speak all the time. In the end nothing is left."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.adopted_host import DEFAULT, DOCKER, GATEWAY, METADATA, Host, leased
from support.libvirt_stack import Stack
from support.libvirt_wire import Wire
from support.sandboxes import LIBVIRTS, WITHOUT_NODEDEV, root_of

from libvirt_guestnet import sandbox as sandboxes

README = Path(__file__).parents[2] / "README.md"
NIC = """<interface type='{0}'><mac address='{1}'/><source {0}='{2}'/><model type='rtl8139'/><rom enabled='no'/>
</interface>"""
# Domains with the network or bridge of each NIC; the last one has no metadata of anybody's.
GUESTS = {"web": ("default",), "db": ("default", "br0"), "mail": ("default",), "proxy": ("br0",), "old": ("br0",)}
MACS = {(name, on): f"52:54:00:aa:{n:02}:{len(on):02}" for n, name in enumerate(GUESTS) for on in GUESTS[name]}
LAN, FORWARD = "10.61.8.0/24", "forwards: [{ services: [tcp/8080], to: 80 }]"


def nic(name: str, on: str) -> str:
    return NIC.format("network" if on == "default" else "bridge", MACS[name, on], on)


@pytest.fixture(scope="module", params=LIBVIRTS)
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """Without hooks. libvirt's daemon has been restarted before, which changes what it says of running guests, once."""
    name = f"existing-{request.param.replace('.', '')}-{os.getpid()}"
    with sandboxes.start(name, root=root_of(request), prepare=[WITHOUT_NODEDEV]) as sandbox:
        made = Host(sandbox)
        sandbox.run(["sh", "-c", "ip link add br0 up type bridge; ip address add 10.61.8.1/24 dev br0"])
        made.define("net-define", DEFAULT)
        made.virsh("net-start", "default")
        sandbox.run(["iptables-restore", "--noflush"], stdin=DOCKER)
        for number, (guest, networks) in enumerate(GUESTS.items()):
            metadata = METADATA if guest != "old" else ""
            made.domain(guest, *(nic(guest, on) for on in networks), number=number, metadata=metadata)
            made.virsh("start", guest)
        made.restart_daemon()
        yield made


def install_hooks(host: Host, *words: str) -> None:
    """And does what it then says."""
    said = host.guestnet(*words, "--any-owner")  # a checkout may be anybody's
    if "once, and guests go on: systemctl restart libvirtd" in said:
        host.restart_daemon()
        host.soon(lambda: set(GUESTS) <= set(host.running()), "libvirt is back")
    assert "restart" not in host.guestnet(*words, "--any-owner")


def rules(host: Host) -> list[str]:
    """Those of everybody, without counters, and whose tables there are."""
    saved = host.sandbox.run(["sh", "-c", "iptables-save; ip6tables-save"]).stdout
    tables = host.sandbox.run(["nft", "list", "tables"]).stdout
    return [re.sub(r"\[\d+:\d+\]", "", line) for line in (saved + tables).splitlines() if not line.startswith("#")]


def left(host: Host) -> list[str]:
    """Our files, but for locks and the number of the folder's form."""
    found = host.sandbox.run(
        ["find", "/run/libvirt-guestnet", "/etc/libvirt/hooks", "/etc/systemd/network", "-type", "f"], check=False
    ).stdout.split()
    return [path for path in found if not path.endswith(("lock", "/format"))]


def lost(host: Host, before: dict[str, str]) -> list[str]:
    """The differences, but for the one that docs/existing-hosts.md tells of: libvirt 9.0 keeps an empty <metadata/> in
    a running domain that had none."""
    return [each for each in host.differences(before) if each != "domain old live: +  <metadata/>"]


def ports(host: Host, status: int = 0) -> dict[str, str]:
    """The state of every NIC, by MAC address."""
    rows = json.loads(host.guestnet("status", "--json", status=status))
    return {row["mac"]: row["state"] for row in rows if row["kind"] == "port"}


def first_page() -> list[list[str]]:
    """The README's commands, as they are there."""
    section = README.read_text().partition("\n## The host you already have\n")[2].partition("\n## ")[0]
    return [shlex.split(line, comments=True) for line in section.splitlines() if line.startswith("    ")]


def test_the_four_commands_of_the_readme(host: Host) -> None:
    commands = first_page()
    assert len(commands) == 4
    assert {words[0] for words in commands} == {"guestnet"}
    install, imported, apply, suggest = (words[1:] for words in commands)
    install_hooks(host, *install)
    before, theirs = host.texts(), rules(host)
    try:
        assert "2 networks, 5 guests, 6 ports; 0 things left out" in host.guestnet(*imported)
        assert host.differences(before) == [], "it changes nothing"
        host.guestnet(*apply)
        assert ports(host) == dict.fromkeys(MACS.values(), "observed")
        said = host.guestnet(*suggest)
        assert all(f"{name}.{on}" in said for name, on in MACS)
        assert "nothing to do" in host.guestnet("plan", *apply[1:])
    finally:
        host.guestnet("destroy", "--name", "imported", status=None)
        host.sandbox.run(["rm", "-f", *apply[1:]])
    assert lost(host, before) == []
    assert rules(host) == theirs


def streams(host: Host, stack: ExitStack) -> None:
    """Guests ping the host from the network and from the bridge, and hold a TCP connection with each other."""
    wires = {on: stack.enter_context(Wire(host.sandbox, *on)) for on in (("web", "net0"), ("mail", "net0"))}
    macs = {on: MACS[on[0], "default"] for on in wires}
    ips = {on: leased(wire, macs[on]) for on, wire in wires.items()}
    web, mail = wires
    lan = stack.enter_context(Wire(host.sandbox, "db", "net1"))
    stack.enter_context(Stack(lan, MACS["db", "br0"], "10.61.8.5", LAN, "ping", "10.61.8.1"))
    db = stack.enter_context(Wire(host.sandbox, "db", "net0"))
    ip = leased(db, MACS["db", "default"])
    stack.enter_context(Stack(db, MACS["db", "default"], ip, "192.168.122.0/24", "ping", GATEWAY))
    stack.enter_context(Stack(wires[mail], macs[mail], ips[mail], "192.168.122.0/24", "echo"))
    stack.enter_context(Stack(wires[web], macs[web], ips[web], "192.168.122.0/24", "talk", ips[mail]))


def completed(host: Host, text: str) -> str:
    """What a person makes of the file by what `suggest` says: nobody has heard of these, and one gets a forward."""
    unknown = [row for row in json.loads(host.guestnet("suggest", "--json")) if row["unknown"]]
    assert {row["guest"] for row in unknown} == {"proxy", "old"}
    for row in unknown:
        line = f'        mac: "{MACS[row["guest"], "br0"]}"\n'
        assert text.count(line) == 1
        text = text.replace(line, f"{line}        addresses: any\n")
    line = f'        mac: "{MACS["web", "default"]}"\n'
    text = text.replace(line, f"{line}        addresses: dhcp\n        {FORWARD}\n")
    return text.replace("guarded: observe", "guarded: true")


def test_from_import_to_destroy_no_packet_is_lost_and_nothing_is_left(host: Host) -> None:
    install_hooks(host, "hooks", "install")
    before, theirs = host.texts(), rules(host)
    with ExitStack() as stack:
        stack.callback(host.guestnet, "destroy", "--name", "imported", status=None)
        stack.callback(host.guestnet, "destroy", "--name", "direct", status=None)
        with ExitStack() as speaking:
            streams(host, speaking)
            text = host.guestnet("import").rpartition("imported: ")[0]  # the rest is for a person
            assert "10.61.8.5  # in the kernel's neighbour table" in text
            planned = host.guestnet("plan", "/tmp/mine.yaml", topology=text, status=3)
            assert {line.split()[0] for line in planned.splitlines()} <= {"adopt", "set", "note:"}, planned
            assert host.differences(before) == []
            host.guestnet("apply", "/tmp/mine.yaml", topology=text)
            assert "nothing to do" in host.guestnet("plan", "/tmp/mine.yaml", topology=text)
            assert ports(host) == dict.fromkeys(MACS.values(), "observed")
            text = completed(host, text)
            host.guestnet("apply", "/tmp/mine.yaml", topology=text)
            assert ports(host) == dict.fromkeys(MACS.values(), "guarded")
            assert re.search(r"8080 .*:80", host.guestnet("status"))
            host.guestnet("destroy", "/tmp/mine.yaml", topology=text)
            assert ports(host) == dict.fromkeys(MACS.values(), "unguarded")
            # The same without a file.
            host.guestnet("guard", "observe", "default")
            host.guestnet("guard", "on", "web")
            host.guestnet("forward", "add", "mail", "tcp/8080:80")
            states = {on: "observed" if on[1] == "default" else "unguarded" for on in MACS}
            states["web", "default"] = "guarded"
            assert ports(host) == {MACS[on]: state for on, state in states.items()}
            assert "mail.default: tcp/8080" in host.guestnet("forward", "list")
            host.guestnet("destroy", "--name", "direct")
    assert lost(host, before) == []
    assert rules(host) == theirs
    assert [path for path in left(host) if path.startswith("/run")] == []
    host.guestnet("hooks", "uninstall")
    assert left(host) == []
