"""A network of libvirt's that becomes a topology's own while guests run on it: what is planned, and what is not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from lxml import etree
from support.elements import inside

from libvirt_guestnet import xmlread
from libvirt_guestnet.apply.topology import wanted
from libvirt_guestnet.changes.change import Change, Replacement
from libvirt_guestnet.changes.guest import SetDomainMetadata
from libvirt_guestnet.changes.network import AdoptNetwork, DefineNetwork, TakeOverNetwork
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.read.network_receipts import network_receipt, refreshed
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.importing.facts import Request, Seen
from libvirt_guestnet.importing.survey import survey
from libvirt_guestnet.importing.text import text
from libvirt_guestnet.libvirtd.snapshot import (
    DOMAIN_MARK,
    NETWORK_MARK,
    DomainState,
    NetworkState,
    Snapshot,
    marked,
    parse_xml,
)
from libvirt_guestnet.metadata.elements import node_of
from libvirt_guestnet.metadata.policy import NAMESPACE
from libvirt_guestnet.plan.external import resolved
from libvirt_guestnet.plan.order import Plan, PlanError, plan, plan_destroy
from libvirt_guestnet.topology import loads

WEB, OTHER = "52:54:00:aa:00:01", "52:54:00:aa:00:02"
DEFAULT = f"""<network connections='2'><name>default</name><uuid>n1</uuid><forward mode='nat'/>
<bridge name='virbr0' stp='on' delay='0'/><mac address='52:54:00:11:22:33'/>
<ip address='192.168.122.1' netmask='255.255.255.0'><dhcp><range start='192.168.122.2' end='192.168.122.254'/>
<host mac='{WEB}' name='web' ip='192.168.122.50'/></dhcp></ip></network>"""
CLOSED = "<network><name>closed</name><bridge name='virbr1'/><ip address='10.0.9.1' prefix='24'/></network>"


def domain(name: str, mac: str, on: str = "network='default'", kind: str = "network") -> DomainState:
    nic = f"<interface type='{kind}'><mac address='{mac}'/><source {on}/><target dev='vnet1'/></interface>"
    root = parse_xml(f"<domain><name>{name}</name><devices>{nic}</devices></domain>")
    return DomainState(name, f"uuid of {name}", root, root)


def network(xml: str = DEFAULT, live: bool = True) -> NetworkState:
    root = parse_xml(xml)
    return NetworkState(root.findtext("name") or "", "n1", root, root if live else None)


HOST = Snapshot(
    (network(),),
    (domain("web", WEB), domain("other", OTHER), domain("lan", "52:54:00:aa:00:03", "bridge='br0'", "bridge")),
    devices=frozenset({"virbr0"}),
)
ALONE = replace(HOST, domains=HOST.domains[:2])


def file(host: Snapshot = HOST, *names: str, observe: bool = True) -> str:
    return text(survey(Seen(host), Request("mine", observe, frozenset(names), own=True)))


def planned(said: str, host: Snapshot) -> Plan:
    return plan(wanted(resolved(loads(said, "t"), host), HostMap()), host)


def applied(changes: Iterable[Change], host: Snapshot) -> Snapshot:
    """The host afterwards, with a libvirt that cannot tell a running network anything."""
    networks, domains = {each.name: each for each in host.networks}, {each.name: each for each in host.domains}
    for change in changes:
        if isinstance(change, AdoptNetwork):
            mark = None if change.mark.new is None else parse_xml(change.mark.new)
            config = marked(networks[change.name].config, mark)
            networks[change.name] = replace(networks[change.name], config=config)
        elif isinstance(change, SetDomainMetadata) and change.config:
            text_of = str(change.config.new).replace("<domain ", f'<domain xmlns="{NAMESPACE}" ', 1)
            metadata = parse_xml(text_of)
            state = domains[change.name]
            roots = [marked(root, metadata, DOMAIN_MARK) for root in (state.config, state.live) if root is not None]
            domains[change.name] = replace(state, config=roots[0], live=roots[1])
    return replace(host, networks=tuple(networks.values()), domains=tuple(domains.values()))


def test_all_on_it_is_in_the_file_and_nothing_is_plugged_or_stopped() -> None:
    said = file()
    assert "take-over: true" in said
    assert "autostart: false" in said
    assert said.count("addresses: dhcp") == 2
    assert "external: { bridge: br0 }" in said, "a bridge of the host's stays that"
    made = planned(said, HOST)
    assert made.interrupts == ()
    kinds = [(change.verb, change.name) for change in made.changes]
    assert sorted(kinds) == [("set", "lan"), ("set", "other"), ("set", "web"), ("take over", "default")]
    (taken,) = (change for change in made.changes if isinstance(change, TakeOverNetwork))
    assert "guestnet destroy removes it" in taken.text()
    assert set(taken.ports) == {"web", "other"}
    assert planned(said, applied(made.changes, HOST)).changes == ()


@pytest.mark.parametrize("names", [("web",), ("default",)])
def test_a_network_is_taken_over_with_all_guests_on_it(names: tuple[str, ...]) -> None:
    assert [guest.name for guest in loads(file(HOST, *names), "t").guests] == ["other", "web"]


def test_what_its_metadata_says_changes_while_it_runs_and_is_not_told_to_it() -> None:
    host = applied(planned(file(ALONE), ALONE).changes, ALONE)
    made = planned(file(ALONE).replace("observe", "true"), host)
    (told,) = (change for change in made.changes if isinstance(change, AdoptNetwork))
    assert (told.verb, told.mark.old is not None, made.interrupts) == ("adopt", True, ())
    assert [change for change in made.changes if change.verb == "restart"] == []
    unknown = replace(host, overdue=frozenset({"default"}))
    (again,) = planned(file(ALONE), unknown).changes
    assert isinstance(again, AdoptNetwork)
    assert again.mark == Replacement(again.mark.old, again.mark.old)


def test_what_changes_live_beside_it_is_changed_as_in_any_network() -> None:
    said = file().replace("192.168.122.254", "192.168.122.200")
    made = planned(said, HOST)
    assert [change.verb for change in made.changes][:2] == ["take over", "redefine"]
    assert {change.verb for change in made.changes} == {"take over", "redefine", "update", "set"}
    assert made.interrupts == ()
    (defined,) = (change for change in made.changes if isinstance(change, DefineNetwork))
    assert parse_xml(str(defined.old)).find(NETWORK_MARK) is not None, "it is taken back to what was just defined"
    assert parse_xml(defined.xml).find("bridge").get("stp") == "on"


def test_what_no_libvirt_changes_while_it_runs_restarts_it_and_says_whom_that_interrupts() -> None:
    made = planned(file().replace("mode: nat", "mode: route"), HOST)
    (restart,) = (change for change in made.changes if change.verb == "restart")
    assert "guestnet destroy removes it" in restart.text()
    assert made.interrupts == ("other", "web")
    assert not any(isinstance(change, AdoptNetwork) for change in made.changes)


def test_who_cannot_be_guarded_is_cut_off_only_where_the_bridge_is_closed() -> None:
    bad = f'<g:domain xmlns:g="https://libvirt-guestnet.org/xmlns/1" topology="x" guest="other"><g:port mac="{OTHER}" name="p" network="default"><g:address ip="nonsense"/></g:port></g:domain>'  # fmt: skip  # noqa: E501
    web, other, _ = HOST.domains
    told = marked(other.config, parse_xml(bad), DOMAIN_MARK)
    host = replace(HOST, domains=(web, replace(other, config=told, live=told)))
    said = f"name: mine\nnetworks: {{ default: {{ take-over: true, mode: nat, subnets: [192.168.122.0/24], bridge: virbr0, autostart: false, mac: '52:54:00:11:22:33', dhcp: {{ range: [192.168.122.2, 192.168.122.254], reservations: [{{ mac: '{WEB}', address: 192.168.122.50, hostname: web }}] }} }} }}"  # fmt: skip  # noqa: E501
    assert planned(said, host).interrupts == ("other",)
    assert planned(said.replace("mode: nat", "mode: nat, guarded: observe"), host).interrupts == ()


def test_destroy_removes_it_and_asks_before_a_guests_own_nic_is_cut_off() -> None:
    said = file()
    host = applied(planned(said, HOST).changes, HOST)
    made = plan_destroy("mine", host, ["web", "other", "lan"])
    assert [change.text() for change in made.changes if change.KIND == "network"] == [
        "remove network default (interrupts other, web): destroying topology mine"
    ]
    assert made.interrupts == ("other", "web")
    assert not any(change.verb == "detach" for change in made.changes)


def test_without_the_word_it_stays_somebody_elses() -> None:
    with pytest.raises(GuestnetError, match=r"was not made by guestnet: say external: true .* or take-over: true"):
        planned(file().replace("    take-over: true\n", ""), HOST)
    with pytest.raises(GuestnetError, match="network 'default' is transient"):
        planned(file(), replace(HOST, networks=(replace(HOST.networks[0], persistent=False),)))


def test_a_network_that_is_off_is_started_and_one_that_cannot_be_said_is_left_out() -> None:
    made = planned(file(), replace(HOST, networks=(network(live=False),)))
    assert ("start", "default") in [(change.verb, change.name) for change in made.changes]
    odd = network(DEFAULT.replace("<mac address='52:54:00:11:22:33'/>", "<bandwidth/>"))
    found = survey(Seen(replace(HOST, networks=(odd,))), Request("mine", own=True))
    reason = "it has <bandwidth>, which no key says"
    assert {each.what: each.why for each in found.left_out} == {
        "network 'default'": reason,
        f"domain 'web', NIC '{WEB}'": f"network 'default' cannot be imported: {reason}",
        f"domain 'other', NIC '{OTHER}'": f"network 'default' cannot be imported: {reason}",
    }


def test_where_nobody_tells_addresses_a_port_has_none_for_now() -> None:
    host = Snapshot((network(CLOSED),), (domain("web", WEB, "network='closed'"),))
    said = file(host, observe=False)
    assert "addresses: []" in said
    assert "guarded: observe" in said


def test_the_hooks_go_on_knowing_it_when_libvirt_shows_it_without_our_word() -> None:
    config = applied(planned(file(), HOST).changes, HOST).networks[0].config
    known = network_receipt(node_of(config))
    assert known is not None
    changed = etree.tostring(parse_xml(DEFAULT.replace("192.168.122.50", "192.168.122.60")))
    now = refreshed(known, xmlread.parse(changed))
    assert (now.topology, now.observed, now.external) == ("mine", True, False)
    assert now.reservations == ((WEB, "192.168.122.60"),)


def test_the_tap_of_a_nic_that_stays_as_it_is_cannot_be_named() -> None:
    with pytest.raises(GuestnetError, match=r"which is taken over, keeps the tap that its domain's XML names"):
        loads(file().replace(f'mac: "{WEB}"\n', f'mac: "{WEB}"\n        tap: web0\n', 1), "t")


SHORT = """
name: mine
networks:
  default:
    take-over: true
    mode: nat
    subnets: [192.168.122.0/24, "fd61:1::/64"]
    bridge: virbr0
    autostart: false
    dhcp: {{ range: [192.168.122.100, 192.168.122.254] }}
guests:
  web: {{ ports: [ {{ network: default{} }} ] }}
"""


def test_a_port_without_a_mac_is_the_one_nic_that_its_guest_has_there() -> None:
    """As on an external network; and what a guest forms of its MAC address follows from that one."""
    found = loads(SHORT.format(""), "t")
    (port,) = resolved(found, ALONE).guests[0].ports
    assert port.mac == WEB
    assert "fd61:1::5054:ff:feaa:1" in [str(each.ip) for each in port.addresses]
    assert port.addresses[0] == found.guests[0].ports[0].addresses[0], "what follows from its name stays"
    assert not [change for change in planned(SHORT.format(""), ALONE).changes if change.KIND == "NIC"]
    other = resolved(loads(SHORT.format(f", mac: '{OTHER}'"), "t"), ALONE).guests[0].ports[0]
    assert other.mac == OTHER, "what the file says counts"
    two = parse_xml(etree.tostring(ALONE.domains[0].config).decode())
    second = inside(domain("x", OTHER).config, "devices/interface")
    inside(two, "devices").append(parse_xml(etree.tostring(second).decode()))
    with pytest.raises(PlanError, match="has 2 NICs on network 'default': say with mac: which this is"):
        resolved(found, replace(ALONE, domains=(DomainState("web", "u", two),)))
