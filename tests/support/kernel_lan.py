"""Port forwards and floating addresses of a guest behind NAT, and who asks for them: a LAN, the host and a neighbour.

::

    lan ══ up0 ─ host ─ virbr1 ─┬─ vnet1 ═ guest       each with an agent that asks and answers
                                └─ near0 ═ near        libvirt's rules are there, without libvirt
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from libvirt_guestnet.guest.agent import Agent, Probe, agent_script
from support.box import Box
from support.hooks import DATA, DOMAIN, with_metadata
from support.kernel_host import Host

HOST, HOST2, LAN, GUEST, NEAR = "198.18.1.1", "198.18.1.2", "198.18.1.10", "10.61.1.10", "10.61.1.11"
HOST6, LAN6, GUEST6, NEAR6 = "fd61::1", "fd61::10", "fd61:1::10", "fd61:1::11"
FLOATING, FLOATING6 = "198.18.1.50", "fd61::50"
SETUP = f"""set -e
mkdir -p /run/netns
off='for each in all default; do echo 0 > /proc/sys/net/ipv6/conf/$each/accept_dad; done'
sh -c "$off"
for who in lan guest near; do ip netns add $who; ip -n $who link set lo up; ip netns exec $who sh -c "$off"; done
ip link add up0 type veth peer name eth0 netns lan
ip link add virbr1 type bridge
ip link add vnet1 type veth peer name eth0 address 52:54:00:61:0a:01 netns guest
ip link add near0 type veth peer name eth0 netns near
ip tuntap add vnet0 mode tap
for port in vnet1 near0; do ip link set $port master virbr1 up; done
for where in up0 virbr1; do ip link set $where up; done
for who in lan guest near; do ip -n $who link set eth0 up; done
ip addr add {HOST}/24 dev up0; ip addr add {HOST2}/24 dev up0; ip addr add {HOST6}/64 dev up0 nodad
ip addr add 10.61.1.1/24 dev virbr1; ip addr add fd61:1::1/64 dev virbr1 nodad
ip -n lan addr add {LAN}/24 dev eth0; ip -n lan addr add {LAN6}/64 dev eth0 nodad
ip -n guest addr add {GUEST}/24 dev eth0; ip -n guest addr add {GUEST6}/64 dev eth0 nodad
ip -n near addr add {NEAR}/24 dev eth0; ip -n near addr add {NEAR6}/64 dev eth0 nodad
for who in guest near; do
    ip -n $who route add default via 10.61.1.1; ip -n $who -6 route add default via fd61:1::1
done
for each in iptables ip6tables; do
    if [ -e /proc/sys/net/bridge ]; then echo 0 > /proc/sys/net/bridge/bridge-nf-call-$each; fi
done
for tool in iptables ip6tables; do
    $tool -A FORWARD -o virbr1 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
    $tool -A FORWARD -i virbr1 -o virbr1 -j ACCEPT
    $tool -A FORWARD -i virbr1 -j ACCEPT
    for way in -o -i; do $tool -A FORWARD $way virbr1 -j REJECT; done
done
iptables -t nat -A POSTROUTING -s 10.61.1.0/24 ! -d 10.61.1.0/24 -j MASQUERADE
ip6tables -t nat -A POSTROUTING -s fd61:1::/64 ! -d fd61:1::/64 -j MASQUERADE
"""
FORWARDS = f"""
  <guestnet:forward at="{HOST}" protocol="tcp" ports="8080" to="{GUEST}" first="80"/>
  <guestnet:forward at="{HOST6}" protocol="tcp" ports="8080" to="{GUEST6}" first="80"/>
  <guestnet:forward at="{HOST}" protocol="udp" ports="5300" to="{GUEST}" first="53"/>
  <guestnet:forward at="{HOST6}" protocol="udp" ports="5300" to="{GUEST6}" first="53"/>
  <guestnet:forward at="{HOST}" protocol="tcp" ports="8000-8010" to="{GUEST}"/>
  <guestnet:forward protocol="udp" ports="7000-7002" to="{GUEST}" first="7100"/>
  <guestnet:forward protocol="udp" ports="7000-7002" to="{GUEST6}" first="7100"/>
"""
FLOAT = f'<guestnet:floating ip="{FLOATING}" to="{GUEST}"/><guestnet:floating ip="{FLOATING6}" to="{GUEST6}"/>'


def start(
    forwards: str, uuid: bytes = b"61000001-", name: bytes = b"guesta", mac: bytes = b"52:54:00:61:0a:01"
) -> bytes:
    """What libvirt sends at `start` for a domain with these forwards, on the port vnet1."""
    port = f'<guestnet:address ip="{GUEST}"/><guestnet:address ip="{GUEST6}"/>{forwards}'
    metadata = DOMAIN.replace('<guestnet:address ip="10.61.1.10"/>', port)
    xml = with_metadata((DATA / "9.0.0/dom-start/003-qemu-guesta-start-begin.xml").read_bytes(), metadata)
    other = xml.replace(b"61000001-", uuid).replace(b"<name>guesta", b"<name>" + name)
    return other.replace(b"52:54:00:61:0a:01", mac)


class LanHost(Host):
    """The box with its neighbours, each with an agent."""

    agents: dict[str, Agent]

    def started(self, xml: bytes, name: str = "guesta") -> list[tuple[int, str]]:
        return [self.call("qemu", name, operation, "begin", xml) for operation in ("start", "started")]

    def gone(self, xml: bytes, name: str = "guesta") -> tuple[int, str]:
        return self.call("qemu", name, "release", "end", xml)

    def tcp(self, who: str, address: str, port: int) -> Probe:
        return self.agents[who].tcp(address, port, timeout=3.0)

    def udp(self, who: str, address: str, port: int) -> Probe:
        return self.agents[who].udp(address, port, timeout=3.0)

    def rules(self) -> str:
        """Everything but the ports' own guards."""
        tables = [line for line in self.box.ok("nft", "list", "tables").splitlines() if "netdev" not in line]
        return "\n".join(self.box.ok("nft", "-s", "list", *line.split()) for line in tables)

    def routes(self) -> str:
        """Routes, published neighbours and addresses."""
        asked = ("route", "-6 route", "neigh show proxy", "-6 neigh show proxy", "-br addr show up0")
        return "".join(self.box.ok("ip", *words.split()) for words in asked)


@contextmanager
def lan_host(root: Path) -> Iterator[LanHost]:
    """The guest listens at some ports, and the hooks have not heard of it yet."""
    with ExitStack() as stack:
        box = Box()
        stack.callback(box.close)
        box.ok("sh", "-c", SETUP)
        host = LanHost(box, root)
        enter = ["nsenter", "-t", box.pid, "--net", "--mount", "--"]
        places = {"host": enter} | {who: [*enter, "ip", "netns", "exec", who] for who in ("lan", "guest", "near")}
        host.agents = {who: stack.enter_context(agent(root / who, prefix)) for who, prefix in places.items()}
        host.agents["guest"].listen(tcp=[80, 8000, 8005, 22], udp=[53, 7100, 7102])
        yield host


@contextmanager
def agent(path: Path, prefix: list[str]) -> Iterator[Agent]:
    argv = [*prefix, "perl", str(agent_script()), "--listen", str(path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as process:
        try:
            with Agent.connect(path) as client:
                yield client
        finally:
            process.kill()


def seen(probe: Probe) -> str:
    assert probe.open, probe.outcome
    return str(probe.seen_as)
