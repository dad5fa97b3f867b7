"""The facts that `ways` judges, of this host. Only reads."""

from __future__ import annotations

import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path

from libvirt_guestnet.datapath.forwards import listeners
from libvirt_guestnet.datapath.netlink import links, offloads
from libvirt_guestnet.doctor.ways import InUse, Loose, Renamed, SilentVlan, WayFacts
from libvirt_guestnet.hostmap import HOST_FILE
from libvirt_guestnet.install import hook_files
from libvirt_guestnet.libvirtd.snapshot import Element, NetworkState, Snapshot, to_text
from libvirt_guestnet.metadata import reader
from libvirt_guestnet.metadata.policy import NetworkPolicy, Uplink, Vxlan
from libvirt_guestnet.model.claims import Claim
from libvirt_guestnet.parse import address, enclosing, netmask
from libvirt_guestnet.state.folder import ROOT, State
from libvirt_guestnet.state.receipts import NetworkReceipt
from libvirt_guestnet.xmlread import parse

OWNER = 0
"""Whose the files are that root trusts."""
_SEGMENTS = "tx-udp_tnl-segmentation"


def gather(snapshot: Snapshot, state: State | None) -> WayFacts:
    """Everything but paths, which are measured only when asked for. Without `state` (only root can read it) what
    everybody sees. Raises GuestnetError."""
    ours = [network for network in snapshot.networks if network.topology is not None]
    receipts = state.networks() if state is not None else []
    return WayFacts(
        in_use=tuple(chain.from_iterable(in_use(each, snapshot) for each in ours if each.live is None)),
        cut=tuple(_cut(receipts)),
        silent=tuple(_silent(ours, receipts)),
        renamed=tuple(_renamed(ours, receipts, snapshot)),
        unsegmented=tuple(_unsegmented(ours)),
        dropped=_dropped(),
        backlog=_number("/proc/sys/net/core/netdev_max_backlog"),
        loose=tuple(loose()) if state is not None else (),
        arptables=_text(Path("/proc/sys/net/bridge/bridge-nf-call-arptables")) == "1",
    )


def policy_of(network: NetworkState) -> NetworkPolicy | None:
    """Our metadata in what counts now of a network."""
    mark = reader.network_mark(parse(to_text(network.current).encode()))
    return reader.read_network(mark) if mark is not None else None


# ---- what is in use


def in_use(network: NetworkState, snapshot: Snapshot) -> Iterator[InUse]:
    """What a network that is not active would need, and another device or program has: libvirt says "Address already in
    use" or "File exists" then."""
    bridge = network.bridge or ""
    forward = network.config.find("forward")
    if bridge in snapshot.links and (forward is None or forward.get("mode") != "bridge"):
        found = f"there is a device {bridge} already, and libvirt would make one of that name"
        yield InUse(network.name, found, f"give the network another bridge:, or remove it: ip link del {bridge}")
    for ip in network.config.iterfind("ip"):
        yield from _of_address(network, ip, bridge, snapshot)


def _of_address(network: NetworkState, ip: Element, bridge: str, snapshot: Snapshot) -> Iterator[InUse]:
    own = ip.get("address", "")
    mask = ip.get("netmask", "")
    length = ip.get("prefix") or (netmask(mask) if mask else address(own).max_prefixlen)
    prefix = enclosing(f"{own}/{length}")
    others = (
        (device, at) for device, each in snapshot.links.items() if device != bridge for at in each.addresses
    )  # fmt: skip
    near = next(((device, at) for device, at in others if address(at) in prefix), None)
    if near is not None:
        found = f"its subnet {prefix} is in use: this host has {near[1]} on {near[0]}"
        yield InUse(network.name, found, "give the network another subnet, or take that address away")
    dns = network.config.find("dns")
    if dns is None or dns.get("enable") != "no":
        taken = listeners.taken([Claim(own, protocol, 53, 53) for protocol in ("udp", "tcp")])
        if taken is not None:
            found = f'port 53 at {own} is in use by {taken[1].owner or "another program"}: dnsmasq says "Address already in use"'  # fmt: skip  # noqa: E501
            yield InUse(network.name, found, "have that program listen at its own addresses only, or say dns: false")


# ---- uplinks


def _cut(receipts: Iterable[NetworkReceipt]) -> Iterator[tuple[str, str]]:
    """NICs that are up and have no link; one that is down is said by `kernel state`."""
    users: dict[str, list[str]] = {}
    for receipt in receipts:
        for device in {receipt.uplink, receipt.vlan_uplink} - {""}:
            users.setdefault(device, []).append(receipt.name)
    for device, names in sorted(users.items()):
        if links.is_up(device) and _text(Path("/sys/class/net", device, "carrier")) == "0":
            yield device, ", ".join(names)


def _silent(ours: Iterable[NetworkState], receipts: Iterable[NetworkReceipt]) -> Iterator[SilentVlan]:
    by_name = {receipt.name: receipt for receipt in receipts}
    for network in ours:
        said, receipt = policy_of(network), by_name.get(network.name)
        carrier = said.carrier if said else None
        if receipt is not None and isinstance(carrier, Uplink) and carrier.vlan and receipt.overlay:
            device, nic = receipt.overlay, carrier.device
            yield SilentVlan(network.name, device, nic, _received(device), _received(nic), _minutes(receipt.name))


def _received(device: str) -> int:
    return _number(f"/sys/class/net/{device}/statistics/rx_packets")


def _minutes(network: str) -> int:
    """Since the network's receipt was written."""
    with suppress(OSError):
        return int(time.time() - Path(ROOT, "networks", f"{network}.json").stat().st_mtime) // 60
    return 0


def _renamed(ours: Iterable[NetworkState], receipts: Iterable[NetworkReceipt], snapshot: Snapshot) -> Iterator[Renamed]:
    by_name = {receipt.name: receipt for receipt in receipts}
    for network in (network for network in ours if network.live is not None):
        receipt, bridge = by_name.get(network.name), network.bridge or ""
        if bridge and bridge not in snapshot.links and (now := _now_called(network, receipt, snapshot)):
            guests = tuple(dict.fromkeys(domain for domain, _ in snapshot.plugged.get(network.name, ())))
            yield Renamed(network.name, bridge, now, guests)


def _now_called(network: NetworkState, receipt: NetworkReceipt | None, snapshot: Snapshot) -> str:
    """The bridge that has what a network's had, its uplink, its guests' taps or its MAC address; "" if none has."""
    taps = [(nic.find("target")) for _, nic in snapshot.plugged.get(network.name, ())]
    ports = [receipt.uplink, receipt.overlay] if receipt else []
    ports += [target.get("dev", "") for target in taps if target is not None]
    masters = [snapshot.links[port].master for port in ports if port in snapshot.links]
    mac = network.current.find("mac")
    own = "" if mac is None else mac.get("address", "")
    same = [name for name, address, _ in links.all_links() if own and address == own and links.is_bridge(name)]
    return next((name for name in (*masters, *same) if name and links.is_bridge(name)), "")


def _unsegmented(ours: Iterable[NetworkState]) -> Iterator[tuple[str, str]]:
    for network in (network for network in ours if network.live is not None):
        said = policy_of(network)
        if said is not None and isinstance(said.carrier, Vxlan) and offloads.could(said.carrier.device, _SEGMENTS):
            yield said.carrier.device, network.name


def _dropped() -> int:
    """Frames that processors' queues had no room for: the second number of each line, in hexadecimal."""
    lines = (line.split() for line in _text(Path("/proc/net/softnet_stat")).splitlines())
    return sum(int(words[1], 16) for words in lines if len(words) > 1)


# ---- permissions


def loose(root: str = ROOT, etc: Path = HOST_FILE.parent) -> Iterator[Loose]:
    """Files and folders that root trusts, and that others can change, or, where guests' policies are, read."""
    yield from _loose(Path(root), private=True)
    for name in ("networks", "ports", "domains"):
        yield from _loose(Path(root, name), private=False)  # nobody else gets that far
    for path in (etc, etc / HOST_FILE.name, *(Path(hook.path) for hook in hook_files.status())):
        yield from _loose(path, private=False)


def _loose(path: Path, *, private: bool) -> Iterator[Loose]:
    with suppress(FileNotFoundError, NotADirectoryError):
        found = path.lstat()
        if found.st_uid != OWNER:
            yield Loose(str(path), f"belongs to user {found.st_uid}, and root trusts it", f"chown root:root {path}")
        elif stat.S_ISLNK(found.st_mode):
            return
        elif found.st_mode & 0o022:
            mend = f"chmod {'700' if private else 'go-w'} {path}"  # one command mends all that is wrong
            yield Loose(str(path), "can be changed by others than root, who trusts it", mend)
        elif private and found.st_mode & 0o077 and stat.S_ISDIR(found.st_mode):
            yield Loose(str(path), "can be read by others than root", f"chmod 700 {path}")


def _text(path: Path) -> str:
    with suppress(OSError), path.open() as file:
        return file.read(1 << 16).strip()
    return ""


def _number(path: str) -> int:
    text = _text(Path(path))
    return int(text) if text.isdigit() else 0
