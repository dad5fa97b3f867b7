"""What only the host knows of zones and traffic types: which labels share a device."""

from __future__ import annotations

from lxml import etree

from libvirt_guestnet.datapath.devices.host_devices import Device
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.libvirtd.snapshot import NetworkState
from libvirt_guestnet.metadata.policy import NAMESPACE
from libvirt_guestnet.plan import separation
from libvirt_guestnet.topology import loads

TRAFFIC = """
name: t
physical-networks: {{ lan: {{ traffic: [guest, public] }}, store: {{ traffic: [storage, management] }} }}
networks: {{ web: {{ mode: bridge, physical-network: lan{more} }} }}
"""
ZONES = """
name: t
zones: [blue, red]
physical-networks: {{ one: {{}}, two: {{}} }}
networks:
  b: {{ mode: bridge, physical-network: one, zone: blue{b} }}
  r: {{ mode: bridge, physical-network: two, zone: red{r} }}
"""
LINKS = {"br0": Device(is_bridge=True), "eth0": Device(master="br0"), "eth1": Device()}


def problems(text: str, devices: dict[str, str], others: tuple[NetworkState, ...] = ()) -> list[str]:
    hostmap = HostMap(devices, device_is_bridge=lambda device: device.startswith("br"))
    return list(separation.problems(loads(text, "t.yaml"), hostmap, LINKS, others))


def traffic(lan: str, store: str, more: str = "") -> list[str]:
    return problems(TRAFFIC.format(more=more), {"lan": lan, "store": store})


def test_guests_share_no_bridge_with_the_hosts_own_traffic() -> None:
    for lan, store, device in (
        ("eth1", "eth1", "eth1"),
        ("br0", "br0", "br0"),
        ("br0", "eth0", "br0"),
        ("br0/eth0", "eth0", "br0"),
        ("eth0", "br0", "br0"),
    ):
        assert traffic(lan, store) == [
            f"network 'web': its guests would share {device} with physical network 'store', which is for storage and "
            "management: map one of them to another device (--map, or /etc/libvirt-guestnet/host.yaml)"
        ]
    assert traffic("eth1", "br0") == traffic("eth1", "eth0") == []


def test_a_vlan_over_a_nic_has_a_bridge_of_its_own_and_one_of_a_bridge_has_not() -> None:
    assert traffic("eth1", "eth1", ", vlan: 5") == []
    assert traffic("eth1", "eth1.7") == []
    assert len(traffic("br0/eth0", "br0", ", vlan: 5")) == 1


def test_what_this_host_does_not_map_is_not_on_it() -> None:
    assert problems(TRAFFIC.format(more=""), {"lan": "eth1"}) == []


def test_two_labels_of_one_device_join_no_zones() -> None:
    for one, two, device in (("eth1", "eth1", "eth1"), ("br0", "eth0", "br0")):
        assert problems(ZONES.format(b="", r=""), {"one": one, "two": two}) == [
            f"network 'r', in zone red, would share {device} with network 'b', in zone blue: map one of them to "
            "another device (--map, or /etc/libvirt-guestnet/host.yaml)"
        ]
    same = problems(ZONES.format(b=", vlan: 7", r=", vlan: 7"), {"one": "eth1", "two": "eth1"})
    assert "would share eth1 (VLAN 7) with network 'b'" in same[0]
    assert problems(ZONES.format(b=", vlan: 7", r=", vlan: 8"), {"one": "eth1", "two": "eth1"}) == []
    assert problems(ZONES.format(b="", r=""), {"one": "eth0", "two": "eth1"}) == []


def other(bridge: str, tag: str = "", topology: str = "other") -> NetworkState:
    vlan = f'<g:vlan tag="{tag}"/>' if tag else ""
    mark = f'<metadata><g:network xmlns:g="{NAMESPACE}" topology="{topology}">{vlan}</g:network></metadata>'
    text = f'<network><name>n</name>{mark if topology else ""}<bridge name="{bridge}"/></network>'
    return NetworkState("n", "u", etree.fromstring(text))


def test_nobody_elses_network_is_on_a_zones_bridge() -> None:
    text, devices = ZONES.format(b=", vlan: 7", r=""), {"one": "br0/eth0", "two": "eth1"}
    for stranger, whose in ((other("br0", "7"), "n' of topology 'other'"), (other("gn-two"), "n' of topology 'other'")):
        assert whose in problems(text, devices, (stranger,))[0]
    assert "with libvirt network 'n': map" in problems(text, devices, (other("gn-two", topology=""),))[0]
    assert problems(text, devices, (other("br0", "8"), other("br0"), other("br0", "7", "t"))) == []
