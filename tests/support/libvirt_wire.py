"""A domain with nothing to boot, whose NIC the test itself sends from and listens on: real libvirt, tap and hooks.

QEMU's network filters do it: a redirector puts frames in as if the guest had sent them, a mirror copies what the guest
would receive. It takes a running (not paused) domain and an rtl8139; virtio and e1000 wait for a driver.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from libvirt_guestnet.sandbox import Sandbox

DOMAIN = """
<domain type='qemu'>
  <name>{name}</name>
  {metadata}
  <memory unit='MiB'>8</memory>
  <os><type machine='pc'>hvm</type></os>
  <features><acpi/></features>
  <cpu mode='custom' match='exact'><model>qemu64</model></cpu>
  <devices>
    <controller type='usb' model='none'/><memballoon model='none'/>
    {interfaces}
  </devices>
</domain>"""
# Without it a NIC's boot ROM (iPXE) asks for addresses itself, and takes a whole processor to do so.
NO_ROM = "<rom enabled='no'/>"
_LENGTH = struct.Struct("!I")
_LARGEST = 65536


def domain(name: str, *interfaces: str, metadata: str = "") -> str:
    """A domain for wires; interfaces are <interface> elements with whatever model, metadata our element."""
    nics = "".join(interfaces).replace('"virtio"', '"rtl8139"').replace("'virtio'", "'rtl8139'")
    around = f"<metadata>{metadata}</metadata>" if metadata else ""
    return DOMAIN.format(name=name, metadata=around, interfaces=nics)


class Wire:
    """One NIC of a running domain; `alias` is libvirt's name of it."""

    def __init__(self, sandbox: Sandbox, domain: str, alias: str = "net0") -> None:
        self.sandbox, self.domain, self.alias = sandbox, domain, alias
        self.stack = ExitStack()
        self.rest = b""

    def __enter__(self) -> Wire:
        paths = {name: f"/run/wire-{self.domain}-{self.alias}-{name}-{time.monotonic_ns()}" for name in ("in", "out")}
        self._monitor(
            *(("chardev-add", {"id": self._id(name), "backend": _server(path)}) for name, path in paths.items()),
            ("object-add", self._filter("in", "filter-redirector", queue="rx", indev=self._id("in"))),
            ("object-add", self._filter("out", "filter-mirror", queue="tx", outdev=self._id("out"))),
        )
        self.inward, self.outward = map(self._connected, paths.values())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.close()

    def send(self, *frames: bytes) -> None:
        """Sends frames as the guest would."""
        self.inward.sendall(b"".join(_LENGTH.pack(len(frame)) + frame for frame in frames))

    def receive_until(self, last: bytes, seconds: float = 60.0) -> list[bytes]:
        """What the guest receives, up to `last` (which is in the list); fails when that does not come."""
        received: list[bytes] = []
        deadline = time.monotonic() + seconds
        while not received or not received[-1].startswith(last):
            frame = self._frame(deadline)
            assert frame is not None, f"{len(received)} frames came, but not the one waited for"
            received.append(frame)
        return received

    def next_frame(self, seconds: float) -> bytes | None:
        """The next frame that the guest receives, if one comes in time."""
        return self._frame(time.monotonic() + seconds)

    def _frame(self, deadline: float) -> bytes | None:
        while len(self.rest) < 4 or len(self.rest) < 4 + _LENGTH.unpack(self.rest[:4])[0]:
            if not select.select([self.outward], [], [], max(0, deadline - time.monotonic()))[0]:
                return None
            self.rest += self.outward.recv(_LARGEST)
        end = 4 + _LENGTH.unpack(self.rest[:4])[0]
        frame, self.rest = self.rest[4:end], self.rest[end:]
        return frame

    def _connected(self, path: str) -> socket.socket:
        end = self.stack.enter_context(socket.socket(socket.AF_UNIX))
        end.connect(f"/proc/{self.sandbox.first.pid}/root{path}")
        return end

    def _filter(self, name: str, kind: str, **options: str) -> dict[str, Any]:
        return {"qom-type": kind, "id": f"{self._id(name)}-f", "netdev": f"host{self.alias}", **options}

    def _id(self, name: str) -> str:
        return f"wire-{self.alias}-{name}"

    def _monitor(self, *commands: tuple[str, dict[str, Any]]) -> None:
        texts = [json.dumps({"execute": command, "arguments": arguments}) for command, arguments in commands]
        script = "; ".join(f"qemu-monitor-command {self.domain} '{text}'" for text in texts)
        answers = self.sandbox.run(["virsh", "-q", script], timeout=240).stdout.split()
        assert len(answers) == len(texts)
        assert all("return" in json.loads(answer) for answer in answers), answers


def _server(path: str) -> dict[str, Any]:
    address = {"type": "unix", "data": {"path": path}}
    return {"type": "socket", "data": {"addr": address, "server": True, "wait": False}}


def arrived(sender: Wire, receiver: Wire, frames: Sequence[bytes], honest: bytes) -> list[bytes]:
    """Those of the frames that reach the receiver; `honest`, sent behind them, must."""
    sender.send(*frames, honest)
    received = receiver.receive_until(honest)
    return [frame for frame in frames if any(seen.startswith(frame) for seen in received)]
