"""What `guestnet doctor` says of a host: facts in, rows out. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase

from libvirt_guestnet.datapath.firewalls import registry
from libvirt_guestnet.datapath.firewalls.chains import Guests, RefusingChain
from libvirt_guestnet.hook.read import hostwide
from libvirt_guestnet.install.apparmor import Confined
from libvirt_guestnet.install.hook_files import OLDEST_LIBVIRT, RUN_TWICE, HookStatus
from libvirt_guestnet.install.network_managers import Claim
from libvirt_guestnet.model.drift import Drift
from libvirt_guestnet.model.held_addresses import Refusal
from libvirt_guestnet.status.unguarded import UnguardedRow

FINE, NOTE, MUST = "fine", "note", "must"
_HOST_ROUTED = "host-routed"


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `level`: fine, a note, or something that must be done (`do`) for guests to be guarded or
    reached. `about` names the thing where there are several of a `check`."""

    check: str
    level: str
    about: str
    found: str
    do: str = ""

    def json(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True)
class NetworkFacts:
    """An active network of ours, or the tap of a host-routed guest (then `device` is that, and `vrf` what it is in, if
    anything). `mode` is libvirt's forward mode, "isolated" or "host-routed"; `versions` are those of its subnets;
    `reached`: it has forwards, `untranslated`: among them addresses that its guests have themselves. `isolated` are
    the IP versions of forwards to a port that is isolated from others on its bridge."""

    name: str
    device: str
    mode: str
    versions: frozenset[int] = frozenset({4})
    reached: bool = False
    untranslated: bool = False
    vrf: str = ""
    isolated: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Asleep:
    """A network that is not started at boot, and guests that are; or one of somebody else's that is not active, and
    guests of ours that need it."""

    network: str
    at_boot: tuple[str, ...] = ()
    now: tuple[str, ...] = ()


@dataclass(frozen=True)
class HostFacts:
    """What was found on a host; as they stand, nothing is wrong. None stands for what only root can see.

    `kernel` says by feature (see FEATURES) whether it is there, None when that cannot be told; `needed` are the
    features and `labels` (each with the device it is mapped to, "" for none) that a topology asks for; `devices` are
    the host's. `unguarded` are (port, bridge), `unguardable` NICs that cannot be guarded, `observed`
    ports of running guests of which nothing is dropped; `hostwide` says what is wrong
    with what the hooks read of host.yaml. `taken`: running guests' addresses that became somebody else's. `offload`
    says why this host cannot have the checksum guard; `wrong` is what the kernel has otherwise than it should.
    `confined` are daemons that may not run the hooks' Python; `claims` what of ours a network manager takes, and
    `unmanaged` our file that tells it not to. `asleep`: networks that guests would miss.
    """

    libvirt: tuple[int, ...] | None = OLDEST_LIBVIRT
    unreachable: str = ""
    hooks: tuple[HookStatus, ...] = ()
    loose: str = ""
    kernel: Mapping[str, bool | None] = field(default_factory=dict)
    needed: frozenset[str] = frozenset()
    networks: tuple[NetworkFacts, ...] = ()
    forwarding: Mapping[int, bool] = field(default_factory=dict)
    bridged: Mapping[int, bool] = field(default_factory=dict)
    chains: tuple[RefusingChain, ...] | None = ()
    legacy: Mapping[str, list[str]] = field(default_factory=dict)
    firewalls: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    devices: frozenset[str] = frozenset()
    stale: tuple[str, ...] = ()
    unguarded: tuple[tuple[str, str], ...] = ()
    unguardable: tuple[UnguardedRow, ...] = ()
    observed: tuple[str, ...] = ()
    hostwide: str = ""
    taken: tuple[Refusal, ...] = ()
    offload: str | None = ""
    wrong: tuple[Drift, ...] = ()
    confined: tuple[Confined, ...] = ()
    claims: tuple[Claim, ...] = ()
    unmanaged: str = ""
    asleep: tuple[Asleep, ...] = ()


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
}
_SYSCTL = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}
_BRIDGED = {4: "net.bridge.bridge-nf-call-iptables", 6: "net.bridge.bridge-nf-call-ip6tables"}
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
        _chains,
        _bridged,
        _legacy,
        _firewalls,
        _managers,
        _asleep,
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
        yield Finding("hooks", MUST, hostwide.FILE, facts.hostwide, "guestnet hooks install")


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
            yield Finding("kernel", level, name, f"{feature.purpose}: this kernel cannot", do)


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
    return net.mode in ("nat", "route", _HOST_ROUTED) or net.reached


def _chains(facts: HostFacts) -> Iterator[Finding]:
    if facts.chains is None:
        yield Finding("firewall", NOTE, "", "only root can see the host's rules", "run guestnet doctor as root")
    for chain in facts.chains or ():
        cut = [net for net in facts.networks if _versions(net, chain)]
        if chain.hook == "input":
            yield from _input(chain, [net for net in cut if not (chain.libvirts or _let(net.device, chain.inward))])
        else:
            yield from _forward(chain, [net for net in cut if _cannot_get_out(net, chain)], "get out")
            yield from _forward(chain, [net for net in cut if _cannot_be_reached(net, chain)], "be reached")
            if not any(_cannot_get_out(net, chain) or _cannot_be_reached(net, chain) for net in cut):
                yield Finding("firewall", FINE, chain.name, f"{chain.refuses}, and lets through what it must")


def _versions(net: NetworkFacts, chain: RefusingChain) -> bool:
    return bool(net.versions & set(chain.versions))


def _cannot_get_out(net: NetworkFacts, chain: RefusingChain) -> bool:
    passes = chain.ours if net.mode == _HOST_ROUTED else chain.libvirts
    let = _let(net.vrf or net.device, chain.inward) or (net.vrf and _let(net.device, chain.within))
    return net.mode in ("nat", "route", _HOST_ROUTED) and not passes and not let


def _cannot_be_reached(net: NetworkFacts, chain: RefusingChain) -> bool:
    ours = chain.ours or (chain.dnat and not net.untranslated and net.mode != _HOST_ROUTED)
    let = _let(net.device, chain.outward) and not (net.untranslated and registry.named(chain.tool).by_name_translated)
    return (net.reached or net.mode == _HOST_ROUTED) and not ours and not let


def _let(device: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(device, pattern) for pattern in patterns)


def _forward(chain: RefusingChain, cut: list[NetworkFacts], what: str) -> Iterator[Finding]:
    if cut:
        names = ", ".join(dict.fromkeys(net.name for net in cut))
        found = f"{chain.refuses}, and no accept of ours or libvirt's overrules it: guests of {names} cannot {what}"
        yield Finding("firewall", MUST, chain.name, found, _accept(chain, cut[0]))


def _input(chain: RefusingChain, cut: list[NetworkFacts]) -> Iterator[Finding]:
    served = [net for net in cut if net.mode not in (_HOST_ROUTED, "bridge")]
    if served:
        names = ", ".join(net.name for net in served)
        found = f"{chain.refuses}: unless it accepts DHCP and DNS, guests of {names} get neither from this host"
        yield Finding("firewall", NOTE, chain.name, found, _accept(chain, served[0]))


def _accept(chain: RefusingChain, net: NetworkFacts) -> str:
    """What makes a chain let a network's traffic through, in the words of the tool whose chain it is."""
    is_tap = net.mode == _HOST_ROUTED
    guests = Guests("vme*" if is_tap else net.device, net.vrf, net.mode == "route", net.untranslated or is_tap)
    return registry.advice(chain, guests)


_UNLESS_NEEDED = "they pass those; where nothing (Docker, Kubernetes) needs it: sysctl -w {}=0"


def _bridged(facts: HostFacts) -> Iterator[Finding]:
    """br_netfilter, which Docker loads, hands frames between ports of one bridge to the forward chains."""
    for version, on in facts.bridged.items():
        refusing = [c for c in facts.chains or () if on and c.hook == "forward" and version in c.versions]
        cut = [net for net in facts.networks for chain in refusing if _cuts_bridge(net, chain)]
        silent = [net.name for net in facts.networks if on and version in net.isolated]
        if silent:
            found = f"is on: isolated ports of {', '.join(silent)} get no answer from their neighbours' forwards"
            do = f"sysctl -w {_BRIDGED[version]}=0, or take isolated-ports out"
            yield Finding("bridged frames", MUST, _BRIDGED[version], found, do)
        if cut:
            names = ", ".join(dict.fromkeys(net.name for net in cut))
            found = f"is on, and {refusing[0].name} refuses: guests of {names} cannot reach their own neighbours"
            yield Finding("bridged frames", MUST, _BRIDGED[version], found, f"sysctl -w {_BRIDGED[version]}=0")
        elif on and not silent:
            found = "is on: frames between ports of one bridge walk the forward chains of IP"
            yield Finding("bridged frames", NOTE, _BRIDGED[version], found, _UNLESS_NEEDED.format(_BRIDGED[version]))


def _cuts_bridge(net: NetworkFacts, chain: RefusingChain) -> bool:
    libvirts = chain.libvirts and net.mode != "bridge"
    return net.mode != _HOST_ROUTED and not libvirts and not _let(net.device, chain.inward | chain.outward)


def _legacy(facts: HostFacts) -> Iterator[Finding]:
    for family, tables in facts.legacy.items():
        found = f"has tables in use ({', '.join(tables)}), which are walked beside those of nftables"
        yield Finding("iptables-legacy", NOTE, family, found, "look for who still uses it: iptables-legacy -S")


def _firewalls(facts: HostFacts) -> Iterator[Finding]:
    for name in facts.firewalls:
        yield Finding(
            "firewall", NOTE, name, "is active; what of it keeps guests from something is named by its chains"
        )


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
