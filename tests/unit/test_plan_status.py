"""Status rows from what libvirt has and what the hooks recorded."""

from ipaddress import IPv6Address, ip_address

import pytest
from lxml import etree

from libvirt_guestnet.datapath.netlink.kernel import Guarded
from libvirt_guestnet.datapath.routing.routes import HostRoutes, ProxyEntry, Route
from libvirt_guestnet.libvirtd.snapshot import DomainState, NetworkState, Snapshot
from libvirt_guestnet.model.drift import GUEST, Drift
from libvirt_guestnet.state.receipts import NetworkReceipt, PortReceipt
from libvirt_guestnet.status.routes import RouteFacts
from libvirt_guestnet.status.rows import BridgeGuards, ChecksumGuards, status
from libvirt_guestnet.status.text import drops_text, status_text

NETWORK = """
<network><name>vlan1</name>
<metadata><g:network xmlns:g="https://libvirt-guestnet.org/xmlns/1" topology="t"/></metadata>
<forward mode="route"/><bridge name="gn-vlan1"/></network>"""
DOMAIN = """
<domain><name>b</name><uuid>u-b</uuid>
<metadata><g:domain xmlns:g="https://libvirt-guestnet.org/xmlns/1" topology="t" guest="b" image="tiny">
  <g:port mac="52:54:00:61:0b:02" name="p" network="vlan1" note="the shop">
  <g:address ip="10.61.2.1"/></g:port></g:domain></metadata>
<sysinfo type="fwcfg"><entry name="opt/org.libvirt-guestnet/config">guestnet 1</entry></sysinfo>
<devices>
<interface type="network"><mac address="52:54:00:61:0B:02"/><source network="vlan1"/><target dev="vme1"/></interface>
<interface type="network"><mac address="52:54:00:61:0b:03"/><source network="vlan1"/><target dev="vme2"/>
  <link state="down"/></interface>
</devices></domain>"""
KNOWN = NetworkReceipt("vlan1", "t", True, "gn-vlan1", managed=True)

SEEN = {
    "vme1": Guarded(
        {"ARP": 3, "ND": 4}, [ip_address("10.61.2.9"), ip_address("fd61:2::9")], (IPv6Address("fd61:2::77"),)
    )
}


def xml(text: str) -> etree._Element:
    return etree.fromstring(text)


def snapshot(running: bool, image: str = "tiny") -> Snapshot:
    domain = xml(DOMAIN.replace(' image="tiny"', f' image="{image}"' if image else ""))
    network = xml(NETWORK)
    foreign = xml("<network><name>default</name></network>")
    return Snapshot(
        (NetworkState("vlan1", "n", network, network, True), NetworkState("default", "d", foreign)),
        (DomainState("b", "u-b", domain, domain if running else None), DomainState("x", "u-x", xml("<domain/>"))),
    )


def receipt(tap: str) -> PortReceipt | None:
    owners = {"vme1": "u-b", "vme2": "somebody else's"}
    return PortReceipt(tap, "52:54:00:61:0b:02", "b", owners[tap]) if tap in owners else None


def test_a_running_guests_ports_say_whether_they_are_guarded() -> None:
    network, first, second = (row.json() for row in status(snapshot(True), None, receipt, SEEN.get))
    assert network == {
        "kind": "network",
        "topology": "t",
        "name": "vlan1",
        "mode": "route",
        "bridge": "gn-vlan1",
        "active": True,
        "autostart": True,
        "ports": 2,
        "bridge_guard": "missing",
        "silent": [],
        "wrong": [],
        "external": False,
    }
    assert first == {
        "kind": "port",
        "topology": "t",
        "guest": "b",
        "port": "p",
        "mac": "52:54:00:61:0b:02",
        "network": "vlan1",
        "running": True,
        "tap": "vme1",
        "link": "up",
        "addresses": ["10.61.2.1"],
        "guarded": True,
        "drops": 7,
        "learnt": ["10.61.2.9", "fd61:2::9"],
        "claimed": ["fd61:2::77"],
        "trusted": False,
        "offload": "on",
        "any_address": False,
        "note": "the shop",
        "unknown": True,  # the hooks' receipt has none of its addresses
        "reasons": {"ARP": 3, "ND": 4},
        "wrong": [],
        "observed": False,
        "state": "guarded",
        "reason": "",
        "wanted": True,
    }
    assert (second["port"], second["link"], second["guarded"]) == ("", "down", False)  # a receipt of another domain


def test_what_the_kernel_has_otherwise_is_said_not_what_was_asked_for() -> None:
    off = Drift(GUEST, "b", "vme1", "is in no bridge and not in gn-vlan1", link="no bridge")
    bare = Drift("network", "vlan1", "gn-vlan1", "lacks 10.61.2.254", "find out who takes it")
    others = Drift(GUEST, "c", "vme1", "is down")
    network, first, second = status(snapshot(True), None, receipt, SEEN.get, wrong=(off, bare, others))
    assert network.wrong == ("network 'vlan1': gn-vlan1 lacks 10.61.2.254: find out who takes it",)
    said = "guest 'b': vme1 is in no bridge and not in gn-vlan1: guestnet hooks sync"
    assert (first.link, first.wrong, second.wrong) == ("no bridge", (said,), ())
    text = status_text([row.json() for row in (network, first, second)])
    assert f"WRONG: {said}\n" in text
    assert "no bridge" in text.splitlines()[4]


def test_what_the_checksum_guard_dropped_is_a_reason_among_others() -> None:
    lacking = ChecksumGuards(lost=frozenset({"vme1"}), drops={"vme1": 5, "vme9": 1})
    _, first, second = status(snapshot(True), None, receipt, SEEN.get, offload=lacking)
    assert (first.offload, first.drops, first.reasons) == ("missing", 12, {"ARP": 3, "ND": 4, "checksum offload": 5})
    assert second.offload == ""  # it is not guarded at all
    _, first, _ = status(snapshot(True), None, receipt, SEEN.get, offload=ChecksumGuards(cannot="no BTF"))
    assert first.offload == "kernel cannot"


def test_a_port_that_is_only_observed_is_not_guarded_and_said_aloud() -> None:
    def observed(tap: str) -> PortReceipt | None:
        found = receipt(tap)
        return found and found._replace(observed=True)

    rows = [row.json() for row in status(snapshot(True), None, observed, SEEN.get)]
    assert (rows[1]["guarded"], rows[1]["observed"], rows[1]["offload"]) == (False, True, "on")
    text = status_text(rows)
    assert "OBSERVED, nothing is dropped, `guestnet suggest` says what would be: b.p\n" in text
    assert "UNGUARDED, try `guestnet hooks sync`: b.52:54:00:61:0b:03\n" in text
    (line,) = (line for line in text.splitlines() if line.startswith("t  ") and "vme1" in line)
    assert "  observed  " in line
    assert drops_text(rows).split()[:14] == [
        *("GUEST", "PORT", "NETWORK", "TAP", "REASON", "FRAMES", "PASSED"),
        *("b", "p", "vlan1", "vme1", "ARP", "3", "yes"),
    ]


def test_a_tenants_words_give_a_terminal_no_orders() -> None:
    """Who may change a domain's metadata names its ports."""

    def observed(tap: str) -> PortReceipt | None:
        found = receipt(tap)
        return found and found._replace(observed=True)

    rows = [row.json() for row in status(snapshot(True), None, observed, SEEN.get)]
    rows[1]["port"] = "p\x1b[2J\nUNGUARDED\u202e"
    for text in (status_text(rows), drops_text(rows)):
        assert r"p\x1b[2J\nUNGUARDED\u202e" in text
        assert all(line.isprintable() for line in text.splitlines())


def test_a_stopped_guest_has_no_tap_and_no_guard() -> None:
    _, first, _ = status(snapshot(False), "t", receipt)
    assert (first.running, first.tap, first.guarded, first.drops) == (False, "", None, None)


def test_a_users_own_nics_and_other_topologies_are_left_out() -> None:
    assert [row.json().get("mac") for row in status(snapshot(True, image=""), "t", receipt)][1:] == [
        "52:54:00:61:0b:02"
    ]
    assert status(snapshot(True), "other", receipt) == []


@pytest.mark.parametrize(
    ("guards", "word"),
    [
        (BridgeGuards(bridges=frozenset({"gn-vlan1"})), "on"),
        (BridgeGuards(refused=True, networks={"vlan1": KNOWN}), "kernel cannot"),
        (BridgeGuards(refused=True), "missing"),
        (BridgeGuards(networks={"vlan1": KNOWN._replace(observed=True)}), "observed"),
        (BridgeGuards(networks={"vlan1": KNOWN}), "missing"),
        (BridgeGuards(refused=True, networks={"vlan1": KNOWN._replace(managed=False)}), "not our bridge"),
        (BridgeGuards(networks={"vlan1": KNOWN._replace(managed=False, guarded=False)}), "not wanted"),
    ],
)
def test_a_network_says_where_unguarded_ports_pass_nothing(guards: BridgeGuards, word: str) -> None:
    row = status(snapshot(True), None, receipt, guards=guards)[0]
    assert row.json()["bridge_guard"] == word


def test_a_network_that_is_down_has_no_bridge_to_guard() -> None:
    down = Snapshot((NetworkState("vlan1", "n", xml(NETWORK)),))
    assert [row.json()["bridge_guard"] for row in status(down, guards=BridgeGuards(refused=True))] == [""]


def test_silenced_ports_are_said_aloud() -> None:
    rows = [row.json() for row in status(snapshot(False), None, receipt)]
    rows[0]["silent"] = ["vnet3", "vnet7"]
    told = status_text(rows)
    assert "SILENCED, nobody guards them, try `guestnet hooks sync`: vnet3 on gn-vlan1, vnet7 on gn-vlan1\n" in told


def test_people_are_told_aloud_what_nothing_guards() -> None:
    rows = [row.json() for row in status(snapshot(True), None, receipt, SEEN.get)]
    assert "UNGUARDED, try `guestnet hooks sync`: b.52:54:00:61:0b:03" in status_text(rows)
    trusted = [
        {**row, "guarded": False, "trusted": True, "state": "trusted"} if row.get("port") == "p" else row
        for row in rows
    ]
    assert "TRUSTED, no port security by their own policy or their network's: b.p\n" in status_text(trusted)
    assert "NO ADDRESS known, DHCP and link-local only, until the policy says addresses: b.p\n" in status_text(rows)
    anything = [{**row, "unknown": False, "any_address": True} if row.get("port") == "p" else row for row in rows]
    assert "ANY ADDRESS that nobody holds, by policy or this host's default: b.p\n" in status_text(anything)
    assert "NO ADDRESS" not in status_text(anything)
    assert drops_text(rows).split() == [
        *("GUEST", "PORT", "NETWORK", "TAP", "REASON", "FRAMES"),
        *("b", "p", "vlan1", "vme1", "ARP", "3"),
        *("b", "p", "vlan1", "vme1", "ND", "4"),
    ]
    assert drops_text([]) == "nothing was dropped\n"


LED = """
<domain><name>r</name><uuid>u-r</uuid>
<metadata><g:domain xmlns:g="https://libvirt-guestnet.org/xmlns/1" topology="t" guest="r">
  <g:port mac="52:54:00:61:0b:01" name="direct" network="n"><g:address ip="192.0.2.50"/><g:address ip="2001:db8::50"/>
    <g:source prefix="10.9.0.0/16"/><g:source prefix="::/0"/>
    <g:routed gateway="169.255.30.1" publish="yes" label="lan" device="eth0"/></g:port>
  <g:port mac="52:54:00:61:0b:02" name="provider" network="p"><g:address ip="198.51.100.9"/>
    <g:routed gateway="169.255.30.1" publish="no" table="100"/></g:port>
  <g:port mac="52:54:00:61:0b:03" name="dmz" network="dmz"><g:address ip="10.65.1.4"/><g:behind prefix="10.65.3.0/24"/>
    <g:floating ip="192.0.2.60" to="10.65.1.4"/><g:floating ip="203.0.113.5" to="10.65.1.4"/></g:port>
</g:domain></metadata>
<devices>
<interface type="ethernet"><mac address="52:54:00:61:0b:01"/><target dev="vme1"/></interface>
<interface type="ethernet"><mac address="52:54:00:61:0B:02"/><target dev="vme2"/></interface>
<interface type="network"><mac address="52:54:00:61:0b:03"/><source network="dmz" bridge="gn-dmz"/>
  <target dev="vme3"/></interface>
</devices></domain>"""
ROUTES = {
    Route("192.0.2.50/32", "vme1"),
    Route("2001:db8::50/128", "vme1"),
    Route("10.9.0.0/16", "vme1", "192.0.2.50"),
    Route("198.51.100.9/32", "vme2", table=100),
    Route("10.65.3.0/24", "gn-dmz", "10.65.1.4"),
    Route("192.0.2.60/32", "gn-dmz"),
}
# Not what the XML names: it was written for another host.
DIRECT, FLOATING = (ProxyEntry("192.0.2.50", "up0"), ProxyEntry("2001:db8::50", "up0")), ProxyEntry("192.0.2.60", "up0")
PUBLISHED = {*DIRECT, FLOATING}
REACHES = (
    HostRoutes("vme1", "u-r", "r", published=DIRECT),
    HostRoutes("vme3", "u-r", "r", published=(FLOATING,)),
    HostRoutes("vme9", "u-x", "x"),
)


def routes(facts: RouteFacts, running: bool = True, text: str = LED) -> dict[str, dict[str, object]]:
    domain = xml(text)
    guests = Snapshot((), (DomainState("r", "u-r", domain, domain if running else None),))
    rows = [row.json() for row in status(guests, None, lambda _: None, route_facts=facts)]
    return {str(row["prefix"]): row for row in rows if row["kind"] == "route"}


def test_what_the_host_routes_to_a_guest_is_told() -> None:
    rows = routes(RouteFacts(REACHES, frozenset(ROUTES | PUBLISHED)))
    assert rows["192.0.2.50/32"] == {
        "kind": "route",
        "topology": "t",
        "guest": "r",
        "port": "direct",
        "prefix": "192.0.2.50/32",
        "via": "",
        "device": "vme1",
        "table": "main",
        "routed": True,
        "uplink": "up0",
        "published": True,
    }
    assert set(rows) == {route.prefix for route in ROUTES}
    assert {Route(str(r["prefix"]), str(r["device"]), str(r["via"]), 100 if r["table"] == "100" else 254) for r in rows.values()} == ROUTES  # fmt: skip  # noqa: E501
    assert {prefix: (row["uplink"], row["published"]) for prefix, row in rows.items() if not row["published"]} == {
        "10.9.0.0/16": ("", None),
        "198.51.100.9/32": ("", None),
        "10.65.3.0/24": ("", None),
    }


def test_routes_that_somebody_took_away_are_told() -> None:
    rows = routes(RouteFacts(REACHES, frozenset(PUBLISHED - {ProxyEntry("192.0.2.60", "up0")})))
    assert {row["routed"] for row in rows.values()} == {False}
    assert {prefix: row["published"] for prefix, row in rows.items() if row["published"] is not None} == {
        "192.0.2.50/32": True,
        "2001:db8::50/128": True,
        "192.0.2.60/32": False,
    }
    bare = routes(RouteFacts())["192.0.2.50/32"]
    assert (bare["routed"], bare["uplink"], bare["published"]) == (False, "eth0", False)


def test_routes_in_a_vrf_are_looked_for_in_its_table() -> None:
    text = LED.replace('device="eth0"/>', 'device="eth0" vrf="red"/>')
    inside = [route._replace(table=10) for route in ROUTES if route.device == "vme1"]
    there = frozenset(inside)
    for receipt, routed in (
        (HostRoutes("vme1", "u-r", "r", tuple(inside), vrf="red"), True),
        (HostRoutes("vme1", "u-r", "r"), False),
    ):
        rows = routes(RouteFacts((receipt,), there), text=text)
        found = {(rows[route.prefix]["table"], rows[route.prefix]["routed"]) for route in inside}
        assert found == {("vrf red", routed)}


def test_nothing_is_routed_to_a_stopped_guest() -> None:
    rows = routes(RouteFacts(), running=False)
    assert {(row["device"], row["routed"], row["published"]) for row in rows.values()} == {("", None, None)}


def test_routes_have_a_table_of_their_own() -> None:
    text = status_text(list(routes(RouteFacts(REACHES, frozenset(ROUTES | PUBLISHED))).values()), ("topology",))
    assert [line.split() for line in text.splitlines()[:2]] == [
        ["GUEST", "PORT", "PREFIX", "VIA", "DEVICE", "TABLE", "ROUTED", "UPLINK", "PUBLISHED"],
        ["r", "direct", "192.0.2.50/32", "-", "vme1", "main", "yes", "up0", "yes"],
    ]
