"""What guards and forwards do with real frames: each guest's when all is at rest, the bystander's all the time."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from types import TracebackType

from libvirt_guestnet.sandbox import Sandbox

from . import onwire
from .onwire import Mouth, arp, heard, link_local, udp
from .seen import Seen
from .setting import BYSTANDER, HOST, PORT, X6, X
from .wanted import Nic, nics

SECONDS = 30.0  # an honest frame gets there at once, but for a host that has yet to ask for a neighbour
_ANOTHER = "52:54:00:0a:0b:0c"


def probe(sandbox: Sandbox, seen: Seen) -> tuple[int, list[str]]:
    """Frames of every guarded NIC, and for every forward; how many were sent, and what was wrong."""
    sent, found = 0, list[str]()
    mouths = onwire.taps(_processes(sandbox))
    for nic in nics(seen):
        if nic.guarded and nic.tap in mouths and (not nic.network or nic.network in seen.networks):
            with closing(Mouth(*mouths[nic.tap])) as mouth:
                count, wrong = _tried(nic, str(seen.link(nic.tap)["address"]), sandbox, mouth)
            sent, found = sent + count, [*found, *wrong]
    return sent, found


def _tried(nic: Nic, router: str, sandbox: Sandbox, mouth: Mouth) -> tuple[int, list[str]]:
    space, forged = f"/proc/{sandbox.first.pid}/ns/net", _forged(nic, router)
    leaks, passed = onwire.leaking(
        space, nic.bridge or "up0", mouth, forged, lambda token: _honest(nic, router, token), SECONDS
    )
    found = [f"{nic.guest}: {nic.tap} lets out {name}" for name in sorted(leaks)]
    if not passed:
        return 0, [*found, f"{nic.guest}: {nic.tap} ({nic.mac} on {nic.network}) lets out nothing of its own"]
    results = list(_forwards(nic, sandbox, space, mouth))
    return len(forged) + 1 + len(results), [*found, *filter(None, results)]


def _processes(sandbox: Sandbox) -> list[int]:
    """Those of the sandbox, as the machine counts."""
    own = os.readlink(f"/proc/{sandbox.first.pid}/ns/pid")
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and _space(name) == own]


def _space(pid: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


def _four(nic: Nic) -> str:
    return next((each for each in nic.addresses() if "." in each), "")


def _six(nic: Nic) -> str:
    return next((each for each in nic.addresses() if ":" in each), "")


def _honest(nic: Nic, router: str, token: bytes) -> bytes:
    """From its own IPv4 address; one that has none has what it forms of its MAC address."""
    payload = token.rjust(40)
    if not nic.bridge:
        return udp(nic.mac, _four(nic), X, payload, onwire.octets(router))
    if four := _four(nic):
        return udp(nic.mac, four, _host(nic), payload)
    return udp(nic.mac, link_local(nic.mac), "ff02::1", payload, b"\x33\x33\x00\x00\x00\x01")


def _host(nic: Nic) -> str:
    """The host's address on its network."""
    four = _four(nic) or "10.61.9.9"
    return four.rpartition(".")[0] + ".1"


def _forged(nic: Nic, router: str) -> dict[str, bytes]:
    """What no guest may send: the host's addresses, a neighbour's, another MAC address."""
    to, target, target6 = (b"\xff" * 6, _host(nic), "ff02::1") if nic.bridge else (onwire.octets(router), X, X6)
    four, other, host6 = _four(nic) or "10.61.9.77", "10.61.3.20", f"fd61:{_host(nic).split('.')[2]}::1"
    frames = {
        "another's IPv4 address": (nic.mac, other, target),
        "the host's IPv4 address": (nic.mac, _host(nic) if nic.bridge else HOST, target),
        "another MAC address": (_ANOTHER, four, target),
        "the host's IPv6 address": (nic.mac, host6, target6),
        "another MAC address with IPv6": (_ANOTHER, link_local(_ANOTHER), target6),
    }
    if nic.network == "plain":  # the host has none there, and a port may claim what nobody has (docs/port-security.md)
        frames.pop("the host's IPv6 address")
    sent = {name: udp(*ends, os.urandom(20).hex().encode(), to) for name, ends in frames.items()}
    return {
        **sent,
        "ARP in the host's name": arp(nic.mac, _host(nic), f"10.61.77.{os.urandom(1)[0]}"),
        "ARP of another's MAC address": arp(_ANOTHER, four, f"10.61.78.{os.urandom(1)[0]}", frame_mac=nic.mac),
    }


def _forwards(nic: Nic, sandbox: Sandbox, space: str, mouth: Mouth) -> Iterator[str]:
    """Asks from the LAN at the first of its forwards and floating addresses: "" where that gets to the tap."""
    asked = [(str(each.get("at")), int(str(each.get("ports")).partition("-")[0])) for each in nic.forwards()]
    asked += [(ip, PORT) for ip in nic.published() if "." in ip and ip != _four(nic)]
    if not nic.bridge:
        asked = [(_four(nic), PORT)]
    for address, port in asked:
        with closing(onwire.ear(space, nic.tap)) as listening:
            if not _gets_there(nic, sandbox, listening, mouth, (address, port)):
                yield f"{nic.guest}: {nic.tap} is not reached at {address} port {port}"
            else:
                yield ""


def _gets_there(nic: Nic, sandbox: Sandbox, listening: socket.socket, mouth: Mouth, at: tuple[str, int]) -> bool:
    token, end = os.urandom(16).hex().encode(), time.monotonic() + SECONDS
    with onwire.entered(f"/proc/{sandbox.first.pid}/root/run/netns/x"):
        asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with asking:
        while time.monotonic() < end:
            try:
                asking.sendto(token, at)
            except OSError:
                time.sleep(0.2)
                continue
            frame = heard(listening, 1.0, lambda frame: token in frame or _is_asked(frame, _four(nic)))
            if token in frame:
                return True
            if frame:
                _answer(nic, frame, mouth)
                if heard(listening, 1.0, lambda frame: token in frame):
                    return True
    return False


def _is_asked(frame: bytes, address: str) -> bool:
    """Whether it is an ARP request for that address."""
    return frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\x01" and frame[38:42] == socket.inet_aton(address)


def _answer(nic: Nic, frame: bytes, mouth: Mouth) -> None:
    mouth.send(arp(nic.mac, _four(nic), socket.inet_ntoa(frame[28:32]), to=frame[22:28], reply=True))


class Pump:
    """The bystander's frames, honest and forged by turns, while everything else goes on: what is honest gets to its
    bridge, always; what is forged never, but while somebody has taken the rules (`opened`)."""

    def __init__(self, sandbox: Sandbox, seen: Seen) -> None:
        (self.nic,) = (nic for nic in nics(seen) if nic.guest == BYSTANDER)
        self.sandbox, self.opened = sandbox, False
        self.sent = self.came = 0
        self.leaks: list[str] = []
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def __enter__(self) -> Pump:
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        self.done.set()
        if self.thread.ident:
            self.thread.join()

    def judged(self) -> list[str]:
        """What was wrong since the last time."""
        sent, came, leaks = self.sent, self.came, self.leaks
        self.leaks = []
        lost = [f"{sent - came} of the bystander's {sent} own frames were lost"] if came < sent - 1 else []
        self.sent, self.came = self.sent - sent, self.came - came
        return [*lost, *(f"the bystander lets out {leak}" for leak in sorted(set(leaks)))]

    def _run(self) -> None:
        space, mouths = f"/proc/{self.sandbox.first.pid}/ns/net", onwire.taps(_processes(self.sandbox))
        with closing(Mouth(*mouths[self.nic.tap])) as mouth, closing(onwire.ear(space, self.nic.bridge)) as listening:
            while not self.done.wait(0.05):
                forged = _forged(self.nic, "")
                token = os.urandom(8).hex().encode()
                for frame in forged.values():
                    mouth.send(frame)
                mouth.send(_honest(self.nic, "", token))
                self.sent += 1
                self._hear(listening, forged, token)

    def _hear(self, listening: socket.socket, forged: dict[str, bytes], token: bytes) -> None:
        leaks: list[str] = []

        def matters(frame: bytes) -> bool:
            leaks.extend(name for name, sent in forged.items() if onwire.is_same(frame, sent))
            return token in frame

        self.came += bool(heard(listening, 5.0, matters))
        if leaks and not self.opened:
            self.leaks += leaks
