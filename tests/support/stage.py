"""A bridge with an uplink, and who listens there: what a port sends is judged at another guest, the uplink, the host.

::

    sandbox:   [port under test]──┐                    ┌──[guest `them`, unguarded, hears all]
                                  lab0, the host's bridge
                                   └── up0 ══ up1, the uplink's far end
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import TracebackType

import frames

from libvirt_guestnet.sandbox import Sandbox
from support.libvirt_wire import NO_ROM, Wire, domain

BRIDGE = "lab0"
PLACES = ("another guest", "the uplink", "the host")
_SETUP = f"""set -e
ip link add {BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0
ip link add up0 type veth peer name up1
ip link set up0 master {BRIDGE}
for device in {BRIDGE} up0 up1; do ip link set $device mtu 9000 up; done
# It drops what is malformed and cuts padding, which is no merit of any port's filter.
for family in ip ip6 arp; do
    switch=/proc/sys/net/bridge/bridge-nf-call-${{family}}tables
    if [ -e $switch ]; then echo 0 > $switch; fi
done
"""
_ETH_P_ALL, _SO_RCVBUFFORCE = 0x0003, 33
_BATCH = 16


class Stage:
    """The bridge and its listeners, while it lasts."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.stack = ExitStack()
        self.sentinels = 0

    def __enter__(self) -> Stage:
        self.sandbox.run(["sh", "-c", _SETUP])
        self.stack.callback(self.sandbox.run, ["sh", "-c", f"ip link del up0; ip link del {BRIDGE}"])
        them = self.stack.enter_context(self.running(domain("them", interface(frames.THEM))))
        self.uplink, self.host = (self.stack.enter_context(self._ear(device)) for device in ("up1", BRIDGE))
        self.hearers: dict[str, Callable[[bytes], list[bytes]]] = {
            "another guest": them.receive_until,
            "the uplink": lambda last: _until(self.uplink, last),
            "the host": lambda last: _until(self.host, last),
        }
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.close()

    @contextmanager
    def running(self, xml: str) -> Iterator[Wire]:
        """A transient domain with a wire on its NIC."""
        name = xml.partition("<name>")[2].partition("</name>")[0]
        self.sandbox.run(["virsh", "-q", "create", "/dev/stdin"], stdin=xml, timeout=240)
        try:
            with Wire(self.sandbox, name) as wire:
                tap = self.sandbox.run(["virsh", "-q", "domiflist", name]).stdout.split()[0]
                # Or a frame that claims a neighbour's MAC would turn that one's frames away.
                self.sandbox.run(["ip", "link", "set", tap, "mtu", "9000", "type", "bridge_slave", "learning", "off"])
                yield wire
        finally:
            self.sandbox.run(["virsh", "-q", "destroy", name])

    def judge(self, sender: Wire, corpus: Mapping[str, bytes]) -> dict[str, set[str]]:
        """Where each frame arrives. No time decides: a sentinel follows each frame, and arrives everywhere."""
        found: dict[str, set[str]] = {}
        names = list(corpus)
        for start in range(0, len(names), _BATCH):
            batch = {name: corpus[name] for name in names[start : start + _BATCH]}
            followers = {name: frames.sentinel(self._next()) for name in batch}
            sender.send(*(frame for name in batch for frame in (batch[name], followers[name])))
            for place, hear in self.hearers.items():
                heard = hear(followers[list(batch)[-1]])
                for name in _arrived(heard, batch, followers):
                    found.setdefault(name, set()).add(place)
        return found

    def _next(self) -> int:
        self.sentinels += 1
        return self.sentinels

    @contextmanager
    def _ear(self, device: str) -> Iterator[socket.socket]:
        with inside(self.sandbox.first.pid):
            ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
            ear.bind((device, 0))
        ear.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 8 << 20)
        with ear:
            yield ear


def interface(mac: str, inside: str = "") -> str:
    """A NIC on the bridge itself."""
    return f"""<interface type='bridge'><mac address='{mac}'/><source bridge='{BRIDGE}'/>
      <model type='rtl8139'/>{NO_ROM}{inside}</interface>"""


def _arrived(heard: list[bytes], batch: Mapping[str, bytes], followers: Mapping[str, bytes]) -> Iterable[str]:
    before: list[bytes] = []
    left = iter(heard)
    for name, follower in followers.items():
        before = []
        for frame in left:
            if frame.startswith(follower):
                break
            before.append(frame)
        if any(frames.is_same(frame, batch[name]) for frame in before):
            yield name


def _until(ear: socket.socket, last: bytes, seconds: float = 5.0) -> list[bytes]:
    heard: list[bytes] = []
    end = time.monotonic() + seconds
    while not heard or not heard[-1].startswith(last):
        assert select.select([ear], [], [], max(0, end - time.monotonic()))[0], "the sentinel did not arrive"
        heard.append(ear.recv(65536))
    return heard


@contextmanager
def inside(pid: int) -> Iterator[None]:
    """This thread in another process's network namespace: sockets that it opens stay there."""
    libc = ctypes.CDLL(None, use_errno=True)
    home, there = os.open("/proc/thread-self/ns/net", os.O_RDONLY), os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        assert libc.setns(there, 0) == 0, os.strerror(ctypes.get_errno())
        yield
    finally:
        libc.setns(home, 0)
        os.close(home)
        os.close(there)
