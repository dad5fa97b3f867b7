"""Pictures: their text is as committed, Graphviz draws them, and no name breaks out of its label."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support import pictures

from libvirt_guestnet import topology
from libvirt_guestnet.draw import FORMATS, VIEWS, draw, graphviz, hosts, logical, physical
from libvirt_guestnet.draw.picture import MUTED, PALETTE, TEXT
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.model.topology import Topology

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "data" / "draw"
PICTURES = ROOT / "docs" / "pictures"
needs_graphviz = pytest.mark.system
BY_GRAPHVIZ = [pytest.param(each, marks=needs_graphviz) for each in FORMATS if each not in ("dot", "mermaid")]


def _lab(name: str) -> Topology:
    return topology.load(ROOT / "labs" / f"{name}.yaml")


def _renamed(name: str, lab: str = "archnetwork") -> Topology:
    """A lab, with everything that has a name called `name`."""
    return _with_names(_lab(lab), name)


def _with_names(lab: Topology, name: str) -> Topology:
    labels = tuple(replace(lan, label=f"{lan.label}{name}") for lan in lab.physical_networks)
    networks = tuple(
        replace(
            network,
            name=f"{network.name}{name}",
            bridge=f"{network.bridge}{name}",
            physical_network=network.physical_network and f"{network.physical_network}{name}",
            gateway=network.gateway if network.gateway in (None, "host") else f"{network.gateway}{name}",
        )
        for network in lab.networks
    )
    guests = tuple(
        replace(
            guest,
            name=f"{guest.name}{name}",
            ports=tuple(
                replace(port, name=name, tap=f"{port.tap}{name}", network=f"{port.network}{name}")
                for port in guest.ports
            ),
            router=guest.router
            and replace(
                guest.router,
                masquerade=f"{guest.router.masquerade}{name}",
                allow=tuple(replace(allow, source=f"{allow.source}{name}") for allow in guest.router.allow),
            ),
        )
        for guest in lab.guests
    )
    return replace(lab, name=name, physical_networks=labels, networks=networks, guests=guests)


@pytest.mark.parametrize("kind", ["dot", "mermaid"])
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("lab", ["archnetwork", "modes", "network-modes", "routed", "forwards", "zones"])
def test_text_is_as_committed(lab: str, view: str, kind: str, regenerate: bool) -> None:
    made = draw(_lab(lab), view, kind)
    path = GOLDEN / f"{lab}-{view}.{kind}"
    if regenerate:
        path.write_bytes(made)
    assert made == path.read_bytes()


@needs_graphviz
@pytest.mark.parametrize("view", VIEWS)
def test_committed_pictures_show_what_would_be_drawn_now(view: str, regenerate: bool) -> None:
    """Sizes and places depend on the Graphviz and the fonts that drew them, words do not."""
    made = draw(_lab("archnetwork"), view, "svg")
    path = PICTURES / f"archnetwork-{view}.svg"
    if regenerate:
        path.write_bytes(made)
    committed = path.read_bytes()
    assert sorted(pictures.words(committed)) == sorted(pictures.words(made))
    assert b"<!--" not in committed


@needs_graphviz
def test_svg_stands_on_a_white_background() -> None:
    svg = ElementTree.fromstring(draw(_lab("archnetwork"), "logical", "svg"))
    first = next(svg.iter(f"{pictures.SVG}polygon"))
    assert first.get("fill") == "white"


@needs_graphviz
def test_png_is_a_png() -> None:
    assert draw(_lab("archnetwork"), "physical", "png").startswith(b"\x89PNG\r\n\x1a\n")


@needs_graphviz
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", pictures.HOSTILE)
def test_graphviz_shows_every_name_as_it_is(name: str, view: str) -> None:
    words = " ".join(pictures.words(draw(_renamed(name), view, "svg")))
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
    for letter in "abc":
        assert f"{letter}{shown}".strip()[:59] in words


@needs_graphviz
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("lab", ["archnetwork", "forwards"])
@pytest.mark.parametrize("name", pictures.HOSTILE)
def test_no_name_changes_what_the_dot_file_consists_of(name: str, lab: str, view: str) -> None:
    plain, hostile = (pictures.dot_things(draw(made, view, "dot")) for made in (_lab(lab), _renamed(name, lab)))
    assert hostile == plain


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("lab", ["archnetwork", "forwards"])
@pytest.mark.parametrize("name", pictures.HOSTILE)
def test_no_name_breaks_out_of_a_mermaid_label(name: str, lab: str, view: str) -> None:
    text = draw(_renamed(name, lab), view, "mermaid").decode()
    for line in text.split("\n")[:-1]:
        assert pictures.MERMAID_LINE.fullmatch(line), line
    assert text.count("\n") == draw(_lab(lab), view, "mermaid").count(b"\n")


def test_mermaid_names_can_be_read_back() -> None:
    [line] = [line for line in draw(_renamed('"]<#'), "logical", "mermaid").decode().split("\n") if "guest2[" in line]
    assert "<b>c#34;#93;#60;#35;</b> (guest)" in line


def test_logical_view_tells_who_routes_what() -> None:
    picture = logical.picture(_lab("archnetwork"))
    nodes = {node.title: node for node in picture.nodes}
    assert nodes["vlan1"].badge == "NAT"
    assert nodes["vlan2"].badge == "isolated"
    assert nodes["b"].notes == ("vlan2 → lan2: icmp, tcp/80, udp/53", "masquerades towards vlan1")
    edges = {(title[0], title[1]): label for *title, label in pictures.named_edges(picture)}
    assert edges[("lan2", "vlan1")] == "NAT by the host"
    assert edges[("b", "vlan2")] == "gateway"
    assert edges[("lan1", "lan1")] == "same layer 2"
    assert ("lan2", "vlan2") not in edges


def test_physical_view_is_one_wire_from_lan_to_guest() -> None:
    picture = physical.picture(_lab("archnetwork"))
    edges = {(source, target) for source, target, _ in pictures.named_edges(picture)}
    tap = _lab("archnetwork").guest("a").ports[0].tap
    assert {("lan1", "NIC on lan1"), ("NIC on lan1", "gn-lan1"), ("gn-lan1", tap), (tap, "a")} <= edges
    [host] = picture.clusters
    assert {node.id for node in picture.nodes} - set(host.nodes) == {"lan0", "lan1"}


def test_a_guest_shows_its_forwards_below_its_port() -> None:
    lab = logical.picture(_lab("forwards"))
    both = ("at 198.18.1.2", "at fd61:11::2")
    [node] = [node for node in lab.nodes if node.title == "on web"]
    assert [(row.label, row.values) for row in node.rows] == [
        ("www", ("10.61.1.10", "fd61:1::10")),
        ("tcp/8080 → 80", both),
        ("tcp/7000-7010", both),
        ("udp/7000-7010", both),
        ("udp/5300 → 53", ("at any address",)),
        ("mail", ("10.61.1.20", "fd61:1::20")),
        ("floating", ("198.18.1.50 ↔ 10.61.1.20", "fd61:11::50 ↔ fd61:1::20")),
        ("public", ("10.61.1.30", "fd61:1::30")),
        ("floating", ("198.18.1.60", "fd61:11::60")),
    ]


def test_what_has_no_ports_and_what_is_routed_is_shown() -> None:
    text = (
        "name: t\nnetworks: { n: { mode: nat, subnets: [10.0.1.0/24], "
        "routes: [{ to: 10.9.0.0/16, via: 10.0.1.7 }] } }\n"
        "guests: { g: { ports: [{ network: n, forwards: [{ services: [gre, proto/115], at: [198.18.1.1] }] }] } }\n"
    )
    picture = logical.picture(topology.loads(text, "t.yaml"))
    (network,) = (node for node in picture.nodes if node.title == "n")
    assert "route to 10.9.0.0/16 via 10.0.1.7" in network.lines
    (node,) = (node for node in picture.nodes if node.rows)
    assert {(row.label, row.values) for row in node.rows} >= {
        (each, ("at 198.18.1.1",)) for each in ("gre", "proto/115")
    }


def test_guests_that_share_a_box_keep_their_forwards() -> None:
    text = "name: t\nnetworks: { n: { mode: nat, subnets: [10.61.1.0/24] } }\nguests:\n"
    text += "".join(
        f"  g{i}: {{ ports: [{{ network: n, forwards: [{{ services: [tcp/{i}] }}] }}] }}\n" for i in (1, 2, 3)
    )
    found = topology.loads(text, "t.yaml")
    assert list(pictures.rows(logical.picture(found), "on n")) == ["g1", "tcp/1", "g2", "tcp/2", "g3", "tcp/3"]
    assert pictures.rows(physical.picture(found), "any NIC") == {"forwards": ("tcp/1 → g1", "tcp/2 → g2", "tcp/3 → g3")}


def test_a_next_hop_shows_what_is_behind_it() -> None:
    lab = _lab("routed")
    assert pictures.rows(logical.picture(lab), "edge")["next hop to"] == ("10.65.3.0/24", "fd65:3::/64")
    assert ("dmz", "edge", "next hop") in pictures.named_edges(logical.picture(lab))
    four, six = (lab.guest("edge").ports[0].address(version) for version in (4, 6))
    routes = (f"10.65.3.0/24 via {four}", f"fd65:3::/64 via {six}")
    assert pictures.rows(physical.picture(lab), "gn-dmz") == {"routes": routes}
    assert pictures.rows(physical.picture(lab), "gn-office") == {}


def test_a_nic_shows_what_the_host_answers_for_and_forwards() -> None:
    assert pictures.rows(physical.picture(_lab("forwards")), "NIC on lan") == {
        "answers for": (
            "198.18.1.50 → mail",
            "fd61:11::50 → mail",
            "198.18.1.60 → public",
            "fd61:11::60 → public",
        ),
        "forwards": (
            "tcp/8080 → www:80",
            "tcp/7000-7010 → www",
            "udp/7000-7010 → www",
            "udp/5300 → www:53",
            "tcp/5432 → db",
        ),
    }
    elsewhere = physical.picture(_lab("modes"))
    assert pictures.rows(elsewhere, "NIC on office") == {}, "the host has no address there"


def test_host_routed_addresses_are_routed_to_taps_and_published_or_not() -> None:
    lab = _lab("network-modes")
    view = physical.picture(lab)
    assert pictures.rows(view, lab.guest("vm1-routed").ports[0].tap) == {"routes": ("198.18.21.21", "fd61:21::21")}
    assert pictures.rows(view, "NIC on x")["answers for"][:2] == (
        "198.18.21.21 → vm1-routed",
        "fd61:21::21 → vm1-routed",
    )
    lines = {node.title: node.lines for node in logical.picture(_lab("modes")).nodes}
    assert lines["host-routed"][-1] == "addresses published on wan"
    assert lines["host-routed-provider"][-2:] == ("addresses not published", "routing table 100")
    assert lines["host-routed-vrf"][-2:] == ("addresses not published", "VRF red")
    assert pictures.rows(logical.picture(_lab("modes")), "vm")["next hop to"] == ("198.18.67.0/24", "fd62:9::/64")


def test_an_address_in_a_vrf_is_answered_for_on_its_own_lan() -> None:
    view = physical.picture(topology.load(ROOT / "tests/topologies/vrfs.yaml"))
    assert [pictures.rows(view, f"NIC on {lan}")["answers for"] for lan in ("red", "blue")] == [
        ("192.0.2.50 → r",),
        ("192.0.2.50 → b",),
    ]


def test_floating_addresses_of_no_lan_are_not_answered_for() -> None:
    text = (ROOT / "labs" / "forwards.yaml").read_text().replace("[198.18.1.50,", "[203.0.113.5,")
    found = topology.loads(text, "forwards.yaml")
    assert pictures.rows(physical.picture(found), "NIC on lan")["answers for"][0] == "fd61:11::50 → mail"


def test_a_nic_does_not_show_everything_of_many_guests() -> None:
    text = "name: t\nphysical-networks: { l: { subnets: [198.18.1.0/24] } }\n"
    text += "networks: { n: { mode: host-routed, physical-network: l } }\nguests:\n"
    text += "".join(f"  g{i}: {{ ports: [{{ network: n, addresses: [198.18.1.{i}] }}] }}\n" for i in range(11, 31))
    answers = pictures.rows(physical.picture(topology.loads(text, "t.yaml")), "NIC on l")["answers for"]
    assert (len(answers), answers[-1]) == (8, "and 13 more")


def test_networks_without_a_label_lead_anywhere() -> None:
    edges = {(source, target) for source, target, _ in pictures.named_edges(logical.picture(_lab("modes")))}
    assert ("anywhere", "open") in edges
    assert ("anywhere", "isolated") not in edges


def test_every_edge_ends_at_something_drawn() -> None:
    labs = map(_lab, ("archnetwork", "modes", "network-modes", "routed", "forwards", "zones"))
    for lab in (*labs, _large()):
        for picture in (logical.picture(lab), physical.picture(lab)):
            nodes = {node.id: node for node in picture.nodes}
            assert len(nodes) == len(picture.nodes)
            for edge in picture.edges:
                assert pictures.ends(edge, nodes), edge


def _large() -> Topology:
    """Five networks, twenty guests: crowds on two of the networks, the others on two networks each."""
    lines = ["name: campus", "physical-networks:", "  office: {subnets: [198.18.1.0/24]}", "networks:"]
    lines.append("  desk: {mode: bridge, physical-network: office}")
    lines += [f"  {name}: {{mode: nat, subnets: [10.70.{i}.0/24]}}" for i, name in enumerate(("web", "mgmt"))]
    lines += [f"  {name}: {{mode: isolated, subnets: [10.71.{i}.0/24]}}" for i, name in enumerate(("app", "db"))]
    lines.append("guests:")
    lines += [f"  web{i}: {{image: tiny, ports: [{{network: web}}, {{network: mgmt}}]}}" for i in range(5)]
    lines += [f"  db{i}: {{image: tiny, ports: [{{network: db}}, {{network: mgmt}}]}}" for i in range(3)]
    lines += [f"  app{i}: {{image: tiny, ports: [{{network: app}}]}}" for i in range(6)]
    lines += [f"  desk{i}: {{image: tiny, ports: [{{network: desk, addresses: []}}]}}" for i in range(6)]
    return topology.loads("\n".join(lines), "large.yaml")


def test_guests_that_are_all_alike_share_a_box() -> None:
    for view in (logical, physical):
        boxes = {node.title: node for node in view.picture(_large()).nodes if node.id.startswith("guest")}
        assert sorted(boxes) == ["on app", "on db, mgmt", "on desk", "on web, mgmt"]
        assert [row.label for row in boxes["on app"].rows] == [f"app{i}" for i in range(6)]
        both = [f"db{i} {network}" for i in range(3) for network in ("db", "mgmt")]
        assert [row.label for row in boxes["on db, mgmt"].rows] == both
        assert [boxes[title].columns for title in ("on app", "on desk")] == [1, 1]


def test_a_box_of_many_guests_has_columns() -> None:
    text = "name: t\nnetworks: { n: { mode: nat, subnets: [10.61.0.0/16] } }\nguests:\n"
    text += "".join(f"  g{i}: {{ ports: [{{ network: n, addresses: [10.61.1.{i}] }}] }}\n" for i in range(10, 60))
    found = topology.loads(text, "t.yaml")
    [box] = [node for node in logical.picture(found).nodes if node.title == "on n"]
    assert (len(box.rows), box.columns) == (50, 4)
    shown = draw(found, "logical", "dot").decode()
    assert [shown.count(f">g{i}<") for i in range(10, 60)] == [1] * 50
    [first] = [row for row in shown.split("<tr>") if ">g10<" in row]
    assert [f">g{i}<" in first for i in (23, 36, 49)] == [True] * 3, "it is read column by column"


def test_no_column_begins_with_what_belongs_to_the_one_before() -> None:
    text = "name: t\nnetworks: { n: { mode: nat, subnets: [10.61.0.0/16] } }\nguests:\n"
    text += "".join(
        f"  g{i}: {{ ports: [{{ network: n, forwards: [{{ services: [tcp/{i}, udp/{i}] }}] }}] }}\n"
        for i in range(10, 23)
    )
    shown = draw(topology.loads(text, "t.yaml"), "logical", "dot").decode()
    beside = [re.findall(r">((?:g|tcp/|udp/)\d+)<", row) for row in shown.split("<tr>")]
    [tops] = [found for found in beside if "g10" in found]
    assert len(tops) == 3 and {name[0] for name in tops} == {"g"}


def test_few_taps_are_boxes_of_their_own() -> None:
    lab = _lab("archnetwork")
    shown = {node.title for node in physical.picture(lab).nodes}
    assert {port.tap for guest in lab.guests for port in guest.ports} <= shown


def test_the_physical_view_shows_vlans_and_mtus() -> None:
    """Where the file says them."""
    text = """
name: t
physical-networks: { wan: { mtu: 9000 }, lan: {} }
networks:
  a: { mode: bridge, physical-network: wan, vlan: 20, mtu: 8000 }
  b: { mode: bridge, vxlan: { vni: 5001, underlay: lan, group: 239.1.1.1 } }
  c: { mode: nat, subnets: [10.61.1.0/24] }
guests:
  g: { ports: [{ network: a }, { network: c }] }
"""
    lines = {node.title: node.lines for node in physical.picture(topology.loads(text, "t.yaml")).nodes}
    assert lines["NIC on wan"] == ("MTU 9000",)
    assert lines["NIC on lan"] == ()
    assert lines["gn-wan.20"] == ("network a", "VLAN 20", "MTU 8000")
    assert lines["gn-b"] == ("network b", "VXLAN 5001 over lan", "MTU 1450")
    assert lines["gn-c"] == ("network c", "10.61.1.1")


def test_the_physical_view_shows_vlans_of_a_port() -> None:
    lab = _lab("vlans")
    lines = {node.title: node.lines for node in physical.picture(lab).nodes}
    taps = {guest.name: lines[guest.ports[0].tap] for guest in lab.guests}
    assert taps["firewall"] == ("guarded, trunk of VLANs 100-110, 200, native VLAN 1",)
    assert taps["vault"] == ("guarded, VLAN 11",)
    assert taps["clerk"] == ("guarded",), "it is in its network's, which the bridge shows"


@needs_graphviz
@pytest.mark.parametrize("view", VIEWS)
def test_a_large_picture_fits_a_page(view: str) -> None:
    """At most as wide as a wide README's picture, where text of 9 points is still 7 pixels high."""
    svg = draw(_large(), view, "svg")
    assert pictures.size(svg)[0] < 1100
    shown = {word for line in pictures.words(svg) for word in line.split()}
    assert shown >= {guest.name for guest in _large().guests}


@pytest.mark.parametrize("kind", ["dot", "mermaid", *BY_GRAPHVIZ])
@pytest.mark.parametrize("view", VIEWS)
def test_an_empty_topology_is_drawn_too(view: str, kind: str) -> None:
    assert draw(Topology("empty", "-"), view, kind)


def test_without_graphviz_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GuestnetError, match="install the package graphviz"):
        draw(_lab("archnetwork"), "logical", "svg")
    assert draw(_lab("archnetwork"), "logical", "dot").startswith(b"graph ")


@needs_graphviz
def test_what_graphviz_refuses_is_reported() -> None:
    with pytest.raises(GuestnetError, match=r"dot failed: .*syntax error"):
        graphviz.render(b"graph {", "svg")


def test_a_hanging_graphviz_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "dot"
    fake.write_text("#!/bin/sh\nexec /bin/sleep 30\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(graphviz, "SECONDS", 0.1)
    with pytest.raises(GuestnetError, match="took longer"):
        graphviz.render(b"graph {}", "svg")


def test_colours_can_be_read() -> None:
    for tone, colours in PALETTE.items():
        assert _contrast(TEXT, colours.fill) >= 4.5, tone
        assert _contrast(MUTED, colours.fill) >= 4.5, tone
        assert _contrast("#ffffff", colours.stroke) >= 4.5, tone


def _contrast(one: str, other: str) -> float:
    """WCAG 2.1's contrast ratio of two colours."""
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_several_hosts_are_drawn_side_by_side_with_their_tunnels() -> None:
    found = topology.load(ROOT / "labs" / "two-hosts.yaml")
    view = hosts.picture(found)
    assert [cluster.title for cluster in view.clusters] == ["host alpha (198.18.7.1)", "host beta (198.18.7.2)"]
    assert [node.title for node in view.nodes if node.id.startswith("lan")] == ["core", "office"]
    names = {node.id: node.title for node in view.nodes}
    assert len(names) == len(view.nodes), "each has an id of its own"
    tunnels = {(names[e.source], names[e.target], e.label) for e in view.edges if e.label.startswith("VXLAN")}
    assert tunnels == {("gn-red", "gn-red", "VXLAN 5001"), ("gn-blue", "gn-blue", "VXLAN 5002")}
    nics = [names[node] for cluster in view.clusters for node in cluster.nodes if names[node].startswith("eth")]
    assert nics == ["eth1", "eth2", "eth3", "eth4"]


def test_a_host_has_no_nic_on_a_lan_that_it_is_not_on() -> None:
    found = topology.load(ROOT / "tests/topologies/many-hosts.yaml")
    gamma = hosts.picture(found).clusters[2]
    names = {node.id: node.title for node in hosts.picture(found).nodes}
    assert [names[node] for node in gamma.nodes if node.startswith("h2nic")] == ["eth0", "any NIC"]
