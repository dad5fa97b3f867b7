"""An administrator's steps, each a function that returns what it has seen, or raises AssertionError."""

from __future__ import annotations

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
    same,
)
from support.libvirt_host import DOMAIN, NIC, mac, uuid

from libvirt_guestnet.guest.image import TinyImage
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.topology import loads
from libvirt_guestnet.xmlgen import domain
from libvirt_guestnet.xmlgen.element import to_string

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
OURS, STATE = "*guestnet*", "/run/libvirt-guestnet"


def a_default_host(host: DebianHost) -> str:
    """libvirtd is confined, and nothing of libvirt's configuration is another than Debian's."""
    version = host.sh("virsh -q version --daemon | tail -n 1")
    profile = Path(f"/proc/{Path('/run/libvirtd.pid').read_text().strip()}/attr/current").read_text().strip()
    same(profile, "libvirtd (enforce)")
    changed = host.sh(
        "dpkg --verify libvirt-daemon libvirt-daemon-system libvirt-daemon-config-network | grep ' /etc/' || true"
    )
    same(changed, "")
    return f"{host.sh('. /etc/os-release; echo $PRETTY_NAME, $(uname -r)')}; {version}; {profile}"


def set_up(host: DebianHost) -> str:
    """The clone in /opt, with the environment that scripts/setup makes; without pip, which wants the network."""
    shutil.copytree(CHECKOUT, LIBRARY)
    host.sh(f"/usr/bin/python3 -m venv --system-site-packages --without-pip {LIBRARY}/.venv")
    return str(PYTHON.resolve())


def hooks_install(host: DebianHost) -> str:
    said = host.well("hooks", "install")
    same([path for path in (*HOOKS, UNIT, NETWORKD, NETWORK_MANAGER) if not path.exists()], [])
    same(host.sh("systemctl is-active libvirt-guestnet; systemctl is-enabled libvirt-guestnet"), "active\nenabled")
    return said


def daemon_restart_is_asked_for(host: DebianHost) -> str:
    """libvirtd ran before its first hook was there; unless it has ended since, as Debian's does when idle."""
    found = host.must()
    assert set(found) in ({("hooks", "qemu"), ("hooks", "network")}, set()), found
    host.sh("systemctl restart libvirtd")
    return found.get(("hooks", "qemu"), "libvirtd has been started again meanwhile")


def doctor(host: DebianHost) -> str:
    return host.well("doctor")


def apply(host: DebianHost) -> str:
    """The guest is the administrator's own domain."""
    host.define("define", DOMAIN.format(name="g", uuid=uuid(1), policy="", nics=""))
    TOPOLOGY.write_text(NET)
    said = host.well("apply", str(TOPOLOGY))
    same(host.guestnet("plan", str(TOPOLOGY))[0], 0)
    return said


def start(host: DebianHost) -> str:
    """QEMU is not root, and confined."""
    host.virsh("start", "g")
    said = host.soon_guarded()
    pause(host)
    process = Path("/proc", host.qemu("g"))
    profile, user = (process / "attr/current").read_text().strip(), process.owner()
    same((profile, user), (f"libvirt-{uuid(1)} (enforce)", "libvirt-qemu"))
    return f"{said}; QEMU is {user}, {profile}"


def pause(host: DebianHost) -> None:
    """Has the guest's firmware not go on: emulation in emulation takes all of the processor."""
    host.virsh("suspend", "g")


def tiny_guests_files_stay_roots(host: DebianHost) -> str:
    """Where QEMU's user owned the kernel that all tiny guests boot, one of them could change it for the others."""
    folder = Path("/var/lib/tiny")
    host.sh(f"mkdir {folder}; cp /boot/vmlinuz-* {folder}/kernel; echo >{folder}/initrd")
    found = loads("name: t\nguests: {tiny: {image: tiny, ports: []}}\n", "t.yaml")
    image = TinyImage(folder / "kernel", folder / "initrd")
    xml = to_string(domain(found, found.guest("tiny"), HostMap({}), image, "qemu"))
    host.define("create", xml, "--paused")
    user = Path("/proc", host.qemu("tiny")).owner()
    owners = host.sh(f"stat -c '%U %a' {folder}/*")
    host.virsh("destroy", "tiny")
    same((user, owners), ("libvirt-qemu", "root 644\nroot 644"))
    return owners


def hot_plug(host: DebianHost) -> str:
    Path("/tmp/nic.xml").write_text(NIC.format(network="lan", mac=mac(1, 7)))
    host.virsh("attach-device", "g", "/tmp/nic.xml", "--live")
    same(len(host.nics("g")), 2)
    return host.soon_guarded()


def status(host: DebianHost) -> str:
    return host.well("status")


def libvirtd_restart(host: DebianHost) -> str:
    before, taps = host.qemu("g"), host.nics("g")
    host.sh("systemctl restart libvirtd")
    same(host.running(), ["g"])
    said = host.soon_guarded()
    same((host.qemu("g"), host.nics("g")), (before, taps))
    return said


def flush_ruleset(host: DebianHost) -> str:
    """The service puts everything of ours back."""
    before = host.chains()
    host.sh("nft flush ruleset")
    host.soon(lambda: host.chains() >= before, "the chains are back")
    same(host.chains(), before)
    return f"{len(before)} chains are back; {host.soon_guarded()}"


def network_without_autostart(host: DebianHost) -> str:
    """Debian's `default` is not started at boot; a guest on it may be to."""
    nic = NIC.format(network="default", mac=mac(2, 0))
    host.define("define", DOMAIN.format(name="other", uuid=uuid(2), policy="", nics=nic))
    host.virsh("autostart", "other")
    found = host.must()
    same(set(found), {("network", "default")})
    host.virsh("net-autostart", "default")
    same(host.must(), {})
    host.virsh("undefine", "other")
    host.virsh("net-autostart", "default", "--disable")
    return found["network", "default"]


def networkd_with_a_wildcard(host: DebianHost) -> str:
    """It takes every device but guests'."""
    addresses = host.addresses()
    host.sh("ip link add other0 type dummy")
    WILDCARD.write_text("[Match]\nName=*\n\n[Network]\nDHCP=yes\n")
    host.sh("systemctl start systemd-networkd")
    host.soon(lambda: networkd(host)["other0"].startswith("configur"), "networkd takes a device")
    states = networkd(host)
    same({states[each] for each in (BRIDGE, *host.nics("g"))}, {"unmanaged"})
    same(host.addresses(), addresses)
    same(host.must(), {})
    return f"{host.soon_guarded()}; networkd: {states}"


def networkd_without_our_file(host: DebianHost) -> str:
    """It takes the bridge; `doctor` says so and what to do, and that puts all back."""
    addresses = host.addresses()
    NETWORKD.unlink()
    host.sh("networkctl reload")
    host.soon(lambda: networkd(host)[BRIDGE].startswith("configur"), "networkd takes the bridge")
    found = host.must()
    named = {about for check, about in found if check == "network manager"}
    assert {"vme*", "vnet*", "gn-*", "virbr*"} <= named, found
    host.well("hooks", "install")
    host.well("hooks", "sync")
    left = host.must()
    assert set(left) <= {("kernel state", f"network lan {BRIDGE}")}, left
    host.virsh("net-destroy", "lan")
    host.virsh("net-start", "lan")
    said = host.soon_guarded()
    same(host.addresses(), addresses)
    same(host.must(), {})
    host.sh(f"rm {WILDCARD}; systemctl stop systemd-networkd.socket systemd-networkd; ip link del other0")
    return f"{found}; then {left}; {said}"


def networkd(host: DebianHost) -> dict[str, str]:
    """What networkd says of each device."""
    lines = map(str.split, host.sh("networkctl --no-pager --no-legend list").splitlines())
    return {device: setup for _, device, _, _, setup in lines}


def network_manager(host: DebianHost) -> str:
    addresses = host.addresses()
    host.sh("systemctl start NetworkManager && nm-online -s -q -t 300 || true")
    states = dict(line.split(":") for line in host.sh("nmcli -t -f DEVICE,STATE device").splitlines())
    ours = {name: state for name, state in states.items() if name == BRIDGE or name in host.nics("g")}
    same(ours, dict.fromkeys((BRIDGE, *host.nics("g")), "unmanaged"))
    same(host.addresses(), addresses)
    same(host.must(), {})
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
    pause(host)
    same(host.sh("systemctl is-active libvirt-guestnet"), "active")
    same(host.must(), {})
    return said


def forbidden_python(host: DebianHost) -> str:
    """Hooks of a Python that libvirtd's profile forbids: `doctor` says so, `hooks install` allows it."""
    host.sh(f"/usr/bin/python3 -m venv --copies --system-site-packages --without-pip {COPIED.parents[1]}")
    found = host.must(COPIED)
    assert f"forbids {COPIED.resolve()}" in found["hooks", "libvirtd"], found
    said = host.well("hooks", "install", python=COPIED)
    assert f"{APPARMOR}: lets libvirtd run {COPIED.resolve()}" in said
    same(host.must(COPIED), {})
    host.virsh("destroy", "g")
    same(host.guarded(), {})
    host.virsh("start", "g")
    return f"{found['hooks', 'libvirtd']}\n{said}\n{host.soon_guarded()}"


def uninstall(host: DebianHost) -> str:
    """Nothing is left, though a guest runs, but the locks that `destroy` takes, and the number of their folder's form:
    /run is empty after a boot."""
    said = host.well("hooks", "uninstall", python=COPIED)
    same(host.chains(), set())
    same([path for path in (*HOOKS, UNIT, NETWORKD, NETWORK_MANAGER) if path.exists()], [])
    assert not APPARMOR.exists() or "guestnet" not in APPARMOR.read_text()
    same(host.running(), ["g"])
    host.virsh("destroy", "g")
    host.well("destroy", str(TOPOLOGY))
    left = host.sh(f"find /etc /run /sys/fs/bpf /usr/local /var/lib -name '{OURS}' ! -path {STATE}").splitlines()
    left += host.sh(f"find {STATE} -type f ! -name lock ! -name '*.lock' ! -name format").splitlines()
    units = host.sh(f"systemctl --no-pager --no-legend --all list-units '{OURS}'")
    same((left, units), ([], ""))
    return said


def no_denials(host: DebianHost) -> str:
    """AppArmor refused nothing but what a step asked it to refuse."""
    lines = host.sh("journalctl -k -q --no-pager -o cat -g 'apparmor=.DENIED' || true").splitlines()
    denied = [line for line in lines if str(COPIED) not in line and f'name="{COPIED.resolve()}"' not in line]
    same(denied, [])
    return f"{len(lines)} denials, all asked for" if lines else "no denials"


BEFORE = (
    a_default_host,
    set_up,
    hooks_install,
    daemon_restart_is_asked_for,
    doctor,
    apply,
    start,
    tiny_guests_files_stay_roots,
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
