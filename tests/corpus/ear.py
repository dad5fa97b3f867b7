"""What a machine on a LAN hears meanwhile: of ARP and ND, who announces what and who asks for what."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address

PROGRAM = """
import signal, socket, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
ear.bind(("eth0", 3))
print("ready", flush=True)
while True:
    frame, (_, _, kind, *_) = ear.recvfrom(2048)
    if kind != 4:
        print(frame.hex(), flush=True)
"""


@contextmanager
def hearing(python: Sequence[str]) -> Iterator[list[bytes]]:
    """The frames that come in at eth0 of where `python` runs, when it is over."""
    heard: list[bytes] = []
    with subprocess.Popen([*python, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as ear:
        assert ear.stdout is not None
        assert ear.stdout.readline() == "ready\n"
        try:
            yield heard
        finally:
            ear.terminate()
            heard += map(bytes.fromhex, ear.stdout.read().split())


def announced(heard: list[bytes]) -> set[str]:
    """The addresses of gratuitous ARP and of neighbour advertisements to everybody."""
    arp = {f[28:32] for f in heard if f[12:14] == b"\x08\x06" and f[28:32] == f[38:42]}
    return _text(arp | {f[62:78] for f in heard if _is_discovery(f, 136) and f[0] == 0x33})


def asked_for(heard: list[bytes]) -> set[str]:
    """The addresses of probes: questions from none of the asker's own."""
    arp = {f[38:42] for f in heard if f[12:14] == b"\x08\x06" and f[28:32] == bytes(4)}
    return _text(arp | {f[62:78] for f in heard if _is_discovery(f, 135) and f[22:38] == bytes(16)})


def _is_discovery(frame: bytes, kind: int) -> bool:
    return frame[12:14] == b"\x86\xdd" and frame[20] == 58 and frame[54] == kind


def _text(found: set[bytes]) -> set[str]:
    return {text for raw in found if not (text := str(ip_address(raw))).startswith("fe80:")}
