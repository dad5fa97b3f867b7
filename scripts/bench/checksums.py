"""What the checksum guard alone costs each frame: guarded ports side by side on one bridge, which change places.

A tap's own cost depends on where its memory happens to lie, by as much as the guard costs. So five neighbours, one of
each kind, send the same frames in turn; then each has the next one's program, and so on until every tap has had every
kind. What is told is the mean, over the five places, of the difference to `none`.

    none         the chain of the port's addresses, and no program
    tcx          the guard, as kernels have it that know tcx (Linux 6.6)
    tcx empty    a program of two instructions that lets everything pass: what any program costs by tcx
    cls_bpf      the guard as Linux 6.1 has it: guard_probe, as a filter of tc ingress
    cls_bpf empty

The `spread` frames come from all ports in turn, a fifth of which is of each kind.
"""

from __future__ import annotations

import ctypes
import statistics
import struct
import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network

import taps
import turns
from turns import Case, Frames

from libvirt_guestnet.datapath.netlink import kernel
from libvirt_guestnet.datapath.netlink.tc import Tc
from libvirt_guestnet.datapath.port import bpf, bpfload, filters

NONE, TCX, TCX_EMPTY, CLS, CLS_EMPTY = KINDS = ("none", "tcx", "tcx empty", "cls_bpf", "cls_bpf empty")
SPREAD, LEAST_SPREAD = "tcp4-64 spread", 200
_LOAD, _SCHED_CLS = 5, 3
_PASS = struct.pack("=BBhiBBhi", 0xB7, 0, 0, -1, 0x95, 0, 0, 0)  # r0 = TC_ACT_UNSPEC; exit


def port_guard(port: int) -> filters.PortGuard:
    """The policy of a bench's guest by its number."""
    owned = (IPv4Network(taps.ip4(port)), IPv6Network(taps.ip6(port)))
    return filters.PortGuard(taps.tap_name(port), taps.mac(port).hex(":"), owned)


def guard(bridge: taps.Bridge, ports: range) -> None:
    """Puts the chains at guests' taps."""
    with taps.inside(bridge.namespace):
        for first in range(ports.start, ports.stop, 20):
            some = range(first, min(first + 20, ports.stop))
            kernel.nft("".join(filters.guard(port_guard(port)) for port in some))


class Field:
    """The bridge, its taps in groups of as many as there are kinds, and what is at each of them."""

    def __init__(self) -> None:
        self.bridge = taps.Bridge(taps.new_namespace())
        self._programs = _programs()
        self._indexes: list[int] = []
        self.kinds: list[str] = []

    def grow(self, ports: int) -> None:
        """At least so many, with their programs."""
        old, ports = len(self.kinds), -(-ports // len(KINDS)) * len(KINDS)
        self.bridge.grow(ports)
        guard(self.bridge, range(old, ports))
        self._indexes += self.bridge.indexes(range(old, ports))
        self.kinds += [NONE] * (ports - old)
        for port in range(old, ports):
            self.change(port, KINDS[port % len(KINDS)])

    def change(self, port: int, kind: str) -> None:
        """Has a tap of another kind."""
        index = self._indexes[port]
        with taps.inside(self.bridge.namespace), Tc() as tc:
            if self.kinds[port] in (TCX, TCX_EMPTY):
                bpf.detach(index, self._programs[self.kinds[port]])
            if self.kinds[port] in (CLS, CLS_EMPTY):
                subprocess.run(["tc", "qdisc", "del", "dev", taps.tap_name(port), "ingress"], check=True, timeout=10)
            if kind in (TCX, TCX_EMPTY):
                bpf.attach_first(index, self._programs[kind])
            if kind in (CLS, CLS_EMPTY):
                tc.attach_first(index, self._programs[kind])
        self.kinds[port] = kind

    def middle(self) -> range:
        """The neighbours that change places."""
        first = len(self.kinds) // len(KINDS) // 2 * len(KINDS)
        return range(first, first + len(KINDS))


def _programs() -> dict[str, int]:
    empty = _empty()
    return {TCX: bpfload.load()[0], CLS: bpfload.load_one(b"guard_probe")[0], TCX_EMPTY: empty, CLS_EMPTY: empty}


def _empty() -> int:
    code, licence = ctypes.create_string_buffer(_PASS), ctypes.create_string_buffer(b"GPL")
    places = ctypes.addressof(code), ctypes.addressof(licence)
    return bpf._bpf(_LOAD, struct.pack("=IIQQ24x", _SCHED_CLS, 2, *places), "an empty program")[0]


def measure(field: Field, count: int) -> dict[Case, float]:
    """By kind and frame: what it adds to `none`, in nanoseconds."""
    added: dict[Case, list[float]] = {}
    before, sent = field.bridge.counted(), 0
    for place in range(len(KINDS)):
        for port in field.middle():
            field.change(port, KINDS[(port + place) % len(KINDS)])
        cases = dict(_cases(field))
        times = turns.rounds(cases, count)
        sent += count * sum(map(len, cases.values()))
        for (kind, name), mine in times.items():
            added.setdefault((kind, name), []).append(turns.typical(mine) - turns.typical(times[NONE, name]))
    if field.bridge.counted() - before < sent:
        raise SystemExit("frames got lost, so the times of the checksum guard mean nothing")
    return {case: statistics.fmean(places) for case, places in added.items() if case[0] != NONE}


def _cases(field: Field) -> Iterator[tuple[Case, Frames]]:
    for kind in KINDS:
        port = next(port for port in field.middle() if field.kinds[port] == kind)
        for name, frame in taps.frames(port).items():
            yield (kind, name), [(field.bridge.taps[port], frame)] * turns.FRAMES
        ports = [port for port, its in enumerate(field.kinds) if its == kind]
        once = [(field.bridge.taps[port], taps.frames(port)["tcp4-64"]) for port in ports]
        yield (kind, SPREAD), once * -(-LEAST_SPREAD // len(once))
