"""The reference output in xml/ against a real libvirtd: defined, started, and dumped with everything still in it."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest
from lxml import etree
from support.elements import attribute, inside
from support.sandboxes import LIBVIRTS, root_of

from libvirt_guestnet import sandbox as sandboxes
from libvirt_guestnet.sandbox import Sandbox

pytestmark = pytest.mark.libvirt

GOLDEN = Path(__file__).parents[2] / "xml"
EMPTY_DOMAIN = """
<domain type='qemu'>
  <name>around-an-interface</name><memory>8192</memory>
  <os><type machine='pc'>hvm</type></os>
  <cpu mode='custom' match='exact'><model>qemu64</model></cpu>
  <devices><controller type='usb' model='none'/><memballoon model='none'/></devices>
</domain>"""


def files(kind: str) -> list[str]:
    return sorted(str(file.relative_to(GOLDEN)) for file in GOLDEN.rglob(f"{kind}-*.xml"))


def read(name: str) -> etree._Element:
    return etree.parse(GOLDEN / name).getroot()


def text(element: etree._Element) -> str:
    return etree.tostring(element, encoding="unicode")


def lost(wanted: etree._Element, dumped: etree._Element) -> list[str]:
    """What `wanted` says and `dumped` does not: elements, attributes and texts, in whatever order."""
    kind = wanted.tag
    missing = [
        f"{kind}/@{name}={value}" for name, value in _attributes(wanted) if not same(value, dumped.get(name, ""))
    ]
    if not len(wanted) and not same((wanted.text or "").strip(), (dumped.text or "").strip()):
        missing.append(f"{kind}: {wanted.text}")
    left = list(dumped)
    for child in wanted:
        candidates = {id(other): lost(child, other) for other in left if other.tag == child.tag}
        best = min(candidates, key=lambda other: len(candidates[other]), default=None)
        missing += [f"{kind}/{child.tag}"] if best is None else [f"{kind}/{loss}" for loss in candidates[best]]
        left = [other for other in left if id(other) != best]
    return missing


def _attributes(element: etree._Element) -> list[tuple[str, str]]:
    return [(str(name), str(value)) for name, value in element.attrib.items()]


def same(wanted: str, dumped: str) -> bool:
    """libvirt replaces the machine alias "pc" by what it stands for today."""
    return wanted == dumped or (wanted == "pc" and dumped.startswith("pc-"))


def in_kib(domain: etree._Element) -> etree._Element:
    """The domain with its memory as libvirt prints it."""
    memory = domain.find("memory")
    assert memory.get("unit") == "MiB"
    memory.set("unit", "KiB")
    memory.text = str(int(memory.text or "") * 1024)
    return domain


@pytest.fixture(scope="module", params=LIBVIRTS)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """Without our hooks: the reference names NICs that no sandbox has, and they would say so."""
    with sandboxes.start(f"xml-{os.getpid()}", root=root_of(request)) as running:
        yield running


@pytest.fixture
def connection(sandbox: Sandbox) -> Iterator[libvirt.virConnect]:
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    opened = libvirt.open(sandbox.uri)
    yield opened
    opened.close()


def test_lost_finds_what_is_lost() -> None:
    wanted = etree.fromstring("<a x='1'><b n='1'/><b n='2'><c>t</c></b></a>")
    assert lost(wanted, etree.fromstring("<a y='0' x='1'><b n='2'><c>t</c></b><d/><b n='1'/></a>")) == []
    assert lost(wanted, etree.fromstring("<a><b n='1'/><b n='2'><c>u</c></b></a>")) == ["a/@x=1", "a/b/c: t"]
    assert "a/b" in lost(wanted, etree.fromstring("<a x='1'><b n='2'><c>t</c></b></a>"))


@pytest.mark.parametrize("name", files("network"))
def test_network_survives_definition(name: str, connection: libvirt.virConnect) -> None:
    network = connection.networkDefineXMLFlags((GOLDEN / name).read_text(), libvirt.VIR_NETWORK_DEFINE_VALIDATE)
    try:
        assert lost(read(name), etree.fromstring(network.XMLDesc(libvirt.VIR_NETWORK_XML_INACTIVE))) == []
        connection.networkDefineXML((GOLDEN / name).read_text())  # again: the same network, thanks to its UUID
    finally:
        network.undefine()


@pytest.mark.parametrize("name", files("network"))
def test_network_starts(name: str, connection: libvirt.virConnect) -> None:
    wanted = without_bandwidth(read(name))
    network = connection.networkCreateXML(text(wanted))
    try:
        assert lost(wanted, etree.fromstring(network.XMLDesc(0))) == []
    finally:
        network.destroy()


@pytest.mark.parametrize("name", [f for f in files("domain") if "kvm" not in f])
def test_domain_survives_definition(name: str, connection: libvirt.virConnect) -> None:
    domain = connection.defineXMLFlags((GOLDEN / name).read_text(), libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
    try:
        assert lost(in_kib(read(name)), etree.fromstring(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))) == []
    finally:
        domain.undefine()


@pytest.mark.parametrize("name", files("interface"))
def test_interface_survives_definition(name: str, connection: libvirt.virConnect) -> None:
    wanted = etree.fromstring(EMPTY_DOMAIN)
    wanted.find("devices").append(read(name))
    domain = connection.defineXMLFlags(text(wanted), libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
    try:
        dumped = etree.fromstring(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
        assert lost(read(name), inside(dumped, "devices/interface")) == []
    finally:
        domain.undefine()


@pytest.fixture
def everything_on(connection: libvirt.virConnect, sandbox: Sandbox) -> Iterator[libvirt.virConnect]:
    """Every network of labs/modes.yaml started, with the bridges that the network hook or the user would make."""
    bridges = ("br-servers", "gn-office")
    for bridge in bridges:
        sandbox.run(["ip", "link", "add", bridge, "up", "type", "bridge"])
    networks = [connection.networkCreateXML(text(without_bandwidth(read(name)))) for name in of_modes("network")]
    yield connection
    for network in networks:
        network.destroy()
    for bridge in bridges:
        sandbox.run(["ip", "link", "delete", bridge])


def test_every_kind_of_interface_becomes_what_it_says(everything_on: libvirt.virConnect, sandbox: Sandbox) -> None:
    interfaces = [without_bandwidth(read(name)) for name in of_modes("interface-vm")]
    wanted = etree.fromstring(EMPTY_DOMAIN)
    wanted.find("devices").extend(interfaces)
    domain = everything_on.createXML(text(wanted))
    try:
        seen = {link["ifname"]: link for link in json.loads(sandbox.run(["ip", "-j", "-d", "link"]).stdout)}
    finally:
        domain.destroy()
    taps = {interface.find("target").get("dev"): seen[interface.find("target").get("dev")] for interface in interfaces}
    assert {name: tap.get("master") for name, tap in taps.items()} == {
        tap(name): bridge_of(name) for name in of_modes("interface-vm")
    }
    isolated = {
        name for name, link in taps.items() if link.get("linkinfo", {}).get("info_slave_data", {}).get("isolated")
    }
    assert isolated == {
        tap("bridge/interface-vm-bridge-existing.xml"),
        tap("bridge/interface-vm-bridge-nic.xml"),
        tap("bridge/interface-vm-direct.xml"),
        tap("isolated/interface-vm-isolated.xml"),
    }
    assert {link["mtu"] for name, link in taps.items() if link.get("master") == "gn-nat"} == {1400}
    assert {link["mtu"] for name, link in taps.items() if link.get("master") == "gn-office"} == {9000}


def of_modes(kind: str) -> list[str]:
    modes = ("nat", "isolated", "bridge", "route", "open")
    return sorted(str(file.relative_to(GOLDEN)) for mode in modes for file in GOLDEN.glob(f"{mode}/{kind}-*.xml"))


def tap(interface: str) -> str:
    return attribute(inside(read(interface), "target"), "dev")


def bridge_of(interface: str) -> str | None:
    """The bridge that the interface, or the network it names, names."""
    source = read(interface).find("source")
    if source is None or source.get("bridge"):
        return None if source is None else source.get("bridge")
    folder = Path(interface).parent
    return read(f"{folder}/network-{source.get('network')}.xml").find("bridge").get("name")


def without_bandwidth(element: etree._Element) -> etree._Element:
    """Limits need sch_htb and sch_sfq, which small kernels lack."""
    for limits in element.findall("bandwidth"):
        element.remove(limits)
    return element
