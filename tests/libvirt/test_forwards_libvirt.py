"""Ways in past libvirt's own rules, on real daemons: 9.0 and 11.3, whose rules are iptables' and nftables' by turns."""

from __future__ import annotations

import subprocess

import pytest
from support.libvirt_lan import (
    GUESTS,
    HOST,
    HOST6,
    LAN,
    LAN6,
    UNTRANSLATED,
    Asking,
    Net,
    forward_rules,
    metadata,
    reachable,
    running,
    seen,
    soon_open,
    soon_reachable,
    xml,
)
from support.libvirt_wire import NO_ROM, Wire

from libvirt_guestnet.metadata.policy import NAMESPACE
from libvirt_guestnet.sandbox import Sandbox


@pytest.fixture(scope="module")
def sandbox(each_backend_sandbox: Sandbox) -> Sandbox:
    return each_backend_sandbox


@pytest.mark.parametrize("network", list(GUESTS))
def test_while_the_guest_runs_and_no_longer(net: Net, network: str) -> None:
    before = forward_rules(net)
    with running(net.sandbox, network):
        reachable(net)
        # libvirt makes its rules again: at a restart of the daemon, and of any network.
        net.sandbox.restart_libvirtd()
        soon_reachable(net)
    assert not net.udp("lan", HOST, 5300).open
    assert forward_rules(net) == before


def test_rules_that_come_later_stand_behind_ours(net: Net) -> None:
    """A network that starts while guests run; somebody who puts libvirt's chains first again."""
    with running(net.sandbox, "inside"):
        later = "<network><name>later</name><bridge name='later0'/><ip address='10.61.9.1' netmask='255.255.255.0'/>"
        mark = f'<metadata><g:network xmlns:g="{NAMESPACE}" topology="t" name="later"/></metadata></network>'
        jump = ["LIBVIRT_FWI", "LIBVIRT_FWO"]
        for chain in jump:  # where there are none, libvirt's rules are in nftables
            net.sandbox.run(["iptables", "-I", "FORWARD", "-j", chain], check=False)
        net.sandbox.run(["virsh", "-q", "net-create", "/dev/stdin"], stdin=later + mark)
        try:
            reachable(net)
        finally:
            net.sandbox.run(["virsh", "-q", "net-destroy", "later"])
            for chain in jump:
                net.sandbox.run(["iptables", "-D", "FORWARD", "-j", chain], check=False)


def test_a_port_of_the_hosts_own_refuses_the_start(net: Net) -> None:
    net.agents["host"].listen(tcp=[7777])
    taken = f'<g:forward protocol="tcp" ports="7000-8000" to="{GUESTS["web"][0]}"/>'
    refused = xml("web").replace("</g:port>", f"{taken}</g:port>")
    done = net.sandbox.run(["virsh", "-q", "create", "/dev/stdin"], stdin=refused, check=False)
    assert done.returncode != 0
    assert "guest 'g': tcp/7000-8000 cannot be forwarded: perl (process " in done.stderr
    assert "g" not in net.sandbox.run(["virsh", "-q", "list", "--name"]).stdout.split()


def test_metadata_that_changes_live(net: Net) -> None:
    """As `apply` does it: libvirt calls no hook."""
    with running(net.sandbox, "web"):
        moved = metadata("web", f'<g:forward at="{HOST}" protocol="udp" ports="5400" to="10.61.1.10" first="53"/>')
        moved = moved.replace(f' xmlns:g="{NAMESPACE}"', "").replace("g:", "")  # virsh adds the namespace
        net.sandbox.run(["virsh", "-q", "metadata", "g", NAMESPACE, "--key", "g", "--set", moved, "--live"])
        assert net.udp("lan", HOST, 5300).open
        sync = net.sandbox.python(["-m", "libvirt_guestnet.cli", "hooks", "sync"])
        assert subprocess.run(sync, capture_output=True, text=True, timeout=240, check=False).stderr == ""
        assert seen(net.udp("lan", HOST, 5400)) == LAN
        assert not net.udp("lan", HOST, 5300).open


def test_an_untranslated_floating_address_is_the_guests_own(net: Net) -> None:
    """Reached from the LAN, the host, and what it sends itself reaches the LAN as from there; nothing else does."""
    own = "".join(
        f'<g:address ip="{ip}"/><g:floating ip="{ip}" via="{via}"/>'
        for ip, via in zip(UNTRANSLATED, GUESTS["web"], strict=True)
    )
    before = forward_rules(net)
    floating = xml("web").replace(metadata("web"), metadata("web", own))
    net.sandbox.run(["virsh", "-q", "create", "/dev/stdin"], stdin=floating)
    try:
        with Wire(net.sandbox, "g") as wire, Asking(wire, *GUESTS["web"]) as guest:
            for ip, lan, host in zip(UNTRANSLATED, (LAN, LAN6), (HOST, HOST6), strict=True):
                assert seen(net.udp("lan", ip, 53)) == lan
                assert net.udp("host", ip, 53).open
                assert seen(net.udp("lan", ip, 53)) == lan
                assert not net.udp("lan", host, 53).open
            assert guest.outside(*UNTRANSLATED) == dict(zip((LAN, LAN6), UNTRANSLATED, strict=True))
            net.sandbox.restart_libvirtd()
            for ip in UNTRANSLATED:
                soon_open(net, ip, 53)
            assert guest.outside(*UNTRANSLATED) == dict(zip((LAN, LAN6), UNTRANSLATED, strict=True))
    finally:
        net.sandbox.run(["virsh", "-q", "destroy", "g"], check=False)
    assert not net.udp("lan", UNTRANSLATED[0], 53).open
    assert forward_rules(net) == before
    assert net.sandbox.run(["ip", "route", "show", "proto", "71"]).stdout == ""


def test_a_nic_that_is_plugged_in_brings_its_ways_and_takes_them_along(net: Net) -> None:
    late = "52:54:00:00:00:0b"
    port = f'<g:port mac="{late}" name="late" network="inside"><g:address ip="10.61.2.10"/>'
    port += '<g:forward protocol="udp" ports="5500" to="10.61.2.10"/>'
    plugged = xml("web").replace("</g:domain>", f"{port}</g:port></g:domain>")
    nic = f"<interface type='network'><mac address='{late}'/><source network='inside'/><model type='rtl8139'/>{NO_ROM}"
    net.sandbox.run(["virsh", "-q", "create", "/dev/stdin"], stdin=plugged)
    try:
        net.sandbox.run(["tee", "/run/nic.xml"], stdin=f"{nic}</interface>")
        net.sandbox.run(["virsh", "-q", "attach-device", "g", "/run/nic.xml", "--live"])
        net.soon(lambda: "10.61.2.10" in table(net))
        net.sandbox.run(["virsh", "-q", "detach-device", "g", "/run/nic.xml", "--live"])
        net.sandbox.run(["virsh", "-q", "reset", "g"])  # nobody in the guest answers the request; now QEMU lets go
        net.soon(lambda: "10.61.2.10" not in table(net))
        assert "10.61.1.10" in table(net)
    finally:
        net.sandbox.run(["virsh", "-q", "destroy", "g"])
    assert table(net) == ""


def test_a_nic_that_asks_for_what_is_somebodys_is_not_plugged_in(net: Net) -> None:
    """One of the LAN's hosts, and the host's own."""
    late, before = "52:54:00:00:00:0b", forward_rules(net)
    wanted = {
        LAN: f"floating address {LAN} is in use on the LAN of device up0",
        HOST: f"floating address {HOST} is this host's own",
    }
    for ip, message in wanted.items():
        port = f'<g:port mac="{late}" name="late" network="web"><g:floating ip="{ip}" to="10.61.1.11"/></g:port>'
        nic = f"<interface type='network'><mac address='{late}'/><source network='web'/><model type='rtl8139'/>{NO_ROM}"
        plugged = xml("web").replace("</g:domain>", f"{port}</g:domain>")
        net.sandbox.run(["virsh", "-q", "create", "/dev/stdin"], stdin=plugged)
        try:
            net.sandbox.run(["tee", "/run/nic.xml"], stdin=f"{nic}</interface>")
            done = net.sandbox.run(["virsh", "-q", "attach-device", "g", "/run/nic.xml", "--live"], check=False)
            assert (done.returncode != 0, message in done.stderr) == (True, True), done.stderr
            assert late not in net.sandbox.run(["virsh", "-q", "dumpxml", "g"]).stdout.partition("<devices>")[2]
        finally:
            net.sandbox.run(["virsh", "-q", "destroy", "g"])
    assert forward_rules(net) == before


def table(net: Net) -> str:
    return net.sandbox.run(["nft", "list", "table", "inet", "guestnet"], check=False).stdout
