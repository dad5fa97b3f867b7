"""What a host needs to be a chassis of OVN, beside what it is."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from libvirt_guestnet.model.host import Fabric, FabricKind, Host
from libvirt_guestnet.ovn.chassis import ChassisError, Setting, plan_chassis, southbound

HOST = Host("left", "qemu+ssh://left/system", IPv4Address("192.0.2.1"), "rack1", (("wan", "ovs:br-wan"),))
FABRIC = Fabric(FabricKind.OVN, ("tcp:192.0.2.9:6641", "tcp:192.0.2.8:6641"))
REMOTE = southbound(FABRIC)
THERE = {
    "system-id": "rack1",
    "ovn-remote": "tcp:192.0.2.9:6642,tcp:192.0.2.8:6642",
    "ovn-encap-type": "geneve",
    "ovn-encap-ip": "192.0.2.1",
    "ovn-bridge-mappings": "wan:br-wan",
}


def test_a_new_host_is_told_everything() -> None:
    assert plan_chassis(HOST, FABRIC, REMOTE, {"rundir": "/run"}) == [Setting(*each) for each in THERE.items()]


def test_what_is_there_stays_and_mappings_are_added() -> None:
    more = {"ovn-bridge-mappings": "dc:br-dc,wan:br-wan", "ovn-encap-type": "vxlan,geneve", "hostname": "x"}
    assert plan_chassis(HOST, FABRIC, REMOTE, {**THERE, **more}) == []
    other = {**THERE, "ovn-bridge-mappings": "dc:br-dc"}
    assert plan_chassis(HOST, FABRIC, REMOTE, other) == [Setting("ovn-bridge-mappings", "dc:br-dc,wan:br-wan")]
    turned = {**THERE, "ovn-remote": "tcp:192.0.2.8:6642,tcp:192.0.2.9:6642"}
    assert plan_chassis(HOST, FABRIC, REMOTE, turned) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("system-id", "rack2"),
        ("ovn-remote", "tcp:192.0.2.7:6642"),
        ("ovn-encap-ip", "192.0.2.2"),
        ("ovn-encap-type", "stt"),
        ("ovn-bridge-mappings", "wan:br-other"),
    ],
)
def test_a_chassis_of_another_kind_is_left_alone(name: str, value: str) -> None:
    with pytest.raises(ChassisError, match="topology says"):
        plan_chassis(HOST, FABRIC, REMOTE, {**THERE, name: value})


def test_a_physical_network_needs_a_bridge_of_open_vswitch() -> None:
    with pytest.raises(ChassisError, match="say wan: ovs:br-wan"):
        plan_chassis(Host("left", "", None, "left", (("wan", "eth1"),)), FABRIC, REMOTE, {})


def test_a_southbound_database_elsewhere_must_be_said() -> None:
    with pytest.raises(ChassisError, match="--southbound"):
        southbound(Fabric(FabricKind.OVN, ("unix:/run/ovn/ovnnb_db.sock",)))
