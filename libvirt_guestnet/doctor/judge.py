"""What `guestnet doctor` says of a host: facts in, rows out. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase

from libvirt_guestnet.datapath.firewalls import registry
from libvirt_guestnet.datapath.firewalls.chains import Chain, Guests
from libvirt_guestnet.hook.read import hostwide
from libvirt_guestnet.install.apparmor import Confined
from libvirt_guestnet.install.hook_files import OLDEST_LIBVIRT, RUN_TWICE, HookStatus
from libvirt_guestnet.install.network_managers import Claim
from libvirt_guestnet.model.drift import Wrong
from libvirt_guestnet.model.held_addresses import Refusal
from libvirt_guestnet.status.unguarded import UnguardedRow

FINE, NOTE, MUST = "fine", "note", "must"
_HOST_ROUTED = "host-routed"


@dataclass(frozen=True)
class Row:
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
class Network:
    """An active network of ours, or the tap of a host-routed guest (then `device` is that, and `vrf` what it is in, if
    anything). `mode` is libvirt's forward mode, "isolated" or "host-routed"; `versions` are those of its subnets;
    `reached`: it has ways in, `untranslated`: among them addresses that its guests have themselves. `isolated` are the
    IP versions of ways in to a port that is isolated from others on its bridge."""

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
class Facts:
    """What was found on a host; as they stand, nothing is wrong. None stands for what only root can see.

    `kernel` says by feature (see FEATURES) whether it is there, None when that cannot be told; `needed` are the
    features and `labels` (each with the device it is mapped to, "" for none) that a topology asks for; `devices` are
    the host's. `unguarded` are (port, bridge), `unguardable` NICs that cannot be guarded; `hostwide` says what is wrong
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
    networks: tuple[Network, ...] = ()
    forwarding: Mapping[int, bool] = field(default_factory=dict)
    bridged: Mapping[int, bool] = field(default_factory=dict)
    chains: tuple[Chain, ...] | None = ()
    legacy: Mapping[str, list[str]] = field(default_factory=dict)
    firewalls: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    devices: frozenset[str] = frozenset()
    stale: tuple[str, ...] = ()
    unguarded: tuple[tuple[str, str], ...] = ()
    unguardable: tuple[UnguardedRow, ...] = ()
    hostwide: str = ""
    taken: tuple[Refusal, ...] = ()
    offload: str | None = ""
    wrong: tuple[Wrong, ...] = ()
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


def judge(facts: Facts) -> list[Row]:
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


def _libvirt(facts: Facts) -> Iterator[Row]:
    version = ".".join(map(str, facts.libvirt or ()))
    if facts.libvirt is None:
        yield Row("libvirt", MUST, "", "no libvirt daemon is installed", "install the package libvirt-daemon-system")
    elif facts.libvirt < OLDEST_LIBVIRT:
        oldest = ".".join(map(str, OLDEST_LIBVIRT))
        yield Row("libvirt", MUST, "", f"{version} runs no hooks from qemu.d", f"upgrade libvirt to {oldest} or later")
    elif facts.unreachable:
        said, _, do = facts.unreachable.partition("\n")
        yield Row("libvirt", MUST, "", said, do)
    else:
        yield Row("libvirt", FINE, "", f"{version} answers")


def _hooks(facts: Facts) -> Iterator[Row]:
    for hook in facts.hooks:
        if not hook.installed:
            yield Row("hooks", MUST, hook.hook, f"{hook.path} is not installed", "guestnet hooks install")
        elif not hook.current:
            yield Row("hooks", MUST, hook.hook, f"{hook.path} is of another version", "guestnet hooks install")
        elif hook.restart_needed:
            found = "the daemon has started before its first hook was there, and does not call it"
            yield Row("hooks", MUST, hook.hook, found, "systemctl restart libvirtd (or virtqemud and virtnetworkd)")
        else:
            yield Row("hooks", FINE, hook.hook, f"{hook.path} is installed and called")
        if hook.run_by:
            found = (
                f"{hook.run_by} runs {hook.path} a second time; without the XML on its stdin that refuses every start"
            )
            yield Row("hooks", MUST, hook.run_by, found, RUN_TWICE)
    for each in facts.confined:
        found = f"AppArmor's profile {each.profile} forbids {each.python}: no hook runs, and our guests do not start"
        yield Row("hooks", MUST, each.daemon, found, "guestnet hooks install")
    if facts.hostwide:
        yield Row("hooks", MUST, hostwide.FILE, facts.hostwide, "guestnet hooks install")


def _library(facts: Facts) -> Iterator[Row]:
    if facts.loose:
        # Whoever has hooks all the same has said --any-owner.
        level = NOTE if any(hook.installed for hook in facts.hooks) else MUST
        found, _, do = facts.loose.partition(": ")
        yield Row("library", level, "", found, do)
    else:
        yield Row("library", FINE, "", "only root can change what libvirt runs as root")


def _kernel(facts: Facts) -> Iterator[Row]:
    for name, has in facts.kernel.items():
        feature = FEATURES[name]
        if has:
            yield Row("kernel", FINE, name, f"{feature.purpose}: it can")
        elif has is None:
            found = f"{feature.purpose}: it cannot be told whether it can (no configuration of this kernel to read)"
            yield Row("kernel", NOTE, name, found)
        else:
            module = f" and the module {feature.module}" if feature.module else ""
            level = MUST if name in facts.needed else feature.level
            do = f"run a kernel with CONFIG_{feature.option}{module}; Debian's have it"
            yield Row("kernel", level, name, f"{feature.purpose}: this kernel cannot", do)


def _offload(facts: Facts) -> Iterator[Row]:
    if facts.offload is None:
        yield Row("checksum guard", NOTE, "", "only root can see whether it can be had", "run guestnet doctor as root")
    elif facts.offload:
        found = f"this host cannot have it, so that guests change frames behind every filter: {facts.offload}"
        yield Row("checksum guard", MUST, "", found, "run a kernel with BPF and BTF, such as Debian's")
    else:
        yield Row("checksum guard", FINE, "", "guests cannot have the host write into their frames")


def _ports(facts: Facts) -> Iterator[Row]:
    for tap in facts.stale:
        yield Row("receipts", MUST, tap, "is on record as guarded, but there is no such tap", _SYNC)
    for port, bridge in facts.unguarded:
        found = f"is on {bridge}, and nobody guards it"
        yield Row("ports", MUST, port, found, f"{_SYNC}; a port that is no guest's does not belong there")
    for nic in facts.unguardable:
        level = MUST if nic.refused else NOTE
        found = f"type {nic.type} is not guarded: {nic.reason}"
        yield Row("ports", level, f"{nic.guest} {nic.mac}", found, nic.instead)


def _wrong(facts: Facts) -> Iterator[Row]:
    for each in facts.wrong:
        about = " ".join(filter(None, (each.kind, each.owner, each.device)))
        yield Row("kernel state", MUST, about, each.found, each.do)
    if not facts.wrong:
        yield Row("kernel state", FINE, "", "taps, bridges and addresses are where they should be")


def _taken(facts: Facts) -> Iterator[Row]:
    """A guest that runs is never stopped for it, nor led past: its next start is refused."""
    for each in facts.taken:
        yield Row("address", MUST, each.owner, f"{each.found}; its next start is refused", each.do)
    if not facts.taken:
        yield Row("address", FINE, "", "what running guests have is nobody else's on this host")


def _labels(facts: Facts) -> Iterator[Row]:
    for label, device in facts.labels.items():
        file = "/etc/libvirt-guestnet/host.yaml"
        do = f"write {label}: DEVICE under physical-networks: in {file}, or pass --map {label}=DEVICE"
        if not device:
            yield Row("labels", MUST, label, "no device of this host is mapped to it", do)
        elif device not in facts.devices:
            yield Row("labels", MUST, label, f"is mapped to {device}, which this host does not have", do)
        else:
            yield Row("labels", FINE, label, f"is {device}")


def _forwarding(facts: Facts) -> Iterator[Row]:
    for version, on in facts.forwarding.items():
        needing = [net.name for net in facts.networks if version in net.versions and _forwarded(net)]
        if not on and needing:
            found = f"is off, and the host forwards for {', '.join(needing)}"
            yield Row("forwarding", MUST, _SYSCTL[version], found, f"sysctl -w {_SYSCTL[version]}=1; see /etc/sysctl.d")
        elif needing:
            yield Row("forwarding", FINE, _SYSCTL[version], "is on")


def _forwarded(net: Network) -> bool:
    return net.mode in ("nat", "route", _HOST_ROUTED) or net.reached


def _chains(facts: Facts) -> Iterator[Row]:
    if facts.chains is None:
        yield Row("firewall", NOTE, "", "only root can see the host's rules", "run guestnet doctor as root")
    for chain in facts.chains or ():
        cut = [net for net in facts.networks if _versions(net, chain)]
        if chain.hook == "input":
            yield from _input(chain, [net for net in cut if not (chain.libvirts or _let(net.device, chain.inward))])
        else:
            yield from _forward(chain, [net for net in cut if _no_way_out(net, chain)], "get out")
            yield from _forward(chain, [net for net in cut if _no_way_in(net, chain)], "be reached")
            if not any(_no_way_out(net, chain) or _no_way_in(net, chain) for net in cut):
                yield Row("firewall", FINE, chain.name, f"{chain.refuses}, and lets through what it must")


def _versions(net: Network, chain: Chain) -> bool:
    return bool(net.versions & set(chain.versions))


def _no_way_out(net: Network, chain: Chain) -> bool:
    passes = chain.ours if net.mode == _HOST_ROUTED else chain.libvirts
    let = _let(net.vrf or net.device, chain.inward) or (net.vrf and _let(net.device, chain.within))
    return net.mode in ("nat", "route", _HOST_ROUTED) and not passes and not let


def _no_way_in(net: Network, chain: Chain) -> bool:
    ours = chain.ours or (chain.dnat and not net.untranslated and net.mode != _HOST_ROUTED)
    let = _let(net.device, chain.outward) and not (net.untranslated and registry.named(chain.tool).by_name_translated)
    return (net.reached or net.mode == _HOST_ROUTED) and not ours and not let


def _let(device: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(device, pattern) for pattern in patterns)


def _forward(chain: Chain, cut: list[Network], what: str) -> Iterator[Row]:
    if cut:
        names = ", ".join(dict.fromkeys(net.name for net in cut))
        found = f"{chain.refuses}, and no accept of ours or libvirt's overrules it: guests of {names} cannot {what}"
        yield Row("firewall", MUST, chain.name, found, _accept(chain, cut[0]))


def _input(chain: Chain, cut: list[Network]) -> Iterator[Row]:
    served = [net for net in cut if net.mode not in (_HOST_ROUTED, "bridge")]
    if served:
        names = ", ".join(net.name for net in served)
        found = f"{chain.refuses}: unless it accepts DHCP and DNS, guests of {names} get neither from this host"
        yield Row("firewall", NOTE, chain.name, found, _accept(chain, served[0]))


def _accept(chain: Chain, net: Network) -> str:
    """What makes a chain let a network's traffic through, in the words of the tool whose chain it is."""
    is_tap = net.mode == _HOST_ROUTED
    guests = Guests("vme*" if is_tap else net.device, net.vrf, net.mode == "route", net.untranslated or is_tap)
    return registry.advice(chain, guests)


_UNLESS_NEEDED = "they pass those; where nothing (Docker, Kubernetes) needs it: sysctl -w {}=0"


def _bridged(facts: Facts) -> Iterator[Row]:
    """br_netfilter, which Docker loads, hands frames between ports of one bridge to the forward chains."""
    for version, on in facts.bridged.items():
        refusing = [c for c in facts.chains or () if on and c.hook == "forward" and version in c.versions]
        cut = [net for net in facts.networks for chain in refusing if _cuts_bridge(net, chain)]
        silent = [net.name for net in facts.networks if on and version in net.isolated]
        if silent:
            found = f"is on: isolated ports of {', '.join(silent)} get no answer from their neighbours' forwards"
            do = f"sysctl -w {_BRIDGED[version]}=0, or take isolated-ports out"
            yield Row("bridged frames", MUST, _BRIDGED[version], found, do)
        if cut:
            names = ", ".join(dict.fromkeys(net.name for net in cut))
            found = f"is on, and {refusing[0].name} refuses: guests of {names} cannot reach their own neighbours"
            yield Row("bridged frames", MUST, _BRIDGED[version], found, f"sysctl -w {_BRIDGED[version]}=0")
        elif on and not silent:
            found = "is on: frames between ports of one bridge walk the forward chains of IP"
            yield Row("bridged frames", NOTE, _BRIDGED[version], found, _UNLESS_NEEDED.format(_BRIDGED[version]))


def _cuts_bridge(net: Network, chain: Chain) -> bool:
    libvirts = chain.libvirts and net.mode != "bridge"
    return net.mode != _HOST_ROUTED and not libvirts and not _let(net.device, chain.inward | chain.outward)


def _legacy(facts: Facts) -> Iterator[Row]:
    for family, tables in facts.legacy.items():
        found = f"has tables in use ({', '.join(tables)}), which are walked beside those of nftables"
        yield Row("iptables-legacy", NOTE, family, found, "look for who still uses it: iptables-legacy -S")


def _firewalls(facts: Facts) -> Iterator[Row]:
    for name in facts.firewalls:
        yield Row("firewall", NOTE, name, "is active; what of it keeps guests from something is named by its chains")


def _managers(facts: Facts) -> Iterator[Row]:
    for each in facts.claims:
        found = (
            f"{each.manager} configures it by {each.file}: it takes taps off their bridge, and addresses off bridges"
        )
        hint = _left_alone(each, facts.unmanaged) + ("" if each.device.startswith(_TAPS) else _BRIDGE)
        yield Row("network manager", MUST, each.device, found, hint)
    if not facts.claims:
        yield Row("network manager", FINE, "", "none takes guests' taps or bridges")


_TAPS = ("vnet", "vme")
_BRIDGE = "; if the address of a libvirt network's bridge is gone, virsh net-destroy and net-start bring it back"


def _left_alone(claim: Claim, unmanaged: str) -> str:
    if not claim.device.endswith("*"):
        return f"add the line `Name=!{claim.device}` or the like to [Match] there, then networkctl reload, and {_SYNC}"
    if unmanaged:
        return f"rename it to come after {unmanaged}, then networkctl reload, and {_SYNC}"
    return f"guestnet hooks install, which writes a file that leaves these alone, and {_SYNC}"


def _asleep(facts: Facts) -> Iterator[Row]:
    """Such as Debian's `default`. libvirt starts no network for a guest that starts."""
    for each in facts.asleep:
        if each.at_boot:
            found = f"is not started at boot, and so neither are {', '.join(each.at_boot)}, which are to be"
            yield Row("network", MUST, each.network, found, f"virsh net-autostart {each.network}")
        if each.now:
            found = f"is not active: {', '.join(each.now)} cannot start"
            yield Row("network", NOTE, each.network, found, f"virsh net-start {each.network}")
