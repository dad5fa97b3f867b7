"""The client of the agent (data/agent) in a tiny guest or on a lab's stand-in host: asks it to probe, send, capture.

What comes back was written by a guest and is believed no further than its format. Requests may be made from several
threads at once; each has a deadline, enforced in the guest and, two seconds later, here.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from libvirt_guestnet import parse
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.guest import wire
from libvirt_guestnet.guest.wire import AgentResult
from libvirt_guestnet.model.network import IPAddress

GRACE = 2.0
"""Seconds a guest's answer may come after the request's own deadline."""

_SLOW = 30.0  # more that a probe may take on a busy machine: it ends by its own timeout

FRAMES_PER_REQUEST = 64
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


@dataclass(frozen=True)
class Probe:
    """What became of a TCP or UDP probe. `outcome` is "open", "refused", "unreachable", "timeout" or "errno-N";
    `seen_as` and `seen_port` are our address and port as the echo responder at the other end saw them."""

    outcome: str
    seen_as: IPAddress | None = None
    seen_port: int | None = None

    @property
    def open(self) -> bool:
        return self.outcome == "open"


@dataclass(frozen=True)
class Ping:
    """Echo requests sent and answered; `error` is the local one, as in Probe.outcome."""

    sent: int
    received: int
    error: str | None = None


@dataclass(frozen=True)
class Trace:
    """The addresses that answered on the way, nearest first, None where nobody did; `reached` when the last one is
    the destination's own answer."""

    hops: tuple[str | None, ...]
    reached: bool


@dataclass
class Capture:
    """Frames kept by `Agent.capturing`; filled when its `with` block ends. At most 256, of at most 2 KiB each."""

    frames: list[bytes] = field(default_factory=list)


def agent_script() -> Path:
    """The agent program itself: `perl SCRIPT --listen SOCKET` runs it on a host, until its standard input ends."""
    return Path(str(files("libvirt_guestnet.guest").joinpath("data/agent")))


class Agent:
    """A connection to one agent. `name` is the guest's, for messages. Close it, or use it in a `with` block."""

    def __init__(self, connection: socket.socket, name: str) -> None:
        self.name = name
        self._socket = connection
        self._pending: dict[bytes, Future[AgentResult]] = {}
        self._lock = threading.Lock()
        self._reader = threading.Thread(target=self._read, name=f"agent {name}", daemon=True)
        self._reader.start()

    @classmethod
    def connect(cls, path: Path | str, timeout: float = 10.0, name: str | None = None) -> Agent:
        """Connects to the agent behind a UNIX socket, waiting up to `timeout` seconds for it to answer.

        Raises GuestnetError when there is no such socket or nobody answers in time.
        """
        name, deadline = name or str(path), time.monotonic() + timeout
        agent = cls(_connect(str(path), name, deadline), name)
        try:
            agent._send(b"\n")
            agent.call("hello", timeout=max(0.1, deadline - time.monotonic()), grace=0)
        except BaseException:
            agent.close()
            raise
        return agent

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection; requests under way fail. Twice is success."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join(5)
        self._socket.close()

    # ---- requests

    def submit(self, verb: str, *words: str | bytes, timeout: float) -> Future[AgentResult]:
        """Sends a request and returns at once; the future fails with GuestnetError when the connection ends."""
        ident = os.urandom(wire.ID_BYTES)
        future: Future[AgentResult] = Future()
        encoded = tuple(word if isinstance(word, bytes) else word.encode() for word in (verb, *words))
        with self._lock:
            self._pending[ident] = future
        self._send(wire.request(ident, timeout, encoded))
        if not self._reader.is_alive():
            self._fail_pending()
        return future

    def call(self, verb: str, *words: str | bytes, timeout: float = 10.0, grace: float = GRACE) -> AgentResult:
        """Sends a request and waits. A non-zero status is returned, not raised; no answer in time raises."""
        future = self.submit(verb, *words, timeout=timeout)
        try:
            return future.result(timeout + grace)
        except FutureTimeoutError:
            what = " ".join(_shown(word) for word in (verb, *words))
            raise GuestnetError(
                f"guest {self.name}: no answer to {what!r} in {timeout + grace:.1f} s; is the guest running and up?"
            ) from None

    def _must(self, verb: str, *words: str | bytes, timeout: float = 10.0) -> AgentResult:
        result = self.call(verb, *words, timeout=timeout)
        if result.status != 0 or result.timed_out:
            raise self._refused(verb, words, result)
        return result

    def _refused(self, verb: str, words: tuple[str | bytes, ...], result: AgentResult) -> GuestnetError:
        what = " ".join(_shown(word) for word in (verb, *words))
        reason = result.stderr.decode("ascii", "replace").strip()[:400] or f"status {result.status}"
        return GuestnetError(f"guest {self.name}: {what!r} failed: {reason}")

    def run(self, argv: Iterable[str], timeout: float = 10.0) -> AgentResult:
        """Runs a program in the guest (no shell)."""
        return self.call("run", *argv, timeout=timeout)

    def ready(self, timeout: float = 30.0) -> None:
        """Waits until every address and default route of the guest's configuration is usable; raises with what is
        missing after `timeout` seconds."""
        self._must("ready", timeout=timeout)

    def ping(
        self, address: IPAddress | str, count: int = 1, interval: float = 0.2, timeout: float = 1.0, size: int = 32
    ) -> Ping:
        """Sends `count` echo requests; returns as soon as all are answered, or `timeout` s after the last one."""
        words = (str(address), str(count), _ms(interval), _ms(timeout), str(size))
        result = self._answered("ping", *words, timeout=count * interval + timeout + _SLOW)
        match = re.fullmatch(r"sent (\d{1,9}) received (\d{1,9}) (\S{1,20})\n", result.text)
        if match is None:
            raise self._refused("ping", words, result)
        return Ping(int(match[1]), int(match[2]), None if match[3] == "-" else match[3])

    def trace(self, address: IPAddress | str, hops: int = 8, timeout: float = 1.5) -> Trace:
        """Who answers on the way to `address`, by ICMP echo with rising TTL or hop limit."""
        result = self._answered("trace", str(address), str(hops), _ms(timeout), timeout=timeout + _SLOW)
        found: dict[int, tuple[str, str]] = {}
        for line in result.text.splitlines()[:255]:
            match = re.fullmatch(r"(\d{1,3}) ([0-9a-f:.]{2,45}) (passed|reached|unreachable)", line)
            if match:
                found[int(match[1])] = (match[2], match[3])
        last = max((n for n in found if n <= hops), default=0)
        path = tuple(found[n][0] if n in found else None for n in range(1, last + 1))
        return Trace(path, last > 0 and found[last][1] == "reached")

    def tcp(self, address: IPAddress | str, port: int, timeout: float = 1.5) -> Probe:
        """Connects, and reads what an echo responder says about us."""
        return _probe(self._answered("tcp", str(address), str(port), _ms(timeout), timeout=timeout + _SLOW))

    def udp(self, address: IPAddress | str, port: int, timeout: float = 1.5) -> Probe:
        """Sends a datagram every 0.3 s until the echo responder answers."""
        return _probe(self._answered("udp", str(address), str(port), _ms(timeout), timeout=timeout + _SLOW))

    def _answered(self, verb: str, *words: str, timeout: float) -> AgentResult:
        result = self.call(verb, *words, timeout=timeout)
        if result.status not in (0, 1) or result.timed_out:
            raise self._refused(verb, words, result)
        return result

    def listen(self, tcp: Iterable[int] = (), udp: Iterable[int] = ()) -> None:
        """Runs the echo responder on more ports: it tells every client the address and port it sees it with."""
        for protocol, ports in (("tcp", tcp), ("udp", udp)):
            words = [str(port) for port in ports]
            if words:
                self._must("listen", protocol, *words)

    def neighbour(self, address: IPAddress | str, timeout: float = 1.5) -> str | None:
        """The MAC address that answers ARP or neighbour discovery for an on-link address, asked afresh."""
        result = self._answered("neighbour", str(address), _ms(timeout), timeout=timeout + _SLOW)
        mac = result.text.strip()
        return mac if result.status == 0 and _MAC.fullmatch(mac) else None

    def send_frames(self, nic: str, frames: Iterable[bytes]) -> None:
        """Puts Ethernet frames onto the wire of the NIC with this MAC address (or interface name), unchanged."""
        frames = list(frames)
        for start in range(0, len(frames), FRAMES_PER_REQUEST):
            self._must("send", nic, *(frame.hex() for frame in frames[start : start + FRAMES_PER_REQUEST]))

    @contextlib.contextmanager
    def capturing(self, nic: str, marker: bytes = b"") -> Iterator[Capture]:
        """Captures, promiscuously, the frames containing `marker` that come in on a NIC while the block runs.

        The capture is armed when the block starts; `frames` is filled when it ends. The guest's kernel takes a VLAN
        tag off a received frame before we see it.
        """
        number = self._must("capture", nic, marker.hex()).text.strip()
        capture = Capture()
        try:
            yield capture
        finally:
            lines = self._must("captured", number).stdout.split()
            capture.frames.extend(bytes.fromhex(line.decode("ascii", "replace")) for line in lines[:256] if _hex(line))

    def capture(self, nic: str, marker: bytes = b"", seconds: float = 1.0) -> list[bytes]:
        """The frames containing `marker` that come in within so many seconds."""
        with self.capturing(nic, marker) as capture:
            time.sleep(seconds)
        return capture.frames

    def set_forwarding(self, on: bool) -> None:
        """Switches IPv4 and IPv6 forwarding."""
        self._must("forwarding", "1" if on else "0")

    def configure(self, text: str) -> None:
        """Gives a running tiny guest a new configuration (of the same form as at start) and waits until it is up."""
        self._must("configure", text, timeout=15)
        self.ready(15)

    # ---- the connection

    def _send(self, data: bytes) -> None:
        try:
            with self._lock:
                self._socket.sendall(data)
        except OSError as error:
            self._fail_pending()
            raise GuestnetError(f"guest {self.name}: the agent's socket failed: {error}") from error

    def _read(self) -> None:
        lines = wire.LineReader()
        with contextlib.suppress(OSError):
            while data := self._recv():
                for line in lines.feed(data):
                    self._take(line)
        self._fail_pending()

    def _recv(self) -> bytes:
        while True:
            try:
                return self._socket.recv(65536)
            except TimeoutError:
                continue

    def _take(self, line: bytes) -> None:
        answer = wire.response(line)
        if answer is None:
            return
        with self._lock:
            future = self._pending.pop(answer[0], None)
        if future is not None and future.set_running_or_notify_cancel():
            future.set_result(answer[1])

    def _fail_pending(self) -> None:
        with self._lock:
            futures, self._pending = list(self._pending.values()), {}
        for future in futures:
            if future.set_running_or_notify_cancel():
                future.set_exception(GuestnetError(f"guest {self.name}: the agent's connection ended; is it running?"))


def _connect(path: str, name: str, deadline: float) -> socket.socket:
    """Tries until `deadline`: QEMU makes the socket a moment after libvirt names it."""
    while True:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(10)
        try:
            connection.connect(path)
            return connection
        except OSError as error:
            connection.close()
            expected = isinstance(error, FileNotFoundError | ConnectionRefusedError | BlockingIOError | TimeoutError)
            if not expected or time.monotonic() > deadline:
                raise GuestnetError(f"guest {name}: cannot connect to the agent at {path}: {error.strerror}") from error
            time.sleep(0.05)


def _probe(result: AgentResult) -> Probe:
    outcome, _, seen = result.text.partition("\n")
    match = re.fullmatch(r"seen ([0-9a-f:.]{2,45}) (\d{1,5})\n", seen)
    if not re.fullmatch(r"[a-z0-9-]{1,20}", outcome):
        raise GuestnetError(
            f"the agent's probe says {outcome[:40]!r}; {result.stderr[:200].decode('ascii', 'replace')}"
        )
    if match is None:
        return Probe(outcome)
    try:
        return Probe(outcome, parse.address(match[1]), parse.number(match[2], 0, 65535))
    except ValueError:
        return Probe(outcome)


def _ms(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))


def _hex(line: bytes) -> bool:
    return len(line) % 2 == 0 and re.fullmatch(rb"[0-9a-f]*", line) is not None


def _shown(word: str | bytes) -> str:
    text = word if isinstance(word, str) else word.decode("ascii", "replace")
    return text if len(text) <= 60 else f"{text[:57]}..."
