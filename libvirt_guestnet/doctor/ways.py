"""What networks need of the host's own devices, sockets and files: facts in, findings out. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from libvirt_guestnet.doctor.finding import FINE, MUST, NOTE, Finding

VXLAN_HEADERS = {4: 50, 6: 70}
"""What VXLAN adds to a guest's IP packet, by the version of the underlay: inner Ethernet 14, VXLAN 8, UDP 8, IP 20 or
40 (RFC 7348)."""
_QUIET_MINUTES = 2


@dataclass(frozen=True)
class InUse:
    """Something that a network which is not active would need when it starts, and somebody else has."""

    network: str
    found: str
    do: str


@dataclass(frozen=True)
class SilentVlan:
    """The device of a network's VLAN, over a NIC: how many frames each has received since the network started, so many
    minutes ago."""

    network: str
    device: str
    nic: str
    received: int
    received_by_nic: int
    minutes: int


@dataclass(frozen=True)
class Renamed:
    """A network's bridge that has another name by now, and the guests with a port on it."""

    network: str
    bridge: str
    now: str
    guests: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measured:
    """The path of a VXLAN to another host, tried with packets that may not be fragmented: `needed` is the size in
    bytes that its guests' largest packets have there, `largest` what arrives (0: not even small ones are answered).
    Without a `remote` there is none to try."""

    network: str
    remote: str
    needed: int = 0
    largest: int = 0


@dataclass(frozen=True)
class Loose:
    """A file or folder of ours that others than root can read or change, and what mends it."""

    path: str
    found: str
    do: str


@dataclass(frozen=True)
class WayFacts:
    """As they stand, nothing is wrong. `cut` are NICs without a link, each with the networks that leave by it;
    `unsegmented` NICs below a VXLAN that could cut its packets into segments, and do not; `dropped` the frames for
    which a processor's queue was too short since boot, and `backlog` its length."""

    in_use: tuple[InUse, ...] = ()
    cut: tuple[tuple[str, str], ...] = ()
    silent: tuple[SilentVlan, ...] = ()
    renamed: tuple[Renamed, ...] = ()
    unsegmented: tuple[tuple[str, str], ...] = ()
    dropped: int = 0
    backlog: int = 1000
    loose: tuple[Loose, ...] = ()
    measured: tuple[Measured, ...] = ()
    arptables: bool = False


def judge(facts: WayFacts) -> Iterator[Finding]:
    """A row for each thing that is wrong, and for each path that was measured."""
    for used in facts.in_use:
        yield Finding("network", MUST, used.network, f"is not active and cannot start: {used.found}", used.do)
    for nic, networks in facts.cut:
        found = f"is up, but has no link: nothing leaves or comes by it, for {networks}"
        yield Finding("uplink", MUST, nic, found, "look at the cable, and at the port of the switch")
    yield from (row for each in facts.silent for row in _silent(each))
    yield from map(_renamed, facts.renamed)
    for nic, network in facts.unsegmented:
        found = f"leaves it to the processor to segment what {network} sends in VXLAN packets, and could do it itself"
        yield Finding("offload", NOTE, nic, found, f"ethtool -K {nic} tx-udp_tnl-segmentation on")
    if facts.dropped:
        found = f"{facts.dropped} frames were dropped since boot, as more than {facts.backlog} waited for a processor"
        do = f"sysctl -w net.core.netdev_max_backlog={max(facts.backlog, 1000) * 4}; see /etc/sysctl.d"
        yield Finding("backlog", NOTE, "net.core.netdev_max_backlog", found, do)
    yield from (Finding("permissions", MUST, each.path, each.found, each.do) for each in facts.loose)
    yield from map(_measured, facts.measured)
    if facts.arptables:
        found = (
            "is on: ARP between ports of one bridge walks arptables' forward chain. Port security needs neither this "
            "nor the iptables one: it is at each tap's ingress, before any bridge"
        )
        name = "net.bridge.bridge-nf-call-arptables"
        yield Finding("bridged frames", NOTE, name, found, f"where nothing needs it: sysctl -w {name}=0")


def _silent(each: SilentVlan) -> Iterator[Finding]:
    """A hint and no more: in a VLAN in which nobody else is, nobody sends either."""
    if each.received == 0 and each.received_by_nic > 0 and each.minutes >= _QUIET_MINUTES:
        vlan = each.device.rpartition(".")[2]
        found = (
            f"has received nothing in {each.minutes} minutes, and {each.nic} has: does the switch have VLAN {vlan} on "
            f"that port? Nobody hears {each.network} if not"
        )
        yield Finding("vlan", NOTE, each.device, found, f"tcpdump -eni {each.nic} vlan, and look at the switch's trunk")


def _renamed(each: Renamed) -> Finding:
    needing = f"; {', '.join(each.guests)} need it" if each.guests else ""
    found = f"bridge {each.bridge} is called {each.now} now, and neither libvirt nor our hooks find it{needing}"
    do = (
        f"ip link set {each.now} down; ip link set {each.now} name {each.bridge}; ip link set {each.bridge} up; "
        "guestnet hooks sync"
    )
    return Finding("bridge name", MUST, each.network, found, do)


def _measured(each: Measured) -> Finding:
    about = f"{each.network} to {each.remote}".removesuffix(" to ")
    if not each.remote:
        found = "its VXLAN names a multicast group and no other host, so that no path can be measured"
        return Finding("path", NOTE, about, found)
    if each.largest >= each.needed:
        return Finding("path", FINE, about, f"packets of {each.needed} bytes arrive whole")
    if not each.largest:
        found = "answers no echo request, not even a small one, so that the path cannot be measured"
        return Finding("path", NOTE, about, found, f"ping {each.remote}, and look at the firewalls between")
    found = f"packets of {each.largest} bytes arrive, larger ones vanish, and this network's take {each.needed}"
    less = each.largest - VXLAN_HEADERS[6 if ":" in each.remote else 4]
    return Finding("path", MUST, about, found, f"raise the MTU along the way to {each.needed}, or say mtu: {less}")
