"""How agent and client write to each other: one line per message, "LENGTH HEX". Pure; the format is told in data/agent.

A line that is not exactly that is dropped, so a reader finds its feet again behind a message that was cut off.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

LINE_MAX = 2_200_000
"""Characters of a line we are willing to hold; the agent never sends that much."""

TIMED_OUT = 1
CUT = 2
ID_BYTES = 8
_LINE = re.compile(rb"([0-9]{1,7}) ((?:[0-9a-f]{2})+)")
_HEAD = struct.Struct(">8sIB")


@dataclass(frozen=True)
class AgentResult:
    """What a request came to. `status` is the exit status (124 when the guest's deadline ended it, 128+n for signal
    n); `cut` says that output beyond 256 KiB is missing."""

    status: int
    stdout: bytes
    stderr: bytes
    timed_out: bool = False
    cut: bool = False

    @property
    def text(self) -> str:
        """stdout, with anything that is not ASCII replaced: it came from a guest."""
        return self.stdout.decode("ascii", "replace")


def request(ident: bytes, timeout: float, words: tuple[bytes, ...]) -> bytes:
    """One request as a line; `timeout` in seconds."""
    body = struct.pack(">8sI", ident, max(1, round(timeout * 1000)))
    body += b"".join(struct.pack(">I", len(word)) + word for word in words)
    return b"%d %s\n" % (len(body), body.hex().encode())


def response(line: bytes) -> tuple[bytes, AgentResult] | None:
    """(id, result) from a line without its newline; None for anything malformed."""
    match = _LINE.fullmatch(line)
    if match is None or int(match[1]) * 2 != len(match[2]):
        return None
    body = bytes.fromhex(match[2].decode())
    if len(body) < _HEAD.size:
        return None
    ident, status, flags = _HEAD.unpack_from(body)
    words = _words(body[_HEAD.size :])
    if words is None or len(words) != 2:
        return None
    return ident, AgentResult(status, words[0], words[1], bool(flags & TIMED_OUT), bool(flags & CUT))


def _words(data: bytes) -> list[bytes] | None:
    words = []
    while data:
        if len(data) < 4:
            return None
        (length,) = struct.unpack_from(">I", data)
        if length > len(data) - 4:
            return None
        words.append(data[4 : 4 + length])
        data = data[4 + length :]
    return words


class LineReader:
    """Cuts a byte stream into lines, forgetting a line that grows beyond LINE_MAX."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes."""
        self._buffer += data
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = bytearray() if len(rest) > LINE_MAX else bytearray(rest)
        return [bytes(line) for line in lines if len(line) <= LINE_MAX]
