"""Bridges that a host has already, one that filters VLANs and one of Open vSwitch, with guests that run: adopted,
observed, guarded and given back under Debian's own kernel and libvirt. What is in which VLAN stays their owner's.

::

    [web, VLAN 100]──┬──brv, which filters VLANs──out0        [web]──┬──ovs0──out1
    [other, VLAN 200]┘                                        [other]┘
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import pytest
from support import labvm_ovs as ovs
from support.adopted_host import Host
from support.labvm_host import Tap
from support.labvm_real import announcement
from support.libvirt_wire import Wire, domain
from support.stage import inside

from libvirt_guestnet.sandbox import Sandbox

pytestmark = pytest.mark.only("trixie")  # minutes: test_isolation_vlans.py is the other one's

NIC = """<interface type='bridge'><mac address='{mac}'/><source bridge='{bridge}'/>{port}<model type='rtl8139'/>
<rom enabled='no'/></interface>"""
MINE, OTHERS, NOBODYS, FORGED = 5, 6, 7, 9  # the ends of addresses
OUTSIDE, VLANS = "02:00:00:00:00:01", {"web": 100, "other": 200}
_LONG = 900.0  # seconds: in here all is thirty times as slow, and now and then slower


class Patient:
    """A sandbox that waits."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox, self.root, self.first = sandbox, sandbox.root, sandbox.first

    def run(
        self, argv: Sequence[str], *, check: bool = True, stdin: str = "", timeout: float = _LONG
    ) -> subprocess.CompletedProcess[str]:
        return self.sandbox.run(argv, check=check, stdin=stdin, timeout=max(timeout, _LONG))


class Slow(Host):
    """A host in it."""

    virsh_seconds, soon_seconds, guestnet_seconds = _LONG, _LONG, _LONG

    def __init__(self, sandbox: Sandbox) -> None:
        super().__init__(Patient(sandbox))  # type: ignore[arg-type]

    def shell(self, command: str) -> str:
        return self.sandbox.run(["sh", "-ec", command]).stdout


class Lan(NamedTuple):
    """A bridge with a port `out` to the LAN. `make` makes it, and `put` puts a tap into a VLAN."""

    bridge: str
    out: str
    port: str
    make: str
    put: str
    macs: dict[str, str]
    prefix: str

    def announced(self, name: str, end: int) -> bytes:
        return announcement(self.macs[name], f"{self.prefix}.{end}")


FILTERING = Lan(
    "brv",
    "out0",
    "",
    "ip link add brv up type bridge stp_state 0 mcast_snooping 0 vlan_filtering 1; ip link set out0 master brv; "
    "bridge vlan add dev out0 vid 100; bridge vlan add dev out0 vid 200",
    "bridge vlan del dev {0} vid 1; bridge vlan add dev {0} vid {1} pvid untagged",
    {"web": "52:54:00:aa:00:01", "other": "52:54:00:aa:00:02"},
    "10.61.8",
)
SWITCH = Lan(
    "ovs0",
    "out1",
    "<virtualport type='openvswitch'/>",
    "ovs-vsctl add-br ovs0 -- add-port ovs0 out1",
    "ovs-vsctl set port {0} tag={1}",
    {"web": "52:54:00:aa:01:01", "other": "52:54:00:aa:01:02"},
    "10.61.9",
)
LANS = (FILTERING, SWITCH)
MEMBERS = """bridge vlan show; ls /sys/class/net/brv/brif
ovs-vsctl --columns=name,tag,trunks,vlan_mode,other_config list port | sort"""
_NETWORKS = ", ".join(f"{lan.bridge}: {{ external: {{ bridge: {lan.bridge} }} }}" for lan in LANS)


def _guest(name: str, end: int, more: str = "") -> str:
    ports = ", ".join(
        f'{{ network: {lan.bridge}, mac: "{lan.macs[name]}", addresses: [{lan.prefix}.{end}]{more} }}' for lan in LANS
    )
    return f"{name}: {{ ports: [{ports}] }}"


# The second one is observed: it may say what it must not.
ADOPTED = f"""
name: mine
networks: {{ {_NETWORKS} }}
guests: {{ {_guest("web", MINE)}, {_guest("other", NOBODYS, ", guarded: observe")} }}
"""


class Speakers(NamedTuple):
    """Both guests speak on one bridge, and what leaves the host is on `out` with the tag of their VLAN."""

    lan: Lan
    wires: dict[str, Wire]
    out: Tap

    def passes(self, ends: set[int]) -> None:
        """Announcements of these addresses alone reach the LAN, and the other VLAN's guest hears none of them."""
        said = [("web", FORGED), ("web", MINE), ("other", OTHERS)]
        for name, end in said:
            self.wires[name].send(self.lan.announced(name, end))
        want = {tagged(self.lan.announced(name, end), VLANS[name]) for name, end in said if end in ends}
        heard = self.out.heard(kind=b"\x08\x06", least=len(want))
        assert {data.ljust(64, b"\0") for data in heard} == want
        last = announcement(OUTSIDE, f"{self.lan.prefix}.1")
        self.out.send(tagged(last, VLANS["other"]))
        received = self.wires["other"].receive_until(last, seconds=_LONG)
        assert [data for data in received if data[6:12].hex(":") == self.lan.macs["web"]] == []


class World(NamedTuple):
    """A host with both bridges and guests that run on them, before guestnet."""

    host: Slow
    speakers: list[Speakers]

    def passes(self, ends: set[int]) -> None:
        for each in self.speakers:
            each.passes(ends)


@pytest.fixture
def world(hooked_sandbox: Sandbox) -> Iterator[World]:
    ovs.start(hooked_sandbox.run)
    with inside(hooked_sandbox.first.pid), ExitStack() as stack:
        host, taps = Slow(hooked_sandbox), [Tap(lan.out) for lan in LANS]
        for lan in LANS:
            host.shell(lan.make)
        for name in VLANS:
            start(host, name)
        speakers = [
            Speakers(lan, {name: stack.enter_context(Wire(host.sandbox, name, f"net{nic}")) for name in VLANS}, tap)
            for nic, (lan, tap) in enumerate(zip(LANS, taps, strict=True))
        ]
        yield World(host, speakers)
    ovs.stop(hooked_sandbox.run)


def test_existing_bridges_are_adopted_and_their_vlans_are_left_alone(world: World) -> None:
    host = world.host
    told, members = host.texts(), host.shell(MEMBERS)
    world.passes({FORGED, MINE, OTHERS})
    imported = host.guestnet("import")
    for lan in LANS:
        assert f"external: {{ bridge: {lan.bridge} }}" in imported

    host.guestnet("apply", "/tmp/mine.yaml", topology=ADOPTED)
    assert host.macs() == {mac for lan in LANS for mac in lan.macs.values()}
    world.passes({MINE, OTHERS})
    assert host.shell(MEMBERS) == members

    host.guestnet("destroy", "/tmp/mine.yaml", topology=ADOPTED)
    world.passes({FORGED, MINE, OTHERS})
    assert (host.guarded(), host.shell(MEMBERS)) == ({}, members)
    assert [each for each in host.differences(told) if not each.endswith("+  <metadata/>")] == []
    assert "guestnet" not in host.shell("nft list tables")


def start(host: Slow, name: str) -> None:
    """Starts a guest with a NIC on each bridge, which its owner puts into its VLAN."""
    nics = [NIC.format(mac=lan.macs[name], bridge=lan.bridge, port=lan.port) for lan in LANS]
    host.define("define", domain(name, *nics))
    host.virsh("start", name)
    taps = {mac: tap for tap, mac in host.nics(name).items()}
    host.shell("; ".join(lan.put.format(taps[lan.macs[name]], VLANS[name]) for lan in LANS))


def tagged(data: bytes, vlan: int) -> bytes:
    return data[:12] + b"\x81\0" + vlan.to_bytes(2, "big") + data[12:]
