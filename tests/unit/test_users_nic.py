"""A NIC of a user's own domain: its source, its target and what the file declares change, and nothing else, ever."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lxml import etree
from rngsample import SCHEMAS, Schema
from support.elements import inside

from libvirt_guestnet.apply.topology import wanted
from libvirt_guestnet.changes import guest
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.libvirtd.snapshot import DomainState, NetworkState, Snapshot, Wanted
from libvirt_guestnet.plan import driver
from libvirt_guestnet.plan.cards import card_problems
from libvirt_guestnet.plan.nic import before, merged, nic_differences, plugged, restored
from libvirt_guestnet.plan.order import Plan, plan, plan_destroy
from libvirt_guestnet.topology import loads

MAC = "52:54:00:aa:bb:01"
TOPOLOGY = """
name: t
physical-networks: {{ lan: {{}} }}
networks:
  web: {{ mode: nat, subnets: [10.66.1.0/24] }}
  cable: {{ mode: bridge, physical-network: lan, mtu: 1300 }}
guests:
  web01: {{ ports: [{{ network: {network}, mac: "{mac}", tap: tap0{more} }}] }}
"""
DECLARED = (
    *("", ", link: up", ", link: down", ", isolated: true", ", bandwidth: { inbound: { average: 128 } }"),
    *(", queues: 4", ", driver: { packed: true, name: qemu }", ", model: e1000e", ", model: virtio, queues: 2"),
    *(", mtu: 1290", ', boot-order: 7, pci-slot: "00:0c"', ", alias: ua-x", ", alias: ua-y, teaming: persistent"),
)
# What was found rewritten, as a user had defined it.
REPORTED = f"""<interface type='network'><mac address='{MAC}'/><source network='default'/><model type='e1000'/>
<filterref filter='clean-traffic'/><mtu size='1400'/><boot order='1'/><alias name='ua-wan'/><rom enabled='no'/>
<coalesce><rx><frames max='7'/></rx></coalesce>
<address type='pci' domain='0x0000' bus='0x00' slot='0x0a' function='0x0'/></interface>"""


def want(network: str = "web", more: str = "") -> Wanted:
    text = TOPOLOGY.format(network=network, mac=MAC, more=more)
    return wanted(loads(text, "t.yaml"), HostMap({"lan": "br0"}, lambda _device: True))


WANTED = {
    (network, more): want(network, more).guests[0].interfaces[0] for network in ("web", "cable") for more in DECLARED
}


def host(nic: Any, asked: Wanted, *, runs: bool) -> Snapshot:
    """A host on which the topology's networks run, and a user's domain that has this NIC."""
    text = "<domain><name>web01</name><uuid>d1</uuid><devices/></domain>"
    domain = etree.fromstring(text)
    domain.find("devices").append(deepcopy(nic))
    networks = tuple(NetworkState(n.name, f"u-{n.name}", n.element, n.element, n.autostart) for n in asked.networks)
    return Snapshot(networks, (DomainState("web01", "d1", domain, deepcopy(domain) if runs else None),))


def nics(made: Plan) -> list[Any]:
    return [change for change in made.changes if change.KIND == "NIC"]


def canonical(element: Any) -> str:
    return etree.tostring(element, method="c14n", with_tail=False).decode()


def parts(nic: Any) -> dict[str, list[str]]:
    """Its elements and its own attributes, by name."""
    found: dict[str, list[str]] = {f"@{name}": [value] for name, value in nic.attrib.items()}
    for child in nic.iterchildren("*"):
        found.setdefault(child.tag, []).append(canonical(child))
    return found


def test_the_nic_that_was_reported() -> None:
    before = etree.fromstring(REPORTED)
    made = plan(want(), host(before, want(), runs=False))
    (update,) = nics(made)
    assert update.text() == (
        f"update NIC web01: {MAC}, defined: source/@network: default -> web; target: dev=tap0 is missing"
    )
    old, new = (parts(etree.fromstring(text)) for text in (update.config.old, update.config.new))
    assert old == parts(before)
    changed = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
    assert changed == {"source", "target"}
    later = host(etree.fromstring(update.config.new), want(), runs=False)
    assert nics(plan(want(), later)) == []


def test_a_running_nic_is_plugged_in_again_as_the_card_that_it_was() -> None:
    made = plan(want(), host(etree.fromstring(REPORTED), want(), runs=True))
    assert [(change.VERB, change.interrupts) for change in nics(made)] == [
        ("detach", ("web01",)),
        ("update", ()),
        ("attach", ()),
    ]
    assert "target: dev=tap0 is missing" in nics(made)[0].text()
    old, new = parts(etree.fromstring(REPORTED)), parts(etree.fromstring(nics(made)[2].xml))
    assert {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)} == {"source", "target"}


def test_what_the_file_says_outright_is_so_and_what_it_leaves_out_is_the_users() -> None:
    nic = etree.fromstring(REPORTED.replace("<boot", "<link state='down'/><port isolated='yes'/><boot"))
    silent = merged(WANTED["web", ""], nic, own=False)
    assert (silent.find("link").get("state"), silent.find("port").get("isolated")) == ("down", "yes")
    up = merged(WANTED["web", ", link: up"], nic, own=False)
    assert (up.find("link").get("state"), up.find("port").get("isolated")) == ("up", "yes")
    (change,) = nics(plan(want("web", ", link: up"), host(silent, want(), runs=False)))
    assert change.text().endswith("defined: link: state=down is not wanted")


@pytest.mark.parametrize("runs", [False, True])
def test_a_nic_that_is_not_isolated_on_a_network_of_isolated_ports_says_so(runs: bool) -> None:
    """What says nothing is as its network."""
    isolating = TOPOLOGY.replace("mode: nat,", "mode: nat, isolated-ports: true,")

    def asked(more: str) -> Wanted:
        text = isolating.format(network="web", mac=MAC, more=more)
        return wanted(loads(text, "t.yaml"), HostMap({"lan": "br0"}, lambda _device: True))

    silent, saying = asked(""), asked(", isolated: false")
    nic = merged(silent.guests[0].interfaces[0], etree.fromstring(REPORTED), own=False)
    found = [change.text() for change in nics(plan(saying, host(nic, silent, runs=runs)))]
    assert len(found) == 1 + runs
    assert all("port: isolated=no is missing" in each for each in found)
    said = merged(saying.guests[0].interfaces[0], nic, own=False)
    assert said.find("port").get("isolated") == "no"
    assert nics(plan(saying, host(said, saying, runs=runs))) == []


@pytest.mark.parametrize("runs", [False, True])
def test_it_says_so_from_the_moment_that_it_is_plugged_in(runs: bool) -> None:
    isolating = TOPOLOGY.replace("mode: nat,", "mode: nat, isolated-ports: true,")
    text = isolating.format(network="web", mac=MAC, more=", isolated: false")
    asked = wanted(loads(text, "t.yaml"), HostMap({"lan": "br0"}, lambda _device: True))
    nic = asked.guests[0].interfaces[0]
    snapshot = host(nic, asked, runs=runs)
    for root in (snapshot.domains[0].config, snapshot.domains[0].live):
        if root is not None:
            inside(root, "devices").clear()
    (attach,) = nics(plan(asked, snapshot))
    assert isinstance(attach, guest.AttachInterface)
    assert (attach.live, attach.config) == (runs, True)
    assert inside(etree.fromstring(attach.xml), "port").get("isolated") == "no"
    later = host(etree.fromstring(attach.xml), asked, runs=runs)
    assert nics(plan(asked, later)) == []


def test_what_a_plugged_nic_had_for_the_topology_goes_with_it() -> None:
    """Whoever plugged it in took what the file said then; a user's own change of it stays."""
    first, later = want("web", ", bandwidth: { inbound: { average: 128 } }"), want()
    interface = first.guests[0].interfaces[0]
    snapshot = host(interface, first, runs=False)
    metadata = deepcopy(first.guests[0].metadata)
    metadata.find("{*}port").set("was", etree.tostring(plugged(interface)).decode())
    etree.SubElement(snapshot.domains[0].config, "metadata").append(metadata)
    (change,) = nics(plan(later, snapshot))
    assert change.text().endswith("defined: bandwidth: what it had is not wanted")
    assert etree.fromstring(change.config.new).find("bandwidth") is None
    gone = replace(later, guests=())
    assert [type(each) for each in nics(plan(gone, snapshot))] == [guest.DetachInterface]


@pytest.mark.parametrize("runs", [False, True])
def test_a_nic_of_which_nobody_knows_what_it_was_is_never_unplugged(runs: bool) -> None:
    """Somebody took `was` out of the metadata."""
    asked = want()
    snapshot = host(merged(WANTED["web", ""], etree.fromstring(REPORTED), own=False), asked, runs=runs)
    state = snapshot.domains[0]
    for root in (state.config, state.live):
        if root is not None:
            etree.SubElement(root, "metadata").append(deepcopy(asked.guests[0].metadata))
    told = f"domain 'web01': NIC {MAC} stays as it is: nothing says any more that guestnet plugged it in"
    for made in (plan_destroy("t", snapshot), plan(replace(asked, guests=()), snapshot)):
        assert nics(made) == []
        assert "guest metadata" in {change.KIND for change in made.changes}
        assert told in made.text()
    (network,) = [change for change in plan_destroy("t", snapshot).changes if change.name == "web"]
    assert network.interrupts == (("web01",) if runs else ()), "it is cut off"
    (mark,) = [change for change in plan(asked, snapshot).changes if change.KIND == "guest metadata"]
    assert 'was="&lt;interface type=' in str(mark.config.new)  # type: ignore[attr-defined]


def test_a_nic_is_plugged_into_the_running_guest_as_its_user_defined_it() -> None:
    snapshot = host(etree.fromstring(REPORTED), want(), runs=True)
    live = snapshot.domains[0].live
    assert live is not None
    inside(live, "devices").remove(inside(live, "devices/interface"))
    made = [change for change in nics(plan(want(), snapshot)) if isinstance(change, guest.AttachInterface)]
    assert [(change.live, change.config) for change in made] == [(True, False)]
    assert etree.fromstring(made[0].xml).find("model").get("type") == "e1000"
    undefined = replace(snapshot.domains[0], config=live, live=snapshot.domains[0].config)
    (defined,) = [
        change for change in nics(plan(want(), replace(snapshot, domains=(undefined,)))) if getattr(change, "xml", "")
    ][:1]
    assert (defined.live, defined.config) == (False, True)
    assert etree.fromstring(defined.xml).find("model").get("type") == "e1000"


@pytest.mark.parametrize(
    "was",
    [
        "<interface type='ethernet'><script path='/tmp/theirs'/></interface>",
        "<interface type='network'><filterref filter='none'/></interface>",
        "<interface type='network' trustGuestRxFilters='yes'/>",
        "<hostdev type='pci'/>",
    ],
)
def test_no_metadata_puts_into_a_definition_what_no_topology_says(was: str) -> None:
    """Who may write a domain's metadata may not write its definition: libvirt runs a script as root."""
    for asked in (want(), want("cable")):
        snapshot = host(etree.fromstring(REPORTED), asked, runs=False)
        metadata = deepcopy(asked.guests[0].metadata)
        metadata.find("{*}port").set("was", was)
        holder = etree.SubElement(snapshot.domains[0].config, "metadata")
        holder.append(metadata)
        for made in (plan(asked, snapshot), plan_destroy("t", snapshot)):
            assert not [each for each in nics(made) if "theirs" in str(each) or "filter='none'" in str(each)]
            assert not [each for each in nics(made) if was in str(each)]
        assert f"NIC {MAC} stays as it is" in plan_destroy("t", snapshot).text(), "nor does it hold anybody up"


@st.composite
def interfaces(draw: Any) -> Any:
    """Whatever libvirt takes as an <interface>, with the MAC address that the topology's port has."""
    nic = SCHEMA.sample(draw, "interface")
    for mac in nic.findall("mac"):
        nic.remove(mac)
    nic.append(etree.Element("mac", address=MAC))
    return nic


@pytest.mark.system
@settings(max_examples=400)
@given(nic=interfaces(), which=st.sampled_from(sorted(WANTED)))
def test_of_any_nic_only_source_target_and_what_the_file_declares_change(nic: Any, which: tuple[str, str]) -> None:
    asked = WANTED[which]
    new = merged(asked, nic, own=False)
    old, now = parts(nic), parts(new)
    changed = {name for name in old.keys() | now.keys() if old.get(name) != now.get(name)}
    declared = {str(child.tag) for child in asked} - {"mac"}
    assert changed <= {"@type", "source", *declared}
    if nic.find("target") is not None:
        kept = {name: value for name, value in nic.find("target").attrib.items() if name != "dev"}
        assert {k: v for k, v in new.find("target").attrib.items() if k != "dev"} == kept
    found = nic_differences(asked, nic, own=False)
    assert {each.path.split("/")[0].split("[")[0] for each in found} >= changed - _same(nic, new), "the plan names each"
    assert nic_differences(asked, new, own=False) == ()


@pytest.mark.system
@settings(max_examples=100)
@given(nic=interfaces(), which=st.sampled_from(sorted(WANTED)))
def test_a_plan_never_takes_a_nic_out_of_a_definition(nic: Any, which: tuple[str, str]) -> None:
    asked = want(*which)
    assume(not list(card_problems(asked, host(nic, asked, runs=False))))
    changes = nics(plan(asked, host(nic, asked, runs=False)))
    assert [type(change) for change in changes] in ([], [guest.UpdateInterface])
    for change in changes:
        later = host(etree.fromstring(change.config.new), asked, runs=False)
        assert nics(plan(asked, later)) == []


@pytest.mark.system
@settings(max_examples=200)
@given(nic=interfaces(), whiches=st.lists(st.sampled_from(sorted(WANTED)), min_size=1, max_size=3))
def test_a_nic_that_the_file_lets_go_of_is_what_it_was(nic: Any, whiches: list[tuple[str, str]]) -> None:
    """Whatever the file said of it meanwhile; and what it says no more, it has as before."""
    first, now, was = as_libvirt_has(merged(WANTED[whiches[0]], nic, own=False)), nic, None
    for which in (*whiches, whiches[0]):
        asked = WANTED[which]
        now, was = merged(asked, now, own=False, was=was), before(asked, now, was)
        assert nic_differences(asked, now, own=False, was=was) == ()
        was = etree.fromstring(etree.tostring(was))
    assert was is not None
    assert as_libvirt_has(now) == first, (etree.tostring(nic), etree.tostring(now))
    assert blank_as_none(parts(restored(now, was))) == blank_as_none(parts(nic))


def test_a_model_that_names_none_is_as_none() -> None:
    nic = etree.fromstring(
        "<interface type='network'><source network='cable'/><model/><driver queues='0'/></interface>"
    )
    now, was = nic, None
    for which in (("cable", ""), ("cable", ", model: virtio, queues: 2"), ("cable", "")):
        now, was = merged(WANTED[which], now, own=False, was=was), before(WANTED[which], now, was)
    assert now.find("driver").get("queues") == "0"
    assert not driver.is_dropped(nic)


def as_libvirt_has(nic: Any) -> dict[str, list[str]]:
    """Without the <driver> that libvirt drops where the model is not virtio's."""
    found = blank_as_none(parts(nic))
    return {name: value for name, value in found.items() if name != driver.TAG or not driver.is_dropped(nic)}


def blank_as_none(found: dict[str, list[str]]) -> dict[str, list[str]]:
    """An empty element of libvirt's means as much as none."""
    return {name: value for name, value in found.items() if value != [f"<{name}></{name}>"]}


def _same(nic: Any, new: Any) -> set[str]:
    """What only reads otherwise: libvirt's words for the same, and for a running NIC of a network."""
    old, now = parts(nic), parts(new)
    spelling = {'<link state="up"></link>', '<port isolated="no"></port>'}
    same = {name for name in ("link", "port") if {*old.get(name, []), *now.get(name, [])} <= spelling}
    source = nic.find("source")
    return same | {"@type"} if source is not None and source.get("network") else same


if SCHEMAS.is_dir():
    SCHEMA = Schema("domaincommon.rng")
