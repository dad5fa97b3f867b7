"""Bridges that a host has already, one that filters VLANs and one of Open vSwitch, with guests that run: adopted,
observed, guarded and given back under Debian's own kernel and libvirt. What is in which VLAN stays their owner's."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import pytest
from support import labvm_ovs as ovs
from support.adopted_host import OTHER, WEB, Host
from support.labvm_host import Tap
from support.labvm_real import announcement
from support.libvirt_wire import Wire, domain
from support.stage import inside

from libvirt_guestnet.sandbox import Sandbox

pytestmark = pytest.mark.only("trixie")  # minutes: test_isolation_vlans.py is the other one's

NIC = """<interface type='bridge'><mac address='{mac}'/><source bridge='{bridge}'/>{port}<model type='rtl8139'/>
<rom enabled='no'/></interface>"""
MINE, OTHERS, FORGED = "10.61.8.5", "10.61.8.6", "10.61.8.9"


_LONG = 900.0  # seconds: in here all is thirty times as slow, and now and then slower


class Patient:
    """A sandbox that waits."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox, self.root = sandbox, sandbox.root

    def run(
        self, argv: Sequence[str], *, check: bool = True, stdin: str = "", timeout: float = _LONG
    ) -> subprocess.CompletedProcess[str]:
        return self.sandbox.run(argv, check=check, stdin=stdin, timeout=max(timeout, _LONG))


class Slow(Host):
    """A host in it."""

    virsh_seconds, soon_seconds, guestnet_seconds = _LONG, _LONG, _LONG

    def __init__(self, sandbox: Sandbox) -> None:
        super().__init__(Patient(sandbox))  # type: ignore[arg-type]


class Lan(NamedTuple):
    """A bridge with a port `out` to the LAN. `put` puts a tap into a VLAN, and `members` says what is in which."""

    bridge: str
    port: str
    make: tuple[str, ...]
    put: str
    members: str


FILTERING = Lan(
    "brv",
    "",
    (
        "ip link add brv up type bridge stp_state 0 mcast_snooping 0 vlan_filtering 1",
        "ip link set out master brv; bridge vlan add dev out vid 100; bridge vlan add dev out vid 200",
    ),
    "bridge vlan del dev {0} vid 1; bridge vlan add dev {0} vid {1} pvid untagged",
    "bridge vlan show; for tap in $(ls /sys/class/net/brv/brif); do echo $tap; done",
)
SWITCH = Lan(
    "ovs0",
    "<virtualport type='openvswitch'/>",
    ("ovs-vsctl add-br ovs0 -- add-port ovs0 out",),
    "ovs-vsctl set port {0} tag={1}",
    "ovs-vsctl --columns=name,tag,trunks,vlan_mode,other_config list port | sort",
)


@pytest.fixture(params=[pytest.param(FILTERING, id="VLAN filtering"), pytest.param(SWITCH, id="Open vSwitch")])
def lan(request: pytest.FixtureRequest, hooked_sandbox: Sandbox) -> Iterator[Lan]:
    found: Lan = request.param
    if found is SWITCH:
        ovs.start(hooked_sandbox.run)
    yield found
    if found is SWITCH:
        ovs.stop(hooked_sandbox.run)


def test_an_existing_bridge_is_adopted_and_its_vlans_are_left_alone(hooked_sandbox: Sandbox, lan: Lan) -> None:
    host = Slow(hooked_sandbox)
    with ExitStack() as stack:
        stack.enter_context(inside(hooked_sandbox.first.pid))
        out = Tap("out")
        stack.callback(os.close, out.fd)
        shell = shell_of(host)
        for command in lan.make:
            shell(command)
        for name, mac, vlan in (("web", WEB, 100), ("other", OTHER, 200)):
            nic = NIC.format(mac=mac, bridge=lan.bridge, port=lan.port)
            host.define("define", domain(name, nic))
            stack.callback(host.virsh, "undefine", name)
            host.virsh("start", name)
            stack.callback(host.virsh, "destroy", name)
            shell(lan.put.format(host.tap(name, mac), vlan))
        web, other = (stack.enter_context(Wire(hooked_sandbox, name)) for name in ("web", "other"))
        told, members = host.texts(), shell(lan.members)
        wire = Sender(web, other, out)
        wire.passes({FORGED, MINE, OTHERS})

        text = host.guestnet("import").rpartition("imported: ")[0]
        assert f"external: {{ bridge: {lan.bridge} }}" in text
        host.guestnet("apply", "/tmp/mine.yaml", topology=text)
        stack.callback(host.guestnet, "destroy", "--name", "imported", status=None)
        assert host.macs() == {WEB, OTHER}
        wire.passes({FORGED, MINE, OTHERS})

        only_mine = f'name: imported\nnetworks: {{ {lan.bridge}: {{ external: {{ bridge: {lan.bridge} }} }} }}\nguests: {{ web: {{ ports: [ {{ network: {lan.bridge}, mac: "{WEB}", addresses: [{MINE}] }} ] }} }}\n'  # fmt: skip  # noqa: E501
        host.guestnet("apply", "/tmp/mine.yaml", topology=only_mine)
        assert host.guarded() == {host.tap("web", WEB): WEB}
        wire.passes({MINE, OTHERS})
        assert "nothing to do" in host.guestnet("plan", "/tmp/mine.yaml", topology=only_mine)
        assert shell(lan.members) == members

        host.guestnet("destroy", "/tmp/mine.yaml", topology=only_mine)
        wire.passes({FORGED, MINE, OTHERS})
        assert (host.guarded(), shell(lan.members)) == ({}, members)
        assert [each for each in host.differences(told) if not each.endswith("+  <metadata/>")] == []
        assert "guestnet" not in shell("nft list tables")


def shell_of(host: Host) -> Callable[[str], str]:
    return lambda command: host.sandbox.run(["sh", "-ec", command]).stdout


class Sender(NamedTuple):
    """Both guests speak, and what leaves the host is on `out` with the tag of their VLAN."""

    web: Wire
    other: Wire
    out: Tap

    def passes(self, addresses: set[str]) -> None:
        """Announcements from these addresses alone reach the LAN, and the other VLAN's guest hears none of them."""
        said = [(self.web, WEB, FORGED, 100), (self.web, WEB, MINE, 100), (self.other, OTHER, OTHERS, 200)]
        for wire, mac, address, _ in said:
            wire.send(announcement(mac, address))
        want = {tagged(announcement(mac, ip), vlan) for _, mac, ip, vlan in said if ip in addresses}
        heard = self.out.heard(kind=b"\x08\x06", least=len(want))
        assert {data.ljust(64, b"\0") for data in heard} == want
        self.out.send(tagged(announcement("02:00:00:00:00:01", "10.61.8.1"), 200))
        received = self.other.receive_until(announcement("02:00:00:00:00:01", "10.61.8.1"), seconds=_LONG)
        assert [data for data in received if data[6:12] == bytes.fromhex(WEB.replace(":", ""))] == []


def tagged(data: bytes, vlan: int) -> bytes:
    return data[:12] + b"\x81\0" + vlan.to_bytes(2, "big") + data[12:]
