"""A tap whose frames carry a virtio-net header, and a NIC without offload that shows what really leaves the host."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import struct
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import frames
import offload

from libvirt_guestnet.datapath.port import bpf, bpfload
from libvirt_guestnet.datapath.port.bpf import BpfError
from libvirt_guestnet.datapath.port.checksum import Guard, Loaded

_TUNSETIFF, _IFF_TAP, _IFF_NO_PI, _IFF_MULTI_QUEUE, _IFF_VNET_HDR = 0x400454CA, 0x0002, 0x1000, 0x0100, 0x4000
_PLAIN = offload.Header()


NEWEST, OLDEST = "the best that this kernel has", "what Linux 6.1 has"


class OffloadWire:
    """`send` is what QEMU does for a virtio guest. `nic0` is a tap that nobody offered offload: what is read from it is
    what a NIC without it would send."""

    def __init__(self, tap: str, queues: int = 1) -> None:
        self.tap = tap
        # The host's own IPv6 chatter would be heard among the frames.
        Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
        several = _IFF_MULTI_QUEUE if queues > 1 else 0
        self.queues = [_open_tap(tap, _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR | several) for _ in range(queues)]
        self.nic = _open_tap("nic0", _IFF_TAP | _IFF_NO_PI)
        for command in (
            "link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
            f"link set {tap} master br0",
            "link set nic0 master br0",
            *(f"link set {device} up" for device in ("br0", "nic0", tap)),
            # A neighbour's MAC that a frame claims would be looked for here afterwards.
            f"link set {tap} type bridge_slave learning off",
        ):
            _ip(command)
        # It drops what is malformed and cuts padding, which is no merit of ours.
        for family in ("ip", "ip6", "arp"):
            switch = Path(f"/proc/sys/net/bridge/bridge-nf-call-{family}tables")
            if switch.exists():
                switch.write_text("0")
        while "state forwarding" not in _ip("link show dev nic0", "bridge"):
            time.sleep(0.001)
        self.ifindex = socket.if_nametoindex(tap)
        self.tag = b""  # around the sentinels, where only what is tagged may leave
        self.sentinels = 0
        self.guards: list[Guard] = []

    def send(self, offered: offload.Offered, queue: int = 0) -> None:
        """What the kernel itself refuses does not leave."""
        with suppress(OSError):
            os.write(self.queues[queue], offered.packed())

    def heard(self, offered: offload.Offered, queue: int = 0) -> tuple[bytes, ...]:
        """What leaves the NIC for this frame. No time decides: a sentinel follows it."""
        self.send(offered, queue)
        self.sentinels += 1
        last = frames.sentinel(self.sentinels)
        last = last[:12] + self.tag + last[12:]
        self.send(offload.Offered(_PLAIN, last, ()), queue)
        seen: list[bytes] = []
        while select.select([self.nic], [], [], 5)[0]:
            frame = os.read(self.nic, 70000)
            if frame == last:
                return tuple(seen)
            seen.append(frame)
        raise AssertionError("the sentinel did not arrive: honest traffic is dropped")

    def delivered(self, corpus: Mapping[str, offload.Offered], queue: int = 0) -> set[str]:
        """The names of those that leave as they would where nobody stops them."""
        return {
            name
            for name, offered in corpus.items()
            if offload.bare(self.heard(offered, queue)) == offload.bare(offered.seen)
        }

    def guard(self, way: str = NEWEST) -> Guard:
        """Puts the checksum guard at the tap, in one of the ways that kernels have; it ends with the tap."""
        guard = loaded(way)
        guard.attach(self.ifindex)
        if way == NEWEST:
            try:
                guard.settle(self.ifindex)
            except BpfError as error:
                assert error.code == errno.EINVAL
        self.guards.append(guard)
        return guard

    def begin(self, observed: bool) -> None:
        """Has the checksum guard only observe the tap, or drop."""
        for guard in self.guards:
            guard.begin(self.ifindex, observed)

    def counted(self) -> int:
        """What it dropped, or would have."""
        return sum(guard.drops()[self.ifindex] for guard in self.guards)

    def close(self) -> None:
        for guard in self.guards:
            guard.close()
        for fd in (*self.queues, self.nic):
            os.close(fd)


def loaded(way: str) -> Guard:
    """The checksum guard without pins, so that nothing of it outlives the test."""
    for name in bpfload.PROGRAMS if way == NEWEST else bpfload.PROGRAMS[-1:]:
        try:
            program, drops = bpfload.load_one(name)
        except BpfError:
            continue
        return Guard(program, drops, Loaded(bpf.number(program), bpf.number(drops), ""))
    raise AssertionError("this kernel takes none of the programs")


def takes(wire: OffloadWire, offered: offload.Offered) -> bool:
    """Whether the kernel's taps know what this frame asks for."""
    try:
        os.write(wire.queues[0], offered.packed())
    except OSError:
        return False
    wire.heard(offered)  # so that the first is not heard later
    return True


def _open_tap(name: str, flags: int) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    return fd


def _ip(arguments: str, program: str = "ip") -> str:
    argv = [program, *arguments.split()]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=120).stdout
