"""Ports of our own on a link, guarded by the hooks' own functions as a guest's are; and that nothing of them stays.

A tap lasts as long as the process that has opened it. Its guard and receipts are taken away by a second process, which
waits for the end of the first, however that comes. Should both be killed, the next hook call finds a receipt without a
tap, and removes it (decision 98).
"""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr

from libvirt_guestnet import parse, xmlread
from libvirt_guestnet.datapath.netlink import kernel
from libvirt_guestnet.datapath.netlink import links as devices
from libvirt_guestnet.datapath.netlink.rtnl import Rtnl
from libvirt_guestnet.datapath.run import program
from libvirt_guestnet.datapath.run.nft import nft
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.calls import domain as calls
from libvirt_guestnet.hook.calls import networks
from libvirt_guestnet.hook.enforce import bridge_guard
from libvirt_guestnet.isolation import frames
from libvirt_guestnet.isolation.link import OBSERVED, TRUSTED, Link
from libvirt_guestnet.lab.forge import Identity
from libvirt_guestnet.libvirtd.snapshot import to_text
from libvirt_guestnet.metadata.policy import DomainPolicy, PortPolicy, Vlans
from libvirt_guestnet.metadata.writer import domain_element
from libvirt_guestnet.state.locked import UnlockedState

NAME = "guestnet verify"
# The start of all taps that guestnet names: network managers leave those alone.
PREFIX = "vmex"
_TUN, _TUNSETIFF, _TAP, _NO_PI = "/dev/net/tun", 0x400454CA, 0x0002, 0x1000
_SIOCSIFHWADDR, _SIOCSIFMTU, _SIOCGIFFLAGS, _SIOCSIFFLAGS, _ETHERNET, _UP = 0x8924, 0x8922, 0x8913, 0x8914, 1, 1
_FORWARDING, _FORWARDING_SECONDS = "3", 45.0  # twice the forward delay of a bridge with spanning tree, and more


@dataclass(frozen=True)
class Twin:
    """A port of ours on a link: what it sends is written to `file`."""

    link: Link
    way: str
    tap: str
    file: int
    me: Identity

    def send(self, frame: bytes) -> None:
        os.write(self.file, frame)


@contextmanager
def made(links: Sequence[Link], state: UnlockedState) -> Iterator[list[tuple[Twin, Twin]]]:
    """Two ports for each way in which a link's ports are guarded: one to send, one to hear. Raises GuestnetError."""
    owner = str(uuid.uuid4())
    with ExitStack() as stack:
        stack.enter_context(_cleaned(owner, links, state))
        pairs: list[tuple[Twin, Twin]] = []
        for link in links:
            for number, way in enumerate(link.ways):
                first = 2 * len(pairs)
                sender, hearer = (_open(link, way, first + end, 2 * number + end, stack) for end in (0, 1))
                pairs.append((sender, hearer))
        twins = [twin for pair in pairs for twin in pair]
        _plug(twins)
        _guard(twins, owner, state)
        _await_forwarding(twins)
        yield pairs


# ---- the tap and its bridge


def _open(link: Link, way: str, number: int, on_link: int, stack: ExitStack) -> Twin:
    run = os.getpid()
    tap, mac = parse.device(f"{PREFIX}{run & 0xFFFFF:05x}{number:03x}"), frames.nobody(run, number)
    try:
        file = os.open(_TUN, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        stack.callback(os.close, file)
        fcntl.ioctl(file, _TUNSETIFF, struct.pack("16sH22x", tap.encode(), _TAP | _NO_PI))
    except OSError as error:
        raise GuestnetError(f"a port on {link.name} cannot be made: {_TUN}: {error.strerror}") from error
    return Twin(link, way, tap, file, frames.identity(mac, on_link))


def _plug(twins: Sequence[Twin]) -> None:
    """Each into its bridge, as libvirt does: with a MAC address that the bridge does not take for its own, and the
    bridge's MTU, which it would lower otherwise."""
    for twin in twins:
        with suppress(OSError):
            Path("/proc/sys/net/ipv6/conf", twin.tap, "disable_ipv6").write_text("1")
        mac = bytes.fromhex(devices.tap_mac(twin.me.mac).replace(":", ""))
        _set(twin.tap, _SIOCSIFHWADDR, struct.pack("=H6s", _ETHERNET, mac))
        if twin.link.open_vswitch:
            _plug_ovs(twin)
        elif not twin.link.alone:
            _set(twin.tap, _SIOCSIFMTU, struct.pack("=i", _mtu(twin.link.bridge)))
            _join(twin)
        _set(twin.tap, _SIOCSIFFLAGS, struct.pack("=H", _UP))


def _join(twin: Twin) -> None:
    index, bridge = devices.index_of(twin.tap), devices.index_of(twin.link.bridge)
    if not bridge:
        raise GuestnetError(f"there is no bridge {twin.link.bridge}: is network {twin.link.networks[0]} active?")
    with Rtnl() as netlink:
        netlink.set_master(index, bridge)
        if twin.link.isolated:
            netlink.isolate_port(index, isolated=True)


def _plug_ovs(twin: Twin) -> None:
    tag = [f"tag={twin.link.vlan}"] if twin.link.vlan else []
    marked = ["--", "set", "Port", twin.tap, "other_config:transient=true"]
    _ovs("--may-exist", "add-port", parse.device(twin.link.bridge), twin.tap, *tag, *marked)


def _ovs(*words: str) -> None:
    program.said(["ovs-vsctl", "--timeout=10", *words], "openvswitch-switch")


def _set(tap: str, request: int, value: bytes) -> None:
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            fcntl.ioctl(sock, request, struct.pack("16s24s", tap.encode(), value))
        except OSError as error:
            raise GuestnetError(f"tap {tap} cannot be set up: {error.strerror}") from error


def _mtu(device: str) -> int:
    return int(_read(device, "mtu") or 1500)


def _read(device: str, setting: str) -> str:
    """A line that the kernel has on a device; "" if it has none."""
    try:
        with Path("/sys/class/net", device, setting).open() as file:
            return file.read(64).strip()
    except OSError:
        return ""


def _await_forwarding(twins: Sequence[Twin]) -> None:
    """Until each bridge has seen that its port has a carrier, and spanning tree has let it take part."""
    end = time.monotonic() + _FORWARDING_SECONDS
    for twin in (twin for twin in twins if devices.is_bridge(twin.link.bridge)):
        while _read(twin.tap, "brport/state") != _FORWARDING:
            if time.monotonic() > end:
                raise GuestnetError(f"bridge {twin.link.bridge} does not let port {twin.tap} forward: is it up?")
            time.sleep(0.005)


# ---- its guard


def _guard(twins: Sequence[Twin], owner: str, state: UnlockedState) -> None:
    """All of them as one guest's, by the calls that hooks make when a guest starts. No LAN is asked for addresses that
    are nobody's, and nothing is routed to them."""
    xml = xmlread.parse(_xml(twins, owner).encode())
    for message in calls.guard_all([bridge_guard.joined(xml, state)], state):
        raise GuestnetError(message)


def _xml(twins: Sequence[Twin], owner: str) -> str:
    policy = DomainPolicy(twins[0].link.topology if twins else "", NAME, ports=tuple(map(_policy, twins)))
    nics = "".join(map(_nic, twins))
    mark = to_text(domain_element(policy))
    return (
        f"<domain><name>{NAME}</name><uuid>{owner}</uuid><metadata>{mark}</metadata><devices>{nics}</devices></domain>"
    )


def _policy(twin: Twin) -> PortPolicy:
    """What a port there may be: with an address of each family, no roles, and nothing that the host would do for it."""
    vlans = Vlans(twin.link.vlan) if twin.link.vlan and not twin.link.open_vswitch else None
    return PortPolicy(twin.me.mac, twin.tap, twin.link.networks[0], guarded=twin.way != TRUSTED, log=False, probe=False,
                      addresses=(twin.me.ip4, twin.me.ip6), vlans=vlans, observed=twin.way == OBSERVED)  # fmt: skip


def _nic(twin: Twin) -> str:
    target = f"<mac address={quoteattr(twin.me.mac)}/><target dev={quoteattr(twin.tap)}/>"
    if twin.link.alone:
        return f"<interface type='ethernet'>{target}</interface>"
    source = f"<source network={quoteattr(twin.link.networks[0])} bridge={quoteattr(twin.link.bridge)}/>"
    ovs = "<virtualport type='openvswitch'/>" if twin.link.open_vswitch else ""
    return f"<interface type='network'>{target}{source}{ovs}</interface>"


# ---- and that nothing stays


@dataclass(frozen=True)
class _Traces:
    """What a run leaves unless it is cleaned: the guards of `owner`, Open vSwitch's ports, and the sets of links that
    are `bare`, as the kernel had none of them before."""

    owner: str
    has_ovs: bool
    bare: frozenset[str]


@contextmanager
def _cleaned(owner: str, links: Sequence[Link], state: UnlockedState) -> Iterator[None]:
    """Afterwards nothing is left, whatever ends this process. The second process is there before any tap, so that it
    keeps none."""
    traces = _Traces(owner, any(link.open_vswitch for link in links), _accounts(links) - kernel.segments())
    _forget_ovs(traces.has_ovs)
    reading, writing = os.pipe2(os.O_CLOEXEC)
    cleaner = os.fork()
    if cleaner == 0:
        _wait_and_clean(reading, writing, traces, state)
    os.close(reading)
    try:
        yield
    finally:
        os.close(writing)
        if os.waitpid(cleaner, 0)[1] != 0:
            _clean(traces, state)


def _accounts(links: Sequence[Link]) -> frozenset[str]:
    """The names under which the kernel has sets of what is held on these links."""
    bridges = [link for link in links if not link.alone]
    return frozenset(name for link in bridges for name in (link.name, link.bridge, f"{link.bridge}/0"))


def _wait_and_clean(reading: int, writing: int, traces: _Traces, state: UnlockedState) -> None:
    status = 1
    try:
        os.setsid()  # Ctrl-C is for the other one
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        os.close(writing)
        os.read(reading, 1)
        _clean(traces, state)
        status = 0
    finally:
        os._exit(status)


def _clean(traces: _Traces, state: UnlockedState) -> None:
    try:
        calls.release_all_of(traces.owner, set(), state)
        _forget_sets(traces.bare, state)
    finally:
        _forget_ovs(traces.has_ovs)


def _forget_sets(bare: frozenset[str], state: UnlockedState) -> None:
    """Those of links that had none before: a guest's stay until its network stops, and these never had a guest."""
    with state.lock() as locked:
        made = (bare & kernel.segments()) - networks.segments(locked)
        nft("".join(map(networks.forgotten, sorted(made))), locked.descriptor)


def _forget_ovs(has_ovs: bool) -> None:
    """Open vSwitch keeps ports of devices that are gone on record; also those of a run that was killed with its
    cleaner."""
    if has_ovs:
        listed = program.said(["ovs-vsctl", "--bare", "--columns=name", "list", "Port"], "openvswitch-switch").split()
        for port in (port for port in listed if port.startswith(PREFIX) and not devices.index_of(port)):
            _ovs("--if-exists", "del-port", port)
