"""The contract for what carries a network's frames: a new one is a file and a name in the registry."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from lxml import etree

from libvirt_guestnet import topology, xmlread
from libvirt_guestnet.carriers import registry
from libvirt_guestnet.carriers.contract import CarriedNetwork, Carrier, Tag
from libvirt_guestnet.datapath.devices import vlan_bridge
from libvirt_guestnet.datapath.devices.host_devices import Device
from libvirt_guestnet.hook.calls import network_bridge, networks
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.libvirtd.snapshot import Element, Snapshot, WantedNetwork
from libvirt_guestnet.libvirtd.snapshot import Wanted as WantedHost
from libvirt_guestnet.metadata.policy import NAMESPACE, VlanBridge
from libvirt_guestnet.model.network import Network
from libvirt_guestnet.model.topology import Port
from libvirt_guestnet.plan.devices import device_problems
from libvirt_guestnet.state.locked import UnlockedState
from libvirt_guestnet.state.receipts import NetworkReceipt
from libvirt_guestnet.xmlgen.interface import interface
from libvirt_guestnet.xmlgen.network import network as network_xml

FILE = """
name: t
physical-networks: { lan: {} }
networks:
  plain: { mode: bridge, physical-network: lan }
  a: { mode: bridge, physical-network: lan, vlan: 7 }
  own: { mode: nat, subnets: [10.61.1.0/24], vlan: 7 }
guests:
  g: { ports: [ { network: a } ] }
"""


class Macsec(Carrier):
    """One that nobody has heard of, with everything that the contract has."""

    tag, makes_bridge = "vlan", True

    def __init__(self) -> None:
        self.done: list[str] = []

    def carries(self, wanted: CarriedNetwork) -> bool:
        return True

    def declares(self, wanted: CarriedNetwork) -> VlanBridge:
        return VlanBridge(wanted.network.vlan or 0, uplink="eth9")

    def plugs(self, network: Network, hostmap: HostMap) -> bool:
        return network.vlan is not None

    def libvirt_network(self, network: Network) -> list[Tag]:
        return [Tag("virtualport", {"type": "macsec"}, (Tag("parameters", {"sci": 1}),))]

    def libvirt_nic(self, port: Port) -> Tag | None:
        return Tag("virtualport", {"type": "macsec"})

    def device(self, ours: Mapping[str, str]) -> str:
        return ours["uplink"]

    def outlet(self, ours: Mapping[str, str]) -> str:
        return ours["uplink"]

    def prepare(self, network: xmlread.Node) -> None:
        self.done.append(f"prepare {network.text_of('name')}")

    def begin(self, network: xmlread.Node) -> None:
        self.done.append(f"begin {network.text_of('name')}")

    def receipt(self, receipt: NetworkReceipt, network: xmlread.Node) -> NetworkReceipt:
        return receipt._replace(made_bridge=True, uplink="eth9")


@pytest.fixture
def macsec(monkeypatch: pytest.MonkeyPatch) -> Macsec:
    found = Macsec()
    monkeypatch.setattr(registry, "ALL", (found, *registry.ALL))
    return found


def declared(name: str) -> tuple[Element, Element]:
    """The network's XML, and that of the guest's NIC."""
    found, host = topology.loads(FILE, "t.yaml"), HostMap({"lan": "eth1"}, lambda _device: False)
    guest = found.guests[0]
    return network_xml(found, found.network(name), host), interface(found, guest, guest.ports[0], host)


@pytest.mark.usefixtures("macsec")
def test_what_one_declares_stands_in_the_xml() -> None:
    own, _ = declared("own")
    (element,) = own.iterfind(f"metadata/{{{NAMESPACE}}}network/{{{NAMESPACE}}}vlan")
    assert [element.get(key) for key in ("uplink", "tag")] == ["eth9", "7"]
    network, nic = declared("a")
    assert [port.find("parameters").get("sci") for port in network.iterfind("virtualport")] == ["1"]
    assert [port.get("type") for port in nic.iterfind("virtualport")] == ["macsec"]
    plain, _ = declared("plain")
    assert plain.find(f"metadata/{{{NAMESPACE}}}network/{{{NAMESPACE}}}vlan") is None, "it has no VLANs"


@pytest.mark.usefixtures("macsec")
def test_a_plan_sees_what_one_needs() -> None:
    network, _ = declared("own")
    wanted = WantedHost("t", (WantedNetwork("own", network, autostart=False),), ())
    (problem,) = device_problems(wanted, Snapshot(links={"eth1": Device()}))
    assert problem.startswith("network 'own': this host has no device eth9")
    assert list(device_problems(wanted, Snapshot(links={"eth9": Device()}))) == []


def test_the_hook_has_one_do_its_work(tmp_path: Path, macsec: Macsec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks.bridge_guard, "settle_pending", lambda *_: None)
    monkeypatch.setattr(vlan_bridge, "turn_on", lambda *_: None)
    network = etree.tostring(declared("own")[0])
    state, hook_data = UnlockedState(str(tmp_path)), xmlread.parse(b"<hookData>" + network + b"</hookData>")
    network_bridge.prepare(hook_data, state)
    networks.start_network(hook_data, state)
    receipt = state.sound_network("own")
    assert receipt is not None
    assert (receipt.made_bridge, receipt.uplink, receipt.managed, receipt.vlan) == (True, "eth9", True, 7)
    assert macsec.done == ["prepare own", "begin own"]


def test_each_element_has_one_meaning() -> None:
    assert {"uplink", "vlan", "vxlan"} == registry.TAGS
    assert {"uplink", "vxlan"} == registry.MADE_BRIDGES
