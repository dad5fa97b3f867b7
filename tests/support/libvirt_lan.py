"""A libvirt host with a NAT and an isolated network, a LAN beside it, and a guest whose network stack a test plays."""

from __future__ import annotations

import queue
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from typing import Self

from scapy.all import (  # type: ignore[attr-defined]
    ARP,
    IP,
    UDP,
    Ether,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    IPv6,
    Raw,
)

from libvirt_guestnet import topology
from libvirt_guestnet.guest.agent import Agent, Probe, agent_script
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.metadata.policy import NAMESPACE
from libvirt_guestnet.sandbox import Sandbox
from libvirt_guestnet.xmlgen import network as network_xml
from libvirt_guestnet.xmlgen.element import to_string
from support.libvirt_wire import NO_ROM, Wire, domain

HOST, HOST6, LAN, LAN6 = "198.18.1.1", "fd61::1", "198.18.1.10", "fd61::10"
UNTRANSLATED = ("198.18.1.60", "fd61::60")
MAC = "52:54:00:00:00:0a"
OUTSIDE = 9000  # what the LAN's host answers at
FRESH = count(20000)
GUESTS = {"web": ("10.61.1.10", "fd61:1::10"), "inside": ("10.61.2.10", "fd61:2::10")}
TOPOLOGY = """
name: t
physical-networks: { lan: { subnets: [198.18.1.0/24, "fd61::/64"] } }
networks:
  web: { mode: nat, physical-network: lan, subnets: [10.61.1.0/24, "fd61:1::/64"] }
  inside: { mode: isolated, gateway: host, subnets: [10.61.2.0/24, "fd61:2::/64"] }
"""
SETUP = f"""set -e
mkdir -p /run/netns
ip netns add lan
ip link add up0 type veth peer name eth0 netns lan
echo 0 > /proc/sys/net/ipv6/conf/up0/accept_dad
ip netns exec lan sh -c 'echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad'
ip addr add {HOST}/24 dev up0; ip addr add {HOST6}/64 dev up0; ip link set up0 up
ip -n lan addr add {LAN}/24 dev eth0; ip -n lan addr add {LAN6}/64 dev eth0; ip -n lan link set eth0 up
for each in iptables ip6tables; do
    if [ -e /proc/sys/net/bridge/bridge-nf-call-$each ]; then echo 0 > /proc/sys/net/bridge/bridge-nf-call-$each; fi
done
"""


class Net:
    """The host with its two networks, and a LAN with one host on it."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.stack = ExitStack()

    def __enter__(self) -> Net:
        self.sandbox.run(["sh", "-c", SETUP])
        found = topology.loads(TOPOLOGY, "t.yaml")
        for each in found.networks:
            xml = to_string(network_xml(found, each, HostMap({"lan": "up0"})))
            self.sandbox.run(["virsh", "-q", "net-create", "/dev/stdin"], stdin=xml, timeout=300)
        self.agents = {
            who: self.stack.enter_context(self._agent(who, prefix))
            for who, prefix in (("lan", ["ip", "netns", "exec", "lan"]), ("host", []))
        }
        self.agents["lan"].listen(udp=[OUTSIDE])
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()
        for name in GUESTS:
            self.sandbox.run(["virsh", "-q", "net-destroy", name], check=False, timeout=300)
        self.sandbox.run(["ip", "netns", "del", "lan"])

    @contextmanager
    def _agent(self, who: str, prefix: list[str]) -> Iterator[Agent]:
        path = f"/run/agent-{who}.sock"
        argv = self.sandbox.command([*prefix, "perl", str(agent_script()), "--listen", path])
        with subprocess.Popen(argv, stdin=subprocess.PIPE) as process:
            try:
                with Agent.connect(f"/proc/{self.sandbox.first.pid}/root{path}") as client:
                    yield client
            finally:
                process.kill()

    def udp(self, who: str, address: str, port: int, timeout: float = 3.0) -> Probe:
        return self.agents[who].udp(address, port, timeout=timeout)

    def soon(self, look: Callable[[], object], wanted: object = True) -> None:
        """Until it sees what is wanted; fails with what it saw last."""
        deadline = time.monotonic() + 240
        while (seen := look()) != wanted:
            if time.monotonic() > deadline:
                assert seen == wanted


def metadata(network: str, forwards: str = "") -> str:
    ip4, ip6 = GUESTS[network]
    forwards = forwards or (
        f'<g:forward at="{HOST}" protocol="udp" ports="5300" to="{ip4}" first="53"/>'
        f'<g:forward at="{HOST6}" protocol="udp" ports="5300" to="{ip6}" first="53"/>'
        f'<g:forward protocol="udp" ports="6000-6001" to="{ip4}"/>'
    )
    return (
        f'<g:domain xmlns:g="{NAMESPACE}" topology="t" guest="g"><g:port mac="{MAC}" name="p" network="{network}">'
        f'<g:address ip="{ip4}"/><g:address ip="{ip6}"/>{forwards}</g:port></g:domain>'
    )


def xml(network: str, name: str = "g") -> str:
    nic = f"<interface type='network'><mac address='{MAC}'/><source network='{network}'/><model type='rtl8139'/>"
    return domain(name, f"{nic}{NO_ROM}</interface>", metadata=metadata(network))


@contextmanager
def running(sandbox: Sandbox, network: str) -> Iterator[None]:
    """A guest that answers ARP, ND and UDP on its own: what it heard, from whom."""
    sandbox.run(["virsh", "-q", "create", "/dev/stdin"], stdin=xml(network))
    try:
        with Wire(sandbox, "g") as wire, Puppet(wire, *GUESTS[network]):
            yield
    finally:
        sandbox.run(["virsh", "-q", "destroy", "g"], check=False)


class Puppet(threading.Thread):
    """Plays the guest's network stack: tells every UDP client the address and port that it sees it with."""

    def __init__(self, wire: Wire, ip4: str, ip6: str, mac: str = MAC) -> None:
        super().__init__(daemon=True)
        self.wire, self.mac, self.over = wire, mac, threading.Event()
        self.mine: tuple[str, ...] = (ip4, ip6, *UNTRANSLATED)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()

    def run(self) -> None:
        while not self.over.is_set():
            frame = self.wire._frame(time.monotonic() + 0.1)
            answer = self._answer(Ether(frame)) if frame else None
            if answer is not None:
                self.wire.send(bytes(answer))

    def _answer(self, asked: Ether) -> Ether | None:
        back = Ether(src=self.mac, dst=asked.src)
        if ARP in asked and asked[ARP].op == 1 and asked[ARP].pdst in self.mine:
            return back / ARP(op=2, hwsrc=self.mac, psrc=asked[ARP].pdst, hwdst=asked.src, pdst=asked[ARP].psrc)
        if ICMPv6ND_NS in asked and asked[ICMPv6ND_NS].tgt in self.mine and asked[IPv6].src != "::":
            told = ICMPv6ND_NA(tgt=asked[ICMPv6ND_NS].tgt, S=1, O=1) / ICMPv6NDOptDstLLAddr(lladdr=self.mac)
            return back / IPv6(src=asked[ICMPv6ND_NS].tgt, dst=asked[IPv6].src) / told
        if UDP in asked and (IP in asked or IPv6 in asked):
            layer = IP if IP in asked else IPv6
            if asked[layer].dst in self.mine:
                said = Raw(f"{asked[layer].src} {asked[UDP].sport}\n".encode())
                ends = {"src": asked[layer].dst, "dst": asked[layer].src}
                return back / layer(**ends) / UDP(sport=asked[UDP].dport, dport=asked[UDP].sport) / said
        return None


def seen(probe: Probe) -> str:
    assert probe.open, probe.outcome
    return str(probe.seen_as)


def reachable(net: Net) -> None:
    assert seen(net.udp("lan", HOST, 5300)) == LAN
    assert seen(net.udp("lan", HOST6, 5300)) == LAN6
    assert seen(net.udp("host", HOST, 5300)) == HOST
    assert seen(net.udp("lan", HOST, 6001)) == LAN


def soon_open(net: Net, address: str, port: int) -> None:
    net.soon(lambda: net.udp("lan", address, port).open)


def soon_reachable(net: Net) -> None:
    """Before long in both families, each of which has rules of its own; and then in every way."""
    for address in (HOST, HOST6):
        soon_open(net, address, 5300)
    reachable(net)


def forward_rules(net: Net) -> list[str]:
    listed = net.sandbox.run(["nft", "-s", "list", "ruleset"]).stdout
    assert "GUESTNET" in listed or "inet guestnet" not in listed
    return [line for line in listed.splitlines() if "guestnet" in line.lower() and "netdev" not in line]


class Asking(Puppet):
    """A guest that also asks the LAN's hosts something."""

    def __init__(self, wire: Wire, ip4: str, ip6: str, mac: str = MAC) -> None:
        super().__init__(wire, ip4, ip6, mac)
        self.router, self.heard = "", queue.Queue[tuple[str, str]]()

    def _answer(self, asked: Ether) -> Ether | None:
        if IP in asked or IPv6 in asked:
            self.router = asked.src
        if UDP in asked and asked[UDP].sport == OUTSIDE:
            told = asked[UDP].payload.load.decode().split()[0]
            self.heard.put((asked[IP if IP in asked else IPv6].src, told))
            return None
        return super()._answer(asked)

    def outside(self, *mine: str) -> dict[str, str]:
        """Which of the LAN's addresses answer it, each with the address that it is seen with there, when it sends from
        these. A first packet may be lost to neighbour discovery."""
        found: dict[str, str] = {}
        for _ in range(3):
            if len(found) < 2:
                self._ask(mine or self.mine[:2])
                with suppress(queue.Empty):
                    while True:
                        found.update([self.heard.get(timeout=1.0 if len(found) < 2 else 0.01)])
        return found

    def _ask(self, mine: tuple[str, ...]) -> None:
        port = next(FRESH)  # firewalls let go on what they have once let begin
        for layer, source, other in ((IP, mine[0], LAN), (IPv6, mine[1], LAN6)):
            asking = Ether(src=self.mac, dst=self.router) / layer(src=source, dst=other)
            self.wire.send(bytes(asking / UDP(sport=port, dport=OUTSIDE) / Raw(b"hello\n")))
