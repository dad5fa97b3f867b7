"""Networks as people have them, by what they published: each in YAML, as the XML that is made of it, and imported.

`NAME.yaml` makes `NAME.xml` (`pytest --regenerate` writes it; review the difference), and `guestnet import --own` reads
the same from that and from `NAME.found.xml`, which is as people wrote it.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from lxml import etree
from support.elements import inside
from support.topology_files import ROOT

from libvirt_guestnet import xmlgen
from libvirt_guestnet.apply.topology import wanted
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.importing.facts import Request, Seen
from libvirt_guestnet.importing.own import declaration, meaning
from libvirt_guestnet.importing.survey import survey
from libvirt_guestnet.importing.text import text
from libvirt_guestnet.libvirtd.snapshot import NetworkState, Snapshot, parse_xml
from libvirt_guestnet.model.topology import Topology
from libvirt_guestnet.plan.compare import differences
from libvirt_guestnet.plan.order import plan
from libvirt_guestnet.plan.rewording import leave_as_it_was
from libvirt_guestnet.topology import load, loads

FOLDER = Path(__file__).parents[1] / "data/networks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
NETWORK = """<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'><name>n</name><forward mode='nat'/>
<bridge name='n0'/><ip address='10.0.0.1' prefix='24'><dhcp><range start='10.0.0.2' end='10.0.0.9'/></dhcp></ip>{}
<dnsmasq:options><dnsmasq:option value='{}'/></dnsmasq:options></network>"""


def made(found: Topology) -> etree._Element:
    (network,) = found.networks
    return xmlgen.network(found, network, HostMap({label: label for label in ("eth0",)}))


def state(xml: str) -> NetworkState:
    root = parse_xml(xml)
    for metadata in root.findall("metadata"):
        root.remove(metadata)
    return NetworkState(root.findtext("name") or "", "u", root, root)


def imported(xml: str) -> Topology:
    """What import writes of a host that has this network alone, as it is read back."""
    request = Request("public", observe=False, own=True)
    return loads(text(survey(Seen(Snapshot((state(xml),))), request)), "import")


@pytest.mark.parametrize("name", NAMES)
def test_it_is_written_in_yaml(name: str, regenerate: bool) -> None:
    said = xmlgen.to_string(made(load(FOLDER / f"{name}.yaml")))
    golden = FOLDER / f"{name}.xml"
    if regenerate:
        golden.write_text(said)
    assert said == golden.read_text()


@pytest.mark.parametrize("kind", ["xml", "found.xml"])
@pytest.mark.parametrize("name", NAMES)
def test_import_reads_the_same(name: str, kind: str) -> None:
    found = imported((FOLDER / f"{name}.{kind}").read_text())
    wanted = load(FOLDER / f"{name}.yaml")
    assert xmlgen.to_string(made(found)) == xmlgen.to_string(made(wanted))


@pytest.mark.parametrize("name", NAMES)
def test_what_libvirt_has_then_is_what_was_wanted(name: str) -> None:
    """The plan compares by meaning: every word of the golden file counts."""
    wanted = made(load(FOLDER / f"{name}.yaml"))
    assert differences(wanted, parse_xml((FOLDER / f"{name}.xml").read_text())) == ()
    for option in wanted.iterfind("{*}options/{*}option"):
        option.set("value", "local=/other.example/")
        break
    else:
        wanted.find("ip").set("prefix", "25")
    assert differences(wanted, parse_xml((FOLDER / f"{name}.xml").read_text()))


@pytest.mark.parametrize(
    "line",
    [
        "dhcp-script=/tmp/x",
        "conf-file=/etc/shadow",
        "dhcp-option=252,a\\\\nb",
        "dhcp-option=3,10.0.0.9",
        "dhcp-luascript=/x",
        "dhcp-option=tag:unknown,42,10.0.0.1",
        "addn-hosts=/etc/shadow",
        "dhcp-option=42,time.example",
        'dhcp-option=252,"a',
    ],
)
def test_what_no_key_says_is_left_out_with_the_reason(line: str) -> None:
    why = declaration(state(NETWORK.format("", line)))
    assert isinstance(why, str) and len(why) > 20


@pytest.mark.parametrize(
    "more", ["<route address='10.9.0.0' prefix='16' gateway='10.0.0.5' table='9'/>", "<portgroup name='p'/>"]
)
def test_nothing_is_taken_by_halves(more: str) -> None:
    assert "which no key says" in str(declaration(state(NETWORK.format(more, "dhcp-ignore-clid"))))


@pytest.mark.system
@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.xml")), ids=lambda path: path.name)
def test_it_is_valid_for_libvirts_schema(path: Path) -> None:
    etree.RelaxNG(etree.parse("/usr/share/libvirt/schemas/network.rng")).assertValid(etree.parse(path))


def test_the_example_in_the_documentation_is_valid() -> None:
    said = (ROOT.parent / "docs/network-services.md").read_text()
    (example,) = re.findall(r"^```yaml\n(.*?)^```", said, re.M | re.S)
    found = loads(f"name: t\n{example}", "docs")
    xml = xmlgen.to_string(made(found))
    assert "win10" in xml and "dhcp-option=tag:" in xml


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("<network xmlns", "<network trustGuestRxFilters='yes' xmlns", "its <network> has trustGuestRxFilters="),
        ("<network xmlns", "<network ipv6='yes' xmlns", "its guests may speak IPv6"),
        ("prefix='24'", "prefix='24' localPtr='yes'", "its <ip> has localPtr="),
        ("<ip ", "<domain name='x' register='yes'/><ip ", "its <domain> has register="),
        ("<dhcp>", "<dhcp><unheard/>", "it has <unheard>"),
        ("<forward mode='nat'/>", "<forward mode='nat'><driver name='x'/></forward>", "it has <driver>"),
    ],
)
def test_what_no_key_says_is_the_reason_wherever_it_stands(old: str, new: str, why: str) -> None:
    xml = NETWORK.format("", "dhcp-option=42,10.0.0.1")
    assert not isinstance(declaration(state(xml)), str)
    assert old in xml
    said = declaration(state(xml.replace(old, new, 1)))
    assert isinstance(said, str) and why in said


@pytest.mark.parametrize("value", ["10.0.0.1", "12", "01:02"])
def test_a_text_that_looks_like_something_else_is_no_value(value: str) -> None:
    assert not isinstance(declaration(state(NETWORK.format("", f"dhcp-option=200,{value}"))), str)
    said = declaration(state(NETWORK.format("", f'dhcp-option=200,"{value}"')))
    assert isinstance(said, str) and "is a text" in said


@pytest.mark.parametrize(("ip", "why"), [
    ("address='10.0.1.0' prefix='31'", "the host's address in 10.0.1.0/31 is 10.0.1.0, and not 10.0.1.1"),
    ("address='10.0.1.2' prefix='24'", "the host's address in 10.0.1.0/24 is 10.0.1.2, and not 10.0.1.1"),
    ("address='10.0.1.1' prefix='32'", "10.0.1.1/32 has room for nobody but the host"),
])  # fmt: skip
def test_a_host_whose_address_no_key_says_is_no_network_of_ours(ip: str, why: str) -> None:
    assert why in str(declaration(state(NETWORK.format(f"<ip {ip}/>", "dhcp-ignore-clid"))))


@pytest.mark.parametrize("name", NAMES)
def test_who_wrote_it_otherwise_is_not_interrupted_when_it_is_taken_over(name: str) -> None:
    """What of it libvirt cannot change in a running network says the same already, in other words."""
    there = state((FOLDER / f"{name}.found.xml").read_text())
    for uuid in there.config.findall("uuid"):
        there.config.remove(uuid)
    etree.SubElement(there.config, "uuid").text = there.uuid
    host = Snapshot((there,), devices=frozenset({str(there.bridge)}))
    found = imported((FOLDER / f"{name}.found.xml").read_text())
    made = plan(wanted(found, HostMap({label: label for label in ("eth0",)})), host)
    assert {change.verb for change in made.changes} <= {"take over", "update", "redefine", "set"}


def test_only_what_means_the_same_stays_in_other_words() -> None:
    theirs = parse_xml((FOLDER / "okd.found.xml").read_text())
    changed = (FOLDER / "okd.xml").read_text().replace("/lab.okd.example/", "/other.example/")
    network = parse_xml(changed)
    leave_as_it_was(network, theirs, meaning)
    assert [each.get("value") for each in network.iterfind("{*}options/*")] == [
        "local=/other.example/",
        "address=/apps.okd.example/192.168.126.51",
    ]


@pytest.mark.parametrize(("old", "new"), [("expiry='480' unit='minutes'", "expiry='7' unit='hours'")])
def test_a_lease_is_compared_by_its_length(old: str, new: str) -> None:
    theirs, ours = (FOLDER / "wins-wpad.found.xml").read_text(), (FOLDER / "wins-wpad.xml").read_text()
    ranges = [inside(parse_xml(each), "ip/dhcp/range") for each in (ours, theirs, theirs.replace(old, new))]
    assert differences(ranges[0], ranges[1]) == ()
    assert differences(ranges[0], ranges[2])
