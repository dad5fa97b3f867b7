"""The agent's wire format and client against an agent that lies, dies or says nothing."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.guest import wire
from libvirt_guestnet.guest.agent import Agent, Ping, Probe, Trace


def answer(ident: bytes, status: int = 0, stdout: bytes = b"", stderr: bytes = b"", flags: int = 0) -> bytes:
    body = struct.pack(">8sIB", ident, status, flags)
    body += b"".join(struct.pack(">I", len(word)) + word for word in (stdout, stderr))
    return b"%d %s\n" % (len(body), body.hex().encode())


def asked(line: bytes) -> tuple[bytes, list[bytes]]:
    body = bytes.fromhex(line.split(b" ")[1].decode())
    ident, words, rest = body[:8], [], body[12:]
    while rest:
        (length,) = struct.unpack_from(">I", rest)
        words.append(rest[4 : 4 + length])
        rest = rest[4 + length :]
    return ident, words


Reaction = Callable[[bytes, list[bytes]], bytes]


def client(reaction: Reaction) -> Agent:
    """An Agent whose other end answers each request with whatever `reaction` makes of it."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        reader = wire.LineReader()
        with theirs:
            while data := theirs.recv(65536):
                for line in reader.feed(data):
                    theirs.sendall(reaction(*asked(line)))

    threading.Thread(target=serve, daemon=True).start()
    return Agent(ours, "g")


def test_a_round_trip() -> None:
    ident = os.urandom(8)
    parsed = wire.response(answer(ident, 3, b"out\0", b"err", wire.TIMED_OUT | wire.CUT)[:-1])
    assert parsed == (ident, wire.AgentResult(3, b"out\0", b"err", True, True))
    line = wire.request(ident, 1.5, (b"run", b"", b"a\nb"))
    assert line.count(b"\n") == 1
    assert asked(line[:-1]) == (ident, [b"run", b"", b"a\nb"])


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"garbage",
        b"4 00ff",  # a wrong length
        b"1 0",
        b"2 00FF",
        b"-2 00ff",
        b"3 00ff00",  # shorter than a head
        b"13 " + b"00" * 13,  # no words
        b"17 " + b"00" * 13 + b"ffffffff",  # a word longer than the message
        b"99999999 00",
        answer(b"12345678", 0, b"x")[:-3],
    ],
)
def test_anything_else_is_dropped(line: bytes) -> None:
    assert wire.response(line) is None


def test_lines_are_cut_wherever_the_bytes_were() -> None:
    reader = wire.LineReader()
    assert [line for byte in b"ab\n\ncd\nrest" for line in reader.feed(bytes([byte]))] == [b"ab", b"", b"cd"]
    assert reader.feed(b"!\n") == [b"rest!"]


def test_a_line_without_end_is_not_kept() -> None:
    reader = wire.LineReader()
    for _ in range(40):
        assert reader.feed(b"f" * 65536) == []
    assert len(reader._buffer) <= wire.LINE_MAX + 65536
    assert reader.feed(b"\nnext\n")[-1] == b"next"


def test_an_answer_to_somebody_else_and_noise_before_ours_are_ignored() -> None:
    noise = b"\xff\x00 half a mess\n" + answer(b"someone!", 1)
    with client(lambda ident, _: noise + answer(ident, 0, b"ours")) as agent:
        assert agent.run(["true"]).stdout == b"ours"


def test_no_answer_names_guest_and_command() -> None:
    started = time.monotonic()
    with (
        client(lambda _i, _w: b"") as agent,
        pytest.raises(GuestnetError, match=r"guest g: no answer to 'run sleep 9' in 0\.3 s"),
    ):
        agent.call("run", "sleep", "9", timeout=0.2, grace=0.1)
    assert time.monotonic() - started < 2


def test_a_connection_that_ends_fails_what_is_under_way_at_once() -> None:
    ours, theirs = socket.socketpair()
    with Agent(ours, "g") as agent:
        future = agent.submit("run", "x", timeout=60)
        theirs.close()
        with pytest.raises(GuestnetError, match="guest g: the agent's connection ended"):
            future.result(5)
        with pytest.raises(GuestnetError, match="guest g: "):
            agent.call("run", "x", timeout=1)


def test_nobody_at_the_socket(tmp_path: Path) -> None:
    with pytest.raises(GuestnetError, match=r"guest g: cannot connect to the agent at .*/none: No such file"):
        Agent.connect(tmp_path / "none", 0.1, "g")


def test_a_refusal_is_raised_with_the_guests_reason() -> None:
    with (
        client(lambda ident, _: answer(ident, 1, b"", b"no NIC 52:54\n")) as agent,
        pytest.raises(GuestnetError, match="guest g: 'send 52:54 00ff' failed: no NIC 52:54"),
    ):
        agent.send_frames("52:54", [b"\x00\xff"])


@pytest.mark.parametrize("text", [b"", b"sent 1 received x -\n", b"sent 99999999999 received 1 -\n", b"\xff\xfe"])
def test_ping_believes_only_its_own_format(text: bytes) -> None:
    with client(lambda ident, _: answer(ident, 0, text)) as agent, pytest.raises(GuestnetError, match="guest g"):
        agent.ping("192.0.2.1")


def test_what_probes_mean() -> None:
    texts = {
        b"ping": b"sent 3 received 2 -\n",
        b"tcp": b"open\nseen 192.0.2.7 4242\n",
        b"udp": b"open\nseen 999.0.2.7 4242\n",
        b"trace": b"1 192.0.2.1 passed\n3 192.0.2.9 reached\n9 192.0.2.99 reached\nbad line\n",
        b"neighbour": b"52:54:00:00:00:01; rm -rf\n",
    }
    with client(lambda ident, words: answer(ident, 0, texts[words[0]])) as agent:
        assert agent.ping("192.0.2.1", count=3) == Ping(3, 2)
        probe = agent.tcp("192.0.2.1", 80)
        assert (probe.outcome, str(probe.seen_as), probe.seen_port) == ("open", "192.0.2.7", 4242)
        assert agent.udp("192.0.2.1", 80) == Probe("open")
        assert agent.trace("192.0.2.9") == Trace(("192.0.2.1", None, "192.0.2.9"), True)
        assert agent.neighbour("192.0.2.1") is None


def test_many_threads_get_their_own_answers() -> None:
    with client(lambda ident, words: answer(ident, 0, words[1])) as agent:
        futures = {n: agent.submit("run", str(n), timeout=5) for n in range(200)}
        assert all(future.result(5).text == str(n) for n, future in futures.items())
