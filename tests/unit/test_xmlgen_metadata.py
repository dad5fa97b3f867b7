"""xml/metadata.rng: what we write is valid, what is wrong is refused, and nothing in it is unused or undocumented."""

from pathlib import Path

import pytest
from lxml import etree

from libvirt_guestnet.metadata.elements import node_of
from libvirt_guestnet.metadata.policy import NAMESPACE
from libvirt_guestnet.metadata.reader import read_domain, read_network
from libvirt_guestnet.metadata.writer import domain_element, network_element
from libvirt_guestnet.xmlread import Node

GOLDEN = Path(__file__).parents[2] / "xml"
RNG = {"rng": "http://relaxng.org/ns/structure/1.0", "a": "http://relaxng.org/ns/compatibility/annotations/1.0"}
FILES = sorted(GOLDEN.rglob("*.xml"))
PORT = '<port mac="52:54:00:00:00:01" name="p" network="n" guarded="yes">{}</port>'
DOMAIN = f'<domain topology="t" guest="g">{PORT}</domain>'
NETWORK = '<network topology="t" name="n" guarded="yes">{}</network>'


@pytest.fixture(scope="module")
def schema() -> etree.RelaxNG:
    return etree.RelaxNG(etree.parse(GOLDEN / "metadata.rng"))


def ours(file: Path) -> list[etree._Element]:
    root = etree.parse(file).getroot()
    if root.tag.startswith(f"{{{NAMESPACE}}}"):
        return [root]
    return root.findall(f"metadata/{{{NAMESPACE}}}*")


def parsed(text: str) -> etree._Element:
    return etree.fromstring(text.replace(" ", f' xmlns="{NAMESPACE}" ', 1))


def test_everything_generated_is_valid(schema: etree.RelaxNG) -> None:
    found = [element for file in FILES for element in ours(file)]
    assert len(found) >= 11
    for element in found:
        schema.assertValid(etree.fromstring(etree.tostring(element)))


def test_every_network_and_domain_generated_carries_exactly_one_element() -> None:
    for file in FILES:
        if not file.name.startswith("interface-"):
            assert len(ours(file)) == 1, file


def test_every_element_and_attribute_of_the_schema_is_written_somewhere() -> None:
    grammar = etree.parse(GOLDEN / "metadata.rng")
    declared = {
        (kind, element.get("name"))
        for kind in ("element", "attribute")
        for element in grammar.iterfind(f".//rng:{kind}", RNG)
    }
    elements = [e for file in FILES for top in ours(file) for e in top.iter(etree.Element)]
    written = {("element", etree.QName(e).localname) for e in elements}
    written |= {("attribute", str(name)) for e in elements for name in e.attrib}
    assert written == declared


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(GOLDEN)))
def test_what_is_written_is_read_back(file: Path) -> None:
    """Every attribute of the schema is in one of these files (above), and what the reader missed would be missing."""
    for element in ours(file):
        mark, is_network = node_of(element), element.tag.endswith("network")
        again = network_element(read_network(mark)) if is_network else domain_element(read_domain(mark))
        assert said(node_of(again)) == said(mark)


def said(node: Node) -> tuple[str, dict[str, str], list[object]]:
    return node.tag, node.attributes, [said(child) for child in node.children]


def test_every_element_and_attribute_of_the_schema_is_documented() -> None:
    """By itself or by the pattern it is all of; the one attribute of an element needs no more than the element."""
    grammar = etree.parse(GOLDEN / "metadata.rng")
    items = [item for kind in ("element", "attribute") for item in grammar.iterfind(f".//rng:{kind}", RNG)]
    assert len(items) > 15
    assert not [item.get("name") for item in items if not _documented(item)]


def _documented(item: etree._Element) -> bool:
    if item.find("a:documentation", RNG) is not None:
        return True
    parent = item.getparent()
    alone = len(parent.findall(".//rng:attribute", RNG)) <= 1 or item.tag.endswith("}element")
    return alone and parent.find("a:documentation", RNG) is not None


@pytest.mark.parametrize(
    "text",
    [
        DOMAIN.format(""),
        DOMAIN.format('<address ip="10.0.0.1"/><address ip="fd00::1"/>'),
        DOMAIN.format('<source prefix="0.0.0.0/0"/><source prefix="::/0"/><onlink prefix="fd00::/64"/>'),
        DOMAIN.format("").replace('guest="g"', 'guest="g" image="tiny"'),
        '<domain topology="t" guest="g"/>',
        DOMAIN.format("").replace("<port", '<port addresses="none"'),
        DOMAIN.format('<pair prefix="10.0.0.1/32"/>').replace("<port", '<port addresses="none"'),
        DOMAIN.format('<address ip="10.0.0.1"/>').replace("<port", '<port addresses="any"'),
        NETWORK.format(""),
        NETWORK.format('<subnet prefix="10.0.0.0/8"/><subnet prefix="fd00::/64" host="fd00::1"/>'),
        NETWORK.format('<uplink label="lan1" device="eth1"/>'),
    ],
)
def test_right_metadata_is_valid(schema: etree.RelaxNG, text: str) -> None:
    schema.assertValid(parsed(text))


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (DOMAIN.format('<address ip="10.0.0.1/24"/>'), "a prefix as address"),
        (DOMAIN.format('<address ip="10.0.0.256"/>'), "an octet above 255"),
        (DOMAIN.format('<address ip="guest.example"/>'), "a name as address"),
        (DOMAIN.format('<address ip="10.0.0.1"/>').replace("<port", '<port addresses="none"'), "an address and none"),
        (DOMAIN.format("").replace("<port", '<port addresses="all"'), "addresses neither none nor any"),
        (DOMAIN.format('<source prefix="10.0.0.0"/>'), "an address as prefix"),
        (DOMAIN.format('<source prefix="10.0.0.0/33"/>'), "an IPv4 prefix longer than 32"),
        (DOMAIN.format('<source prefix="fd00::/129"/>'), "an IPv6 prefix longer than 128"),
        (DOMAIN.format('<onlink prefix="10.0.0.0/8"/><source prefix="0.0.0.0/0"/>'), "onlink before source"),
        (DOMAIN.format("<anything/>"), "an unknown element"),
        (DOMAIN.format("").replace("52:54", "53:54"), "a multicast MAC"),
        (DOMAIN.format("").replace("52:54", "5254"), "a malformed MAC"),
        (DOMAIN.format("").replace(' mac="52:54:00:00:00:01"', ""), "a port without MAC"),
        (DOMAIN.format("").replace("yes", "maybe"), "guarded neither yes nor no"),
        (DOMAIN.format("").replace(' topology="t"', ""), "a domain without topology"),
        (DOMAIN.format("").replace('guest="g"', 'guest="g" image="large"'), "an unknown image"),
        (NETWORK.format("").replace(' guarded="yes"', ""), "a network that does not say whether it is guarded"),
        (NETWORK.format('<subnet host="10.0.0.1"/>'), "a subnet without prefix"),
        (NETWORK.format('<uplink label="lan1" device="far-too-long-a-name"/>'), "a device name beyond IFNAMSIZ"),
        (NETWORK.format('<uplink label="a" device="b"/><uplink label="c" device="d"/>'), "two uplinks"),
        ('<port topology="t"/>', "a port on its own"),
    ],
    ids=lambda value: value if "<" not in value else "",
)
def test_wrong_metadata_is_refused(schema: etree.RelaxNG, text: str, wrong: str) -> None:
    assert not schema.validate(parsed(text)), wrong


def test_another_namespace_is_refused(schema: etree.RelaxNG) -> None:
    assert not schema.validate(etree.fromstring(NETWORK.format("")))
