"""An administrator's steps, each a function that returns what it has seen, or raises AssertionError."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from debian import (
    APPARMOR,
    BRIDGE,
    COPIED,
    HOOKS,
    LIBRARY,
    NETWORK_MANAGER,
    NETWORKD,
    PYTHON,
    UNIT,
    DebianHost,
)
from guests import DOMAIN, NIC, mac, uuid

CHECKOUT = Path(__file__).resolve().parents[3]
TOPOLOGY = Path("/root/net.yaml")
NET = f"""
name: day
networks:
  lan: {{mode: nat, bridge: {BRIDGE}, subnets: [10.61.1.0/24, "fd61:1::/64"], dhcp: {{}}}}
guests:
  g: {{ports: [{{network: lan}}]}}
"""
WILDCARD = Path("/etc/systemd/network/10-all.network")
OURS = "*guestnet*"


def a_default_host(host: DebianHost) -> str:
    """libvirtd is confined, and nothing of libvirt's configuration is another than Debian's."""
    version = host.sh("virsh -q version --daemon | tail -n 1")
    profile = Path(f"/proc/{Path('/run/libvirtd.pid').read_text().strip()}/attr/current").read_text().strip()
    assert profile == "libvirtd (enforce)", profile
    changed = host.sh("dpkg --verify libvirt-daemon-system libvirt-daemon-config-network || true")
    assert not changed, changed
    return f"{host.sh('. /etc/os-release; echo $PRETTY_NAME, $(uname -r)')}; {version}; {profile}"


def set_up(host: DebianHost) -> str:
    """The clone in /opt, with the environment that scripts/setup makes; without pip, which wants the network."""
    shutil.copytree(CHECKOUT, LIBRARY)
    host.sh(f"/usr/bin/python3 -m venv --system-site-packages --without-pip {LIBRARY}/.venv")
    return str(PYTHON.resolve())


def hooks_install(host: DebianHost) -> str:
    said = host.well("hooks", "install")
    assert [path for path in (*HOOKS, UNIT, NETWORKD, NETWORK_MANAGER) if not path.exists()] == []
    assert host.sh("systemctl is-active libvirt-guestnet; systemctl is-enabled libvirt-guestnet") == "active\nenabled"
    return said


def daemon_restart_is_asked_for(host: DebianHost) -> str:
    """libvirtd ran before its first hook was there."""
    found = host.must()
    assert set(found) == {("hooks", "qemu"), ("hooks", "network")}, found
    host.sh("systemctl restart libvirtd")
    return found["hooks", "qemu"]


def doctor(host: DebianHost) -> str:
    return host.well("doctor")


def apply(host: DebianHost) -> str:
    """The guest is the administrator's own domain."""
    host.define("define", DOMAIN.format(name="g", uuid=uuid(1), policy="", nics=""))
    TOPOLOGY.write_text(NET)
    said = host.well("apply", str(TOPOLOGY))
    assert host.guestnet("plan", str(TOPOLOGY))[0] == 0
    return said


def start(host: DebianHost) -> str:
    """QEMU is nobody's root, and confined."""
    host.virsh("start", "g")
    said = host.soon_guarded()
    process = Path("/proc", host.qemu("g"))
    profile, user = (process / "attr/current").read_text().strip(), process.owner()
    assert (profile, user) == (f"libvirt-{uuid(1)} (enforce)", "libvirt-qemu")
    return f"{said}; QEMU is {user}, {profile}"


def hot_plug(host: DebianHost) -> str:
    Path("/tmp/nic.xml").write_text(NIC.format(network="lan", mac=mac(1, 7)))
    host.virsh("attach-device", "g", "/tmp/nic.xml", "--live")
    assert len(host.nics("g")) == 2
    return host.soon_guarded()


def status(host: DebianHost) -> str:
    return host.well("status")


def libvirtd_restart(host: DebianHost) -> str:
    before, taps = host.qemu("g"), host.nics("g")
    host.sh("systemctl restart libvirtd")
    assert host.running() == ["g"]
    said = host.soon_guarded()
    assert (host.qemu("g"), host.nics("g")) == (before, taps)
    return said


def flush_ruleset(host: DebianHost) -> str:
    """The service puts everything of ours back."""
    before = host.chains()
    host.sh("nft flush ruleset")
    host.soon(lambda: host.chains() >= before, "the chains are back")
    assert host.chains() == before
    return f"{len(before)} chains are back; {host.soon_guarded()}"


def network_without_autostart(host: DebianHost) -> str:
    """Debian's `default` is not started at boot; a guest on it may be to."""
    nic = NIC.format(network="default", mac=mac(2, 0))
    host.define("define", DOMAIN.format(name="other", uuid=uuid(2), policy="", nics=nic))
    host.virsh("autostart", "other")
    found = host.must()
    assert set(found) == {("network", "default")}, found
    host.virsh("net-autostart", "default")
    assert host.must() == {}
    host.virsh("undefine", "other")
    host.virsh("net-autostart", "default", "--disable")
    return found["network", "default"]


def networkd_with_a_wildcard(host: DebianHost) -> str:
    """It takes every device but guests'."""
    addresses = host.addresses()
    host.sh("ip link add other0 type dummy")
    WILDCARD.write_text("[Match]\nName=*\n\n[Network]\nDHCP=yes\n")
    host.sh("systemctl start systemd-networkd")
    host.soon(lambda: re.search(r" other0 .*configur", networkctl(host)) is not None, "networkd takes a device")
    taken = [line for line in networkctl(host).splitlines() if "configur" in line and " other0 " not in line]
    assert taken == []
    assert host.addresses() == addresses
    assert host.must() == {}
    return host.soon_guarded()


def networkd_without_our_file(host: DebianHost) -> str:
    """It takes the bridge and its taps; `doctor` says so and what to do, which puts all back."""
    addresses = host.addresses()
    NETWORKD.unlink()
    host.sh("networkctl reload")
    found = host.must()
    named = [about for check, about in found if check == "network manager"]
    assert {"vme*", "vnet*", "gn-*", "virbr*"} <= set(named), found
    host.well("hooks", "install")
    host.well("hooks", "sync")
    said = host.soon_guarded()
    assert host.addresses() == addresses
    assert host.must() == {}
    host.sh(f"rm {WILDCARD}; systemctl stop systemd-networkd.socket systemd-networkd; ip link del other0")
    return f"{found['network manager', 'vme*']}; {said}"


def networkctl(host: DebianHost) -> str:
    return host.sh("networkctl --no-pager --no-legend list")


def network_manager(host: DebianHost) -> str:
    addresses = host.addresses()
    host.sh("systemctl start NetworkManager && nm-online -s -q -t 300 || true")
    states = dict(line.split(":") for line in host.sh("nmcli -t -f DEVICE,STATE device").splitlines())
    ours = {name: state for name, state in states.items() if name == BRIDGE or name in host.nics("g")}
    assert set(ours.values()) == {"unmanaged"} and len(ours) == 3, states
    assert host.addresses() == addresses
    assert host.must() == {}
    said = host.soon_guarded()
    host.sh("systemctl stop NetworkManager")
    return f"{said}; NetworkManager: {states}"


def before_reboot(host: DebianHost) -> str:
    """The guest's own system is none that could be told to end."""
    host.virsh("autostart", "g")
    host.virsh("destroy", "g")
    said = no_denials(host)
    host.sh("journalctl --flush; sync")
    return said


def autostarted(host: DebianHost) -> str:
    host.soon(lambda: host.running() == ["g"], "the guest runs")
    said = host.soon_guarded()
    assert host.sh("systemctl is-active libvirt-guestnet") == "active"
    assert host.must() == {}
    return said


def forbidden_python(host: DebianHost) -> str:
    """Hooks of a Python that libvirtd's profile forbids: `doctor` says so, `hooks install` allows it."""
    host.sh(f"/usr/bin/python3 -m venv --copies --system-site-packages --without-pip {COPIED.parents[1]}")
    found = host.must(COPIED)
    assert f"forbids {COPIED.resolve()}" in found["hooks", "libvirtd"], found
    said = host.well("hooks", "install", python=COPIED)
    assert f"{APPARMOR}: lets libvirtd run {COPIED.resolve()}" in said
    assert host.must(COPIED) == {}
    host.virsh("destroy", "g")
    assert host.guarded() == {}
    host.virsh("start", "g")
    return f"{found['hooks', 'libvirtd']}\n{said}\n{host.soon_guarded()}"


def uninstall(host: DebianHost) -> str:
    """Nothing is left, though a guest runs."""
    said = host.well("hooks", "uninstall", python=COPIED)
    assert host.chains() == set()
    assert [path for path in (*HOOKS, UNIT, NETWORKD, NETWORK_MANAGER) if path.exists()] == []
    assert not APPARMOR.exists() or "guestnet" not in APPARMOR.read_text()
    assert host.running() == ["g"]
    host.well("destroy", str(TOPOLOGY), "--allow-interrupt")
    left = host.sh(f"find /etc /run /sys/fs/bpf /usr/local /var/lib -name '{OURS}'").splitlines()
    units = host.sh(f"systemctl --no-pager --no-legend --all list-units '{OURS}'")
    assert (left, units) == ([], "")
    return said


def no_denials(host: DebianHost) -> str:
    """AppArmor refused nothing but what a step asked it to refuse."""
    lines = host.sh("journalctl -k -q --no-pager -o cat -g 'apparmor=.DENIED' || true").splitlines()
    denied = [line for line in lines if str(COPIED) not in line and f'name="{COPIED.resolve()}"' not in line]
    assert denied == [], "\n".join(denied)
    return f"{len(lines)} denials, all asked for" if lines else "no denials"


BEFORE = (
    a_default_host,
    set_up,
    hooks_install,
    daemon_restart_is_asked_for,
    doctor,
    apply,
    start,
    hot_plug,
    status,
    libvirtd_restart,
    flush_ruleset,
    network_without_autostart,
    networkd_with_a_wildcard,
    networkd_without_our_file,
    network_manager,
    before_reboot,
)
AFTER = (autostarted, forbidden_python, uninstall, no_denials)
