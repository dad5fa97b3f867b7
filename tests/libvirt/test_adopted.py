"""Networks and NICs that were there before guestnet, on a real libvirtd: guarded while they run, and given back."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator

import pytest
from support.adopted_host import (
    ADOPT,
    DEFAULT,
    NIC,
    OTHER,
    WEB,
    Flow,
    Host,
    leased,
    two_on_default,
    wires,
)

from libvirt_guestnet.sandbox import Sandbox, python_inside

pytestmark = pytest.mark.libvirt


@pytest.fixture
def host(each_sandbox: Sandbox) -> Iterator[Host]:
    made = Host(each_sandbox)
    yield made
    made.guestnet("destroy", "--name", "mine", status=None)
    made.clear()


def test_a_running_guest_gets_an_address_of_the_dhcp_range_reserved_and_loses_no_frame(host: Host) -> None:
    two_on_default(host)
    before, tap = host.texts(), host.tap("web", WEB)
    text = ADOPT.replace("network: default }", "network: default, addresses: [192.168.122.50] }")
    sender, receiver = wires(host)
    with sender, receiver, Flow(sender, receiver, "192.168.122.50") as flow:
        assert host.guestnet("plan", "/tmp/mine.yaml", topology=text, status=3)
        assert host.differences(before) == [], "plan changes nothing"
        flow.mark("plan")
        print(host.guestnet("apply", "/tmp/mine.yaml", topology=text))
        flow.mark("apply")
        flow.forge()
        assert host.guarded() == {tap: WEB}, "nobody else is"
        for kind in ("--inactive",), ():
            assert f"<host mac='{WEB}' name='web' ip='192.168.122.50'/>" in host.virsh("net-dumpxml", *kind, "default")
        assert "192.168.122.50" in host.sandbox.run(["cat", "/var/lib/libvirt/dnsmasq/default.hostsfile"]).stdout
        assert "nothing to do" in host.guestnet("plan", "/tmp/mine.yaml", topology=text)
        status = host.guestnet("status")
        assert re.search(r"mine +default +nat +virbr0", status), status
        assert tap in status
        flow.mark("status")
        host.guestnet("destroy", "/tmp/mine.yaml", topology=text)
        flow.mark("destroy")
        assert host.guarded() == {}
    assert host.differences(before) == []
    assert host.files("networks") == {}


def restart(host: Host) -> None:
    host.restart_daemon()
    host.soon(lambda: {"web", "other"} <= set(host.virsh("list", "--name", check=False).split()), "libvirt is back")


def test_a_guest_keeps_the_address_that_it_has_by_dhcp(host: Host) -> None:
    two_on_default(host)
    restart(host)  # which itself changes what libvirt tells of a running domain, once
    before = host.texts()
    sender, receiver = wires(host)
    with sender, receiver:
        ip = leased(sender, WEB)
        with Flow(sender, receiver, ip) as flow:
            host.guestnet("apply", "/tmp/mine.yaml")
            flow.forge()
        # When its daemon starts, and when somebody changes DHCP, libvirt itself loses frames (decision 17).
        restart(host)
        host.guestnet("hooks", "sync")
        assert host.guarded() == {host.tap("web", WEB): WEB}
        assert "nothing to do" in host.guestnet("plan", "/tmp/mine.yaml")
        other = f"<host mac='{OTHER}' ip='192.168.122.77'/>"
        host.virsh("net-update", "default", "add", "ip-dhcp-host", other, "--live", "--config")
        assert host.files("networks")["default"]["reservations"] == [[OTHER, "192.168.122.77"]]
        host.virsh("net-update", "default", "delete", "ip-dhcp-host", other, "--live", "--config")
        with Flow(sender, receiver, ip) as flow:
            flow.forge()
            host.guestnet("destroy", "/tmp/mine.yaml")
    assert host.differences(before) == []


def test_a_guest_that_is_off_is_guarded_when_it_starts_also_on_a_network_that_was_off(host: Host) -> None:
    host.define("net-define", DEFAULT)
    host.domain("web", NIC.format(mac=WEB, network="default", more=""))
    before = host.texts()
    said = host.guestnet("apply", "/tmp/mine.yaml")
    assert "network 'default' is not active, and not guestnet's to start: virsh net-start default" in said
    host.virsh("net-start", "default")
    host.virsh("start", "web")
    assert host.guarded() == {host.tap("web", WEB): WEB}
    assert host.files("networks")["default"]["external"] is True
    host.guestnet("destroy", "/tmp/mine.yaml")
    assert host.guarded() == {}
    host.virsh("destroy", "web")
    host.virsh("net-destroy", "default")
    assert host.differences(before) == []


ISOLATED = """<network><name>closed</name><bridge name='virbr1'/><ip address='10.61.9.1' prefix='24'/></network>"""


def test_on_an_isolated_network_a_guest_gets_a_name(host: Host) -> None:
    host.define("net-define", ISOLATED)
    host.virsh("net-start", "closed")
    host.domain("web", NIC.format(mac=WEB, network="closed", more=""), metadata="")
    host.virsh("start", "web")
    before = host.texts()
    text = ADOPT.replace("default", "closed").replace("closed }", f'closed, mac: "{WEB}", addresses: [10.61.9.5] }}')
    host.guestnet("apply", "/tmp/mine.yaml", topology=text)
    assert host.guarded() == {host.tap("web", WEB): WEB}
    assert "<hostname>web</hostname>" in host.virsh("net-dumpxml", "closed")
    host.guestnet("destroy", "/tmp/mine.yaml", topology=text)
    # libvirt 9.0 leaves an empty element in a running domain that had no metadata, until it is off.
    after = {name: re.sub("\n  <metadata/>", "", xml) if "live" in name else xml for name, xml in host.texts().items()}
    assert after == before


BRIDGED = """<network><name>lan</name><forward mode='bridge'/><bridge name='lanbr'/>
<portgroup name='servers'><virtualport/></portgroup></network>"""


def test_on_the_hosts_bridge_with_and_without_a_network_of_libvirts(host: Host) -> None:
    host.sandbox.run(["ip", "link", "add", "lanbr", "up", "type", "bridge"])
    try:
        host.define("net-define", BRIDGED.replace("<virtualport/>", ""))
        host.virsh("net-start", "lan")
        own = NIC.format(mac=WEB, network="", more="").replace("type='network'", "type='bridge'")
        host.domain("web", own.replace("network=''", "bridge='lanbr'"))
        host.domain("other", NIC.format(mac=OTHER, network="lan", more=" portgroup='servers'"), number=2)
        host.virsh("start", "web")
        host.virsh("start", "other")
        before = host.texts()
        text = """
name: mine
networks: { host: { external: { bridge: lanbr } }, lan: { external: true } }
guests:
  web: { ports: [ { network: host, addresses: [10.61.8.5] } ] }
  other: { ports: [ { network: lan, addresses: any } ] }
"""
        sender, receiver = wires(host)
        with sender, receiver, Flow(sender, receiver, "10.61.8.5") as flow:
            host.guestnet("apply", "/tmp/mine.yaml", topology=text)
            assert host.guarded() == {host.tap("web", WEB): WEB, host.tap("other", OTHER): OTHER}
            assert "nothing to do" in host.guestnet("plan", "/tmp/mine.yaml", topology=text)
            flow.forge()
            host.guestnet("destroy", "/tmp/mine.yaml", topology=text)
        assert host.differences(before) == []
    finally:
        host.virsh("destroy", "web", check=False)
        host.virsh("destroy", "other", check=False)
        host.sandbox.run(["ip", "link", "del", "lanbr"])


def test_what_is_not_clear_is_refused_and_nothing_is_changed(host: Host) -> None:
    host.define("net-define", DEFAULT)
    host.virsh("net-start", "default")
    host.define("net-define", ISOLATED)
    two = (NIC.format(mac=WEB, network="default", more=""), NIC.format(mac=OTHER, network="default", more=""))
    host.domain(
        "web", *(nic.replace("ua-wan", f"ua-{n}").replace("order='1'", f"order='{n}'") for n, nic in enumerate(two, 1))
    )
    before = host.texts()
    port, network = "mine.yaml:4:27: ", "mine.yaml:3:13: "
    outside = ADOPT.replace("default }", f'default, mac: "{WEB}", addresses: [10.0.0.1] }}')
    for topology, said in {
        ADOPT: f"{port}domain 'web' has 2 NICs on network 'default': say with mac: which this is, of {WEB}, {OTHER}",
        ADOPT.replace(
            "default", "dflt"
        ): f"{network}libvirt has no network 'dflt', which is said to be external: it has",
        outside: f"{port}10.0.0.1 is outside the subnets of network 'default' (192.168.122.0/24)",
        ADOPT.replace("default", "closed"): f"{port}this host has no DHCP server on network 'closed', so nobody knows",
        ADOPT.replace("external: true", "mode: nat, subnets: [10.9.9.0/24]"): "say external: true to have its ports",
    }.items():
        for verb in ("plan", "apply"):
            assert said in host.guestnet(verb, "/tmp/mine.yaml", topology=topology, status=1)
        assert "is valid" in host.guestnet("validate", "/tmp/mine.yaml", topology=topology)
    assert host.differences(before) == []


def test_what_fails_on_the_way_is_taken_back_and_a_damaged_metadata_is_said(host: Host) -> None:
    two_on_default(host)
    before = host.texts()
    # The second guest asks for what nobody can have: its guard fails when the first one's is there.
    both = """
name: mine
networks: { default: { external: true } }
guests:
  web: { ports: [ { network: default, addresses: [192.168.122.50] } ] }
  other: { ports: [ { network: default, addresses: [192.168.122.51], forwards: [ { services: [tcp/4711] } ] } ] }
"""
    code = "import socket, time; s = socket.create_server(('', 4711)); print('up', flush=True); time.sleep(600)"
    with subprocess.Popen(host.sandbox.python(["-c", code]), stdout=subprocess.PIPE, text=True) as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline() == "up\n"
        assert "4711" in host.guestnet("apply", "/tmp/mine.yaml", topology=both, status=1)
        listener.kill()
    assert host.differences(before) == []
    assert host.guarded() == {}
    assert host.files("networks") == {}
    host.guestnet("apply", "/tmp/mine.yaml")
    whole = host.virsh("net-dumpxml", "--inactive", "default")
    host.define("net-define", whole.replace(' topology="mine"', ""))
    said = host.guestnet("apply", "/tmp/mine.yaml", status=1)
    assert "cannot be read, somebody changed it (it names no topology): take the element guestnet:network out" in said
    host.define("net-define", whole)
    host.guestnet("destroy", "/tmp/mine.yaml")
    assert host.differences(before) == []


def test_a_network_that_started_while_it_was_adopted_is_changed_and_given_back(host: Host) -> None:
    """As after every boot of the host. What it says of us while it runs stays, on libvirt before 9.7."""
    host.define("net-define", DEFAULT)
    host.domain("web", NIC.format(mac=WEB, network="default", more=""))
    before = host.texts()
    text = "name: mine\nnetworks: {{ default: {{ external: true, guarded: {} }} }}\n"
    observed, guarded = text.format("observe"), text.format("true")
    host.guestnet("apply", "/tmp/mine.yaml", topology=observed)
    host.virsh("net-start", "default")
    host.guestnet("apply", "/tmp/mine.yaml", topology=guarded)
    host.virsh("start", "web")  # libvirt tells the hooks of the network again
    assert [port["observed"] for port in host.files("ports").values()] == [False]
    host.guestnet("hooks", "sync")
    assert host.guarded() == {host.tap("web", WEB): WEB}
    assert "nothing to do" in host.guestnet("plan", "/tmp/mine.yaml", topology=guarded)
    host.virsh("destroy", "web")
    host.guestnet("destroy", "/tmp/mine.yaml", topology=guarded)
    host.virsh("start", "web")
    host.guestnet("hooks", "sync")
    assert (host.guarded(), host.files("networks")) == ({}, {})
    assert "nothing" in host.guestnet("destroy", "/tmp/mine.yaml", topology=guarded)
    host.virsh("destroy", "web")
    host.virsh("net-destroy", "default")
    assert host.differences(before) == []


# `guestnet`, killed before its Nth step that changes anything.
KILLED = """
import os, sys
from libvirt_guestnet.apply.apply import KernelEffects
from libvirt_guestnet.cli.main import main
from libvirt_guestnet.libvirtd.connection import Connection
left = [int(sys.argv.pop(1))]
def kill_before(owner, name):
    whole = getattr(owner, name)
    def step(*arguments, **named):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), 9)
        return whole(*arguments, **named)
    setattr(owner, name, step)
for owner, names in (
    (KernelEffects, "adopt_network guard release"),
    (Connection, "set_network_mark update_network set_domain_metadata"),
):
    for name in names.split():
        kill_before(owner, name)
sys.exit(main())
"""


def killed(host: Host, step: int, *words: str) -> bool:
    argv = python_inside(["-c", KILLED, str(step), *words], host.sandbox.root)
    return host.sandbox.run(argv, check=False, timeout=240).returncode != 0


@pytest.mark.parametrize("step", [2, 3, 7])
def test_what_is_killed_is_finished_or_taken_back(host: Host, step: int) -> None:
    """Before the hooks know of the network, before a guest on it is guarded, and before the other one's metadata says
    what it is guarded by; tests/unit/test_adopted_killed.py is killed before each step."""
    two_on_default(host)
    before, taps = host.texts(), {host.tap("web", WEB): WEB, host.tap("other", OTHER): OTHER}
    text = ADOPT.replace("external: true", "external: true, guarded: true")
    host.sandbox.run(["tee", "/tmp/mine.yaml"], stdin=text)
    assert killed(host, step, "apply", "/tmp/mine.yaml")
    host.guestnet("apply", "/tmp/mine.yaml", topology=text)
    assert host.guarded() == taps
    assert "nothing to do" in host.guestnet("plan", "/tmp/mine.yaml", topology=text)
    assert killed(host, step, "destroy", "/tmp/mine.yaml")
    host.guestnet("destroy", "/tmp/mine.yaml", topology=text)
    assert killed(host, step, "apply", "/tmp/mine.yaml")
    host.guestnet("destroy", "/tmp/mine.yaml", topology=text)
    assert host.differences(before) == []
    assert (host.guarded(), host.files("networks"), host.files("ports")) == ({}, {}, {})


def test_an_import_of_what_runs_is_adopted_and_given_back(host: Host) -> None:
    host.define("net-define", DEFAULT.replace("</dhcp>", f"<host mac='{WEB}' ip='192.168.122.50'/></dhcp>"))
    host.virsh("net-start", "default")
    host.sandbox.run(["ip", "link", "add", "lanbr", "up", "type", "bridge"])
    try:
        host.sandbox.run(["ip", "address", "add", "10.61.8.1/24", "dev", "lanbr"])
        second, third = "52:54:00:aa:00:03", "52:54:00:aa:00:04"
        more = (
            NIC.format(mac=second, network="default", more="").replace("wan", "lan").replace("order='1'", "order='2'")
        )
        bridged = NIC.format(mac=third, network="", more="").replace("type='network'", "type='bridge'")
        host.domain("web", NIC.format(mac=WEB, network="default", more=""), more)
        host.domain("other", NIC.format(mac=OTHER, network="default", more=""), number=2)
        host.domain("lan: 'ü'", bridged.replace("network=''", "bridge='lanbr'"), number=3)
        for name in ("web", "other", "lan: 'ü'"):
            host.virsh("start", name)
        host.sandbox.run(["ip", "neigh", "add", "10.61.8.5", "lladdr", third, "dev", "lanbr", "nud", "stale"])
        sender, receiver = wires(host)
        with sender, receiver:
            ip = leased(receiver, OTHER)
            before = host.texts()
            host.guestnet("import", "--name", "mine", "-o", "/tmp/imported.yaml")
            assert "writes over no file" in host.guestnet("import", "-o", "/tmp/imported.yaml", status=1)
            text = host.sandbox.run(["cat", "/tmp/imported.yaml"]).stdout
            print(text)
            assert "- 192.168.122.50  # reserved in network 'default'" in text
            assert f"# {ip}: by DHCP; its lease is followed" in text
            assert "- 10.61.8.5  # in the kernel's neighbour table" in text
            assert "2 networks, 3 guests" in host.guestnet("validate", "/tmp/imported.yaml")
        planned = host.guestnet("plan", "/tmp/imported.yaml", status=3)
        print(planned)
        assert "interrupt" not in planned
        verbs = [line.split()[0] for line in planned.splitlines()]
        assert [verb for verb in verbs if verb != "note:"] == ["adopt", "set", "set", "set"]
        assert host.differences(before) == []
        host.guestnet("apply", "/tmp/imported.yaml")
        assert "nothing to do" in host.guestnet("plan", "/tmp/imported.yaml")
        assert "OBSERVED" in host.guestnet("status")
        host.guestnet("destroy", "/tmp/imported.yaml")
        assert host.differences(before) == []
        assert host.guarded() == {}
    finally:
        host.virsh("destroy", "lan: 'ü'", check=False)
        host.sandbox.run(["ip", "link", "del", "lanbr"])
        host.sandbox.run(["rm", "-f", "/tmp/imported.yaml"])


NETEM = "ip link add probe type dummy && tc qdisc add dev probe root netem; done=$?; ip link del probe; exit $done"


def test_a_bad_link_that_the_kernel_cannot_make_is_an_error_of_apply_and_holds_up_no_start(host: Host) -> None:
    two_on_default(host)
    text = ADOPT.replace("network: default }", "network: default, impairment: { delay: 20ms } }")
    before, lacks = host.texts(), host.sandbox.run(["sh", "-c", NETEM], check=False).returncode != 0
    said = host.guestnet("apply", "/tmp/mine.yaml", topology=text, status=int(lacks))
    missing = f"tap {host.tap('web', WEB)} is not impaired: this kernel has no netem"
    assert (missing in said) == ("rolled back: everything is as before" in said) == lacks
    assert (host.differences(before) == [], host.files("impaired") == {}) == (lacks, lacks)
    host.virsh("destroy", "web")
    host.guestnet("apply", "/tmp/mine.yaml", topology=text)
    host.virsh("start", "web")
    assert host.guarded() == {(tap := host.tap("web", WEB)): WEB}
    for words in ("plan", "/tmp/mine.yaml"), ("doctor",):
        said = host.guestnet(*words, topology=text, status=None)
        assert (re.search(rf"{tap}\b.* is not impaired: this kernel has no netem", said) is not None) == lacks, said
