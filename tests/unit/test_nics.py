"""Which NICs can be guarded: one table, in docs and code; what start refuses; what status and doctor say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from lxml import etree

from libvirt_guestnet import hostmap, xmlread
from libvirt_guestnet.doctor.finding import MUST, NOTE
from libvirt_guestnet.doctor.host_facts import HostFacts
from libvirt_guestnet.doctor.judge import judge
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook import concern
from libvirt_guestnet.hook.admission import guardable
from libvirt_guestnet.hook.enforce import bridge_guard
from libvirt_guestnet.hook.read import hostwide, network_receipts, nics, port_receipts
from libvirt_guestnet.hook.read.domain import Domain
from libvirt_guestnet.hook.read.hostwide import HostWide
from libvirt_guestnet.install import hook_files
from libvirt_guestnet.libvirtd.snapshot import DomainState
from libvirt_guestnet.model.topology import PortKind
from libvirt_guestnet.state.locked import UnlockedState
from libvirt_guestnet.state.receipts import NetworkReceipt, Plugging
from libvirt_guestnet.status.text import status_text
from libvirt_guestnet.status.unguarded import PENDING, unguarded_rows

ROOT = Path(__file__).parents[2]
RNG = Path("/usr/share/libvirt/schemas")
XMLNS = 'xmlns:g="https://libvirt-guestnet.org/xmlns/1"'
MAC = "52:54:00:00:00:01"
DOMAIN = f"""<domain><name>a</name><uuid>u-a</uuid><metadata><g:domain {XMLNS} topology="t" guest="a">{{policy}}
</g:domain></metadata><devices><interface type="{{kind}}"><mac address="{MAC}"/><source {{source}}/>
<target dev="nosuch0"/></interface></devices></domain>"""
POLICY = f'<g:port mac="{MAC}" name="p" network="n" guarded="{{}}"/>'
NETWORK = f"""<network><name>n</name><metadata><g:network {XMLNS} topology="t" name="n" guarded="{{guarded}}"/>
</metadata>{{forward}}</network>"""
INSISTS = NetworkReceipt("n", "t", True, "br0", required=True)
REFUSES = HostWide("refuse")


def line(kind: nics.Kind) -> str:
    what = f"`{kind.type}`" + (f": {kind.what}" if kind.what else "")
    return f"| {what} | {kind.guarded} | {kind.why} | {kind.instead or '–'} |"


def test_the_docs_show_the_table() -> None:
    text = (ROOT / "docs/unguarded.md").read_text()
    assert [each for each in text.splitlines() if each.startswith("| `")] == [line(kind) for kind in nics.TABLE]


@pytest.mark.system
def test_every_type_and_mode_of_libvirts_schema_is_in_the_table() -> None:
    root = etree.parse(str(RNG / "domaincommon.rng")).getroot()
    types = set()
    for interface in root.iter("{*}define"):
        if interface.get("name") == "interface":
            for attribute in interface.iterfind("{*}element/{*}choice/{*}group/{*}attribute[@name='type']"):
                types |= {value.text for value in attribute.iter("{*}value")}
    assert {"network", "direct", "hostdev", "vdpa", "null"} <= types
    assert types <= {kind.type for kind in nics.TABLE}
    modes = set()
    for element in etree.parse(str(RNG / "network.rng")).getroot().iter("{*}element"):
        if element.get("name") == "forward":
            for attribute in element.iterfind(".//{*}attribute[@name='mode']"):
                modes |= {value.text for value in attribute.iter("{*}value")}
    assert {"nat", "passthrough", "hostdev"} <= modes <= {mode for kind in nics.TABLE for mode in kind.modes}


def test_what_nobody_knows_is_not_guarded() -> None:
    assert nics.of("novelty").guarded == nics.NO
    assert nics.of_network(xmlread.parse(b"<network><forward mode='novelty'/></network>")).guarded == nics.NO


def test_every_kind_of_port_in_a_topology_can_be_guarded() -> None:
    assert {nics.of(kind).guarded for kind in PortKind} == {nics.YES}
    assert {kind.type for kind in nics.TABLE if kind.guarded == nics.YES} == set(PortKind)


def test_a_macvtap_device_in_the_place_of_a_tap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(nics.links, "is_macvtap", lambda name: name == "mv0")
    assert [nics.of("ethernet", name).type for name in ("vme0", "mv0")] == ["ethernet", "direct"]
    domain = DOMAIN.replace("nosuch0", "mv0").format(kind="ethernet", source="", policy=POLICY.format("yes"))
    with pytest.raises(GuestnetError, match=r"type 'ethernet' cannot be guarded, and this host .*: a macvtap device"):
        guardable.check(bridge_guard.joined(xmlread.parse(domain.encode()), UnlockedState(str(tmp_path))), True)
    with pytest.raises(GuestnetError, match="type 'ethernet' has no tap to guard: a macvtap device"):
        port_receipts.port_receipts(Domain(xmlread.parse(domain.encode()), lambda _name: None))


@pytest.mark.parametrize(
    ("forward", "word"),
    [
        ("", ""),
        ("<forward/><bridge name='b'/>", ""),
        ("<forward mode='open'/>", ""),
        ("<forward mode='bridge'/><bridge name='b'/>", ""),
        ("<forward mode='bridge'><interface dev='eth0'/></forward>", "macvtap"),
        ("<forward mode='vepa'/>", "macvtap"),
        ("<forward mode='private'/>", "macvtap"),
        ("<forward mode='passthrough'/>", "macvtap"),
        ("<forward mode='hostdev'/>", "function of the NIC"),
    ],
)
def test_a_network_that_insists_must_give_ports_that_can_be(forward: str, word: str) -> None:
    for guarded in ("yes", "no"):
        network_receipts.check_kind(xmlread.parse(NETWORK.format(guarded=guarded, forward=forward).encode()))
    insists = xmlread.parse(NETWORK.format(guarded="required", forward=forward).encode())
    if not word:
        receipt = network_receipts.network_receipt(insists)
        assert receipt is not None and (receipt.guarded, receipt.required) == (True, True)
        return
    for ask in (network_receipts.check_kind, network_receipts.network_receipt):
        with pytest.raises(GuestnetError, match=f"network 'n' insists on guarded ports, and gives none: .*{word}"):
            ask(insists)


def parsed(kind: str = "network", source: str = 'network="n"', guarded: str = "") -> xmlread.Node:
    policy = POLICY.format(guarded) if guarded else ""
    return xmlread.parse(DOMAIN.format(kind=kind, source=source, policy=policy).encode())


@pytest.fixture
def state(tmp_path: Path) -> UnlockedState:
    found = UnlockedState(str(tmp_path))
    with found.lock() as locked:
        locked.put_network(INSISTS)
        locked.put_network(INSISTS._replace(name="lax", bridge="br1", required=False))
    return found


@pytest.mark.parametrize(
    ("domain", "host", "refusal"),
    [
        (parsed(), REFUSES, ""),
        (parsed(guarded="yes"), REFUSES, ""),
        (parsed(guarded="no"), HostWide(), "insists on guarded ports, and the domain's metadata"),
        (parsed(guarded="observe"), HostWide(), 'metadata says guarded="observe": take that out'),
        (parsed(source='network="lax"', guarded="observe"), REFUSES, ""),
        (parsed("bridge", 'bridge="br0"', guarded="no"), HostWide(), "network 'n' insists on guarded ports, and the"),
        (parsed("bridge", 'bridge="br1"', guarded="no"), REFUSES, ""),
        (parsed(source='network="lax"', guarded="no"), REFUSES, ""),
        (
            parsed("direct", 'network="n" dev="e"'),
            HostWide(),
            "insists on guarded ports, and type 'direct' cannot be: ",
        ),
        (parsed("direct", 'dev="e"'), HostWide(), ""),
        (parsed("direct", 'dev="e"', guarded="no"), REFUSES, "this host refuses what cannot .*host.yaml.*: a macvtap"),
        *(
            (parsed(k.type, ""), REFUSES, f"type '{k.type}' cannot be guarded")
            for k in nics.TABLE
            if k.type in ("user", "hostdev", "vdpa", "vhostuser", "udp", "mcast", "server", "client")
        ),
        (parsed("null", ""), REFUSES, ""),
        (parsed("novelty", ""), REFUSES, "type 'novelty' cannot be guarded"),
    ],
)
def test_what_may_start(domain: xmlread.Node, host: HostWide, refusal: str, state: UnlockedState) -> None:
    if not refusal:
        guardable.check(bridge_guard.joined(domain, state), host == REFUSES)
        return
    with pytest.raises(GuestnetError, match=rf"domain 'a': interface {MAC}: .*{refusal}"):
        guardable.check(bridge_guard.joined(domain, state), host == REFUSES)


@pytest.mark.parametrize(
    ("network", "port", "observed"),
    [
        ("yes", "observe", True),
        ("no", "observe", True),
        ("observe", "", True),
        ("observe", "yes", False),
        ("required", "observe", False),
        ("required", "", False),
        ("yes", "", False),
    ],
)
def test_a_port_is_observed_by_its_own_word_or_its_networks_but_not_where_that_insists(
    network: str, port: str, observed: bool
) -> None:
    found = network_receipts.network_receipt(xmlread.parse(NETWORK.format(guarded=network, forward="").encode()))
    domain = Domain(parsed("ethernet", 'network="n"', guarded=port), lambda _name: found)
    (receipt,) = port_receipts.port_receipts(domain)
    assert (receipt.observed, receipt.trusted) == (observed, False)
    assert port_receipts.guard_of(receipt).observed == observed


def test_what_cannot_be_guarded_is_not_refused_for_being_observed() -> None:
    domain = Domain(parsed("direct", 'network="n" dev="e"', guarded="observe"), lambda _name: None)
    assert port_receipts.port_receipts(domain) == []
    assert guardable.without_unguardable(domain)[1] == []


def test_a_bridge_knows_who_insists_as_networks_come_and_go(state: UnlockedState) -> None:
    other = INSISTS._replace(name="other")
    with state.lock() as locked:
        locked.put_network(other)
        assert (locked.insisting("br0"), locked.insisting("br1")) == ("n", "")
        locked.drop_network("n")
        assert locked.insisting("br0") == "other"
        locked.put_network(other._replace(bridge="br1"))
        assert (locked.insisting("br0"), locked.insisting("br1")) == ("", "other")
        locked.put_network(other._replace(bridge="br1", required=False))
        assert (locked.insisting("br0"), locked.insisting("br1")) == ("", "")


def test_who_runs_is_guarded_as_far_as_that_goes(state: UnlockedState) -> None:
    domain = parsed("direct", 'network="lax"')
    wrong = f"interface {MAC}: type 'direct' has no tap to guard: {nics.because(nics.of('direct'))}"
    assert aside(domain, state) == (0, [wrong])
    assert aside(parsed("user", "", guarded="no"), state) == (0, [])
    assert aside(parsed(), state) == (1, [])


def aside(xml: xmlread.Node, state: UnlockedState) -> tuple[int, list[str]]:
    """How many NICs are left, and what is said of the others."""
    left, wrong = guardable.without_unguardable(bridge_guard.joined(xml, state))
    return len(left.nics), wrong


def test_the_hosts_setting_reaches_the_hooks_and_leaves_no_file_where_nothing_is_asked(tmp_path: Path) -> None:
    file, written = tmp_path / "etc/libvirt-guestnet/host.yaml", tmp_path / "etc/libvirt-guestnet/hooks.json"
    file.parent.mkdir(parents=True)
    assert hostwide.read(str(written)) == HostWide()
    file.write_text("physical-networks: {lan: eth0}\nunguardable: refuse\n")
    hook_files.take_over(tmp_path)
    assert (hostwide.read(str(written)), written.stat().st_mode & 0o777) == (HostWide("refuse"), 0o600)
    assert hostmap.load_hostmap(file).devices == {"lan": "eth0"}
    file.write_text("unguardable: perhaps\n")
    with pytest.raises(GuestnetError, match=r"host.yaml: unguardable: 'perhaps' is neither allow nor refuse"):
        hook_files.take_over(tmp_path)
    assert hostwide.read(str(written)) == HostWide("refuse"), "bad input changes nothing"
    for text in ("unguardable: allow\n", "physical-networks: {lan: eth0}\n", ""):
        file.write_text(text)
        hook_files.take_over(tmp_path)
        assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"unguardable": 1}', '{"unguardable": "maybe"}', "[" * 9000])
def test_a_damaged_setting_is_never_taken_for_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "hooks.json").write_text(text)
    with pytest.raises(GuestnetError, match=r"hooks.json is damaged: run `guestnet hooks install`"):
        hostwide.read(str(tmp_path / "hooks.json"))


def test_a_newer_guestnets_settings_are_read(tmp_path: Path) -> None:
    (tmp_path / "hooks.json").write_text(json.dumps({"unguardable": "refuse", "more": 1}))
    assert hostwide.read(str(tmp_path / "hooks.json")) == REFUSES


def test_the_files_before_python_know_the_setting_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for hook in ("qemu", "network"):
        text = hook_files.filled_in(hook)
        assert hostwide.FILE in text
        (listed,) = re.findall(r"type='\(([a-z|]+)\)", text)
        assert {nics.of(name).guarded for name in listed.split("|")} == {nics.NO}
        assert {"direct", "hostdev", "user"} <= set(listed.split("|"))
    monkeypatch.setattr(concern, "_STATE", str(tmp_path))
    monkeypatch.setattr(concern, "HOSTWIDE", str(tmp_path / "hooks.json"))
    assert not concern.CONCERNS["qemu", "start"]("x", b"<domain/>")
    (tmp_path / "hooks.json").touch()
    assert concern.CONCERNS["qemu", "start"]("x", b"<domain/>")


def running(xml: str) -> DomainState:
    live = etree.fromstring(xml)
    return DomainState("a", "u-a", live, live)


@pytest.mark.parametrize(
    ("policy", "networks", "host", "refused"),
    [
        ("", {}, HostWide(), False),
        ("", {"n": INSISTS}, HostWide(), True),
        (POLICY.format("no"), {"n": INSISTS}, HostWide(), True),
        (POLICY.format("no"), {"n": INSISTS._replace(required=False)}, HostWide(), False),
        (POLICY.format("yes"), {}, HostWide(), True),
        ("", {}, REFUSES, True),
    ],
)
def test_a_row_says_what_is_not_guarded_and_whether_that_may_be(
    policy: str, networks: dict[str, NetworkReceipt], host: HostWide, refused: bool
) -> None:
    domain = running(DOMAIN.format(kind="direct", source='network="n" dev="e" mode="vepa"', policy=policy))
    (row,) = unguarded_rows([domain], networks, host)
    assert row.json() == {
        "kind": "unguarded",
        "topology": "t",
        "guest": "a",
        "mac": MAC,
        "type": "direct vepa",
        "network": "n",
        "reason": nics.of("direct").why,
        "instead": nics.of("direct").instead,
        "refused": refused,
        "device": "nosuch0",
        "state": "cannot-be-guarded",
    }
    (said,) = (each for each in judge(HostFacts(unguardable=(row,))) if each.check == "ports")
    assert (said.level, said.about) == (MUST if refused else NOTE, f"a {MAC}")
    port = {"kind": "port", "guest": "a", "port": "p", "mac": MAC, "running": True, "tap": "nosuch0"}
    unguarded = {
        "guarded": False,
        "trusted": False,
        "any_address": False,
        "unknown": False,
        "offload": "",
        "reasons": {},
        "state": "cannot-be-guarded",
        "reason": "",
    }
    text = status_text([{**port, **unguarded}, row.json()])
    assert "direct vepa" in text and "UNGUARDED, try" not in text


def test_what_is_guarded_or_needs_no_guard_or_does_not_run_has_no_row() -> None:
    for kind in ("network", "bridge", "ethernet", "null"):
        assert unguarded_rows([running(DOMAIN.format(kind=kind, source="", policy=""))], {}) == []
    stopped = DomainState("a", "u-a", etree.fromstring(DOMAIN.format(kind="user", source="", policy="")))
    assert unguarded_rows([stopped], {}) == []


PASSED = """<domain><name>a</name><uuid>u-a</uuid><devices>
<hostdev mode="subsystem" type="pci"><source><address domain="0x0000" bus="0x{bus}" slot="0x10" function="0x3"/>
</source></hostdev><hostdev mode="subsystem" type="usb"><source><address bus="1" device="2"/></source></hostdev>
</devices></domain>"""


def test_a_nic_that_is_given_as_any_pci_device_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: UnlockedState
) -> None:
    for bus, pci_class in (("01", "0x020000"), ("02", "0x030000")):
        (tmp_path / f"0000:{bus}:10.3").mkdir()
        (tmp_path / f"0000:{bus}:10.3/class").write_text(f"{pci_class}\n")
    look = nics.pci_nic
    monkeypatch.setattr(nics, "pci_nic", lambda address: look(address, str(tmp_path)))
    nic, graphics, gone = (PASSED.format(bus=bus) for bus in ("01", "02", "03"))
    assert [row.mac for row in unguarded_rows([running(nic), running(graphics), running(gone)], {})] == ["0000:01:10.3"]
    (row,) = unguarded_rows([running(nic)], {}, REFUSES)
    assert (row.type, row.refused) == ("hostdev", True)
    with pytest.raises(GuestnetError, match=r"PCI device 0000:01:10.3: type 'hostdev' cannot be guarded"):
        guardable.check(bridge_guard.joined(xmlread.parse(nic.encode()), state), True)
    guardable.check(bridge_guard.joined(xmlread.parse(nic.encode()), state), False)
    guardable.check(bridge_guard.joined(xmlread.parse(graphics.encode()), state), True)
    for bad in ({"bus": "../.."}, {"bus": "0x"}, {"slot": "é"}, {}):
        assert look(bad, str(tmp_path)) == ""


def test_a_nic_that_waits_for_its_guard_has_a_row() -> None:
    domain = running(DOMAIN.format(kind="network", source="", policy=""))
    marks = [Plugging("p1", "u-a", MAC, "a", "n", True), Plugging("p2", "u-gone", MAC, "b", "n")]
    (row,) = unguarded_rows([domain], {}, plugging=marks)
    assert (row.guest, row.mac, row.network, row.reason, row.refused) == ("a", MAC, "n", PENDING, True)
