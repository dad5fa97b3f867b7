"""A host with guests that were there before guestnet, and frames between them, of which none is to be lost."""

from __future__ import annotations

import difflib
import re
import threading
import time

from make import ALL, dhcp
from scapy.all import BOOTP, DHCP, IP, UDP, Ether  # type: ignore[attr-defined]

from libvirt_guestnet.sandbox import python_inside
from support.libvirt_host import DOMAIN, uuid
from support.libvirt_host import Host as BareHost
from support.libvirt_wire import Wire

# As libvirt's package has it.
DEFAULT = """<network><name>default</name><bridge name='virbr0'/><forward/>
<ip address='192.168.122.1' netmask='255.255.255.0'><dhcp><range start='192.168.122.2' end='192.168.122.254'/></dhcp>
</ip></network>"""
# As virt-install writes it, but for the operating system.
METADATA = """<libosinfo:libosinfo xmlns:libosinfo="http://libosinfo.org/xmlns/libvirt/domain/1.0">
<libosinfo:os id="http://debian.org/debian/12"/></libosinfo:libosinfo>"""
NIC = """<interface type='network'><mac address='{mac}'/><source network='{network}'{more}/><model type='rtl8139'/>
<boot order='1'/><alias name='ua-wan'/><coalesce><rx><frames max='7'/></rx></coalesce><rom enabled='no'/></interface>"""
# `iptables-save` of Docker 28 with its default network: the policy is what hurts.
DOCKER = """*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
-I FORWARD -j DOCKER-USER
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 -j ACCEPT
-A DOCKER-USER -j RETURN
COMMIT
"""
WEB, OTHER, GATEWAY = "52:54:00:aa:00:01", "52:54:00:aa:00:02", "192.168.122.1"
ADOPT = """
name: mine
networks: { default: { external: true } }
guests: { web: { ports: [ { network: default } ] } }
"""


class Host(BareHost):
    """A sandbox in which `guestnet` itself is run."""

    guestnet_seconds = 240.0

    def guestnet(self, *words: str, topology: str = ADOPT, status: int | None = 0) -> str:
        self.sandbox.run(["tee", "/tmp/mine.yaml"], stdin=topology)
        argv = python_inside(["-m", "libvirt_guestnet.cli", *words], self.sandbox.root)
        done = self.sandbox.run(argv, check=False, timeout=self.guestnet_seconds)
        said = done.stdout + done.stderr
        assert status is None or done.returncode == status, said
        return said

    def domain(self, name: str, *nics: str, number: int = 1, metadata: str = METADATA) -> None:
        xml = DOMAIN.format(name=name, uuid=uuid(number), policy=metadata, nics="".join(nics))
        self.define("define", xml.replace("<metadata></metadata>", ""))

    def texts(self) -> dict[str, str]:
        """What libvirt says of everything, live and inactive; but for the number of ports that it tells of a running
        network, which 9.0 forgets at any update of that (virsh net-update)."""
        found = {}
        for kind, listed, dump in (("network", "net-list", "net-dumpxml"), ("domain", "list", "dumpxml")):
            for name in self.virsh(listed, "--all", "--name").splitlines():
                if name.strip():
                    found[f"{kind} {name} live"] = re.sub(
                        "^(<network) connections='[0-9]+'", r"\1", self.virsh(dump, name)
                    )
                    found[f"{kind} {name}"] = self.virsh(dump, "--inactive", name)
        return found

    def differences(self, before: dict[str, str]) -> list[str]:
        """The lines that are others by now."""
        after = self.texts()
        assert after.keys() == before.keys()
        return [
            f"{name}: {line}"
            for name, text in after.items()
            for line in difflib.unified_diff(before[name].splitlines(), text.splitlines(), lineterm="", n=0)
            if line[:1] in "+-" and line[:3] not in ("+++", "---")
        ]

    def tap(self, name: str, address: str) -> str:
        return next(tap for tap, mac in self.nics(name).items() if mac == address)

    def clear(self) -> None:
        """Takes away all domains and networks."""
        for name in self.running():
            self.virsh("destroy", name)
        for name in self.virsh("list", "--all", "--name").split("\n"):
            if name:
                self.virsh("undefine", name)
        for name in self.virsh("net-list", "--all", "--name").split("\n"):
            if name.strip():
                self.virsh("net-destroy", name.strip(), check=False)
                self.virsh("net-undefine", name.strip())


class Flow:
    """Frames that go from one guest to another all the time, as long as this is entered: none is lost, and none that
    the sender forged when it had been adopted arrives."""

    def __init__(self, sender: Wire, receiver: Wire, ip: str) -> None:
        self.sender, self.receiver, self.ip = sender, receiver, ip
        self.first, self.sent, self.forged = 0, 0, 0
        self.one, self.done = threading.Lock(), threading.Event()
        self.arrived: set[bytes] = set()
        self.marks: list[tuple[int, str]] = []
        self.threads = [threading.Thread(target=each, daemon=True) for each in (self._go_on, self._receive)]

    def __enter__(self) -> Flow:
        for thread in self.threads:
            thread.start()
        deadline = time.monotonic() + 240
        while not self.arrived & {b"%d" % number for number in range(self.sent)}:
            assert time.monotonic() < deadline, "a tap in a bridge with STP is silent for some seconds, not for ever"
            time.sleep(0.05)
        self.first = self.sent
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.threads[0].join(120)
        self.sender.send(frame_of(self.ip, "last"))
        self.threads[1].join(120)
        assert b"last" in self.arrived
        arrived = self.arrived
        lost = [number for number in range(self.first, self.sent) if b"%d" % number not in arrived]
        assert lost == [], f"{len(lost)} of {self.sent} were lost: {lost}; {self.marks}"
        assert [text for text in arrived if text.startswith(b"forged")] == [], f"of {self.forged}"

    def says(self, ip: str, text: str) -> None:
        """Sends one frame from another address."""
        with self.one:
            self.sender.send(frame_of(ip, text))

    def arrives(self, text: str) -> bool:
        """Whether such a frame arrives."""
        deadline = time.monotonic() + 240
        while text.encode() not in self.arrived and time.monotonic() < deadline:
            time.sleep(0.05)
        return text.encode() in self.arrived

    def _go_on(self) -> None:
        while not self.done.wait(0.005):
            with self.one:
                self.sender.send(frame_of(self.ip, str(self.sent)))
            self.sent += 1

    def _receive(self) -> None:
        """All the time, or the receiver's QEMU would wait for us."""
        while b"last" not in self.arrived:
            frame = self.receiver._frame(time.monotonic() + 3600)
            if frame is None:
                return
            self.arrived.add(bytes(frame[42:]).rstrip(b"\0"))

    def mark(self, what: str) -> None:
        """What a frame that is lost was sent after."""
        self.marks.append((self.sent, what))

    def forge(self) -> None:
        """Sends from somebody else's address."""
        with self.one:
            self.sender.send(frame_of(GATEWAY, f"forged {self.forged}"))
        self.forged += 1


def frame_of(ip: str, text: str) -> bytes:
    return bytes(Ether(src=WEB, dst=ALL) / IP(src=ip, dst="255.255.255.255") / UDP(dport=9) / text)


def two_on_default(host: Host) -> None:
    """A guest to adopt and another one, both running on libvirt's network."""
    host.define("net-define", DEFAULT)
    host.virsh("net-start", "default")
    host.domain("web", NIC.format(mac=WEB, network="default", more=""))
    host.domain("other", NIC.format(mac=OTHER, network="default", more=""), number=2)
    host.virsh("start", "web")
    host.virsh("start", "other")


def wires(host: Host) -> tuple[Wire, Wire]:
    return Wire(host.sandbox, "web", "ua-wan"), Wire(host.sandbox, "other", "ua-wan")


def leased(wire: Wire, mac: str) -> str:
    """Has the network's DHCP server give an address, as a guest does: asking again while there is no answer."""
    offered = asked(wire, mac, "discover")
    return asked(wire, mac, "request", ("requested_addr", offered), ("server_id", GATEWAY))


def asked(wire: Wire, mac: str, kind: str, *options: tuple[str, str]) -> str:
    question = dhcp(kind, mac=mac)
    question[DHCP].options = [("message-type", kind), *options, "end"]
    end = time.monotonic() + 240
    while time.monotonic() < end:
        wire.send(bytes(Ether(src=mac, dst=ALL) / question))
        soon = time.monotonic() + 2
        while (frame := wire._frame(soon)) is not None:
            answer = Ether(frame)
            if BOOTP in answer and answer[BOOTP].op == 2:
                return str(answer[BOOTP].yiaddr)
    raise AssertionError(f"no answer to {kind}")
