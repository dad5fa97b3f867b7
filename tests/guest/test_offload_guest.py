"""What a real Linux guest forges through its virtio-net header: with our hooks, with libvirt's nwfilter, with nothing.

Judged at a NIC without offload on the guest's bridge.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import struct
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import frames
import offload
import pytest
from offload import Offered
from offload_attacks import ATTACKS, EARLY
from offload_honest import HONEST
from support.lab import Lab, lab_up
from support.stage import inside

from libvirt_guestnet.sandbox import python_inside

DOCUMENT = Path(__file__).parents[2] / "docs/checksum-offload.md"
TOPOLOGY = f"""
name: offload
physical-networks: {{ lan: {{ subnets: [10.61.1.0/24, "fd61:1::/64"] }} }}
networks: {{ lab: {{ mode: bridge, physical-network: lan }} }}
guests:
  me: {{ image: tiny, ports: [{{ network: lab, mac: "{frames.ME}", addresses: [{frames.ME4}, "{frames.ME6}"] }}] }}
"""
# In the guest: frames with their headers, through a packet socket. What the guest's own kernel refuses is left out.
SEND = """
use strict;
my ($nic, @frames) = @ARGV;
socket my $s, 17, 3, 0 or die "packet socket: $!";
setsockopt $s, 263, 15, pack 'i', 1 or die "PACKET_VNET_HDR: $!";
open my $f, '<', "/sys/class/net/$nic/ifindex" or die "$nic: $!";
my $to = pack 'S n i S C C a8', 17, 3, scalar <$f>, 0, 0, 0, '';
my $refused = 0;
defined send $s, pack('H*', $_), 0, $to or $refused++ for @frames;
print "refused $refused\\n";
"""
# Inside the sandbox: what comes on standard input, as lines of frames, is sent by the guest, in this order.
CALL = """
import sys
from libvirt_guestnet.lab import run
from libvirt_guestnet.libvirtd.connection import connect
with connect() as connection, run.guest_agent(connection, "me") as agent:
    for line in sys.stdin:
        result = agent.run(["perl", "-e", sys.argv[1], "net0", *line.split()], 60)
        assert result.status == 0, result.stderr
"""
WITHOUT_CHECKSUM_GUARD = """
from libvirt_guestnet.hook.enforce import checksum_guard as offload
from libvirt_guestnet.state.locked import UnlockedState
with UnlockedState().lock() as locked:
    offload.unload(locked)
"""
# The guest's kernel is older than USO.
FORGED, SENT = (
    {name: offered for name, offered in corpus.items() if offered.header.gso != offload.UDP_L4}
    for corpus in (ATTACKS, HONEST)
)
_BATCH = 12
_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000


class Ear:
    """A tap on the guest's bridge that nobody offered offload: what is read from it has been summed and cut."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.sentinels = lab, 0
        with inside(lab.sandbox.first.pid):
            self.fd = _open_tap("nic0")
        ports = json.loads(lab.sandbox.run(["bridge", "-j", "link"]).stdout)
        bridge = next(port["master"] for port in ports if "master" in port)
        for command in (
            f"link set nic0 master {bridge} up",
            f"link set {bridge} type bridge mcast_snooping 0",
        ):
            lab.sandbox.run(["ip", *command.split()])
        # It drops what is malformed and cuts padding, which is no merit of any filter here.
        for family in ("ip", "ip6", "arp"):
            switch = f"/proc/sys/net/bridge/bridge-nf-call-{family}tables"
            lab.sandbox.run(["sh", "-c", f"[ ! -e {switch} ] || echo 0 >{switch}"])

    def delivered(self, corpus: Mapping[str, Offered]) -> set[str]:
        """The names of those that leave as they would where nobody stops them. A sentinel follows each frame."""
        followers = {name: frames.sentinel(self._next()) for name in corpus}
        plain = offload.Header()
        sent = [f"{o.packed().hex()} {(plain.packed() + followers[name]).hex()}" for name, o in corpus.items()]
        lines = [" ".join(sent[at : at + _BATCH]) for at in range(0, len(sent), _BATCH)]
        command = self.lab.sandbox.python(["-c", CALL, SEND])
        with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            process.stdin.write("\n".join(lines) + "\n")
            process.stdin.close()
            found = {name for name, last in followers.items() if self._heard(last) >= _bare(corpus[name].seen)}
            assert process.wait(60) == 0
        return found

    def _next(self) -> int:
        self.sentinels += 1
        return self.sentinels

    def _heard(self, last: bytes) -> set[bytes]:
        """What comes before the sentinel; the guest and the host may say something of their own among it."""
        heard: set[bytes] = set()
        deadline = time.monotonic() + 240
        while select.select([self.fd], [], [], max(0, deadline - time.monotonic()))[0]:
            frame = os.read(self.fd, 70000)
            if frame == last:
                return heard
            heard |= _bare((frame,))
        raise AssertionError("the sentinel did not arrive")


def _open_tap(name: str) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
    return fd


def _bare(seen: tuple[bytes, ...]) -> set[bytes]:
    return set(offload.bare(seen))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    topology = tmp_path_factory.mktemp("offload") / "offload.yaml"
    topology.write_text(TOPOLOGY)
    yield from lab_up("offload", topology)


Delivered = tuple[set[str], set[str]]


@pytest.fixture(scope="module")
def runs(lab: Lab) -> dict[str, Delivered]:
    """What is delivered, of attacks and of honest frames, in each of four ways to guard the same guest."""
    ear = Ear(lab)
    found = {"guestnet": _judged(ear)}
    lab.sandbox.run(python_inside(["-c", WITHOUT_CHECKSUM_GUARD]))
    found["guestnet without the checksum guard"] = _judged(ear)
    nwfilter = f"<filterref filter='clean-traffic'><parameter name='IP' value='{frames.ME4}'/></filterref>"
    for name, more in (("nwfilter", nwfilter), ("nothing", "")):
        _restarted(lab, more)
        found[name] = _judged(ear)
    return found


def _judged(ear: Ear) -> Delivered:
    return ear.delivered(FORGED), ear.delivered(SENT)


def _restarted(lab: Lab, in_interface: str) -> None:
    """The guest again, without our guard, and with something else in its interface."""
    xml = lab.virsh("dumpxml", "--inactive", "me")
    trusted = re.sub(r"<filterref.*?</filterref>", "", xml, flags=re.S).replace('guarded="yes"', 'guarded="no"')
    assert 'guarded="no"' in trusted
    lab.virsh("destroy", "me")
    changed = trusted.replace("</interface>", f"{in_interface}</interface>")
    lab.sandbox.run(["virsh", "-q", "define", "/dev/stdin"], stdin=changed)
    lab.virsh("start", "me")
    lab.python("with connect() as c: run.await_guest(c, topology.guest('me'), print)")


def test_nothing_forged_leaves_and_all_that_is_honest_does(runs: dict[str, Delivered]) -> None:
    attacks, honest = runs["guestnet"]
    assert attacks == set()
    assert set(SENT) - honest == set()


def test_without_the_checksum_guard_every_forgery_leaves(runs: dict[str, Delivered]) -> None:
    """What begins too early the guest's own kernel refuses to hand over. And it makes UFO's fragments itself, which the
    addresses' chain sees and drops."""
    for name, seen in (
        ("guestnet without the checksum guard", {name for name in FORGED if "by UFO" in name}),
        ("nothing", set()),
    ):
        attacks, honest = runs[name]
        assert set(FORGED) - attacks <= EARLY | seen, name
        assert set(SENT) - honest == set(), name


def test_the_table_is_what_a_run_shows(runs: dict[str, Delivered], regenerate: bool) -> None:
    head, _, rest = DOCUMENT.read_text().partition(_BEGIN)
    text = head + _BEGIN + _table(runs) + _END + rest.partition(_END)[2]
    if regenerate:
        DOCUMENT.write_text(text)
    assert DOCUMENT.read_text() == text, "scripts/port-security-table writes it again"


_BEGIN, _END = "<!-- begin: generated -->\n", "\n<!-- end: generated -->"
_ATTACKS = {
    "Ethernet": "Source MAC, EtherType",
    "ARP": "ARP: operation, sender, target, format",
    "IPv4": "IPv4: source, destination, protocol, fragment offset, header length",
    "UDP": "UDP ports: DHCP and DHCPv6 servers, others' requests",
    "DHCP": "DHCP messages: operation, client's MAC, relay, cut in several",
    "ICMP ": "ICMP types",
    "IGMP": "IGMP types",
    "IPv6": "IPv6: source, next header, fragment offset",
    "ICMPv6": "ICMPv6 types: router advertisement, redirect, queries",
    "ND": "ND: target, options",
}
_HONEST = {"TCP": "TCP", "UDP": "UDP", "TSO": "TCP segmentation", "UFO": "UDP fragmentation", "VXLAN": "own VXLAN"}


def _table(runs: Mapping[str, Delivered]) -> str:
    lines = [*_head("Attacks stopped", runs)]
    for kind, title in _ATTACKS.items():
        names = {name for name in FORGED if name.startswith(kind)}
        lines.append(_row(title, len(names), [len(names - attacks) for attacks, _ in runs.values()]))
    total = len(FORGED)
    lines.append(_row("**All attacks**", total, [total - len(attacks) for attacks, _ in runs.values()]))
    lines += ["", *_head("Honest frames delivered", runs)]
    groups = {title: {name for name in SENT if name.startswith(kind)} for kind, title in _HONEST.items()}
    groups["DHCP, mDNS, ND, echo"] = set(SENT) - set().union(*groups.values())
    for title, names in {**groups, "**All honest frames**": set(SENT)}.items():
        lines.append(_row(title, len(names), [len(names & honest) for _, honest in runs.values()]))
    return "\n".join(lines)


def _head(title: str, runs: Mapping[str, Delivered]) -> list[str]:
    return [f"| {title} | of | {' | '.join(runs)} |", f"|---|---|{'---|' * len(runs)}"]


def _row(title: str, total: int, counts: list[int]) -> str:
    return f"| {title} | {total} | {' | '.join(map(str, counts))} |"
