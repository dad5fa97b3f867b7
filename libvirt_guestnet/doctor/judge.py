"""What `guestnet doctor` says of a host: facts in, rows out. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from libvirt_guestnet.doctor import firewalls, ways
from libvirt_guestnet.doctor.finding import FINE, MUST, NOTE, Finding
from libvirt_guestnet.doctor.host_facts import HOST_ROUTED, HostFacts, NetworkFacts
from libvirt_guestnet.hook.read import hostwide
from libvirt_guestnet.importing.survey import nic_named
from libvirt_guestnet.install.hook_files import OLDEST_LIBVIRT, RUN_TWICE
from libvirt_guestnet.install.network_managers import Claim
from libvirt_guestnet.router import folder


@dataclass(frozen=True)
class Feature:
    """A feature of the kernel: its option, its module ("": none of its own), what it is for, and how bad it is to lack
    it if no topology says that it is needed."""

    option: str
    module: str
    purpose: str
    level: str = NOTE


FEATURES = {
    "netdev ingress": Feature("NF_TABLES_NETDEV", "", "port security", MUST),
    "netdev egress": Feature("NETFILTER_EGRESS", "", "learning addresses from the host's DHCP server (Linux 5.16)"),
    "bridge meta": Feature("NFT_BRIDGE_META", "nft_meta_bridge", "silencing ports that nobody guards"),
    "vlan filtering": Feature("BRIDGE_VLAN_FILTERING", "", "VLANs on bridges"),
    "vlan": Feature("VLAN_8021Q", "8021q", "VLANs of a NIC"),
    "vxlan": Feature("VXLAN", "vxlan", "networks across hosts"),
    "netem": Feature("NET_SCH_NETEM", "sch_netem", "impairing ports, for labs"),
}
_SYSCTL = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}
_SYNC = "guestnet hooks sync"


def judge(facts: HostFacts) -> list[Finding]:
    """Every row, what must be done first."""
    parts = (
        _libvirt,
        _hooks,
        _library,
        _kernel,
        _offload,
        _ports,
        _wrong,
        _taken,
        _labels,
        _forwarding,
        firewalls.chains,
        firewalls.bridged,
        firewalls.legacy,
        firewalls.active,
        _managers,
        _asleep,
        _left_out,
        _claimed,
        _left_routers,
        _ways,
    )
    rows = [row for part in parts for row in part(facts)]
    return sorted(rows, key=lambda row: (MUST, NOTE, FINE).index(row.level))


def _libvirt(facts: HostFacts) -> Iterator[Finding]:
    version = ".".join(map(str, facts.libvirt or ()))
    if facts.libvirt is None:
        yield Finding(
            "libvirt", MUST, "", "no libvirt daemon is installed", "install the package libvirt-daemon-system"
        )
    elif facts.libvirt < OLDEST_LIBVIRT:
        oldest = ".".join(map(str, OLDEST_LIBVIRT))
        yield Finding(
            "libvirt", MUST, "", f"{version} runs no hooks from qemu.d", f"upgrade libvirt to {oldest} or later"
        )
    elif facts.unreachable:
        said, _, do = facts.unreachable.partition("\n")
        yield Finding("libvirt", MUST, "", said, do)
    else:
        yield Finding("libvirt", FINE, "", f"{version} answers")


def _hooks(facts: HostFacts) -> Iterator[Finding]:
    for hook in facts.hooks:
        if not hook.installed:
            yield Finding("hooks", MUST, hook.hook, f"{hook.path} is not installed", "guestnet hooks install")
        elif not hook.current:
            yield Finding("hooks", MUST, hook.hook, f"{hook.path} is of another version", "guestnet hooks install")
        elif hook.restart_needed:
            found = "the daemon has started before its first hook was there, and does not call it"
            yield Finding("hooks", MUST, hook.hook, found, "systemctl restart libvirtd (or virtqemud and virtnetworkd)")
        else:
            yield Finding("hooks", FINE, hook.hook, f"{hook.path} is installed and called")
        if hook.run_by:
            found = (
                f"{hook.run_by} runs {hook.path} a second time; without the XML on its stdin that refuses every start"
            )
            yield Finding("hooks", MUST, hook.run_by, found, RUN_TWICE)
    for each in facts.confined:
        found = f"AppArmor's profile {each.profile} forbids {each.python}: no hook runs, and our guests do not start"
        yield Finding("hooks", MUST, each.daemon, found, "guestnet hooks install")
    if facts.hostwide:
        yield Finding("hooks", MUST, hostwide.FILE, facts.hostwide, _SYNC)


def _library(facts: HostFacts) -> Iterator[Finding]:
    if facts.loose:
        # Whoever has hooks all the same has said --any-owner.
        level = NOTE if any(hook.installed for hook in facts.hooks) else MUST
        found, _, do = facts.loose.partition(": ")
        yield Finding("library", level, "", found, do)
    else:
        yield Finding("library", FINE, "", "only root can change what libvirt runs as root")


def _kernel(facts: HostFacts) -> Iterator[Finding]:
    for name, has in facts.kernel.items():
        feature = FEATURES[name]
        if has:
            yield Finding("kernel", FINE, name, f"{feature.purpose}: it can")
        elif has is None:
            found = f"{feature.purpose}: it cannot be told whether it can (no configuration of this kernel to read)"
            yield Finding("kernel", NOTE, name, found)
        else:
            module = f" and the module {feature.module}" if feature.module else ""
            level = MUST if name in facts.needed else feature.level
            do = f"run a kernel with CONFIG_{feature.option}{module}; Debian's have it"
            missing = f": device {facts.wanting[name]} does not exist" if name in facts.wanting else ""
            yield Finding("kernel", level, name, f"{feature.purpose}: this kernel cannot{missing}", do)


def _offload(facts: HostFacts) -> Iterator[Finding]:
    if facts.offload is None:
        yield Finding(
            "checksum guard", NOTE, "", "only root can see whether it can be had", "run guestnet doctor as root"
        )
    elif facts.offload:
        found = f"this host cannot have it, so that guests change frames behind every filter: {facts.offload}"
        yield Finding("checksum guard", MUST, "", found, "run a kernel with BPF and BTF, such as Debian's")
    else:
        yield Finding("checksum guard", FINE, "", "guests cannot have the host write into their frames")


def _ports(facts: HostFacts) -> Iterator[Finding]:
    for tap in facts.stale:
        yield Finding("receipts", MUST, tap, "is on record as guarded, but there is no such tap", _SYNC)
    for port, bridge in facts.unguarded:
        found = f"is on {bridge}, and nobody guards it"
        yield Finding("ports", MUST, port, found, f"{_SYNC}; a port that is no guest's does not belong there")
    for port in facts.observed:
        found = "is only observed: what a guard would drop is counted, and passes"
        yield Finding("ports", NOTE, port, found, "declare what `guestnet suggest` says, then `guarded: true`")
    for nic in facts.unguardable:
        level = MUST if nic.refused else NOTE
        found = f"type {nic.type} is not guarded: {nic.reason}"
        yield Finding("ports", level, f"{nic.guest} {nic.mac}", found, nic.instead)


def _wrong(facts: HostFacts) -> Iterator[Finding]:
    for each in facts.wrong:
        about = " ".join(filter(None, (each.kind, each.owner, each.device)))
        yield Finding("kernel state", MUST, about, each.found, each.do)
    if not facts.wrong:
        yield Finding("kernel state", FINE, "", "taps, bridges and addresses are where they should be")


def _taken(facts: HostFacts) -> Iterator[Finding]:
    """A guest that runs is never stopped for it, nor led past: its next start is refused."""
    for each in facts.taken:
        yield Finding("address", MUST, each.owner, f"{each.found}; its next start is refused", each.do)
    if not facts.taken:
        yield Finding("address", FINE, "", "what running guests have is nobody else's on this host")


def _labels(facts: HostFacts) -> Iterator[Finding]:
    for label, device in facts.labels.items():
        file = "/etc/libvirt-guestnet/host.yaml"
        do = f"write {label}: DEVICE under physical-networks: in {file}, or pass --map {label}=DEVICE"
        if not device:
            yield Finding("labels", MUST, label, "no device of this host is mapped to it", do)
        elif device not in facts.devices:
            yield Finding("labels", MUST, label, f"is mapped to {device}, which this host does not have", do)
        else:
            yield Finding("labels", FINE, label, f"is {device}")


def _forwarding(facts: HostFacts) -> Iterator[Finding]:
    for version, on in facts.forwarding.items():
        needing = [net.name for net in facts.networks if version in net.versions and _forwarded(net)]
        if not on and needing:
            found = f"is off, and the host forwards for {', '.join(needing)}"
            yield Finding(
                "forwarding", MUST, _SYSCTL[version], found, f"sysctl -w {_SYSCTL[version]}=1; see /etc/sysctl.d"
            )
        elif needing:
            yield Finding("forwarding", FINE, _SYSCTL[version], "is on")


def _forwarded(net: NetworkFacts) -> bool:
    return net.mode in ("nat", "route", HOST_ROUTED) or net.reached


def _managers(facts: HostFacts) -> Iterator[Finding]:
    for each in facts.claims:
        found = (
            f"{each.manager} configures it by {each.file}: it takes taps off their bridge, and addresses off bridges"
        )
        hint = _left_alone(each, facts.unmanaged) + ("" if each.device.startswith(_TAPS) else _BRIDGE)
        yield Finding("network manager", MUST, each.device, found, hint)
    if not facts.claims:
        yield Finding("network manager", FINE, "", "none takes guests' taps or bridges")


_TAPS = ("vnet", "vme")
_BRIDGE = "; if the address of a libvirt network's bridge is gone, virsh net-destroy and net-start bring it back"


def _left_alone(claim: Claim, unmanaged: str) -> str:
    if not claim.device.endswith("*"):
        return f"add the line `Name=!{claim.device}` or the like to [Match] there, then networkctl reload, and {_SYNC}"
    if unmanaged:
        return f"rename it to come after {unmanaged}, then networkctl reload, and {_SYNC}"
    return f"guestnet hooks install, which writes a file that leaves these alone, and {_SYNC}"


def _asleep(facts: HostFacts) -> Iterator[Finding]:
    """Such as Debian's `default`. libvirt starts no network for a guest that starts."""
    for each in facts.asleep:
        if each.at_boot:
            found = f"is not started at boot, and so neither are {', '.join(each.at_boot)}, which are to be"
            yield Finding("network", MUST, each.network, found, f"virsh net-autostart {each.network}")
        if each.now:
            found = f"is not active: {', '.join(each.now)} cannot start"
            yield Finding("network", NOTE, each.network, found, f"virsh net-start {each.network}")


def _ways(facts: HostFacts) -> Iterator[Finding]:
    return ways.judge(facts.ways)


def _left_out(facts: HostFacts) -> Iterator[Finding]:
    """Of a NIC that cannot be guarded its own row says more."""
    said = {nic_named(nic.guest, nic.mac) for nic in facts.unguardable}
    for each in facts.left_out:
        if each.what not in said:
            yield Finding("import", NOTE, each.what, f"`guestnet import` leaves it out: {each.why}")


def _left_routers(facts: HostFacts) -> Iterator[Finding]:
    for name, topology in facts.left_routers.items():
        found = f"it has disks in {folder.ROUTERS}, and no domain: somebody undefined it"
        by_hand = f"rm -r {folder.ROUTERS / name}, or the next apply of the topology that it is in"
        do = f"guestnet destroy --name {shlex.quote(topology)}, or the topology's next apply" if topology else by_hand
        yield Finding("router", NOTE, name, found, do)


def _claimed(facts: HostFacts) -> Iterator[Finding]:
    """Whoever may edit a domain writes that, so it is no fault of the host's."""
    for each in facts.claimed:
        do = "ask who edits these domains; guestnet:port in virsh dumpxml --inactive says it"
        yield Finding("metadata", NOTE, each.domains, each.found, do)
