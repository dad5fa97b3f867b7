"""Every way a guest's port comes, changes and goes, on real daemons with our hooks: docs/lifecycle.md names these."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support.libvirt_host import MARK, NIC, XMLNS, Host, mac

from libvirt_guestnet import sandbox as sandboxes
from libvirt_guestnet.sandbox import Sandbox

HOOKS = ("/etc/libvirt/hooks/qemu.d/50-guestnet", "/etc/libvirt/hooks/network.d/50-guestnet")
PORT = f"""<g:domain {XMLNS} topology="t" guest="a"><g:port mac="{mac(1, 0)}" name="one" network="one">
<g:address ip="10.61.1.77"/></g:port><g:port mac="{mac(1, 9)}" name="late" network="plain"><g:address ip="10.61.3.99"/>
</g:port></g:domain>"""
MOVED = PORT.replace("10.61.1.77", "10.61.1.78").replace(f" {XMLNS}", "").replace("g:", "")


@pytest.fixture(scope="module")
def shared(each_sandbox: Sandbox) -> Host:
    host = Host(each_sandbox)
    host.networks()
    return host


@pytest.fixture
def host(shared: Host) -> Iterator[Host]:
    """Guest a with a NIC on guarded network one (its own policy) and one on two (the network's defaults)."""
    shared.guest("a", "one", "two", policy=PORT)
    yield shared
    for name in shared.running():
        shared.virsh("destroy", name)
    assert shared.guarded() == {}
    assert (shared.files("ports"), shared.files("domains"), shared.files("plugging")) == ({}, {}, {})
    shared.soon(lambda: shared.helpers() == [], "no process of ours is left")
    for name in shared.virsh("list", "--all", "--name").split():
        shared.virsh("undefine", name, "--managed-save")


def test_start_and_destroy(host: Host) -> None:
    host.virsh("start", "a")
    assert len(host.guarded()) == 2
    host.exact()
    assert "10.61.1.77" in host.rules(_tap(host, mac(1, 0)))
    host.virsh("destroy", "a")
    assert host.guarded() == {}


def test_start_paused(host: Host) -> None:
    host.virsh("start", "a", "--paused")
    host.exact()
    host.virsh("resume", "a")
    host.exact()


def test_suspend_and_reset_change_nothing(host: Host) -> None:
    host.virsh("start", "a")
    before = host.guarded()
    for verb in ("suspend", "resume", "reset"):
        host.virsh(verb, "a")
    assert host.guarded() == before


def test_save_and_restore(host: Host) -> None:
    host.virsh("start", "a")
    host.virsh("save", "a", "/tmp/a.saved")
    assert host.guarded() == {}
    host.virsh("restore", "/tmp/a.saved")
    assert len(host.guarded()) == 2
    host.exact()


def test_managedsave(host: Host) -> None:
    host.virsh("start", "a")
    host.virsh("managedsave", "a")
    assert host.guarded() == {}
    host.virsh("start", "a")
    assert len(host.guarded()) == 2
    host.exact()


def test_shutdown_by_the_guest(host: Host) -> None:
    # Nobody in the guest hears the power button, so QEMU itself is told to power down.
    host.virsh("start", "a")
    host.virsh("qemu-monitor-command", "a", "--hmp", "quit", check=False)
    _gone(host)


def test_crash(host: Host) -> None:
    host.virsh("start", "a")
    host.sandbox.run(["kill", "-SEGV", host.qemu("a")])
    _gone(host)


def test_kill_of_qemu(host: Host) -> None:
    host.virsh("start", "a")
    host.sandbox.run(["kill", "-KILL", host.qemu("a")])
    _gone(host)


@pytest.mark.parametrize("with_signal", [signal.SIGTERM, signal.SIGKILL])
def test_daemon_restart(host: Host, with_signal: signal.Signals) -> None:
    host.virsh("start", "a")
    before = host.guarded()
    host.restart_daemon(with_signal)
    host.soon(lambda: host.running() == ["a"], "the guest is known again")
    assert host.guarded() == before
    host.exact()


def test_daemon_restart_repairs(host: Host) -> None:
    host.virsh("start", "a")
    before = host.guarded()
    host.stop_daemon()
    host.soon(lambda: host.helpers() == [], "nobody is at work there any more")
    host.sandbox.run(["sh", "-c", "nft delete table netdev guestnet; rm -r /run/libvirt-guestnet"])
    host.sandbox.start_libvirtd()
    host.soon(lambda: host.guarded() == before, "reconnect guards it again")
    host.soon_exact()


def test_daemon_restart_undoes_what_was_changed_in_one_guest_of_several(host: Host) -> None:
    """A chain emptied, another guest's deleted, and a policy changed: no hook told of that."""
    host.guest("b", "one", "two", number=2)
    host.guest("c", "one", number=3)
    for name in "abc":
        host.virsh("start", name)
    before, first, other = host.guarded(), _tap(host, mac(1, 0)), _tap(host, mac(2, 0), "b")
    rules = host.rules(first)
    host.virsh("metadata", "a", XMLNS.split('"')[1], "--live", "--key", "g", "--set", MOVED)
    host.stop_daemon()
    host.sandbox.run(["nft", "flush", "chain", "netdev", "guestnet", f"ip4sent-{first}"])
    host.sandbox.run(["nft", f"flush chain netdev guestnet tap-{other}; delete chain netdev guestnet tap-{other}"])
    host.sandbox.start_libvirtd()
    host.soon(lambda: "10.61.1.78" in host.rules(first), "the new policy counts")
    # DHCP names it in hexadecimal.
    assert host.rules(first) == rules.replace("10.61.1.77", "10.61.1.78").replace("0xa3d014d", "0xa3d014e")
    assert host.guarded() == before
    host.exact()


def test_guest_that_died_while_the_daemon_was_down(host: Host) -> None:
    host.virsh("start", "a")
    process = host.qemu("a")
    host.stop_daemon(signal.SIGKILL)
    host.sandbox.run(["kill", "-KILL", process])
    host.sandbox.start_libvirtd()
    _gone(host)


def test_network_restart_under_a_running_guest(host: Host) -> None:
    host.virsh("start", "a")
    before = host.guarded()
    host.virsh("net-destroy", "two")
    assert host.guarded() == before
    host.restart_daemon()
    host.soon(lambda: host.running() == ["a"], "the guest is known again")
    assert host.guarded() == before, "a port of a destroyed network keeps its filter"
    host.virsh("net-start", "two")
    host.restart_daemon()
    host.soon(lambda: host.running() == ["a"], "the guest is known again")
    host.exact()


def test_plug_and_unplug(host: Host) -> None:
    host.virsh("start", "a")
    host.virsh("attach-interface", "a", "network", "two", "--mac", mac(1, 2), "--live")
    host.soon_exact()
    assert "fd61:2::5054:" in host.rules(_tap(host, mac(1, 2)))
    host.soon(lambda: host.helpers() == [], "the checksum guard has moved, too")
    host.unplug("a", mac(1, 2))
    host.soon(lambda: len(host.guarded()) == 2, "the unplugged NIC is forgotten")
    host.exact()


def _soon_guarded(host: Host, address: str) -> None:
    host.soon(lambda: address in host.guarded().values(), "guarded")


def test_plug_is_guarded_at_once(host: Host) -> None:
    host.virsh("start", "a")
    for nic in range(2, 6):
        host.virsh("attach-interface", "a", "network", "one", "--mac", mac(1, nic), "--live")
        began = time.monotonic()
        _soon_guarded(host, mac(1, nic))
        # Milliseconds, where nobody else uses the processors; a helper that missed the tap would wait for 10 s.
        assert time.monotonic() - began < 8
    host.soon_exact()


def test_network_update_counts_for_the_next_nic(host: Host) -> None:
    host.virsh("start", "a")
    reserved = f"<host mac='{mac(1, 2)}' ip='10.61.2.42'/>"
    host.virsh("net-update", "two", "add", "ip-dhcp-host", reserved, "--live")
    host.virsh("attach-interface", "a", "network", "two", "--mac", mac(1, 2), "--live")
    host.soon_exact()
    host.virsh("net-update", "two", "delete", "ip-dhcp-host", reserved, "--live")
    assert "10.61.2.42" in host.rules(_tap(host, mac(1, 2)))


def test_plug_with_the_domains_own_policy(host: Host) -> None:
    """Its network knows nothing of us: the domain's metadata alone asks for a guard."""
    host.virsh("start", "a")
    host.virsh("attach-interface", "a", "network", "plain", "--mac", mac(1, 9), "--live")
    # needed() counts networks; this NIC is guarded beside them.
    host.soon(lambda: mac(1, 9) in host.guarded().values() and not host.files("plugging"), "guarded")
    assert "10.61.3.99" in host.rules(_tap(host, mac(1, 9)))


def test_plug_into_a_guest_that_had_no_guard(host: Host) -> None:
    host.guest("b", "plain", number=2)
    host.virsh("start", "b")
    assert host.guarded() == {}
    host.virsh("attach-interface", "b", "network", "one", "--mac", mac(2, 1), "--live")
    host.soon_exact()
    assert len(host.guarded()) == 1


def test_plug_on_a_plain_network_is_left_alone(host: Host) -> None:
    host.virsh("start", "a")
    before = host.guarded()
    host.virsh("attach-interface", "a", "network", "plain", "--mac", mac(1, 3), "--live")
    assert host.files("plugging") == {}
    assert host.guarded() == before


def test_plug_is_refused_where_no_helper_can_start(host: Host) -> None:
    host.virsh("start", "a")
    host.sandbox.run(["sh", "-c", "rmdir /run/libvirt-guestnet/plugging; touch /run/libvirt-guestnet/plugging"])
    refusal = host.virsh("attach-interface", "a", "network", "two", "--mac", mac(1, 2), "--live", check=False)
    host.sandbox.run(["rm", "/run/libvirt-guestnet/plugging"])
    assert "libvirt-guestnet: network two port-created" in refusal
    assert mac(1, 2) not in host.nics("a").values()
    host.exact()


def test_plug_that_fails_leaves_nothing(host: Host) -> None:
    host.virsh("start", "a")
    bad = NIC.format(network="two", mac=mac(1, 2)).replace("<mac", "<address type='pci' slot='0x01'/><mac")
    host.sandbox.run(["tee", "/tmp/bad.xml"], stdin=bad)
    assert "error" in host.virsh("attach-device", "a", "/tmp/bad.xml", "--live", check=False)
    host.soon_exact()
    host.virsh("attach-interface", "a", "network", "two", "--mac", mac(1, 2), "--live")
    host.soon_exact()
    assert len(host.guarded()) == 3


def _soon_allowed(host: Host, tap: str, network: str, allowed: str) -> None:
    host.soon(lambda: allowed in host.rules(tap), f"the filter of network {network}")


def test_update_to_another_network_and_back(host: Host) -> None:
    host.virsh("start", "a")
    tap = _tap(host, mac(1, 1))
    for network, allowed in (("one", "fd61:1::5054:"), ("two", "fd61:2::5054:")):
        _update(host, network)
        _soon_allowed(host, tap, network, allowed)
        host.soon_exact()
    _update(host, "plain")
    host.soon_exact()
    assert tap not in host.guarded()
    _update(host, "one")
    host.soon_exact()
    assert tap in host.guarded()


def test_update_to_another_network_of_the_same_bridge(host: Host) -> None:
    for network in ("three", "four"):
        number = {"three": 7, "four": 8}[network]
        mark = MARK.format(name=network, number=number)
        bridged = "<forward mode='bridge'/><bridge name='br-plain'/></network>"
        host.define("net-create", f"<network><name>{network}</name><metadata>{mark}</metadata>{bridged}")
    try:
        host.guest("a", "three")
        host.virsh("start", "a")
        (tap,) = host.nics("a")
        host.sandbox.run(["tee", "/tmp/update.xml"], stdin=NIC.format(network="four", mac=mac(1, 0)))
        host.virsh("update-device", "a", "/tmp/update.xml", "--live")
        assert "fd61:8::" in host.rules(tap)
        assert "fd61:7::" not in host.rules(tap)
    finally:
        for network in ("three", "four"):
            host.virsh("net-destroy", network)


def test_update_of_the_link_changes_nothing(host: Host) -> None:
    host.virsh("start", "a")
    before, receipts = host.guarded(), _but_for_libvirts_ports(host)
    for state in ("down", "up"):
        host.virsh("domif-setlink", "a", mac(1, 1), state)
        assert host.guarded() == before
    host.soon_exact()
    host.soon(lambda: host.helpers() == [], "whoever waited for another NIC with its MAC is gone")
    assert _but_for_libvirts_ports(host) == receipts


def _but_for_libvirts_ports(host: Host) -> dict[str, dict[str, Any]]:
    """The receipts; libvirt 11.3 gives a NIC another port with each change."""
    return {tap: {**receipt, "portid": ""} for tap, receipt in host.files("ports").items()}


def test_update_to_a_plain_bridge(host: Host) -> None:
    host.virsh("start", "a")
    bridged = NIC.format(network="x", mac=mac(1, 1)).replace("network='x'", "bridge='br-plain'")
    bridged = bridged.replace("type='network'", "type='bridge'")
    _update_xml(host, bridged)
    host.soon_exact()
    assert len(host.guarded()) == 1


@pytest.mark.parametrize("stage", ["prepare", "port-created", "start", "started"])
def test_start_that_fails(host: Host, stage: str) -> None:
    """Somebody else's hook refuses at a stage: before ours (00) where ours would not have run yet, after ours (99)."""
    hook = "network" if stage == "port-created" else "qemu"
    for place in ("00", "99"):
        path = f"/etc/libvirt/hooks/{hook}.d/{place}-refuse"
        host.sandbox.run(["tee", path], stdin=f'#!/bin/sh\n[ "$2" != {stage} ]\n')
        host.sandbox.run(["chmod", "755", path])
        assert "error" in host.virsh("start", "a", check=False)
        host.sandbox.run(["rm", path])
        assert host.guarded() == {}
        host.exact()


def test_start_without_a_usable_emulator_fails_cleanly(host: Host) -> None:
    host.sandbox.run(["sh", "-c", "mv /usr/bin/qemu-system-x86_64 /usr/bin/q && printf '#!/bin/sh\\nexit 1\\n' >/usr/bin/qemu-system-x86_64 && chmod 755 /usr/bin/qemu-system-x86_64"])  # fmt: skip  # noqa: E501
    refusal = host.virsh("start", "a", check=False)
    host.sandbox.run(["mv", "/usr/bin/q", "/usr/bin/qemu-system-x86_64"])
    assert "error" in refusal
    host.exact()


def test_hooks_that_come_while_guests_run(host: Host) -> None:
    host.sandbox.run(["sh", "-c", "rm -r /etc/libvirt/hooks/*.d/50-guestnet /run/libvirt-guestnet"])
    host.virsh("start", "a")
    assert host.guarded() == {}
    _install(host)
    # A dead guest's leftovers, too: of a killed hook, and of a lost /run.
    host.sandbox.run(["nft", "add table netdev guestnet; add chain netdev guestnet arp-vnet99"])
    _sync(host)
    assert len(host.guarded()) == 2
    host.exact()
    assert set(host.files("networks")) == {"one", "two"}


def test_sync_forgets_networks_that_were_stopped_unheard(host: Host) -> None:
    host.sandbox.run(["sh", "-c", "cd /run/libvirt-guestnet/networks && sed s/one/gone/ one.json > gone.json"])
    _sync(host)
    assert set(host.files("networks")) == {"one", "two"}


def test_a_reused_tap_name_never_inherits(host: Host) -> None:
    """The daemon restarts, so names are given again; the release of the old guest was killed."""
    host.restart_daemon()
    host.virsh("start", "a")
    process = host.qemu("a")
    host.stop_daemon(signal.SIGKILL)
    host.sandbox.run(["kill", "-KILL", process])
    host.sandbox.run(["chmod", "a-x", *HOOKS])
    host.sandbox.start_libvirtd()
    host.soon(lambda: host.running() == [], "the guest is gone")
    left = set(host.guarded())
    assert len(left) == 2, "nobody released them"
    host.guest("b", "plain", number=2)
    host.virsh("start", "b")  # still without hooks: a tap of b has an old guest's filter now
    assert set(host.nics("b")) & left
    host.virsh("destroy", "b")
    host.sandbox.run(["chmod", "a+x", *HOOKS])
    host.restart_daemon()
    host.virsh("start", "b")
    host.exact()
    assert host.guarded() == {}


def _tap(host: Host, address: str, guest: str = "a") -> str:
    return next(tap for tap, mac in host.nics(guest).items() if mac == address)


def _gone(host: Host) -> None:
    host.soon(lambda: host.running() == [], "the guest is gone")
    host.soon(lambda: host.guarded() == {}, "its filters are gone")


def _update(host: Host, network: str) -> None:
    _update_xml(host, NIC.format(network=network, mac=mac(1, 1)))


def _update_xml(host: Host, xml: str) -> None:
    host.sandbox.run(["tee", "/tmp/update.xml"], stdin=xml)
    host.virsh("update-device", "a", "/tmp/update.xml", "--live")


def _install(host: Host) -> None:
    code = "from pathlib import Path; from libvirt_guestnet.install.hook_files import install; install(Path('/'), True)"
    host.sandbox.run(sandboxes.python_inside(["-c", code], host.sandbox.root))


def _sync(host: Host) -> None:
    host.sandbox.run(sandboxes.python_inside(["-m", "libvirt_guestnet.cli", "hooks", "sync"], host.sandbox.root))
