"""External networks: what the host says of them, which NIC a port is; and that nothing but what is ours changes."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
from lxml import etree

from libvirt_guestnet.apply.topology import wanted
from libvirt_guestnet.changes.change import Change
from libvirt_guestnet.changes.network import AdoptNetwork, UpdateNetwork
from libvirt_guestnet.datapath.devices.host_devices import Device
from libvirt_guestnet.hook.read.network_receipts import external_receipt
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.libvirtd.snapshot import (
    DOMAIN_MARK,
    NETWORK_MARK,
    DomainState,
    NetworkState,
    Snapshot,
    marked,
    parse_xml,
    to_text,
)
from libvirt_guestnet.metadata.elements import node_of
from libvirt_guestnet.metadata.policy import NAMESPACE
from libvirt_guestnet.model.network import Mode
from libvirt_guestnet.model.port_address import Assignment
from libvirt_guestnet.model.topology import Topology
from libvirt_guestnet.plan.external import resolved
from libvirt_guestnet.plan.order import Plan, PlanError, plan, plan_destroy
from libvirt_guestnet.state.receipts import NetworkReceipt
from libvirt_guestnet.topology import loads

NAT = """<network><name>{name}</name><uuid>n1</uuid><forward mode='nat'/><bridge name='virbr0'/>
<ip address='192.168.122.1' netmask='255.255.255.0'><dhcp><range start='192.168.122.2' end='192.168.122.254'/>{hosts}
</dhcp></ip></network>"""
ISOLATED = (
    "<network><name>{name}</name><uuid>n1</uuid><bridge name='virbr1'/><ip address='10.0.9.1' prefix='24'/></network>"
)
ROUTED = ISOLATED.replace("<bridge", "<forward mode='{mode}'/><bridge")
BRIDGED = "<network><name>{name}</name><uuid>n1</uuid><forward mode='bridge'/><bridge name='br0'/>{more}</network>"
MACVTAP = (
    "<network><name>{name}</name><uuid>n1</uuid><forward mode='bridge'><interface dev='eth0'/></forward></network>"
)
NIC = """<interface type='network'><mac address='{mac}'/><source network='{network}' portgroup='p'/><boot order='1'/>
</interface>"""
WEB, OTHER = "52:54:00:aa:00:01", "52:54:00:aa:00:02"
TOPOLOGY = """
name: t
networks: {{ {network}: {{ external: true{more} }} }}
guests: {{ web: {{ ports: [ {{ network: {network}{port} }} ] }} }}
"""


def topology(port: str = "", network: str = "default", more: str = "") -> Topology:
    return loads(TOPOLOGY.format(port=port, network=network, more=more), "t.yaml")


def network(
    text: str = NAT, name: str = "default", *, hosts: str = "", mark: str = "", runs: bool = True
) -> NetworkState:
    xml = parse_xml(text.format(name="n", hosts=hosts, more="", mode="route"))
    xml.find("name").text = name
    config = marked(xml, parse_xml(mark) if mark else None)
    return NetworkState(name, "n1", config, xml if runs else None)


def domain(*nics: str, name: str = "web", runs: bool = True, mark: str = "") -> DomainState:
    xml = parse_xml(
        f"<domain><name>{name}</name><uuid>d1</uuid><metadata>{mark}</metadata><devices>{''.join(nics)}</devices></domain>"
    )
    return DomainState(name, "d1", xml, xml if runs else None)


def nic(mac: str = WEB, on: str = "default") -> str:
    return NIC.format(mac=mac, network=on)


def planned(found: Topology, host: Snapshot) -> Plan:
    return plan(wanted(resolved(found, host), HostMap()), host)


def refused(found: Topology, host: Snapshot) -> str:
    with pytest.raises(PlanError) as caught:
        planned(found, host)
    return str(caught.value)


def after(host: Snapshot, made: Plan) -> Snapshot:
    """The host when the plan's metadata and entries are in it, as libvirt would have them."""
    networks = {state.name: state for state in host.networks}
    domains = {state.name: state for state in host.domains}
    for change in made.changes:
        if isinstance(change, AdoptNetwork):
            state = networks[change.name]
            new = None if change.mark.new is None else parse_xml(change.mark.new)
            networks[change.name] = replace(state, config=marked(state.config, new))
        elif isinstance(change, UpdateNetwork):
            state = networks[change.name]
            side = "live" if change.live else "config"
            networks[change.name] = replace(state, **{side: updated(getattr(state, side), change)})
        else:
            state_of = domains[change.name]
            domains[change.name] = replace(
                state_of, **{s: told(getattr(state_of, s), getattr(change, s)) for s in ("config", "live")}
            )
    return replace(host, networks=tuple(networks.values()), domains=tuple(domains.values()))


def updated(root: Any, change: UpdateNetwork) -> Any:
    result, update = parse_xml(to_text(root)), change.update
    element = parse_xml(str(update.new or update.old))
    if update.section == "dhcp-host":
        parent = result.findall("ip")[update.parent].find("dhcp")
    else:
        parent = result.find("dns") if result.find("dns") is not None else etree.SubElement(result, "dns")
    if update.new is not None:
        parent.append(element)
        return result
    key = "mac" if update.section == "dhcp-host" else "ip"
    parent.remove(next(each for each in parent if each.get(key) == element.get(key)))
    for empty in (dns for dns in result.findall("dns") if len(dns) == 0):
        result.remove(empty)
    return result


def told(root: Any, replacement: Any) -> Any:
    """The metadata comes without namespace."""
    if root is None or replacement is None:
        return root
    result = parse_xml(to_text(root))
    for old in result.findall(DOMAIN_MARK):
        result.find("metadata").remove(old)
    if replacement.new is not None:
        element = parse_xml(replacement.new)
        for each in element.iter(etree.Element):
            each.tag = f"{{{NAMESPACE}}}{each.tag}"
        result.find("metadata").append(element)
    return result


def canonical(host: Snapshot) -> list[str]:
    parser = etree.XMLParser(remove_blank_text=True)
    states: list[NetworkState | DomainState] = [*host.networks, *host.domains]
    roots = [root for state in states for root in (state.config, state.live) if root is not None]
    return [etree.tostring(etree.fromstring(to_text(root), parser), method="c14n").decode() for root in roots]


def kinds(made: Plan) -> list[tuple[str, str]]:
    return [(change.verb, change.KIND) for change in made.changes]


def test_a_file_without_a_host_is_valid_and_says_nothing_of_what_only_the_host_knows() -> None:
    found = topology(", addresses: [192.168.122.5]")
    assert [n.mode for n in found.networks] == [Mode.EXTERNAL]
    assert found.libvirt_networks == ()
    assert found.unaddressed == topology().unaddressed == ()


def test_the_host_says_what_the_network_is() -> None:
    host = Snapshot((network(),), (domain(nic()),))
    here = resolved(topology(", addresses: [192.168.122.5]"), host)
    (net,), (port,) = here.networks, here.guests[0].ports
    assert (net.mode, net.bridge, str(net.subnets[0].prefix), str(net.subnets[0].host)) == (
        "nat",
        "virbr0",
        "192.168.122.0/24",
        "192.168.122.1",
    )
    assert (port.mac, port.addresses[0].assignment, port.addresses[0].prefix_length) == (WEB, Assignment.DHCP, 24)


@pytest.mark.parametrize("text", [NAT, ISOLATED, ROUTED, ROUTED.replace("{mode}", "open"), BRIDGED])
def test_a_running_guest_is_adopted_without_a_change_of_its_nic_and_given_back(text: str) -> None:
    host = Snapshot((network(text),), (domain(nic(), nic(OTHER, "elsewhere")), domain(nic(OTHER), name="other")))
    inside = next((ip for ip in ("192.168.122.5", "10.0.9.5") if ip[:5] in text), "10.7.7.7")
    found = topology(f", addresses: [{inside}]")
    made = planned(found, host)
    assert made.interrupts == ()
    assert (
        {("adopt", "network"), ("set", "guest metadata")}
        <= set(kinds(made))
        <= {("adopt", "network"), ("set", "guest metadata"), ("update", "network")}
    )
    then = after(host, made)
    assert planned(found, then).changes == ()
    gone = plan_destroy("t", then)
    assert gone.interrupts == ()
    assert canonical(after(then, gone)) == canonical(host)


def test_what_the_file_declares_of_the_nic_changes_and_comes_back() -> None:
    host = Snapshot((network(),), (domain(nic(), runs=False),))
    made = planned(topology(", bandwidth: { inbound: { average: 128 } }"), host)
    update = next(change for change in made.changes if change.KIND == "NIC")
    new = parse_xml(update.config.new)  # type: ignore[attr-defined]
    assert new.find("bandwidth/inbound").get("average") == "128"
    assert new.find("source").get("portgroup") == "p"
    assert new.find("target") is None
    mark = next(change for change in made.changes if change.KIND == "guest metadata")
    was = "&lt;interface type=&quot;network&quot;&gt;&lt;bandwidth/&gt;&lt;/interface&gt;"
    assert f'was="{was}"' in str(mark.config.new)  # type: ignore[attr-defined]


def test_a_nic_that_the_domain_lacks_is_plugged_in_and_unplugged_again() -> None:
    host = Snapshot((network(),), (domain(runs=False),))
    assert ("attach", "NIC") in kinds(planned(topology(), host))


def test_a_nic_stays_the_one_that_it_was_when_another_comes() -> None:
    host = Snapshot((network(),), (domain(nic(), runs=False),))
    then = after(host, planned(topology(), host))
    config = parse_xml(to_text(then.domains[0].config))
    config.find("devices").append(parse_xml(nic(OTHER)))
    both = replace(then, domains=(replace(then.domains[0], config=config),))
    assert planned(topology(), both).changes == ()


def test_which_nic_is_meant_must_be_clear() -> None:
    host = Snapshot((network(),), (domain(nic(), nic(OTHER)),))
    assert refused(topology(), host) == (
        f"t.yaml:4:27: domain 'web' has 2 NICs on network 'default': say with mac: which this is, of {WEB}, {OTHER}"
    )
    assert planned(topology(f', mac: "{OTHER}"'), host).changes


@pytest.mark.parametrize(
    ("port", "hosts", "said"),
    [
        (", addresses: [10.1.1.1]", "", "10.1.1.1 is outside the subnets of network 'default' (192.168.122.0/24)"),
        (", addresses: [192.168.122.1]", "", "192.168.122.1 is the host's own address on network 'default'"),
        (", addresses: [192.168.122.255]", "", "192.168.122.255 is the broadcast address of 192.168.122.0/24"),
        (
            ", addresses: [192.168.122.9]",
            f"<host mac='{OTHER}' ip='192.168.122.9'/>",
            f"network 'default' reserves 192.168.122.9 for {OTHER}: choose another address",
        ),
        (
            ", addresses: [192.168.122.8]",
            f"<host mac='{WEB}' ip='192.168.122.9'/>",
            f"network 'default' reserves 192.168.122.9 for {WEB}: give the port that address, or leave it out",
        ),
    ],
)
def test_an_address_that_cannot_be_is_said_with_its_place(port: str, hosts: str, said: str) -> None:
    host = Snapshot((network(hosts=hosts),), (domain(nic()),))
    assert refused(topology(port), host) == f"t.yaml:4:27: {said}"


def test_a_reservation_that_is_there_is_its_owners() -> None:
    theirs = f"<host mac='{WEB}' ip='192.168.122.9'/>"
    host = Snapshot((network(hosts=theirs),), (domain(nic()),))
    found = topology(", addresses: [192.168.122.9]")
    made = planned(found, host)
    assert ("update", "network") not in kinds(made)
    then = after(host, made)
    assert planned(found, then).changes == ()
    assert canonical(after(then, plan_destroy("t", then))) == canonical(host)


def test_an_address_that_changes_leaves_nothing() -> None:
    host = Snapshot((network(),), (domain(nic()),))
    then = after(host, planned(topology(", addresses: [192.168.122.9]"), host))
    changed = after(then, planned(topology(", addresses: [192.168.122.10]"), then))
    assert [h.get("ip") for h in changed.networks[0].config.iterfind("ip/dhcp/host")] == ["192.168.122.10"]
    assert canonical(after(changed, plan_destroy("t", changed))) == canonical(host)


def test_an_entry_that_somebody_changed_since_is_left_to_them() -> None:
    host = Snapshot((network(),), (domain(nic()),))
    then = after(host, planned(topology(", addresses: [192.168.122.9]"), host))
    for root in (then.networks[0].config, then.networks[0].live):
        root.find("ip/dhcp/host").set("name", "theirs")
    assert ("update", "network") not in kinds(plan_destroy("t", then))


def test_a_network_that_leaves_the_file_is_given_back_and_not_removed() -> None:
    host = Snapshot((network(), network(ISOLATED, "closed")), (domain(nic()),))
    then = after(host, planned(topology(), host))
    made = planned(topology(network="closed", port=", addresses: any"), replace(then, domains=()))
    assert [(change.verb, change.name) for change in made.changes] == [("release", "default"), ("adopt", "closed")]


@pytest.mark.parametrize(
    ("networks", "said"),
    [
        ((), "libvirt has no network 'default', which is said to be external: it has none"),
        ((network(name="dflt"),), "libvirt has no network 'default', which is said to be external: it has 'dflt'"),
        ((replace(network(), persistent=False),), "is transient, and would lose what guestnet says of it"),
        ((network(MACVTAP),), "gives NICs that nobody can guard: a macvtap device"),
        ((network(ISOLATED),), "no DHCP server on network 'default', so nobody knows the port's addresses"),
        (
            (network(mark=f'<g:network xmlns:g="{NAMESPACE}" topology="other" name="default" external="yes"/>'),),
            "network 'default' is adopted by topology 'other': put both into one file, or destroy that first",
        ),
        (
            (network(mark=f'<g:network xmlns:g="{NAMESPACE}" topology="t" name="default"/>'),),
            "network 'default' was made by guestnet for this topology, so it is not external",
        ),
        (
            (network(mark=f'<g:network xmlns:g="{NAMESPACE}" external="yes"/>'),),
            "has metadata of guestnet's that cannot be read, somebody changed it (it names no topology)",
        ),
        (
            (
                network(
                    mark=f'<g:network xmlns:g="{NAMESPACE}" topology="t" external="yes"><g:dns ip="x"/></g:network>'
                ),
            ),
            "network 'default' has metadata of guestnet's that cannot be read, somebody changed it (",
        ),
    ],
)
def test_a_network_that_cannot_be_adopted_is_said_with_its_place(networks: tuple[NetworkState, ...], said: str) -> None:
    message = refused(topology(), Snapshot(networks, (domain(nic()),)))
    assert message.startswith("t.yaml:3:13: ") or message.startswith("t.yaml:4:27: ")
    assert said in message


def test_a_network_of_somebodys_is_never_made_ones_own() -> None:
    host = Snapshot((network(),), (domain(nic()),))
    then = after(host, planned(topology(), host))
    own = loads("name: t\nnetworks: { default: { mode: nat, subnets: [10.1.1.0/24] } }\n", "t.yaml")
    assert "is not guestnet's: say external: true" in refused(own, then)
    assert "say external: true to have its ports guarded" in refused(own, host)


def test_a_bridge_of_the_hosts_has_all_in_the_domain() -> None:
    text = TOPOLOGY.format(network="lan", more="", port=", addresses: any").replace("true", "{ bridge: br0 }")
    own = NIC.format(mac=WEB, network="x").replace("'network'", "'bridge'").replace("network='x'", "bridge='br0'")
    host = Snapshot((), (domain(own),), links={"br0": Device(is_bridge=True)})
    made = planned(loads(text, "t.yaml"), host)
    assert kinds(made) == [("set", "guest metadata")]
    then = after(host, made)
    assert planned(loads(text, "t.yaml"), then).changes == ()
    assert canonical(after(then, plan_destroy("t", then))) == canonical(host)
    missing = replace(host, links={"br1": Device(is_bridge=True)})
    assert (
        refused(loads(text, "t.yaml"), missing)
        == "t.yaml:3:13: this host has no bridge br0: make it before, or name another one"
    )


@pytest.mark.parametrize("name", ["my net", "O'Brien", 'a"b', "größe", "<&>"])
def test_any_name_that_libvirt_takes(name: str) -> None:
    quoted = '"' + name.replace('"', '\\"') + '"'
    host = Snapshot((network(name=name),), (domain(nic(on="PLACE")),))
    for root in (host.domains[0].config,):
        root.find("devices/interface/source").set("network", name)
    found = topology(", addresses: [192.168.122.9]", network=quoted)
    then = after(host, planned(found, host))
    assert planned(found, then).changes == ()
    assert canonical(after(then, plan_destroy("t", then))) == canonical(host)


@pytest.mark.parametrize(
    ("more", "guarded"),
    [("", "no"), (", guarded: true", "yes"), (", guarded: required", "required"), (", guarded: false", "no")],
)
def test_who_is_guarded_beside_the_files_ports_is_said_outright(more: str, guarded: str) -> None:
    host = Snapshot((network(),), (domain(nic()), domain(nic(OTHER), name="other")))
    made = planned(topology(more=more), host)
    adopt = next(change for change in made.changes if isinstance(change, AdoptNetwork))
    assert parse_xml(str(adopt.mark.new)).get("guarded") == guarded
    assert adopt.ports == (() if guarded == "no" else ("other", "web"))


def test_a_guest_of_whose_metadata_nothing_can_be_made_is_named_and_holds_nobody_up() -> None:
    """It would be guarded with the network, and its failure would take all back (AdoptNetwork)."""
    port = f"<g:port mac='{OTHER}' name='p' network='default'><g:address ip='nonsense'/></g:port>"
    mark = f"<g:domain xmlns:g='{NAMESPACE}' topology='theirs' guest='other'>{port}</g:domain>"
    host = Snapshot((network(),), (domain(nic()), domain(nic(OTHER), name="other", mark=mark)))
    made = planned(topology(more=", guarded: observe"), host)
    assert first(made, AdoptNetwork).ports == ("web",)  # type: ignore[attr-defined]
    (note,) = made.notes
    assert note.startswith("domain 'other': metadata: <guestnet:address> ip: 'nonsense' is not an IP address: it stays")
    assert planned(topology(more=", guarded: observe"), after(host, made)).notes == (), "said when it matters"
    mine = Snapshot((network(),), (domain(nic(), mark=mark.replace(OTHER, WEB).replace("theirs", "t")),))
    replaced = planned(topology(more=", guarded: observe"), mine)
    assert (replaced.notes, first(replaced, AdoptNetwork).ports) == ((), ())  # type: ignore[attr-defined]


READY = f"""<interface type='network'><mac address='{OTHER}'/><source network='default' bridge='virbr0'/>
<target dev='vnet1'/></interface>"""


@pytest.mark.parametrize(("port", "why"), [
    ("<g:behind prefix='10.7.0.0/16'/>", "it has no address that 10.7.0.0/16 could be routed to"),
    ("<g:routed gateway='169.254.1.1'/><g:address ip='10.7.0.1'/>", "a host-routed port is of type 'ethernet'"),
    ("<g:vlan trunk='5,6'/>", "a guarded trunk learns no address from the DHCP server of network 'default'"),
])  # fmt: skip
def test_what_no_host_could_do_for_a_guest_holds_up_no_other_either(port: str, why: str) -> None:
    """The hooks can read it, and would fail all the same: guarding the network would be taken back for everybody."""
    said = f"<g:port mac='{OTHER}' name='p' network='default'>{port}</g:port>"
    mark = f"<g:domain xmlns:g='{NAMESPACE}' topology='theirs' guest='other'>{said}</g:domain>"
    host = Snapshot((network(),), (domain(nic()), domain(READY, name="other", mark=mark)))
    made = planned(topology(more=", guarded: true"), host)
    assert first(made, AdoptNetwork).ports == ("web",)  # type: ignore[attr-defined]
    (note,) = made.notes
    assert why in note


def test_a_guest_of_the_file_whose_metadata_stays_follows_or_apply_fails() -> None:
    """Its NIC has no tap here, so the hooks cannot guard it: that must not look like a success."""
    found, host = topology(more=", guarded: true"), Snapshot((network(),), (domain(nic()),))
    again = planned(found, replace(after(host, planned(found, host)), overdue=frozenset({"default"})))
    assert [(change.verb, getattr(change, "ports", ())) for change in again.changes] == [("adopt", ("web",))]
    assert again.notes == ()


def test_destroy_names_whom_it_leaves_and_guards_its_own_by_what_holds_without_it() -> None:
    """Whose metadata goes is guarded by the host's default from then on, whatever its owner has put there."""
    found = topology(more=", guarded: observe")
    host = Snapshot((network(),), (domain(nic()), domain(nic(OTHER), name="other")))
    host = after(host, planned(found, host))
    bad = parse_xml(f"<g:address xmlns:g='{NAMESPACE}' ip='nonsense'/>")
    port = f"<g:port mac='{OTHER}' network='default'/>"
    theirs = parse_xml(f"<g:domain xmlns:g='{NAMESPACE}' topology='theirs'>{port}</g:domain>")
    for xml in (xml for state in host.domains for xml in (state.config, state.live) if xml is not None):
        metadata = xml.find("metadata")
        assert metadata is not None
        if xml.find(DOMAIN_MARK) is None:
            metadata.append(deepcopy(theirs))
        metadata[-1][0].append(deepcopy(bad))
    made = plan_destroy("t", host)
    assert first(made, AdoptNetwork).ports == ("web",)  # type: ignore[attr-defined]
    (note,) = made.notes
    assert note.startswith("domain 'other': metadata: <guestnet:address> ip: 'nonsense' is not an IP address: it stays")
    made = planned(loads("name: t\nnetworks: {}\n", "t.yaml"), host)
    assert first(made, AdoptNetwork).ports == ("web",)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["nonsense", "metadata"])
def test_a_note_says_whose_metadata_it_is_whatever_that_says(name: str) -> None:
    port = f"<g:port mac='{OTHER}' network='default'><g:address ip='{name}'/></g:port>"
    bad = f"<g:domain xmlns:g='{NAMESPACE}' topology='theirs'>{port.replace(OTHER, name)}</g:domain>"
    host = Snapshot((network(),), (domain(nic()), domain(nic(OTHER), name=name, mark=bad)))
    (note,) = planned(topology(more=", guarded: observe"), host).notes
    assert note.startswith(f"domain '{name}': ")


def test_an_inactive_network_is_said_and_not_started() -> None:
    host = Snapshot((network(runs=False),), (domain(nic(), runs=False),))
    made = planned(topology(), host)
    assert ("start", "network") not in kinds(made)
    assert made.notes == ("network 'default' is not active, and not guestnet's to start: virsh net-start default",)


def first(made: Plan, kind: type[Change]) -> Change:
    return next(change for change in made.changes if isinstance(change, kind))


def test_a_mark_goes_into_metadata_of_others_and_out_again() -> None:
    before = parse_xml("<network><metadata><x:x xmlns:x='urn:x'/></metadata></network>")
    mark = parse_xml(f'<g:network xmlns:g="{NAMESPACE}" topology="t"/>')
    there = marked(before, mark)
    assert there.find(NETWORK_MARK) is not None
    assert to_text(marked(there, None)) == to_text(before)
    assert to_text(marked(marked(parse_xml("<network/>"), mark), None)) == "<network/>"


def test_who_runs_with_another_address_is_not_cut_off_unasked() -> None:
    host = Snapshot((network(),), (domain(nic()),), leased={WEB: frozenset({"192.168.122.77"})})
    made = planned(topology(", addresses: [192.168.122.9]"), host)
    assert made.interrupts == ("web",)
    assert "it has 192.168.122.77 by DHCP, which is not among its addresses" in made.text()
    for port in (
        "",
        ", addresses: any",
        ", addresses: [192.168.122.77]",
        ", guarded: false, addresses: [192.168.122.9]",
        ", guarded: observe, addresses: [192.168.122.9]",
    ):
        assert planned(topology(port), host).interrupts == ()
    then = after(host, made)
    assert planned(topology(", addresses: [192.168.122.9], log-drops: true"), then).interrupts == ()


def test_what_a_running_network_says_of_us_since_it_started_counts_no_more() -> None:
    host = Snapshot((network(),), (domain(nic()),))
    (state,) = after(host, planned(topology(more=", guarded: observe"), host)).networks
    started = Snapshot((replace(state, live=state.config),), (domain(nic()),))
    (state,) = after(started, planned(topology(more=", guarded: true"), started)).networks
    assert state.told is not None and state.told.find(NETWORK_MARK).get("guarded") == "yes"
    then = Snapshot((state,), (domain(nic()),))
    (state,) = after(then, plan_destroy("t", then)).networks
    assert state.live is not None and state.live.find(NETWORK_MARK) is not None  # libvirt 9.0 cannot change that
    assert (state.mark, state.topology, state.is_external) == (None, None, False)
    assert state.told is not None and state.told.find(NETWORK_MARK) is None
    released = Snapshot((state,), (domain(nic()),))
    assert plan_destroy("t", released).changes == ()
    assert first(planned(topology(), released), AdoptNetwork).detail == "its metadata"


def test_what_somebody_made_of_our_reservation_is_theirs_by_now() -> None:
    found = topology(", addresses: [192.168.122.9]")
    host = Snapshot((network(),), (domain(nic()),))
    then = after(host, planned(found, host))
    state = then.networks[0]
    roots = [parse_xml(to_text(root)) for root in (state.config, state.live) if root is not None]
    for root in roots:
        root.find("ip/dhcp/host").set("name", "intranet")
    changed = replace(then, networks=(replace(state, config=roots[0], live=roots[1]),))
    made = planned(found, changed)
    assert kinds(made) == [("adopt", "network")]  # nothing is added a second time, which libvirt would refuse
    last = after(changed, made)
    assert planned(found, last).changes == ()
    gone = after(last, plan_destroy("t", last))
    assert gone.networks[0].config.find("ip/dhcp/host").get("name") == "intranet"


def test_a_reservation_that_is_only_defined_or_only_live_is_somebodys() -> None:
    other = f"<host mac='{WEB}' ip='192.168.122.70'/>"
    with_other, without = network(hosts=other), network()
    for config, live in ((with_other, without), (without, with_other)):
        host = Snapshot((NetworkState("default", "n1", config.config, live.live),), (domain(nic()),))
        said = refused(topology(", addresses: [192.168.122.9]"), host)
        assert f"reserves 192.168.122.70 for {WEB}" in said
        then = after(host, planned(topology(", addresses: [192.168.122.70]"), host))
        assert canonical(after(then, plan_destroy("t", then))) == canonical(host)


def test_how_its_ports_are_guarded_stays_whatever_its_own_xml_says_while_it_runs() -> None:
    said = {"guarded": True, "observed": True, "strict": True, "log": True, "offload": "refuse", "required": True}
    before = NetworkReceipt(name="lan", topology="t", bridge="old0", external=True, **said)  # type: ignore[arg-type]
    now = external_receipt(before, node_of(parse_xml(NAT.format(name="lan", hosts=""))))
    assert now.topology == "t" and now.external
    assert {name: getattr(now, name) for name in said} == said
    assert (now.bridge, now.subnets, now.hosts) == ("virbr0", ("192.168.122.0/24",), ("192.168.122.1",))


def test_a_next_hop_on_one_is_routed_through_where_the_network_lets_it() -> None:
    hop = ", addresses: [{ip}], next-hop: true, sources: [{behind}]"
    host = Snapshot((network(),), (domain(nic()),))
    found = resolved(topology(hop.format(ip="192.168.122.9", behind="10.9.0.0/16")), host)
    mark = etree.tostring(wanted(found, HostMap()).guests[0].metadata).decode()
    assert 'behind prefix="10.9.0.0/16"' in mark
    for ip, behind, state, said in (
        ("192.168.122.9", '"fd09::/64"', network(), "does not translate IPv6, so fd09::/64 would have no way outside"),
        (
            "192.168.122.9",
            "192.168.0.0/16",
            network(),
            "cannot be behind the guest: network 'default' has 192.168.122.",
        ),
        ("10.0.9.9", "10.9.0.0/16", network(ROUTED), "names no device that its traffic leaves through"),
        ("10.0.9.9", "10.9.0.0/16", network(BRIDGED), "the host has no address on network 'default'"),
        ("10.0.9.9", '"fd09::/64"', network(ISOLATED), "has no IPv6 address that fd09::/64 could be routed to"),
    ):
        found = topology(hop.format(ip=ip, behind=behind))
        message = refused(found, replace(host, networks=(state,)))
        assert message.startswith("t.yaml:4:") and "next-hop: " in message
        assert said in message
