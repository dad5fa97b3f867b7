"""A TCP/IP stack of the kernel's behind a domain's NIC, in a namespace of its own: what it says leaves QEMU as if the
guest had said it, and it hears what the guest would. It pings, or holds a TCP connection, all the time; no packet of
which may be lost.

Each waits for the answer before it goes on, and nothing is sent a second time within a minute, however slow the machine
is: what is not answered, or is sent again, was lost.
"""

from __future__ import annotations

import json
import os
import subprocess
from types import TracebackType
from typing import Any

from libvirt_guestnet.sandbox import python_inside
from support.libvirt_wire import Wire

_BRAIN = r"""
import fcntl, json, os, select, socket, struct, subprocess, sys, threading, time
stop, mac, address, prefix, job, peer, rest = sys.argv[1:]
tap = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tap, 0x400454CA, struct.pack("16sH22x", b"eth0", 0x1002))
with open("/proc/sys/net/ipv4/tcp_early_retrans", "w") as file:
    file.write("0")
for line in (
    f"link set eth0 address {mac} up", f"address add {address}/32 dev eth0",
    f"route add {prefix} dev eth0 src {address} rto_min 60s",
):
    subprocess.run(["ip", *line.split()], check=True)
def hear():
    data = bytes.fromhex(rest)
    while more := os.read(0, 1 << 16):
        data += more
        while len(data) >= 4 and len(data) >= (end := 4 + struct.unpack("!I", data[:4])[0]):
            os.write(tap, data[4:end])
            data = data[end:]
def speak():
    while True:
        frame = os.read(tap, 1 << 16)
        data = struct.pack("!I", len(frame)) + frame
        while data:
            data = data[os.write(1, data):]
for each in (hear, speak):
    threading.Thread(target=each, daemon=True).start()
def on():
    return not select.select([int(stop)], [], [], 0.005)[0]
found = {"sent": 0, "lost": 0}
def tell(what):
    print(json.dumps(what), file=sys.stderr, flush=True)
def answered(sock, number):
    until = time.monotonic() + 60
    while (left := until - time.monotonic()) > 0 and select.select([sock], [], [], left)[0]:
        data = sock.recv(2048)
        head = data[(data[0] & 15) * 4:]
        if head[0] == 0 and head[4:8] == struct.pack("!HH", 7, number & 0xFFFF):
            return True
    return False
def ping():
    sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    while found["sent"] == 0 or on():
        body = struct.pack("!BBHHH", 8, 0, 0, 7, found["sent"] & 0xFFFF)
        total = sum(struct.unpack("!4H", body))
        check = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
        sock.sendto(body[:2] + struct.pack("!H", check) + body[4:], (peer, 0))
        found["lost"] += not answered(sock, found["sent"])
        found["sent"] += 1
        if found["sent"] == 1:
            tell("up")
def again(sock):
    return struct.unpack_from("I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256), 100)[0]
def connect():
    while True:
        try:
            return socket.create_connection((peer, 7), 240)
        except OSError:
            time.sleep(0.1)
def talk():
    sock = connect()
    before, data = again(sock), b"x" * 3000
    tell("up")
    while on():
        sock.sendall(data)
        left = len(data)
        while left:
            left -= len(sock.recv(left))
        found["sent"] += 1
    found["lost"] = again(sock) - before
    sock.close()
def echo():
    with socket.create_server(("", 7)) as server:
        tell("up")
        sock = server.accept()[0]
        while int(stop) not in select.select([sock, int(stop)], [], [])[0]:
            if not (data := sock.recv(1 << 16)):
                break
            sock.sendall(data)
            found["sent"] += 1
        found["lost"] = again(sock)
{"ping": ping, "talk": talk, "echo": echo}[job]()
tell(found)
"""


class Stack:
    """PING or TALK to `peer`, or ECHO what one client says, as long as this is entered, from an address that the guest
    has already; `wire` is entered, and this class's alone from now on."""

    def __init__(self, wire: Wire, mac: str, address: str, prefix: str, job: str, peer: str = "") -> None:
        self.wire, self.words = wire, [mac, address, prefix, job, peer]
        self.sent = 0

    def __enter__(self) -> Stack:
        stop, self.stop = os.pipe()
        brain = python_inside(["-c", _BRAIN, str(stop), *self.words, self.wire.rest.hex()], self.wire.sandbox.root)
        self.process = subprocess.Popen(
            self.wire.sandbox.command(["unshare", "-n", *brain]),
            stdin=self.wire.outward.fileno(),
            stdout=self.wire.inward.fileno(),
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=[stop],
        )
        os.close(stop)
        assert self._told() == "up"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.stop)
        try:
            found = self._told() if kind is None else None
        finally:
            self.process.kill()
            self.process.communicate(timeout=120)
        if found is not None:
            print(self.words, found)
            self.sent = found["sent"]
            assert found["lost"] == 0, (self.words, found)
            assert found["sent"] > 20, (self.words, found)

    def _told(self) -> Any:
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        assert line[:1] in ('"', "{"), line + self.process.stderr.read()
        return json.loads(line)
