"""A physical network that is behind another NIC of the host by now, while a guest is on it: the plan says whom that
interrupts, apply moves the bridge's uplink, and what fails leaves all as it was."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from support.adopted_host import NIC, WEB, Host
from support.labvm_host import Tap
from support.labvm_real import announcement
from support.libvirt_wire import Wire
from support.stage import inside

from libvirt_guestnet.sandbox import Sandbox

MINE, FORGED = "10.61.8.5", "10.61.8.9"
TOPOLOGY = f"""
name: mine
physical-networks: {{ lan: {{}} }}
networks: {{ office: {{ mode: bridge, physical-network: lan, bridge: gn-lan, subnets: [10.61.8.0/24] }} }}
guests: {{ web: {{ ports: [ {{ network: office, mac: "{WEB}", addresses: [{MINE}] }} ] }} }}
"""


@pytest.fixture
def host(each_sandbox: Sandbox) -> Iterator[Host]:
    made = Host(each_sandbox)
    yield made
    made.guestnet("destroy", "--name", "mine", status=None)
    made.clear()


def test_the_uplink_moves_with_leave_and_a_nic_that_cannot_be_one_leaves_it_where_it_was(host: Host) -> None:
    with ExitStack() as stack:
        stack.enter_context(inside(host.sandbox.first.pid))
        lans = {name: Tap(name) for name in ("lana", "lanb")}
        for tap in lans.values():
            stack.callback(os.close, tap.fd)
        host.sandbox.run(["ip", "tuntap", "add", "none0", "mode", "tun"])  # no Ethernet: no bridge takes it
        stack.callback(host.sandbox.run, ["ip", "link", "del", "none0"])
        host.domain("web", NIC.format(mac=WEB, network="office", more=""))
        guestnet(host, "apply", "lana")
        host.virsh("start", "web")
        stack.callback(host.virsh, "destroy", "web")
        wire = stack.enter_context(Wire(host.sandbox, "web", "ua-wan"))
        assert heard(wire, lans) == {"lana": [MINE], "lanb": []}

        said = guestnet(host, "plan", "lanb", status=3)
        assert "restart network office (interrupts web): " in said
        assert "lana -> lanb" in said
        assert "nothing was changed" in guestnet(host, "apply", "lanb", status=1)
        assert heard(wire, lans) == {"lana": [MINE], "lanb": []}

        failed = guestnet(host, "apply", "none0", "--allow-interrupt", status=1)
        assert "none0" in failed
        assert "rolled back: everything is as before" in failed
        assert members(host) == {"lana", host.tap("web", WEB)}
        assert heard(wire, lans) == {"lana": [MINE], "lanb": []}
        assert "nothing to do" in guestnet(host, "plan", "lana")

        guestnet(host, "apply", "lanb", "--allow-interrupt")
        assert members(host) == {"lanb", host.tap("web", WEB)}
        assert host.guarded() == {host.tap("web", WEB): WEB}
        assert heard(wire, lans) == {"lana": [], "lanb": [MINE]}
        assert "nothing to do" in guestnet(host, "plan", "lanb")


def guestnet(host: Host, verb: str, device: str, *more: str, status: int = 0) -> str:
    return host.guestnet(verb, "/tmp/mine.yaml", "--map", f"lan={device}", *more, topology=TOPOLOGY, status=status)


def members(host: Host) -> set[str]:
    links = json.loads(host.sandbox.run(["ip", "-j", "link", "show", "master", "gn-lan"]).stdout)
    return {link["ifname"] for link in links}


def heard(wire: Wire, lans: dict[str, Tap]) -> dict[str, list[str]]:
    """The addresses that the guest announces, one of them forged, by the LAN on which they arrive."""
    wire.send(announcement(WEB, FORGED), announcement(WEB, MINE))
    frames = {name: tap.heard(kind=b"\x08\x06", within=1.0) for name, tap in lans.items()}
    return {name: [".".join(map(str, data[28:32])) for data in found] for name, found in frames.items()}
