"""Real taps, and a bridge with one of them and a neighbour that hears what the tap let through."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import frames

_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
ETH_P_ALL = 0x0003


def ip(arguments: str) -> str:
    return subprocess.run(["ip", *arguments.split()], check=True, capture_output=True, text=True, timeout=120).stdout


def bridge_port(name: str) -> str:
    argv = ["bridge", "link", "show", "dev", name]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=120).stdout


def open_tap(name: str) -> int:
    """A new tap; it lasts as long as the descriptor."""
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
    return fd


class Wire:
    """Frames written here come out of the tap as if a guest had sent them; `heard` is what a bridge neighbour got."""

    def __init__(self, tap: str) -> None:
        self.tap = tap
        self.tags: list[tuple[int, int]] = []  # around every frame that `judge` sends
        self.fd = open_tap(tap)
        for command in (
            "link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
            "link add peer0 type veth peer name peer1",
            "link set peer0 master br0",
            f"link set {tap} master br0",
            "link set br0 up",
            "link set peer0 up",
            "link set peer1 up",
            f"link set {tap} up",
            # A neighbour's MAC that a frame claims would be looked for here afterwards.
            f"link set {tap} type bridge_slave learning off",
        ):
            ip(command)
        # It drops what is malformed and cuts padding, which is no merit of ours.
        for family in ("ip", "ip6", "arp"):
            switch = Path(f"/proc/sys/net/bridge/bridge-nf-call-{family}tables")
            if switch.exists():
                switch.write_text("0")
        # The kernel tells the bridge that a veth has a carrier when it finds the time; until then frames are lost.
        while "state forwarding" not in bridge_port("peer0"):
            time.sleep(0.001)
        self.ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self.ear.bind(("peer1", 0))

    def send(self, frame: bytes) -> None:
        os.write(self.fd, frame)

    def delivered(self, frame: bytes, within: float = 1.0) -> bool:
        """Whether the neighbour receives this frame; padding apart, which bridges trim."""
        self.send(frame)
        end = time.monotonic() + within
        while (left := end - time.monotonic()) > 0:
            if not select.select([self.ear], [], [], left)[0]:
                return False
            if frames.is_same(self.ear.recv(65536), frame):
                return True
        return False

    def judge(self, corpus: Mapping[str, bytes]) -> set[str]:
        """The names of those that the neighbour receives. No time decides: a sentinel follows each frame."""
        return {name for number, (name, frame) in enumerate(corpus.items()) if self._overtaken(frame, number)}

    def passing(self, corpus: Mapping[str, bytes], last: bytes) -> set[str]:
        """The same, of a port that may not send that sentinel: `last` is what it always may."""
        return {name for name, frame in corpus.items() if self._before(frame, last)}

    def silent(self, corpus: Mapping[str, bytes], last: bytes) -> bool:
        """Whether nothing of the corpus reaches the neighbour; `last` does, behind all of it."""
        for frame in corpus.values():
            self.send(frame)
        heard = self._until(last)
        return not any(frames.is_same(each, frame) for each in heard for frame in corpus.values())

    def _overtaken(self, frame: bytes, number: int) -> bool:
        return self._before(frame, frames.sentinel(number))

    def _before(self, frame: bytes, follower: bytes) -> bool:
        self.send(frames.inside(frame, *self.tags))
        return any(frames.is_same(heard, frame) for heard in self._until(frames.inside(follower, *self.tags), follower))

    def _until(self, last: bytes, arriving: bytes | None = None) -> list[bytes]:
        """What the neighbour hears before the last frame, which is sent here."""
        self.send(last)
        found: list[bytes] = []
        while select.select([self.ear], [], [], 60)[0]:
            heard = self.ear.recv(65536)
            if heard.rstrip(b"\0") == (arriving or last).rstrip(b"\0"):
                return found
            found.append(heard)
        raise AssertionError("the last frame did not arrive: honest traffic is dropped")

    def close(self) -> None:
        self.ear.close()
        os.close(self.fd)
