"""`guestnet status` on a real libvirtd: every NIC of every running domain, whoever made it, and exit status 3."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support.libvirt_host import DOMAIN, NIC, XMLNS, Host, mac, uuid

from libvirt_guestnet.sandbox import Sandbox, python_inside

# As libvirt's package has it; and one that is guarded by default, by metadata without a topology.
NETWORKS = (
    """<network><name>default</name><bridge name='virbr0'/><forward/>
<ip address='192.168.122.1' netmask='255.255.255.0'/></network>""",
    f"""<network><name>kept</name><metadata><g:network {XMLNS} name="kept"><g:subnet prefix="10.61.1.0/24"/></g:network>
</metadata><bridge name='br-kept'/><ip address='10.61.1.1' netmask='255.255.255.0'/></network>""",
)
USER = f"""<interface type='user'><mac address='{mac(1, 1)}'/><model type='rtl8139'/><rom enabled='no'/></interface>"""
PORTS = {"safe": "yes", "free": "no", "seen": "observe"}  # on libvirt's default network, by what its metadata says
METADATA = f"""<g:domain {XMLNS} guest="web">{
    "".join(
        f'<g:port mac="{mac(2, number)}" name="{name}" network="default" guarded="{guarded}">'
        f'<g:address ip="192.168.122.{number + 10}"/></g:port>'
        for number, (name, guarded) in enumerate(PORTS.items())
    )
}</g:domain>"""
STATES = {
    mac(1, 0): ("unguarded", "nobody asked for it"),
    mac(2, 0): ("guarded", ""),
    mac(2, 1): ("trusted", "its domain's metadata says so"),
    mac(2, 2): ("observed", ""),
    mac(2, 3): ("guarded", ""),
}


@pytest.fixture(scope="module")
def host(each_sandbox: Sandbox) -> Iterator[Host]:
    found = Host(each_sandbox)
    for network in NETWORKS:
        found.define("net-create", network)
    plain = NIC.format(network="default", mac=mac(1, 0)) + USER
    found.define("create", DOMAIN.format(name="plain", uuid=uuid(1), policy="", nics=plain))
    places = enumerate(["default"] * 3 + ["kept"])
    marked = "".join(NIC.format(network=network, mac=mac(2, number)) for number, network in places)
    found.define("create", DOMAIN.format(name="web", uuid=uuid(2), policy=METADATA, nics=marked))
    yield found
    for name in ("plain", "web"):
        found.virsh("destroy", name, check=False)
    for name in ("default", "kept"):
        found.virsh("net-destroy", name, check=False)


def guestnet(host: Host, *words: str) -> subprocess.CompletedProcess[str]:
    argv = python_inside(["-m", "libvirt_guestnet.cli", *words], host.sandbox.root)
    return host.sandbox.run(argv, check=False, timeout=480)


def rows(host: Host, *words: str, status: int = 0) -> tuple[dict[str, dict[str, Any]], str]:
    """What status says of ports, by MAC address, and on stderr."""
    done = guestnet(host, "status", "--json", *words)
    assert done.returncode == status, done.stdout + done.stderr
    return {row["mac"]: row for row in json.loads(done.stdout) if "mac" in row}, done.stderr


def test_every_nic_of_every_running_domain_has_its_state(host: Host) -> None:
    found, said = rows(host)
    assert said == ""
    assert {nic: (row["state"], row["reason"]) for nic, row in found.items() if nic != mac(1, 1)} == STATES
    user = found[mac(1, 1)]
    assert (user["kind"], user["state"], user["refused"]) == ("unguarded", "cannot-be-guarded", False)
    assert "a program makes connections" in user["reason"]
    text = guestnet(host, "status").stdout
    assert all(nic in text for nic in found)
    assert f"NOT GUARDED, nobody asked for it: plain.{mac(1, 0)}\n" in text
    assert "TRUSTED, no port security by their own policy or their network's: web.free\n" in text


def test_only_some_are_asked_for(host: Host) -> None:
    assert set(rows(host, "--guest", "plain")[0]) == {mac(1, 0), mac(1, 1)}
    assert set(rows(host, "--network", "kept")[0]) == {mac(2, 3)}
    assert set(rows(host, "--guest", "web", "--network", "default")[0]) == {mac(2, 0), mac(2, 1), mac(2, 2)}
    done = guestnet(host, "status", "--guest", "nosuch")
    assert (done.returncode, done.stderr) == (1, "guestnet: libvirt has no guest 'nosuch'\n")


def everything(host: Host) -> list[str]:
    """All that a picture could have changed, but for what guests' frames change at any time."""
    argv = [["nft", "list", "chains"]]
    argv += [["virsh", "dumpxml", name] for name in ("plain", "web")]
    argv += [["virsh", "net-dumpxml", name] for name in ("default", "kept")]
    return [host.sandbox.run(each).stdout for each in argv]


def test_a_picture_shows_the_same_states_and_changes_nothing(host: Host) -> None:
    rows(host)  # which waits for what has just started
    before = everything(host)
    done = guestnet(host, "graph", "--live", "--view", "physical")
    assert done.returncode == 0, done.stderr
    labels = {label.partition("</b>")[0]: label for label in done.stdout.split("<b>")}
    taps = {nic: tap for name in ("plain", "web") for tap, nic in host.nics(name).items()}
    shown = {nic for nic, (state, _) in STATES.items() if f">{state}<" in labels[taps[nic]]}
    assert shown == STATES.keys()
    assert ">cannot-be-guarded<" in labels["no tap"]
    assert {"virbr0", "br-kept", "plain", "web"} <= labels.keys()
    logical = guestnet(host, "graph", "--live", "--format", "mermaid").stdout
    assert logical.startswith("flowchart ") and "192.168.122.10 · guarded" in logical
    assert everything(host) == before


@pytest.mark.parametrize("verb", ["delete", "flush"])
@pytest.mark.parametrize("nic", [mac(2, 0), mac(2, 3)])
def test_a_chain_that_is_gone_is_exit_status_3_until_a_sync(host: Host, verb: str, nic: str) -> None:
    tap = next(tap for tap, address in host.nics("web").items() if address == nic)
    chain = f"chain netdev guestnet tap-{tap}"
    host.sandbox.run(["nft", f"flush {chain}" + (f"; delete {chain}" if verb == "delete" else "")])
    found, said = rows(host, status=3)
    why = {"delete": "its tap has no rules in the kernel", "flush": "the kernel lacks its port security"}[verb]
    assert (found[nic]["state"], found[nic]["reason"]) == ("unguarded", why)
    name = found[nic]["port"] or nic
    assert said == f"guestnet: to be guarded, but not: web.{name} ({why}); `guestnet hooks sync` guards what runs\n"
    assert rows(host, "--guest", "plain")[1] == "", "of others all is well"
    assert f"UNGUARDED, try `guestnet hooks sync`: web.{name}\n" in guestnet(host, "status").stdout
    assert guestnet(host, "hooks", "sync").returncode == 0
    assert rows(host)[0][nic]["state"] == "guarded"


class Watched:
    """A `status --watch` in the sandbox, whose output is a pipe."""

    def __init__(self, host: Host, process: subprocess.Popen[str]) -> None:
        self.lines: list[str] = []
        self._host, self._process = host, process
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.soon(lambda: bool(self.lines), "it says what there is")
        self.pid = host.sandbox.run(["pgrep", "-of", "libvirt_guestnet.cli status --watch"]).stdout.strip()

    def _read(self) -> None:
        assert self._process.stdout is not None
        self.lines += iter(self._process.stdout.readline, "")  # one by one, as they come

    def soon(self, true: Callable[[], bool], what: str) -> None:
        self._host.soon(true, f"{what}, by {self.lines}")

    def said(self, *words: str) -> None:
        """Waits for a line with all of these."""
        self.soon(lambda: any(all(word in line for word in words) for line in self.lines), " ".join(words))

    def memory(self) -> int:
        """What it has in memory, in KiB."""
        status = self._host.sandbox.run(["cat", f"/proc/{self.pid}/status"]).stdout
        return int(status.partition("VmRSS:")[2].split()[0])

    def end(self, name: str) -> int:
        self._host.sandbox.run(["kill", f"-{name}", self.pid])
        result = self._process.wait(60)
        self._reader.join(60)
        return result


@contextmanager
def watching(host: Host, *words: str) -> Iterator[Watched]:
    argv = host.sandbox.python(["-m", "libvirt_guestnet.cli", "status", "--watch", *words])
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Watched(host, process)
        finally:
            process.kill()


NEWCOMER = DOMAIN.format(name="newcomer", uuid=uuid(3), policy="", nics=NIC.format(network="kept", mac=mac(3, 0)))


def test_what_is_watched_follows_guests_that_start_and_stop(host: Host) -> None:
    with watching(host) as watched:
        watched.said("network kept is ", "active=yes")
        watched.said("port web.safe is ", "state=guarded")
        host.define("create", NEWCOMER)
        watched.said("port newcomer new ", mac(3, 0))
        watched.soon(
            lambda: any("port newcomer " in line and "state=guarded" in line for line in watched.lines), "guard"
        )
        host.virsh("destroy", "newcomer")
        watched.said("port newcomer gone")
        assert watched.end("INT") == 0
    assert not any("port web.safe" in line for line in watched.lines if " is " not in line), "nothing else changed"


def test_what_is_watched_as_json_by_guest_outlives_that_guest_and_the_daemon(host: Host) -> None:
    host.define("create", NEWCOMER)
    with watching(host, "--json", "--guest", "newcomer") as watched:
        watched.said('"event": "is"', mac(3, 0))
        host.virsh("destroy", "newcomer")
        watched.said('"event": "gone"', mac(3, 0))
        host.restart_daemon()
        host.define("create", NEWCOMER)
        watched.said('"event": "new"', mac(3, 0))
        host.virsh("destroy", "newcomer")
        assert watched.end("TERM") == 0
    events = [json.loads(line) for line in watched.lines]
    assert {event["guest"] for event in events if event["kind"] == "port"} == {"newcomer"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_what_is_watched_from_outside_the_sandbox(host: Host, number: signal.Signals) -> None:
    """Ctrl-C goes to all processes at the terminal, and SIGTERM to the one that was started."""
    words = ["--sandbox", host.sandbox.name, "status", "--watch", "--guest", "plain"]
    argv = [sys.executable, "-m", "libvirt_guestnet.cli", *words]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, process_group=0) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline()
            (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
            assert process.wait(60) == 0
        finally:
            process.kill()
    listed = host.sandbox.run(["ps", "-eo", "args"]).stdout
    assert "--watch" not in listed


def test_watching_for_long_takes_no_more_memory(host: Host) -> None:
    with watching(host) as watched:

        def once() -> None:
            before = len(watched.lines)
            host.define("create", NEWCOMER)
            watched.soon(lambda: any("newcomer new " in line for line in watched.lines[before:]), "it starts")
            host.virsh("destroy", "newcomer")
            watched.soon(lambda: any("newcomer gone" in line for line in watched.lines[before:]), "it stops")

        for _ in range(3):
            once()
        before = watched.memory()
        for _ in range(8):
            once()
        assert watched.memory() - before < 4096
        assert watched.end("TERM") == 0
