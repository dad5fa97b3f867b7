"""A tap whose frames the kernel takes from memory (vhost-net) as it does from a guest's, without a guest."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct
import time

from offload import Offered

from support.offload_wire import OffloadWire

_SET_OWNER, _SET_FEATURES, _SET_MEMORY = 0xAF01, 0x4008AF00, 0x4008AF03
_RING_SIZE, _RING_PLACES, _RING_BASE, _RING_KICK = 0x4008AF10, 0x4028AF11, 0x4008AF12, 0x4008AF20
_SET_BACKEND = 0x4008AF30
_SEND_QUEUE, _ENTRIES = 1, 256
_AVAILABLE, _USED, _FRAME, _SIZE = 0x1000, 0x2000, 0x3000, 0x40000


class VhostWire(OffloadWire):
    """One descriptor ring (virtio 1.2, 2.7) in memory that is shared with the kernel; the header goes as it is."""

    def __init__(self, tap: str) -> None:
        super().__init__(tap)
        self.memory = mmap.mmap(-1, _SIZE)
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self.sent = 0
        self.kick = os.eventfd(0)
        self.vhost = os.open("/dev/vhost-net", os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(self.vhost, _SET_OWNER)
        self._set(_SET_FEATURES, struct.pack("=Q", 0))
        self._set(_SET_MEMORY, struct.pack("=IIQQQQ", 1, 0, self.base, _SIZE, self.base, 0))
        self._set(_RING_SIZE, struct.pack("=II", _SEND_QUEUE, _ENTRIES))
        self._set(_RING_BASE, struct.pack("=II", _SEND_QUEUE, 0))
        places = (self.base, self.base + _USED, self.base + _AVAILABLE)
        self._set(_RING_PLACES, struct.pack("=IIQQQQ", _SEND_QUEUE, 0, *places, 0))
        self._set(_RING_KICK, struct.pack("=Ii", _SEND_QUEUE, self.kick))
        self._set(_SET_BACKEND, struct.pack("=Ii", _SEND_QUEUE, self.queues[0]))

    def _set(self, request: int, data: bytes) -> None:
        fcntl.ioctl(self.vhost, request, data)

    def send(self, offered: Offered, queue: int = 0) -> None:
        data = offered.packed()
        entry = self.sent % _ENTRIES
        self.memory[_FRAME : _FRAME + len(data)] = data
        self.memory[16 * entry : 16 * entry + 16] = struct.pack("=QIHH", self.base + _FRAME, len(data), 0, 0)
        struct.pack_into("=H", self.memory, _AVAILABLE + 4 + 2 * entry, entry)
        self.sent += 1
        struct.pack_into("=H", self.memory, _AVAILABLE + 2, self.sent & 0xFFFF)
        os.eventfd_write(self.kick, 1)
        deadline = time.monotonic() + 240
        while struct.unpack_from("=H", self.memory, _USED + 2)[0] != self.sent & 0xFFFF:
            assert time.monotonic() < deadline, "vhost-net does not take the frame"
            time.sleep(0)

    def close(self) -> None:
        os.close(self.vhost)
        os.close(self.kick)
        super().close()
