"""Pictures of what runs: every NIC of every running domain with its state, whatever it is on, whatever it is called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from xml.sax.saxutils import quoteattr

import pytest
from lxml import etree
from support import pictures

from libvirt_guestnet import draw
from libvirt_guestnet.cli import main as cli
from libvirt_guestnet.datapath.devices.host_devices import Device
from libvirt_guestnet.datapath.netlink.kernel import Guarded
from libvirt_guestnet.draw import VIEWS, logical, physical, running
from libvirt_guestnet.draw.picture import Picture, PictureNode, Tone
from libvirt_guestnet.draw.ports import Running
from libvirt_guestnet.libvirtd.snapshot import DomainState, NetworkState, Snapshot
from libvirt_guestnet.model.drift import GUEST, Drift
from libvirt_guestnet.model.topology import Topology
from libvirt_guestnet.state.receipts import Plugging, PortReceipt
from libvirt_guestnet.status.rows import status

XMLNS = 'xmlns:g="https://libvirt-guestnet.org/xmlns/1"'
DEFAULT = """<network><name>default</name><forward mode="nat"/><bridge name="virbr0"/>
  <ip address="192.168.122.1" netmask="255.255.255.0"><dhcp><range start="192.168.122.2" end="192.168.122.99"/></dhcp>
  </ip></network>"""
LINKS = {
    "virbr0": Device(1500, is_bridge=True),
    "br0": Device(9000, is_bridge=True),
    "eth0": Device(9000, "br0", is_outside=True, addresses=("198.18.1.9",)),
    "vnet0": Device(1500, "virbr0"),
    "vnet1": Device(1500, "br0"),
}
needs_graphviz = pytest.mark.system


def nic(number: int, kind: str = "network", source: str = 'network="default"', inside: str = "") -> str:
    return (
        f'<interface type="{kind}"><mac address="{mac(number)}"/><source {source}/>'
        f'<target dev="vnet{number}"/>{inside}</interface>'
    )


def mac(number: int) -> str:
    return f"52:54:00:61:0b:{number:02x}"


def domain(name: str, *nics: str, mark: str = "", runs: bool = True) -> DomainState:
    metadata = f"<metadata>{mark}</metadata>" if mark else ""
    xml = etree.fromstring(f"<domain>{metadata}<devices>{''.join(nics)}</devices></domain>")
    return DomainState(name, f"u-{name}", xml, xml if runs else None)


def network(xml: str, name: str = "") -> NetworkState:
    made = etree.fromstring(xml)
    return NetworkState(name or str(made.findtext("name")), "n", made, made)


def shown(
    domains: Iterable[DomainState],
    networks: Iterable[NetworkState] = (),
    receipts: Iterable[PortReceipt] = (),
    drops: Mapping[str, int] | None = None,
    leases: Mapping[str, frozenset[str]] | None = None,
    **more: Any,
) -> Running:
    snapshot = Snapshot((network(DEFAULT), *networks), tuple(domains), links=LINKS)
    applied = {receipt.tap: receipt for receipt in receipts}
    seen = {tap: Guarded(dict(drops or {}), []) for tap in applied}
    rows = status(snapshot, None, applied.get, seen.get, **more)
    return running.running("kvm1", snapshot, rows, lambda bridge: (leases or {}) if bridge == "virbr0" else {})


def nodes(picture: Picture) -> dict[str, PictureNode]:
    return {node.title: node for node in picture.nodes}


def applied(number: int, name: str, **more: Any) -> PortReceipt:
    return PortReceipt(f"vnet{number}", mac(number), name, f"u-{name}", **more)


def three() -> Running:
    """Guarded, observed and unguarded."""
    domains = [domain(name, nic(i)) for i, name in enumerate(("a", "b", "c"))]
    return shown(domains, (), [applied(0, "a"), applied(1, "b", observed=True)], {"ARP": 3, "IPv4 source": 12})


def test_states_and_drops_are_in_words_and_colours() -> None:
    found = nodes(physical.picture(three()))
    assert [(found[f"vnet{i}"].lines, found[f"vnet{i}"].tone, found[f"vnet{i}"].dashed) for i in range(3)] == [
        (("guarded",), Tone.GUARDED, False),
        (("observed",), Tone.WATCHED, True),
        (("unguarded",), Tone.UNGUARDED, True),
    ]
    counted = ("ARP 3", "IPv4 source 12")
    assert [(row.label, row.values, row.tone) for row in found["vnet0"].rows] == [("drops", counted, Tone.UNGUARDED)]
    assert [(row.label, row.values, row.tone) for row in found["vnet1"].rows] == [("would drop", counted, Tone.WATCHED)]
    assert found["vnet2"].rows == ()
    [box] = [node for node in logical.picture(three()).nodes if node.title == "on default"]
    assert [(row.label, row.values, row.tone) for row in box.rows if not row.below] == [
        ("a", ("guarded",), Tone.GUARDED),
        ("b", ("observed",), Tone.WATCHED),
        ("c", ("unguarded",), Tone.UNGUARDED),
    ]
    assert [row.label for row in box.rows] == ["a", "drops", "b", "would drop", "c"]


def test_what_does_not_run_is_not_shown() -> None:
    stopped = network("<network><name>off</name><bridge name='virbr7'/></network>")
    stopped = NetworkState(stopped.name, "n", stopped.config)
    found = nodes(physical.picture(shown([domain("a", nic(0)), domain("z", nic(1), runs=False)], [stopped])))
    assert {"a", "vnet0", "virbr0"} <= found.keys()
    assert found.keys().isdisjoint({"z", "vnet1", "virbr7"})


def test_a_nic_is_shown_whatever_it_is_on() -> None:
    one = domain(
        "vm",
        nic(1, "bridge", 'bridge="br0"'),
        nic(2, "bridge", 'bridge="ovs0"', '<virtualport type="openvswitch"/><vlan><tag id="30"/></vlan>'),
        nic(3, "direct", 'dev="eth0" mode="bridge"'),
        nic(4, "user", ""),
        nic(5, "network", 'network="gone"'),
    )
    found = physical.picture(shown([one]))
    edges = {(source, target) for source, target, _ in pictures.named_edges(found)}
    assert {
        ("LAN at eth0", "eth0"),
        ("eth0", "br0"),
        ("br0", "vnet1"),
        ("ovs0", "vnet2"),
        ("eth0", "macvtap on eth0"),
        ("macvtap on eth0", "vnet3"),
        ("NIC of type user", "vnet4"),
        ("gone", "vnet5"),
    } <= edges
    tones = {title: node.tone for title, node in nodes(found).items() if title.startswith("vnet")}
    assert (tones["vnet1"], tones["vnet3"]) == (Tone.UNGUARDED, Tone.UNGUARDED)
    assert nodes(found)["vnet2"].lines == ("unguarded, VLAN 30",)


def test_the_physical_view_has_vlans_and_mtus_of_what_runs() -> None:
    mark = f'<metadata><g:network {XMLNS} topology="t" name="desk"><g:uplink label="lan" device="eth0" vlan="20"/>'
    rest = "</g:network></metadata><forward mode='bridge'/><bridge name='br0'/>"
    desk = f"<network><name>desk</name>{mark}{rest}</network>"
    trunk = '<vlan trunk="yes"><tag id="7"/><tag id="8" nativeMode="untagged"/></vlan>'
    vm = domain("vm", nic(1, source='network="desk"', inside=trunk))
    found = nodes(physical.picture(shown([vm], [network(desk)])))
    assert found["eth0"].lines == ("198.18.1.9", "MTU 9000")
    assert found["br0"].lines == ("network desk", "VLAN 20", "MTU 9000")
    assert found["virbr0"].lines == ("network default", "192.168.122.1", "MTU 1500")
    [line] = found["vnet1"].lines
    assert line.endswith("trunk of VLANs 7, 8, native VLAN 8, MTU 1500"), "its bridge has another"


def test_addresses_are_those_that_status_and_the_dhcp_server_know() -> None:
    found = shown([domain("a", nic(0))], leases={mac(0): frozenset(["192.168.122.7"])})
    [row] = nodes(logical.picture(found))["a"].rows
    assert row.values == ("192.168.122.7 · unguarded",)


def test_a_tap_that_is_elsewhere_says_so() -> None:
    wrong = [Drift(GUEST, "a", "vnet0", "is in br0 and not in virbr0", "", link="in br0")]
    found = nodes(physical.picture(shown([domain("a", nic(0))], wrong=wrong)))
    assert found["vnet0"].lines == ("unguarded, link: in br0",)


def test_two_nics_that_nothing_tells_apart_are_two() -> None:
    found = shown([domain("a", nic(0), nic(0))])
    assert len({port.name for port in found.guests[0].ports}) == 2
    for view in (logical, physical):
        assert all(pictures.ends(e, {n.id: n for n in view.picture(found).nodes}) for e in view.picture(found).edges)


def test_a_nic_with_two_rows_in_status_is_shown_once() -> None:
    """One that waits for its guard, and one that cannot be guarded though its domain's metadata wants it to be."""
    port = f'<g:port mac="{mac(3)}" name="p" network="default"/>'
    mark = f'<g:domain {XMLNS} topology="t" guest="a">{port}</g:domain>'
    one = domain("a", nic(0), nic(3, "direct", 'dev="eth0" mode="bridge"'), mark=mark)
    found = shown([one], plugging=[Plugging("p1", "u-a", mac(0), "a", "default", True)])
    assert [(port.mac, port.tap) for port in found.guests[0].ports] == [(mac(0), "vnet0"), (mac(3), "vnet3")]


def test_a_bridge_and_a_network_of_one_name_are_two() -> None:
    same = network("<network><name>br0</name><bridge name='virbr9'/></network>")
    found = shown([domain("a", nic(0, source='network="br0"'), nic(1, "bridge", 'bridge="br0"'))], [same])
    assert {(each.name, each.bridge) for each in found.networks} >= {("br0", "virbr9"), ("bridge br0", "br0")}


def test_a_host_routed_guest_hangs_at_the_host() -> None:
    routed = '<g:routed gateway="169.254.30.1" publish="yes" label="lan" device="eth0"/><g:address ip="198.18.1.20"/>'
    port = f'<g:port mac="{mac(0)}" name="p" network="pub" guarded="yes">{routed}</g:port>'
    mark = f'<g:domain {XMLNS} topology="t" guest="a">{port}</g:domain>'
    found = physical.picture(shown([domain("a", nic(0, "ethernet", ""), mark=mark)]))
    edges = set(pictures.named_edges(found))
    assert ("host routes", "vnet0", "") in edges and ("eth0", "host routes", "routing") in edges
    assert pictures.rows(found, "vnet0")["routes"] == ("198.18.1.20",)


def _hostile(name: str) -> Topology:
    """What somebody may call a domain, a network, a bridge, a port and a label."""
    port = f'<g:port mac="{mac(0)}" name={_quoted(name)} network={_quoted(name)}/>'
    mark = f'<g:domain {XMLNS} topology="t" guest="a">{port}</g:domain>'
    nics = nic(0, source=f"network={_quoted(name)}"), nic(1, "bridge", f"bridge={_quoted(f'br{name}')}")
    other = nic(2, "direct", f"dev={_quoted(f'eth{name}')}")
    networks = [network(f"<network><bridge name={_quoted(name)}/></network>", f"n{name}")]
    return shown([domain(f"vm{name}", *nics, other, mark=mark)], networks)


def _quoted(text: str) -> str:
    """As far as XML can have it: libvirt's own has nothing else."""
    return quoteattr("".join(c for c in text if c in "\n\r" or (c >= " " and not "\ud800" <= c < "\ue000")))


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", pictures.HOSTILE)
def test_no_name_breaks_out_of_a_mermaid_label(name: str, view: str) -> None:
    text = draw.draw(_hostile(name), view, "mermaid").decode()
    for line in text.split("\n")[:-1]:
        assert pictures.MERMAID_LINE.fullmatch(line), line
    assert text.count("\n") == draw.draw(_hostile("x"), view, "mermaid").count(b"\n")


@needs_graphviz
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", pictures.HOSTILE)
def test_no_name_changes_what_the_dot_file_consists_of(name: str, view: str) -> None:
    plain, hostile = (pictures.dot_things(draw.draw(_hostile(each), view, "dot")) for each in ("x", name))
    assert hostile == plain


@needs_graphviz
@pytest.mark.parametrize("view", VIEWS)
def test_sixty_guests_fit_a_page(view: str) -> None:
    """Text of 9 points can still be read on a page that is twice as high as it is wide."""
    domains = [domain(f"vm{i:02}", nic(i)) for i in range(40)]
    domains += [domain(f"web{i:02}", nic(i), nic(100 + i, "bridge", 'bridge="br0"')) for i in range(40, 60)]
    found = shown(domains, (), [applied(i, f"vm{i:02}") for i in range(30)], {"ARP": 3})
    svg = draw.draw(found, view, "svg")
    width, height = pictures.size(svg)
    assert width < 1400 and height < 1400, (width, height)
    said = " ".join(pictures.words(svg))
    assert all(each.name in said for each in domains)


def test_an_empty_host_is_drawn_too() -> None:
    for view in VIEWS:
        assert draw.draw(running.running("h", Snapshot(), [], lambda _: {}), view, "dot")


def test_a_file_and_what_runs_are_not_asked_for_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["graph"], ["graph", "--live", "file.yaml"]):
        with pytest.raises(SystemExit):
            cli.main(argv)
    assert "not allowed with argument" in capsys.readouterr().err
