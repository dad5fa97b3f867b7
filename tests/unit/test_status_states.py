"""What `guestnet status` says of each NIC of a running domain, whoever made it: its state, filters, the exit status."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from lxml import etree

from libvirt_guestnet.cli import main as cli
from libvirt_guestnet.datapath.netlink.kernel import Guarded
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.read.hostwide import ALL, OBSERVE, REFUSE, HostWide
from libvirt_guestnet.libvirtd.snapshot import DomainState, NetworkState, Snapshot
from libvirt_guestnet.model.drift import GUEST, Drift
from libvirt_guestnet.state.receipts import NetworkReceipt, Plugging, PortReceipt
from libvirt_guestnet.status import lacking
from libvirt_guestnet.status.filters import Only, check, picked
from libvirt_guestnet.status.ports import ChecksumGuards, PortRow
from libvirt_guestnet.status.rows import BridgeGuards, status
from libvirt_guestnet.status.text import status_text

XMLNS = 'xmlns:g="https://libvirt-guestnet.org/xmlns/1"'
MAC = "52:54:00:61:0b:01"
NIC = """<interface type="{kind}"><mac address="{mac}"/><source {source}/><target dev="{tap}"/></interface>"""
PORT = '<g:port mac="{mac}" name="p" network="default" guarded="{guarded}"/>'
ON_DEFAULT = 'network="default" bridge="virbr0"'
KEPT = NetworkReceipt("kept", "", True, "br0", managed=True)
NETWORKS = {
    "kept": KEPT,
    "insists": KEPT._replace(name="insists", bridge="br1", required=True, managed=False),
    "open": KEPT._replace(name="open", guarded=False),
    "watched": KEPT._replace(name="watched", observed=True),
}
GUARDS = BridgeGuards(networks=NETWORKS, managed={"br0": "kept"})
NO_RULES = "its tap has no rules in the kernel"


def nic(mac: str = MAC, kind: str = "network", source: str = ON_DEFAULT, tap: str = "vnet0") -> str:
    return NIC.format(kind=kind, mac=mac, source=source, tap=tap)


def domain(name: str, *nics: str, ports: Iterable[str] = (), runs: bool = True, topology: str = "") -> DomainState:
    of = f' topology="{topology}"' if topology else ""
    mark = f'<metadata><g:domain {XMLNS}{of} guest="{name}">{"".join(ports)}</g:domain></metadata>' if ports else ""
    xml = etree.fromstring(f"<domain><name>{name}</name>{mark}<devices>{''.join(nics)}</devices></domain>")
    return DomainState(name, f"u-{name}", xml, xml if runs else None)


def rows(
    domains: Sequence[DomainState], receipts: Sequence[PortReceipt] = (), networks: str = "", **more: Any
) -> list[dict[str, Any]]:
    applied = {receipt.tap: receipt for receipt in receipts}
    seen = {tap: Guarded({}, []) for tap in applied}
    marked = [etree.fromstring(networks)] if networks else []
    states = tuple(NetworkState(str(xml.findtext("name")), "n", xml, xml) for xml in marked)
    found = status(Snapshot(states, tuple(domains)), None, applied.get, seen.get, **{"guards": GUARDS, **more})
    return [row.json() for row in found]


def only(*given: Any, **more: Any) -> dict[str, Any]:
    """The one row on a NIC."""
    (row,) = (row for row in rows(*given, **more) if row["kind"] in ("port", "unguarded"))
    return row


def applied(tap: str = "vnet0", name: str = "a", **more: Any) -> PortReceipt:
    return PortReceipt(tap, MAC, name, f"u-{name}", **more)


@pytest.mark.parametrize(
    ("guarded", "source", "receipts", "state", "reason", "wanted"),
    [
        ("", ON_DEFAULT, [], "unguarded", "nobody asked for it", False),
        ("", 'network="kept"', [applied()], "guarded", "", True),
        ("", 'network="kept"', [applied(name="b")], "unguarded", NO_RULES, True),
        ("", 'network="kept"', [], "unguarded", NO_RULES, True),
        ("", 'network="open"', [], "trusted", "its network's metadata says so", False),
        ("", 'network="watched"', [applied(observed=True)], "observed", "", False),
        ("", 'network="watched"', [], "unguarded", f"it is to be observed, and {NO_RULES}", False),
        ("yes", ON_DEFAULT, [applied()], "guarded", "", True),
        ("yes", ON_DEFAULT, [], "unguarded", NO_RULES, True),
        ("yes", ON_DEFAULT, [applied(observed=True)], "observed", "it is to be guarded by now", True),
        ("no", ON_DEFAULT, [], "trusted", "its domain's metadata says so", False),
        ("no", 'network="insists"', [], "unguarded", NO_RULES, True),
        ("observe", ON_DEFAULT, [applied(observed=True)], "observed", "", False),
    ],
)
def test_a_nic_has_a_state_and_the_reason_for_it(
    guarded: str, source: str, receipts: list[PortReceipt], state: str, reason: str, wanted: bool
) -> None:
    ports = [PORT.format(mac=MAC, guarded=guarded)] if guarded else []
    row = only([domain("a", nic(source=source), ports=ports)], receipts)
    assert (row["kind"], row["state"], row["reason"], row["wanted"]) == ("port", state, reason, wanted)
    assert (row["guest"], row["mac"], row["tap"], row["running"], row["topology"]) == ("a", MAC, "vnet0", True, "")


@pytest.mark.parametrize(("bridge", "wanted"), [("br0", True), ("br1", True), ("br2", False)])
def test_a_nic_on_a_networks_bridge_is_one_of_that_network(bridge: str, wanted: bool) -> None:
    """As the hooks see it: of any managed bridge, and of one whose network insists."""
    assert only([domain("a", nic(kind="bridge", source=f'bridge="{bridge}"'))])["wanted"] is wanted


def test_a_network_that_started_without_the_hooks_asks_for_a_guard_all_the_same() -> None:
    network = f'<network><name>late</name><metadata><g:network {XMLNS} name="late"/></metadata></network>'
    row = only([domain("a", nic(source='network="late"'))], networks=network)
    assert (row["state"], row["reason"], row["wanted"]) == ("unguarded", NO_RULES, True)


def test_metadata_that_cannot_be_carried_out_is_the_reason() -> None:
    port = f'<g:port mac="{MAC}" name="p" network="default" addresses="some"/>'
    row = only([domain("a", nic(), ports=[port])])
    assert (row["state"], row["wanted"]) == ("unguarded", True)
    assert "addresses='some' is neither none nor any" in row["reason"]
    assert only([domain("a", nic(), ports=[port])], [applied()])["state"] == "guarded", "by what it said before"


@pytest.mark.parametrize(
    ("lacks", "state", "reason"),
    [
        (["port security"], "unguarded", "the kernel lacks its port security"),
        (["checksum guard"], "unguarded", "the kernel lacks its checksum guard"),
        (["VLANs", "bridge entries"], "guarded", ""),
    ],
)
def test_a_port_that_lost_its_rules_is_not_guarded(lacks: list[str], state: str, reason: str) -> None:
    row = only([domain("a", nic(source='network="kept"'))], [applied()], lacks={"vnet0": lacks})
    assert (row["state"], row["reason"], row["wanted"]) == (state, reason, True)


@pytest.mark.parametrize(("host", "refused"), [(HostWide(), False), (HostWide(REFUSE), True)])
def test_a_nic_that_cannot_be_guarded_says_why(host: HostWide, refused: bool) -> None:
    row = only([domain("a", nic(kind="user", source=""))], host=host)
    assert (row["kind"], row["state"], row["refused"]) == ("unguarded", "cannot-be-guarded", refused)
    assert "a program makes connections of its own" in row["reason"]
    assert bool(lacking.lacking([row])) is refused


def test_others_states() -> None:
    assert only([domain("a", nic(kind="null", source=""))])["state"] == "nothing-to-guard"
    starting = only([domain("a", nic(source='network="kept"', tap=""))])
    assert (starting["state"], starting["reason"], starting["wanted"]) == ("unguarded", "it has no tap yet", False)
    stopped = domain("a", nic(), ports=[PORT.format(mac=MAC, guarded="yes")], runs=False)
    assert (only([stopped])["state"], only([stopped])["wanted"]) == ("stopped", False)
    assert rows([domain("a", nic(), runs=False)]) == [], "nobody asks of what does not run"


def test_two_nics_of_one_mac_address_are_two() -> None:
    twins = domain("a", nic(source='network="kept"', tap="vnet0"), nic(source='network="kept"', tap="vnet1"))
    found = [(row["tap"], row["state"]) for row in rows([twins], [applied()])]
    assert found == [("vnet0", "guarded"), ("vnet1", "unguarded")]


def test_a_pending_nic_is_one_that_lacks_its_guard_once() -> None:
    mark = Plugging("p1", "u-a", MAC, "a", "kept", True)
    found = rows([domain("a", nic(source='network="kept"'))], plugging=[mark])
    assert [(row["kind"], row["state"]) for row in found] == [("port", "unguarded"), ("unguarded", "unguarded")]
    assert len(lacking.lacking(found)) == 1


def test_rows_stay_in_order_whatever_libvirts_is() -> None:
    three = [domain(name, nic(tap=f"v{name}1"), nic("52:54:00:61:0b:00", tap=f"v{name}0")) for name in "cab"]
    assert [row["tap"] for row in rows(three)] == ["va1", "va0", "vb1", "vb0", "vc1", "vc0"]


SHOP = f'<network><name>shop</name><metadata><g:network {XMLNS} topology="t" name="shop"/></metadata></network>'
FORWARD = '<g:forward protocol="tcp" ports="80" to="10.0.0.1"/>'


@pytest.fixture
def several() -> list[dict[str, Any]]:
    port = PORT.replace("/>", f">{FORWARD}</g:port>").replace("default", "shop").format(mac=MAC, guarded="yes")
    shop = domain("a", nic(source='network="shop"'), nic("52:54:00:61:0b:02"), ports=[port], topology="t")
    plain = domain("b", nic(kind="user", source=""), nic("52:54:00:61:0b:03", tap="vnet3"))
    return rows([shop, plain], networks=SHOP)


@pytest.mark.parametrize(
    ("wanted", "kinds"),
    [
        (Only(), ["network", "port", "port", "port", "way", "unguarded"]),
        (Only(guest="a"), ["network", "port", "port", "way"]),
        (Only(guest="b"), ["port", "unguarded"]),
        (Only(network="shop"), ["network", "port", "way"]),
        (Only(network="default"), ["port", "port"]),
        (Only(guest="b", network="default"), ["port"]),
        (Only(guest="b", network="shop"), []),
        (Only(guest="c"), []),
    ],
)
def test_some_rows_are_picked(several: list[dict[str, Any]], wanted: Only, kinds: list[str]) -> None:
    assert [row["kind"] for row in picked(several, wanted)] == kinds


def test_of_a_topology_are_only_its_own_rows() -> None:
    ports = [PORT.format(mac=MAC, guarded="yes")]
    both = (domain("a", nic(), nic("52:54:00:61:0b:02"), ports=ports, topology="t"), domain("b", nic()))
    found = status(Snapshot((), both), "t", lambda _: None, guards=GUARDS)
    assert [(row.json()["guest"], row.json()["mac"]) for row in found] == [("a", MAC)]


def test_a_name_that_nothing_has_is_an_error() -> None:
    there = Snapshot((), (domain("a", ports=[" "], topology="t"),))
    for known in (Only(guest="a"), Only(topology="t"), Only()):
        check(known, there, [])
    check(Only(network="routed"), there, ["a row of a network that libvirt does not know"])
    for unknown, said in ((Only(guest="x"), "guest"), (Only(network="x"), "network"), (Only(topology="x"), "topology")):
        with pytest.raises(GuestnetError, match=f"libvirt has no {said} 'x'"):
            check(unknown, there, [])


def run(monkeypatch: pytest.MonkeyPatch, looks: Sequence[list[dict[str, Any]]], *argv: str) -> int:
    """`guestnet status`, which sees this at each look."""
    left = list(looks)
    monkeypatch.setattr(lacking, "_PAUSE", 0.0)
    monkeypatch.setattr("libvirt_guestnet.status.gather.status_rows", lambda _uri, _only, **_how: left.pop(0))
    result = cli.main(["status", *argv])
    assert left == []
    return result


LOST = [domain("a", nic(source='network="kept"'))]


def test_exit_status_3_names_what_should_be_guarded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lost, well = rows(LOST), rows(LOST, [applied()])
    assert run(monkeypatch, [well]) == 0
    assert capsys.readouterr().err == ""
    for argv in ((), ("--json",), ("--drops",)):
        assert run(monkeypatch, [lost, lost], *argv) == 3
        said = f"to be guarded, but not: a.{MAC} ({NO_RULES}); `guestnet hooks sync` guards what runs"
        assert capsys.readouterr().err == f"guestnet: {said}\n"
    assert run(monkeypatch, [lost, well], "--json") == 0, "a guest that was just starting"
    out = capsys.readouterr()
    assert (json.loads(out.out), out.err) == (well, "")


def test_what_nobody_asked_for_is_no_reason_to_exit_otherwise(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    free, watched = nic("52:54:00:61:0b:02", source='network="open"'), nic(source='network="watched"', tap="vnet1")
    user = nic("52:54:00:61:0b:04", kind="user", source="", tap="")
    assert run(monkeypatch, [rows([domain("a", nic(), free, watched, user)])]) == 0
    out = capsys.readouterr()
    assert (f"NOT GUARDED, nobody asked for it: a.{MAC}\n" in out.out, out.err) == (True, "")


def test_many_are_named_in_one_line_without_a_tenants_orders_to_the_terminal() -> None:
    found = rows([domain(f"g{number}", nic(source='network="kept"', tap=f"v{number}")) for number in range(9)])
    found[0]["guest"] = "g\x1b[2J\n"
    found[1].update(state="cannot-be-guarded")
    line = lacking.complaint(found)
    assert line.isprintable() and r"g\x1b[2J\n." in line and "g5" not in line
    assert " and 4 more; `guestnet hooks sync` guards what runs; `guestnet doctor` says what to use" in line
    assert "hooks sync" not in lacking.complaint([found[1]])


def test_filters_are_given_as_words(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Only] = []

    def look(_uri: str | None, only: Only, **_how: bool) -> list[dict[str, object]]:
        asked.append(only)
        return []

    monkeypatch.setattr("libvirt_guestnet.status.gather.status_rows", look)
    assert cli.main(["status", "--guest", "g", "--network", "n", "--topology", "t"]) == 0
    assert cli.main(["status"]) == 0
    assert asked == [Only("g", "n", "t"), Only()]


def test_five_hundred_domains_take_no_more_than_their_share() -> None:
    taps = [f"v{number}-{nic}" for number in range(500) for nic in range(2)]
    domains = [
        domain(
            f"g{number:03}",
            *(
                nic(f"52:54:00:00:{number % 256:02x}:0{n}", source='network="kept"', tap=f"v{number}-{n}")
                for n in (0, 1)
            ),
        )
        for number in range(500)
    ]
    wrong = [Drift(GUEST, f"g{int(tap[1:-2]):03}", tap, "is down") for tap in taps]
    began = time.process_time()
    found = rows(domains, wrong=wrong)
    text = status_text(picked(found, Only(network="kept")))
    missing = lacking.lacking(found)
    assert time.process_time() - began < 20
    assert (len(found), len(missing), text.count("WRONG: ")) == (1000, 1000, 1000)


def test_a_nic_of_the_hosts_default_says_so() -> None:
    every, watched = HostWide(guard=ALL), HostWide(guard=OBSERVE)
    open_to = applied(by_host=True, owned=("0.0.0.0/0", "::/0"))
    row = only([domain("a", nic())], [open_to], host=every)
    said = "by this host's default (guard: all in host.yaml)"
    assert (row["state"], row["reason"], row["wanted"], row["any_address"]) == ("guarded", said, True, True)
    text = status_text([row])
    assert f"BY THIS HOST'S DEFAULT alone, `guard:` in host.yaml: a.{MAC}\n" in text
    assert f"ANY ADDRESS that nobody holds, by policy or this host's default: a.{MAC}\n" in text
    row = only([domain("a", nic())], [applied(by_host=True, observed=True)], host=watched)
    assert (row["state"], row["reason"], row["wanted"]) == ("observed", said.replace("all", "observe"), False)
    row = only([domain("a", nic())], host=every)
    assert (row["state"], row["reason"], row["wanted"]) == ("unguarded", NO_RULES, True)
    assert list(lacking.lacking([row])) == [("a", MAC)]
    row = only([domain("a", nic(), ports=[PORT.format(mac=MAC, guarded="no")])], host=every)
    assert (row["state"], row["wanted"]) == ("trusted", False)


def test_what_a_guest_had_dropped_that_is_gone_is_not_the_next_ones() -> None:
    """It had the tap of that name, and a killed hook has left its chain."""
    gone, seen = applied(name="gone"), {"vnet0": Guarded({"ARP": 7}, [])}
    for receipt, drops in ((gone, None), (None, None), (applied(), 9)):
        (row,) = status(
            Snapshot((), (domain("a", nic()),)),
            None,
            {"vnet0": receipt}.get,
            seen.get,
            guards=GUARDS,
            offload=ChecksumGuards(drops={"vnet0": 2}),
        )
        assert isinstance(row, PortRow)
        assert (row.drops, sum(row.reasons.values())) == (drops, drops or 0)


def test_a_nic_on_a_bridge_of_the_hosts_is_shown_with_that() -> None:
    guest = domain("a", nic(kind="bridge", source='bridge="br7"'))
    assert only([guest])["network"] == "br7"
    assert [row["guest"] for row in picked(rows([guest]), Only(network="br7"))] == ["a"]
    named = PORT.format(mac=MAC, guarded="yes")
    assert only([domain("a", nic(kind="bridge", source='bridge="br7"'), ports=[named])])["network"] == "default"


def test_of_many_that_are_no_fault_a_few_are_named_and_the_table_has_them_all() -> None:
    guests = [domain(f"g{n:02}", nic(f"52:54:00:61:0b:{n:02x}", tap=f"vnet{n}")) for n in range(60)]
    told = status_text(rows(guests))
    (said,) = (line for line in told.splitlines() if line.startswith("NOT GUARDED"))
    assert said.count("g0") + said.count("g1") == 12
    assert said.endswith("g11.52:54:00:61:0b:0b and 48 more (`status --json`)")
    assert all(f"g{n:02} " in told for n in range(60))
