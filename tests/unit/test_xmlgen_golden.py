"""The reference output in xml/: exactly what the generators make of the labs.

After a wanted change run `pytest --regenerate tests/unit/test_xmlgen_golden.py` and review the difference.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from lxml import etree
from support.topology_files import HOSTMAP, IMAGE

from libvirt_guestnet import xmlgen
from libvirt_guestnet.apply.topology import wanted
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.libvirtd.snapshot import DomainState, NetworkState, Snapshot, parse_xml
from libvirt_guestnet.model.topology import Topology
from libvirt_guestnet.ovn.hosted import hosted
from libvirt_guestnet.plan.external import resolved
from libvirt_guestnet.plan.nic import before
from libvirt_guestnet.topology import load, loads

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "xml"

DEFAULT = """<network><name>default</name><forward mode='nat'/><bridge name='virbr0'/>
<ip address='192.168.122.1' netmask='255.255.255.0'><dhcp><range start='192.168.122.2' end='192.168.122.254'/></dhcp>
</ip></network>"""


# A router's DHCP server, from which ports learn their addresses.
_SERVED = """name: served
networks:
  served: { mode: isolated, subnets: [10.1.1.0/24, "fd11:1::/64"],
    dhcp: { range: [10.1.1.100, 10.1.1.200], lease: 10m },
    dhcp6: { range: ["fd11:1::100", "fd11:1::1ff"] } }
  public: { mode: bridge, physical-network: lan }
physical-networks: { lan: { subnets: [192.0.2.0/24] } }
routers: { edge: { tiers: { served: { egress: deny } }, public: { public: { addresses: [192.0.2.2] } } } }
guests: { web: { ports: [{ network: served, addresses: dhcp }] } }
"""


def golden_files() -> Iterator[tuple[str, xmlgen.Element]]:
    """Every reference file's path below xml/, and the element it holds."""
    yield from _archnetwork()
    yield from _modes()
    yield from _overlays()
    yield from _next_hop()
    yield from _zones()
    logical = hosted(load(ROOT / "tests/topologies/ovn.yaml"))
    yield "ovn/network-shop.xml", xmlgen.network(logical, logical.network("shop"), HOSTMAP)
    web = logical.guest("web")
    yield "ovn/interface-web.xml", xmlgen.interface(logical, web, web.ports[0], HOSTMAP)
    every_key = load(ROOT / "tests/topologies/every-key.yaml")
    yield "every-key/metadata-of-the-router.xml", xmlgen.domain_metadata(every_key, every_key.guest("router"), HOSTMAP)
    yield "domain/image-file.xml", xmlgen.domain(every_key, every_key.guest("debian"), HOSTMAP, None, "qemu")
    yield from _external()
    virtual = load(ROOT / "labs/virtual-router.yaml")
    domain = xmlgen.router_domain(virtual, virtual.guest("edge"), HOSTMAP, IMAGE, "qemu")
    yield "virtual-router/domain-edge.xml", domain
    served = loads(_SERVED, "served.yaml")
    yield "virtual-router/network-served.xml", xmlgen.network(served, served.network("served"), HOSTMAP)
    yield from _vlans("vlan", HOSTMAP)
    yield from _vlans("vlan-openvswitch", HostMap({"lan": "ovs:br0", "provider": "eth9"}, lambda _device: False))


def _external() -> Iterator[tuple[str, xmlgen.Element]]:
    """libvirt's network default, and a guest that is on it already."""
    text = "name: mine\nnetworks: { default: { external: true } }\nguests: { web: { ports: [{ network: default, "
    found = loads(text + "addresses: [192.168.122.10, 192.168.122.11] }] } }\n", "mine.yaml")
    xml = parse_xml(DEFAULT)
    nic = "<interface type='network'><mac address='52:54:00:aa:00:01'/><source network='default'/></interface>"
    domain = parse_xml(f"<domain><name>web</name><devices>{nic}</devices></domain>")
    host = Snapshot((NetworkState("default", "u1", xml, xml),), (DomainState("web", "u2", domain),))
    here = resolved(found, host)
    yield "external/metadata-of-default.xml", xmlgen.external_metadata(here, here.network("default"))
    yield "external/metadata-of-web.xml", xmlgen.domain_metadata(here, here.guest("web"), HOSTMAP)


def _archnetwork() -> Iterator[tuple[str, xmlgen.Element]]:
    topology = load(ROOT / "labs/archnetwork.yaml")
    for network in topology.networks:
        yield f"archnetwork/network-{network.name}.xml", xmlgen.network(topology, network, HOSTMAP)
    for guest in topology.guests:
        yield f"archnetwork/domain-{guest.name}.xml", xmlgen.domain(topology, guest, HOSTMAP, IMAGE, "qemu")
        for port in guest.ports:
            name = f"archnetwork/interface-{guest.name}-{port.name}.xml"
            yield name, xmlgen.interface(topology, guest, port, HOSTMAP)


def _modes() -> Iterator[tuple[str, xmlgen.Element]]:
    topology = load(ROOT / "labs/modes.yaml")
    for network in topology.networks:
        if network in topology.libvirt_networks:
            yield f"{network.mode}/network-{network.name}.xml", xmlgen.network(topology, network, HOSTMAP)
        for guest, port in topology.ports_on(network.name):
            name = f"{network.mode}/interface-{guest.name}-{port.name}.xml"
            yield name, xmlgen.interface(topology, guest, port, HOSTMAP)
    router = topology.guest("router")
    yield "domain/domain-emulated.xml", xmlgen.domain(topology, router, HOSTMAP, IMAGE, "qemu")
    yield "domain/domain-kvm.xml", xmlgen.domain(topology, router, HOSTMAP, IMAGE, "kvm")
    yield "domain/metadata-of-a-users-domain.xml", xmlgen.domain_metadata(topology, topology.guest("vm"), HOSTMAP)
    yield "domain/metadata-of-a-users-nic.xml", _users_nic(topology)


def _users_nic(topology: Topology) -> xmlgen.Element:
    """Metadata of a domain whose first NIC was there before the topology."""
    guest = topology.guest("vm")
    metadata = xmlgen.domain_metadata(topology, guest, HOSTMAP)
    nic = parse_xml('<interface type="network"><source network="default"/><model type="e1000"/></interface>')
    (wished,) = (each for each in wanted(topology, HOSTMAP).guests if each.name == guest.name)
    was = before(wished.interfaces[0], nic)
    metadata[0].set("was", etree.tostring(was, encoding="unicode"))
    return metadata


def _overlays() -> Iterator[tuple[str, xmlgen.Element]]:
    topology = load(ROOT / "labs/vxlan.yaml")
    for network in topology.networks:
        yield f"vxlan/network-{network.name}.xml", xmlgen.network(topology, network, HOSTMAP)
        for guest, port in topology.ports_on(network.name):
            name = f"vxlan/interface-{guest.name}-{port.name}.xml"
            yield name, xmlgen.interface(topology, guest, port, HOSTMAP)


def _vlans(folder: str, hostmap: HostMap) -> Iterator[tuple[str, xmlgen.Element]]:
    topology = load(ROOT / "labs/vlans.yaml")
    for network in topology.networks:
        yield f"{folder}/network-{network.name}.xml", xmlgen.network(topology, network, hostmap)
    firewall = topology.guest("firewall")
    yield f"{folder}/interface-firewall-trunk.xml", xmlgen.interface(topology, firewall, firewall.ports[0], hostmap)
    yield f"{folder}/metadata-of-the-firewall.xml", xmlgen.domain_metadata(topology, firewall, hostmap)


def _next_hop() -> Iterator[tuple[str, xmlgen.Element]]:
    topology = load(ROOT / "labs/routed.yaml")
    yield "next-hop/network-dmz.xml", xmlgen.network(topology, topology.network("dmz"), HOSTMAP)
    yield "next-hop/metadata-of-the-next-hop.xml", xmlgen.domain_metadata(topology, topology.guest("edge"), HOSTMAP)


def _zones() -> Iterator[tuple[str, xmlgen.Element]]:
    topology = load(ROOT / "labs/zones.yaml")
    for name in ("blue-lan", "red-lan"):
        yield f"zones/network-{name}.xml", xmlgen.network(topology, topology.network(name), HOSTMAP)


@pytest.fixture(scope="module")
def generated() -> dict[str, str]:
    return {path: xmlgen.to_string(element) for path, element in golden_files()}


@pytest.fixture(scope="module", autouse=True)
def regenerated(request: pytest.FixtureRequest, generated: dict[str, str]) -> None:
    if request.config.getoption("--regenerate", default=False):
        for path, text in generated.items():
            (GOLDEN / path).parent.mkdir(exist_ok=True)
            (GOLDEN / path).write_text(text)
        for stale in set(_files_there()) - set(generated):
            (GOLDEN / stale).unlink()


def _files_there() -> list[str]:
    return sorted(str(file.relative_to(GOLDEN)) for file in GOLDEN.rglob("*.xml"))


def test_there_is_a_file_for_everything_generated_and_no_other(generated: dict[str, str]) -> None:
    assert _files_there() == sorted(generated)


def test_the_reference_is_what_is_generated(generated: dict[str, str]) -> None:
    differing = [path for path, text in generated.items() if (GOLDEN / path).read_text() != text]
    assert not differing, f"xml/ differs in {differing}: review with pytest --regenerate and git diff"


def test_generating_twice_gives_the_same_text(generated: dict[str, str]) -> None:
    assert {path: xmlgen.to_string(element) for path, element in golden_files()} == generated
