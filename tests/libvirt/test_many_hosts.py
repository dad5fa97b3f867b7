"""One file on three libvirt hosts, each reached by a remote URI from the others: the same result from any of them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from scapy.all import IP, UDP, Ether, Raw  # type: ignore[attr-defined]
from support.adopted_host import Host
from support.libvirt_host import DOMAIN, uuid
from support.libvirt_many import LISTENING, UNDERLAYS, on_a_lan, uris
from support.libvirt_migration import migrate
from support.libvirt_wire import Wire
from support.sandboxes import install_hooks

from libvirt_guestnet import sandbox as sandboxes

Hosts = dict[str, Host]

WEB, DB = "52:54:00:61:00:01", "52:54:00:61:00:02"
TOPOLOGY = f"""
name: many
{uris()}
fabric: {{ kind: vxlan }}
physical-networks: {{ core: {{ subnets: [10.61.9.0/24] }} }}
networks:
  joined: {{ mode: bridge, subnets: [10.61.1.0/24], vxlan: {{ vni: 10, underlay: core }} }}
guests:
  web: {{ host: alpha, ports: [{{ network: joined, mac: "{WEB}", addresses: [10.61.1.11] }}] }}
  db: {{ ports: [{{ network: joined, mac: "{DB}", addresses: [10.61.1.12] }}] }}
"""
MORE = TOPOLOGY.replace("guests:", "  inside: { mode: isolated, subnets: [10.61.2.0/24] }\nguests:")
SECOND = TOPOLOGY.replace("guests:", "  second: { mode: bridge, vxlan: { vni: 12, underlay: core } }\nguests:")
NIC = """<interface type='network'><mac address='{mac}'/><source network='joined'/><model type='rtl8139'/>
<rom enabled='no'/></interface>"""


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    """Three hosts, with guest web on alpha and db on gamma, to which the topology is applied from alpha."""
    prepare = [*install_hooks(), ["sh", "-c", LISTENING]]
    with ExitStack() as running:
        started = {n: sandboxes.start(f"{n}-{os.getpid()}", prepare=prepare) for n in UNDERLAYS}
        found = {name: Host(running.enter_context(sandbox)) for name, sandbox in started.items()}
        on_a_lan(found)
        for number, (host, guest, mac) in enumerate((("alpha", "web", WEB), ("gamma", "db", DB)), 1):
            xml = DOMAIN.format(name=guest, uuid=uuid(number), policy="", nics=NIC.format(mac=mac))
            found[host].define("define", xml.replace("<metadata></metadata>", ""))
        yield found


@pytest.fixture(autouse=True)
def applied(hosts: Hosts) -> None:
    """Every test begins with what the file says."""
    print(apply(hosts["alpha"], TOPOLOGY))


def apply(host: Host, text: str, *more: str, status: int = 0) -> str:
    return host.guestnet("apply", "/tmp/mine.yaml", *more, topology=text, status=status)


def ports(host: Host) -> list[tuple[str, str]]:
    """Which guest's port `status` finds on which host."""
    shown = host.guestnet("status", "--hosts", "/tmp/mine.yaml", "--json", topology=TOPOLOGY)
    return [(row["host"], row["guest"]) for row in json.loads(shown) if row["kind"] == "host-port"]


def plan(host: Host, text: str, *more: str, status: int = 0) -> str:
    return host.guestnet("plan", "/tmp/mine.yaml", *more, topology=text, status=status)


def networks(host: Host) -> set[str]:
    return set(host.virsh("net-list", "--all", "--name").split())


def remotes(host: Host, device: str = "vx10") -> set[str]:
    """To where the kernel sends frames whose host is not known."""
    lines = host.sandbox.run(["bridge", "fdb", "show", "dev", device]).stdout.splitlines()
    return {line.split(" dst ")[1].split()[0] for line in lines if line.startswith("00:00:00:00:00:00 ")}


def test_the_same_file_says_the_same_on_every_host(hosts: Hosts) -> None:
    for host in hosts.values():
        assert plan(host, TOPOLOGY).splitlines() == [f"{name}: nothing to do" for name in hosts]
        assert networks(host) == {"joined"}
        assert ports(host) == [("alpha", "web"), ("gamma", "db")]
    for name, host in hosts.items():
        assert remotes(host) == set(UNDERLAYS.values()) - {UNDERLAYS[name]}


def test_guests_of_two_hosts_reach_each_other_and_a_forged_frame_does_not(hosts: Hosts) -> None:
    alpha, gamma = hosts["alpha"], hosts["gamma"]
    alpha.virsh("start", "web")
    gamma.virsh("start", "db")
    try:
        with Wire(alpha.sandbox, "web") as web, Wire(gamma.sandbox, "db") as db:
            packet = UDP(sport=1, dport=2) / Raw(b"from web to db".ljust(64))
            forged = Ether(src=WEB, dst=DB) / IP(src="10.61.1.99", dst="10.61.1.12") / packet
            honest = Ether(src=WEB, dst=DB) / IP(src="10.61.1.11", dst="10.61.1.12") / packet
            _arrives(web, db, bytes(honest), bytes(forged))
            _what_runs_is_changed_on_its_host(hosts)
            _moves(hosts, web, bytes(honest), bytes(forged))
    finally:
        alpha.virsh("destroy", "web")
        gamma.virsh("destroy", "db")


def _arrives(web: Wire, db: Wire, honest: bytes, forged: bytes) -> None:
    """Sent again until it does: what resolves addresses on the underlay may drop the first ones."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        web.send(forged, honest)
        while (frame := db.next_frame(5)) is not None:
            assert not frame.startswith(forged)
            if frame.startswith(honest):
                return
    pytest.fail("no honest frame arrived")


def _moves(hosts: Hosts, web: Wire, honest: bytes, forged: bytes) -> None:
    """db goes to beta, where the file has it then, and its guard with it; and back."""
    beta, gamma = hosts["beta"], hosts["gamma"]
    assert migrate("db", gamma, beta, UNDERLAYS["beta"]) == ""
    try:
        with Wire(beta.sandbox, "db") as db:
            _arrives(web, db, honest, forged)
        assert beta.macs() == {DB}
        assert gamma.macs() == set()
        assert plan(hosts["alpha"], TOPOLOGY).count("nothing to do") == 3
    finally:
        assert migrate("db", beta, gamma, UNDERLAYS["gamma"]) == ""


def _what_runs_is_changed_on_its_host(hosts: Hosts) -> None:
    other = TOPOLOGY.replace("addresses: [10.61.1.12]", "addresses: [10.61.1.13]")
    said = plan(hosts["alpha"], other, status=1)
    assert "host gamma: set guest metadata db" in said
    assert "its ports are guarded by its host alone: run `guestnet apply --host gamma` on it first" in said
    apply(hosts["gamma"], other, "--host", "gamma")
    assert "10.61.1.13" in hosts["gamma"].rules(next(iter(hosts["gamma"].nics("db"))))
    assert "nothing to do" in apply(hosts["alpha"], other)
    apply(hosts["gamma"], TOPOLOGY)


def test_a_host_that_is_down_is_named_and_completed_later(hosts: Hosts) -> None:
    hosts["gamma"].stop_daemon()
    try:
        assert "host gamma: not reached: connecting to qemu+ssh://root@10.61.9.3/system?no_tty=1" in apply(
            hosts["alpha"], MORE, status=1
        )
        assert networks(hosts["alpha"]) == {"joined"}
        said = apply(hosts["alpha"], MORE, "--allow-partial", status=1)
        assert "beta: define network inside" in said
        assert "done, but not on all hosts" in said
        assert "host gamma: not reached" in said
        assert plan(hosts["beta"], MORE, "--allow-partial", status=0).count("nothing to do") == 2
        shown = hosts["beta"].guestnet("status", "--hosts", "/tmp/mine.yaml", topology=MORE, status=1)
        assert [line.split()[:2] for line in shown.splitlines()[1:4]] == [
            ["alpha", "reached"],
            ["beta", "here"],
            ["gamma", "down"],
        ]
    finally:
        hosts["gamma"].sandbox.start_libvirtd()
    assert {name for name, host in hosts.items() if "inside" in networks(host)} == {"alpha", "beta"}
    said = apply(hosts["beta"], MORE)
    assert "gamma: define network inside" in said
    assert "alpha: define" not in said
    assert all(networks(host) == {"joined", "inside"} for host in hosts.values())


def test_a_failure_on_one_host_takes_all_back(hosts: Hosts) -> None:
    beta = hosts["beta"]
    beta.sandbox.run(["ip", "link", "add", "vx12", "type", "bridge"])
    try:
        said = apply(hosts["alpha"], SECOND, status=1)
        assert "alpha: start network second" in said
        assert "host beta: start network second" in said
        assert said.count("everything is as before") == 3
        assert all(networks(host) == {"joined"} for host in hosts.values())
        said = apply(hosts["alpha"], SECOND, "--allow-partial", status=1)
        assert "host beta: start network second" in said
        assert {name for name, host in hosts.items() if "second" in networks(host)} == {"alpha", "gamma"}
    finally:
        beta.sandbox.run(["ip", "link", "del", "vx12"])
    apply(hosts["gamma"], SECOND)
    assert remotes(beta, "vx12") == {UNDERLAYS["alpha"], UNDERLAYS["gamma"]}


KILLER = """#!/bin/sh
[ "$1 $2" != "second start" ] || kill -9 $(cat /run/libvirtd.pid)
"""
HOOK = "/etc/libvirt/hooks/network.d/99-killer"


def test_a_daemon_that_dies_meanwhile_leaves_what_is_said(hosts: Hosts) -> None:
    beta = hosts["beta"]
    beta.sandbox.run(["sh", "-c", f"cat > {HOOK} && chmod 755 {HOOK}"], stdin=KILLER)
    try:
        said = apply(hosts["alpha"], SECOND, status=1)
    finally:
        beta.sandbox.run(["rm", HOOK])
        beta.sandbox.start_libvirtd()
    assert "host beta: start network second" in said
    for name in ("alpha", "gamma"):
        assert f"host {name}: everything is as before" in said
        assert networks(hosts[name]) == {"joined"}
    assert "host beta: rolled back, except:\nguestnet:   set the autostart of network second back: " in said
    assert "guestnet:   undefine network second: " in said
    assert networks(beta) == {"joined", "second"}
    apply(hosts["gamma"], SECOND)
    assert all(networks(host) == {"joined", "second"} for host in hosts.values())


def test_ssh_is_not_to_ask_anybody(hosts: Hosts) -> None:
    plan(hosts["alpha"], TOPOLOGY)
    (asked, *_) = hosts["alpha"].sandbox.run(["cat", "/tmp/ssh.log"]).stdout.splitlines()
    assert "-T -e none" in asked
    assert "BatchMode=yes" in asked
    assert UNDERLAYS["gamma"] in asked


def test_everything_goes_from_any_host(hosts: Hosts) -> None:
    hosts["beta"].guestnet("destroy", "/tmp/mine.yaml", topology=TOPOLOGY)
    assert [networks(host) for host in hosts.values()] == [set(), set(), set()]
    assert "guestnet" not in hosts["gamma"].virsh("dumpxml", "db")
