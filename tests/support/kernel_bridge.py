"""Three guests on a bridge of libvirt's beside a port to the outside, and the frames between them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.box import Box
from support.hooks import NS

LIBRARY = Path(__file__).parents[2]
MACS = {"ann": "52:54:00:00:00:01", "bob": "52:54:00:00:00:02", "tom": "52:54:00:00:00:03"}
VIRTUAL = "00:00:5e:00:01:07"
CALL = f"""
import sys
sys.path.insert(0, {str(LIBRARY)!r})
from libvirt_guestnet.hook import concern, main
sys.exit(main.run(sys.argv[1], sys.argv[1:]))
"""
LOST = f"""
import json, sys
sys.path.insert(0, {str(LIBRARY)!r})
from libvirt_guestnet.hook.enforce import bridge_ports
from libvirt_guestnet.state.folder import State
print(json.dumps(bridge_ports.lost(State())))
"""
# Opens the taps NAME…. Then, for each line FROM DESTINATION SOURCE TYPE REST of stdin, sends such a frame from one
# tap and says which taps it comes out of.
WIRE = """
import fcntl, os, select, struct, sys, time
taps = {}
for name in sys.argv[1:]:
    taps[name] = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(taps[name], 0x400454CA, struct.pack("16sH22x", name.encode(), 0x1002))
    while open(f"/sys/class/net/{name}/brport/state").read().strip() != "3":
        time.sleep(0.01)
print("ready", flush=True)
for number, line in enumerate(sys.stdin):
    sender, destination, source, ether_type, rest = line.split()
    frame = bytes.fromhex(destination + source + ether_type) + bytes.fromhex(rest) + b"%032d" % number
    os.write(taps[sender], frame)
    heard, end = set(), time.monotonic() + 0.3
    while (left := end - time.monotonic()) > 0:
        for tap in select.select(list(taps.values()), [], [], left)[0]:
            if os.read(tap, 2000) == frame:
                heard |= {name for name, file in taps.items() if file == tap}
    print(*sorted(heard), flush=True)
"""


def domain(name: str, inside: str = "", mac: str = "") -> bytes:
    """A domain whose one NIC is the tap of its name on network one."""
    port = f'<guestnet:port mac="{mac or MACS[name]}" name="p" network="one" {inside}'
    return f"""<domain><name>{name}</name><uuid>{name}</uuid><metadata><guestnet:domain {NS} topology="t"
      guest="{name}">{port}</guestnet:domain></metadata><devices><interface type='network'>
      <mac address='{mac or MACS[name]}'/><source network='one' bridge='br-one'/><target dev='{name}'/>
      </interface></devices></domain>""".encode()


OWNER = '><guestnet:address ip="10.0.0.{}"/></guestnet:port>'
ANN, BOB = domain("ann", OWNER.format(2)), domain("bob", OWNER.format(3))
TOM = domain("tom", 'guarded="no"/>')
LENT = f'<guestnet:pair prefix="10.0.0.9/32" mac="{VIRTUAL}"/>'


def network(more: str = "") -> bytes:
    mark = f'<guestnet:network {NS} topology="t" name="one"/>'
    return f"""<hookData><network><name>one</name><metadata>{mark}</metadata><bridge name='br-one'{more}/>
      </network></hookData>""".encode()


class Host:
    """Ann, Bob and Tom, who is trusted, on a bridge of libvirt's beside the port `nic`."""

    def __init__(self, box: Box) -> None:
        self.box = box
        box.ok("ip", "link", "add", "br-one", "type", "bridge", "forward_delay", "0", "mcast_snooping", "0")
        box.ok("ip", "link", "set", "br-one", "up")
        for tap in (*MACS, "nic"):
            box.ok("ip", "tuntap", "add", tap, "mode", "tap")
            box.ok("ip", "link", "set", tap, "master", "br-one", "up")

    def call(self, hook: str, name: str, operation: str, xml: bytes) -> tuple[int, str]:
        argv = [sys.executable, "-IS", "-c", CALL, hook, name, operation, "begin", "-"]
        done = self.box.run(*argv, stdin=xml)
        assert done.stdout == b""
        return done.returncode, done.stderr.decode()

    def start(self, *domains: bytes) -> None:
        for xml in domains:
            assert self.call("qemu", xml.decode().partition("<name>")[2].partition("<")[0], "start", xml) == (0, "")

    def held(self) -> dict[str, set[str]]:
        """The port of every static entry for a guest's MAC address."""
        found: dict[str, set[str]] = {}
        for entry in json.loads(self.box.ok("bridge", "-j", "fdb", "show", "br", "br-one")):
            if entry.get("state") == "static":
                found.setdefault(entry["mac"], set()).add(entry["ifname"])
        return found

    def settings(self, tap: str) -> tuple[Any, Any]:
        """Whether a port learns and is flooded."""
        (port,) = json.loads(self.box.ok("bridge", "-j", "-d", "link", "show", "dev", tap))
        return port["learning"], port["flood"]

    def lost(self) -> dict[str, str]:
        """The taps of which the service would put something back, each with its domain."""
        done = self.box.run(sys.executable, "-IS", "-c", LOST)
        assert done.returncode == 0, done.stderr
        return {str(tap): str(name) for tap, name in json.loads(done.stdout).items()}

    def wire(self) -> subprocess.Popen[str]:
        enter = ["nsenter", "-t", self.box.pid, "--net", "--mount", "--", sys.executable, "-c", WIRE, *MACS, "nic"]
        return subprocess.Popen(enter, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@contextmanager
def on_one() -> Iterator[Host]:
    """That host with network one, of which the hooks have heard."""
    box = Box()
    host = Host(box)
    assert host.call("network", "one", "started", network()) == (0, "")
    yield host
    box.close()


def send(wire: subprocess.Popen[str], sender: str, to: str, source: str, rest: str = "88b5 00") -> set[str]:
    """The taps that a frame comes out of."""
    assert wire.stdin and wire.stdout
    wire.stdin.write(f"{sender} {to.replace(':', '')} {source.replace(':', '')} {rest}\n")
    wire.stdin.flush()
    return set(wire.stdout.readline().split())
