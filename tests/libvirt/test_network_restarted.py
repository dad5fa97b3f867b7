"""A network stopped and started by hand under a running guest: told by status, plan and doctor, put back by each way.

libvirt itself puts taps back only when its daemon restarts.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from lxml import etree
from support.libvirt_host import Host
from support.own_programs import guestnet, watching

from libvirt_guestnet.metadata.policy import NAMESPACE
from libvirt_guestnet.sandbox import Sandbox

TOPOLOGY = """
name: t
networks: { one: { mode: nat, subnets: [10.61.1.0/24], isolated-ports: true } }
guests: { a: { ports: [ { network: one, addresses: [10.61.1.7] } ] } }
"""
# No guest kernel: 8 MiB and nothing to boot.
DOMAIN = """<domain type='qemu'><name>a</name><memory unit='MiB'>8</memory>
<os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>
<cpu mode='custom' match='exact'><model>qemu64</model></cpu>
<devices><controller type='usb' model='none'/><memballoon model='none'/></devices></domain>"""


@pytest.fixture
def host(hooked_sandbox: Sandbox) -> Iterator[Host]:
    host = Host(hooked_sandbox)
    hooked_sandbox.run(["tee", "/tmp/t.yaml"], stdin=TOPOLOGY)
    host.define("define", DOMAIN)
    assert "made" in guestnet(host, "apply", "/tmp/t.yaml")
    host.virsh("start", "a")
    yield host
    host.virsh("destroy", "a", check=False)
    guestnet(host, "destroy", "t")
    host.virsh("undefine", "a", check=False)


def tap(host: Host) -> str:
    return str(etree.fromstring(host.virsh("dumpxml", "a").encode()).find("devices/interface/target").get("dev"))


def restart(host: Host) -> None:
    host.virsh("net-destroy", "one")
    assert place(host) == "", "looked at while nobody can put it back"
    host.virsh("net-start", "one")


def place(host: Host) -> str:
    [row] = json.loads(host.sandbox.run(["ip", "-j", "link", "show", tap(host)]).stdout)
    return str(row.get("master", ""))


def rows(host: Host, *argv: str) -> list[dict[str, Any]]:
    command = host.sandbox.python(["-m", "libvirt_guestnet.cli", *argv, "--json"])
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.stdout, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def musts(host: Host) -> list[str]:
    return [row["about"] for row in rows(host, "doctor") if row["level"] == "must"]


def test_the_guest_is_back_with_its_network(host: Host) -> None:
    """Told by each verb, put back by apply, by sync and by the service; each time all is as it was."""
    bridge, device = place(host), tap(host)
    isolated = ["cat", f"/sys/class/net/{device}/brport/isolated"]
    assert host.sandbox.run(isolated).stdout == "1\n"
    assert (rows(host, "plan", "/tmp/t.yaml"), musts(host)) == ([], [])
    restart(host)
    [port] = [row for row in rows(host, "status") if row["kind"] == "port"]
    assert (port["link"], port["guarded"]) == ("no bridge", True)
    assert port["wrong"] == [f"guest 'a': {device} is in no bridge and not in {bridge}: guestnet hooks sync"]
    assert musts(host) == [f"guest a {device}"]
    assert [(row["verb"], row["name"]) for row in rows(host, "plan", "/tmp/t.yaml")] == [("put back", "a")]
    assert "1 change made" in guestnet(host, "apply", "/tmp/t.yaml")
    assert (place(host), host.sandbox.run(isolated).stdout) == (bridge, "1\n")
    assert guestnet(host, "apply", "/tmp/t.yaml") == "nothing to do\n"
    restart(host)
    assert guestnet(host, "hooks", "sync") == ""
    assert (place(host), musts(host)) == (bridge, [])
    with watching(host.sandbox):
        restart(host)
        host.soon(lambda: place(host) == bridge, "the service puts it back")
        host.soon(lambda: not musts(host), "and all that goes with it")
    assert rows(host, "plan", "/tmp/t.yaml") == []


def test_a_port_that_libvirt_put_back_is_isolated_again(host: Host) -> None:
    """libvirt's daemon puts a tap back into its bridge when it starts, and does not isolate it."""
    bridge, device = place(host), tap(host)
    isolated = ["cat", f"/sys/class/net/{device}/brport/isolated"]

    def expose() -> None:
        host.sandbox.run(["ip", "link", "set", device, "type", "bridge_slave", "isolated", "off"])

    expose()
    [port] = [row for row in rows(host, "status") if row["kind"] == "port"]
    assert port["wrong"] == [f"guest 'a': {device} is not isolated from its neighbours: guestnet hooks sync"]
    assert [(row["verb"], row["name"]) for row in rows(host, "plan", "/tmp/t.yaml")] == [("put back", "a")]
    assert guestnet(host, "hooks", "sync") == ""
    assert (place(host), host.sandbox.run(isolated).stdout, musts(host)) == (bridge, "1\n", [])
    with watching(host.sandbox):
        expose()
        host.soon(lambda: host.sandbox.run(isolated).stdout == "1\n", "the service isolates it again")
    host.stop_daemon()
    host.sandbox.run(["ip", "link", "set", device, "nomaster"])
    host.sandbox.start_libvirtd()
    host.soon(lambda: place(host) == bridge, "somebody puts it back")
    host.soon(lambda: host.sandbox.run(isolated).stdout == "1\n", "and it is isolated")


def test_a_nic_that_says_itself_that_it_is_not_isolated_is_not(host: Host) -> None:
    """As libvirt has it: a NIC's own word counts more than its network's, whatever puts its tap back."""
    host.virsh("destroy", "a")
    nic = NIC.replace("<model", "<port isolated='no'/><model")
    host.define("create", DOMAIN.replace("<name>a<", "<name>b<").replace("</devices>", nic))
    (device,) = host.nics("b")
    isolated = ["cat", f"/sys/class/net/{device}/brport/isolated"]
    try:
        assert host.sandbox.run(isolated).stdout == "0\n", "as libvirt starts it"
        assert guestnet(host, "hooks", "sync") == ""
        assert (host.sandbox.run(isolated).stdout, musts(host)) == ("0\n", [])
        for verb in ("net-destroy", "net-start"):
            host.virsh(verb, "one")
        assert guestnet(host, "hooks", "sync") == ""
        assert host.sandbox.run(isolated).stdout == "0\n"
    finally:
        host.virsh("destroy", "b")


def test_a_network_that_isolates_its_ports_by_now_goes_on_doing_so(host: Host) -> None:
    """The guest's own record is of before."""
    isolated = ["cat", f"/sys/class/net/{tap(host)}/brport/isolated"]
    for said in ("false", "true"):
        host.sandbox.run(
            ["tee", "/tmp/t.yaml"], stdin=TOPOLOGY.replace("isolated-ports: true", f"isolated-ports: {said}")
        )
        guestnet(host, "apply", "/tmp/t.yaml", "--allow-interrupt")
        if said == "false":  # from then on its record says no
            host.virsh("destroy", "a")
            host.virsh("start", "a")
        assert host.sandbox.run(isolated).stdout == f"{int(said == 'true')}\n"
    restart(host)
    assert guestnet(host, "hooks", "sync") == ""
    assert host.sandbox.run(isolated).stdout == "1\n"


def test_a_port_that_is_not_to_be_isolated_any_more_is_not_and_the_other_way_round(host: Host) -> None:
    """In the running guest and in its definition, by the file alone."""
    isolated = ["cat", f"/sys/class/net/{tap(host)}/brport/isolated"]
    for port, shown in ((", isolated: false", "0\n"), ("", "1\n"), (", isolated: true", "1\n"), ("", "1\n")):
        said = TOPOLOGY.replace("[10.61.1.7]", f"[10.61.1.7]{port}")
        host.sandbox.run(["tee", "/tmp/t.yaml"], stdin=said)
        assert "made" in guestnet(host, "apply", "/tmp/t.yaml"), port
        assert host.sandbox.run(isolated).stdout == shown, port
        assert guestnet(host, "plan", "/tmp/t.yaml") == "nothing to do\n", port
        assert musts(host) == []


def test_link_and_addresses_are_the_kernels(host: Host) -> None:
    bridge, device = place(host), tap(host)
    host.sandbox.run(["sh", "-c", f"ip link set {device} down; ip address flush dev {bridge}"])
    [port] = [row for row in rows(host, "status") if row["kind"] == "port"]
    [network] = [row for row in rows(host, "status") if row["kind"] == "network"]
    assert port["link"] == "host down"
    assert [said.partition(": find")[0] for said in network["wrong"]] == [f"network 'one': {bridge} lacks 10.61.1.1"]
    assert musts(host) == [f"guest a {device}", f"network one {bridge}"]


BEHIND = f"""<g:domain xmlns:g="{NAMESPACE}" topology="x" guest="b">
<g:port mac="52:54:00:00:00:bb" name="p" network="one">
<g:address ip="10.61.1.8"/><g:address ip="fd61:1::8"/>
<g:behind prefix="10.99.0.0/24"/><g:behind prefix="fd99::/64"/>
</g:port></g:domain>"""
NIC = """<interface type='network'><mac address='52:54:00:00:00:bb'/><source network='one'/><model type='rtl8139'/>
<rom enabled='no'/></interface></devices>"""


def test_a_guest_that_cannot_be_routed_to_holds_no_sync_up(host: Host) -> None:
    """libvirt switches IPv6 off on the bridge of a network without such a subnet, here when it is started again."""
    host.sandbox.run(["sh", "-c", f"echo 0 >/proc/sys/net/ipv6/conf/{place(host)}/disable_ipv6"])
    xml = DOMAIN.replace("<name>a</name>", f"<name>b</name><metadata>{BEHIND}</metadata>").replace("</devices>", NIC)
    host.define("create", xml)
    try:
        restart(host)
        for _ in range(2):
            sync = host.sandbox.python(["-m", "libvirt_guestnet.cli", "hooks", "sync"])
            done = subprocess.run(sync, capture_output=True, text=True, timeout=240)
            assert (done.returncode, done.stderr.count("\n")) == (0, 1), done.stderr
            assert "guestnet: domain 'b': there is no route to fd99::/64: IPv6 is switched off on" in done.stderr
            assert "10.99.0.0/24 via 10.61.1.8" in host.sandbox.run(["ip", "route"]).stdout
    finally:
        host.virsh("destroy", "b", check=False)
