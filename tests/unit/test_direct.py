"""`guestnet guard`, `forward` and `address`: which port is meant, what its metadata says then, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from libvirt_guestnet.apply.topology import wanted
from libvirt_guestnet.changes.change import Change
from libvirt_guestnet.changes.guest import SetDomainMetadata
from libvirt_guestnet.changes.network import AdoptNetwork
from libvirt_guestnet.cli.main import main
from libvirt_guestnet.datapath.devices.host_devices import Device
from libvirt_guestnet.direct import addresses, forwards, network, report
from libvirt_guestnet.direct.guard import FOUND, guarded
from libvirt_guestnet.direct.named import Named, named
from libvirt_guestnet.direct.planning import Setting
from libvirt_guestnet.direct.subject import DirectPort, one_port, subject
from libvirt_guestnet.errors import GuestnetError, TopologyError
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.importing.addresses import OnNetwork, on_network
from libvirt_guestnet.importing.facts import Request, Seen
from libvirt_guestnet.importing.survey import survey
from libvirt_guestnet.importing.text import text
from libvirt_guestnet.libvirtd.snapshot import DomainState, NetworkState, Snapshot, Wanted, parse_xml
from libvirt_guestnet.metadata.policy import LEASE, NAMESPACE, Forward, PortPolicy
from libvirt_guestnet.plan.external import resolved
from libvirt_guestnet.plan.order import Plan, PlanError, plan, plan_destroy
from libvirt_guestnet.topology import loads

XMLNS = f'xmlns:guestnet="{NAMESPACE}"'
DEFAULT = """<network><name>default</name><uuid>n1</uuid><metadata>{mark}</metadata><forward mode='nat'/>
<bridge name='virbr0'/><ip address='192.168.122.1' netmask='255.255.255.0'><dhcp>
<range start='192.168.122.2' end='192.168.122.254'/></dhcp></ip></network>"""
CLOSED = """<network><name>closed</name><uuid>n2</uuid><metadata>{mark}</metadata><bridge name='virbr1'/>
<ip address='10.0.9.1' prefix='24'/></network>"""
ADOPTED = f'<guestnet:network {XMLNS} topology="direct" name="default" guarded="{{}}" external="yes"/>'
OWNED = f'<guestnet:domain {XMLNS} topology="{{}}" guest="web">{{}}</guestnet:domain>'
PORT = '<guestnet:port mac="{}" name="default" network="default" guarded="{}">{}</guestnet:port>'
WEB, OTHER, THIRD = (f"52:54:00:aa:00:0{number}" for number in (1, 2, 3))


def net(xml: str = DEFAULT, mark: str = "") -> NetworkState:
    root = parse_xml(xml.format(mark=mark))
    return NetworkState(root.findtext("name") or "", root.findtext("uuid") or "", root, root)


def nic(mac: str = WEB, on: str = "network='default'", kind: str = "network") -> str:
    return f"<interface type='{kind}'><mac address='{mac}'/><source {on}/><target dev='tap-{mac[-2:]}'/></interface>"


def domain(name: str, *nics: str, mark: str = "", runs: bool = True) -> DomainState:
    root = parse_xml(
        f"<domain><name>{name}</name><metadata>{mark}</metadata><devices>{''.join(nics)}</devices></domain>"
    )
    return DomainState(name, f"uuid of {name}", root, root if runs else None)


def host(*states: NetworkState | DomainState, neighbours: Sequence[tuple[str, str]] = ()) -> Seen:
    snapshot = Snapshot(
        tuple(state for state in states if isinstance(state, NetworkState)),
        tuple(state for state in states if isinstance(state, DomainState)),
        links={name: Device(is_bridge=True) for name in ("virbr0", "virbr1", "br0")},
    )
    known = tuple((ip_address(ip), mac) for ip, mac in neighbours)
    return Seen(snapshot, {}, {"virbr0": known, "virbr1": known})


def guard(seen: Seen, how: str, word: str = "web") -> tuple[PortPolicy, ...]:
    name = named(word, seen.snapshot)
    return subject(name, seen).edited(lambda port: guarded(port, how))


def planned(seen: Seen, policies: tuple[PortPolicy, ...], name: str = "web", **guards: str) -> Plan:
    setting = Setting(seen.snapshot, {name: policies} if name else {}, guards)
    return plan(setting.wanted(), seen.snapshot)


def texts(made: Plan) -> list[str]:
    return [change.text() for change in made.changes]


def mark_of(change: Change) -> str:
    assert isinstance(change, SetDomainMetadata)
    assert change.config is not None
    return change.config.new or ""


def only(seen: Seen, word: str = "web") -> DirectPort:
    (port,) = subject(named(word, seen.snapshot), seen).ports
    return port


ONE = host(net(), domain("web", nic()))
TWO = host(net(), net(CLOSED), domain("web", nic(), nic(OTHER, "network='closed'")))


def test_a_guarded_port_is_in_the_domains_metadata_live_and_defined_and_its_network_is_known() -> None:
    made = planned(ONE, guard(ONE, "on"))
    assert texts(made) == ["adopt network default: its metadata", "set guest metadata web: 1 port"]
    adopt, told = made.changes
    assert isinstance(adopt, AdoptNetwork) and adopt.mark.new is not None
    assert 'topology="direct"' in adopt.mark.new and 'guarded="no"' in adopt.mark.new
    assert isinstance(told, SetDomainMetadata) and told.live is not None
    assert told.live.new == mark_of(told)
    assert f'<port mac="{WEB}" name="default" network="default" guarded="yes"/>' in mark_of(told)
    assert made.interrupts == ()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("on", (True, False)),
        ("observe", (True, True)),
    ],
)
def test_what_is_said_is_the_ports_policy(how: str, said: tuple[bool, bool]) -> None:
    (policy,) = guard(ONE, how)
    assert (policy.guarded, policy.observed) == said
    assert (policy.mac, policy.name, policy.network, policy.addresses) == (WEB, "default", "default", ())


def marked(*ports: str, network: str = "no", others: Sequence[DomainState] = ()) -> Seen:
    mark = OWNED.format("direct", "".join(ports))
    return host(net(mark=ADOPTED.format(network)), domain("web", nic(), mark=mark), *others)


GUARDED = PORT.format(WEB, "yes", "")


def test_off_leaves_nothing() -> None:
    seen = marked(GUARDED)
    made = planned(seen, guard(seen, "off"))
    assert texts(made) == ["set guest metadata web: none", "release network default: nothing needs it"]
    assert planned(ONE, guard(ONE, "off")).changes == ()


def test_off_never_unplugs_a_nic_also_of_metadata_that_virsh_wrote() -> None:
    seen = marked(GUARDED)
    for made in (planned(seen, guard(seen, "off")), plan_destroy("direct", seen.snapshot)):
        assert {change.KIND for change in made.changes} == {"guest metadata", "network"}


def test_once_more_there_is_nothing_to_do() -> None:
    seen = marked(GUARDED)
    assert planned(seen, guard(seen, "on")).changes == ()
    assert "guarded" in "".join(texts(planned(seen, guard(seen, "observe"))))


def test_a_network_stays_known_while_another_domain_needs_it() -> None:
    other = domain("db", nic(OTHER), mark=OWNED.format("direct", PORT.format(OTHER, "yes", "")).replace("web", "db"))
    seen = marked(GUARDED, others=[other])
    assert texts(planned(seen, guard(seen, "off"))) == ["set guest metadata web: none"]


def test_one_of_two_ports_and_then_the_other() -> None:
    assert [each.mac for each in guard(host(*_states(TWO)), "observe", "web.closed")] == [OTHER]
    assert [each.mac for each in guard(TWO, "observe", f"web.{OTHER.upper()}")] == [OTHER]
    assert [each.name for each in guard(TWO, "observe")] == ["default", "closed"]


def _states(seen: Seen) -> list[NetworkState | DomainState]:
    return [*seen.snapshot.networks, *seen.snapshot.domains]


def test_addresses_that_only_the_neighbour_table_knows_are_listed_and_go_with_the_guard() -> None:
    seen = host(net(CLOSED), domain("web", nic(on="network='closed'")), neighbours=[("10.0.9.5", WEB)])
    (policy,) = guard(seen, "on")
    assert list(map(str, policy.addresses)) == ["10.0.9.5"]
    assert policy.note == FOUND
    port = replace(only(seen), policy=policy)
    assert guarded(port, "off") is None
    decided = replace(port, policy=policy._replace(note="by hand"))
    assert guarded(decided, "off") == decided.policy._replace(guarded=False)


def test_other_addresses_are_listed_beside_what_dhcp_tells() -> None:
    seen = host(net(), domain("web", nic()), neighbours=[("192.168.122.7", WEB)])
    (policy,) = guard(seen, "on")
    assert policy.addresses == ()
    assert [str(pair.prefix) for pair in policy.pairs] == ["192.168.122.7/32"]
    (line,) = report.lines(subject(Named("web"), seen), (policy,), {}, {})
    assert line == (
        f"web: NIC {WEB} on network default (tap tap-01): guarded; addresses by DHCP, and 192.168.122.7 (as seen on "
        f"the network)"
    )


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(GuestnetError) as caught:
        call()
    return str(caught.value)


def test_a_port_whose_addresses_nobody_knows_is_only_observed() -> None:
    seen = host(net(CLOSED), domain("web", nic(on="network='closed'")))
    assert "nobody knows its addresses: say observe first" in refused(lambda: guard(seen, "on"))
    assert guard(seen, "observe")[0].observed


def test_whose_name_it_is_must_be_clear() -> None:
    seen = host(net(), domain("default", nic())).snapshot
    assert refused(lambda: named("default", seen)) == (
        "'default' is a domain and a network: say which is meant, with --domain or --network"
    )
    assert named("default", seen, "domain") == Named("default")
    assert named("default", seen, "network") == Named(network="default")
    dotted = host(net(), domain("a", nic()), domain("a.b", nic(OTHER))).snapshot
    assert "say DOMAIN.MAC" in refused(lambda: named("a.b.c", dotted))
    assert named("a.b", dotted) == Named("a.b")
    assert "libvirt has no domain or network 'x'; its domains: 'web'" in refused(lambda: named("x", ONE.snapshot))
    bridged = host(domain("web", nic(on="bridge='br0'", kind="bridge"))).snapshot
    assert "'br0' is a bridge of this host's" in refused(lambda: named("br0", bridged))


def test_what_a_file_says_is_not_said_otherwise() -> None:
    owned = host(net(), domain("web", nic(), mark=OWNED.format("mine", GUARDED))).snapshot
    assert refused(lambda: named("web", owned)) == (
        "domain 'web' is in topology 'mine': change the file of that and apply it, or take all of it back with "
        "`guestnet destroy --name mine` first"
    )
    adopted = host(net(mark=ADOPTED.format("no").replace("direct", "mine")), domain("web", nic()))
    assert "in topology 'mine'" in refused(lambda: named("default", adopted.snapshot))
    assert "it is in topology 'mine' already" in refused(lambda: guard(adopted, "on"))
    copy = host(net(), domain("copy", nic(), mark=OWNED.format("direct", GUARDED))).snapshot
    assert "domain 'copy' has the metadata of 'web', of which it is a copy" in refused(lambda: named("copy", copy))


def test_nothing_is_guarded_by_halves() -> None:
    seen = host(net(), domain("web", nic(), nic(OTHER, "dev='eth0'", "direct")))
    said = refused(lambda: guard(seen, "on"))
    assert f"domain 'web', NIC '{OTHER}': a macvtap device" in said
    assert said.endswith(f"name a port: web.default ({WEB})")
    assert [each.mac for each in guard(seen, "on", "web.default")] == [WEB]
    assert "macvtap" in refused(lambda: guard(seen, "on", f"web.{OTHER}"))
    assert "domain 'web' has no port 'x' that could be meant" in refused(lambda: guard(seen, "on", "web.x"))
    assert "domain 'bare' has no NIC" in refused(lambda: guard(host(domain("bare")), "on", "bare"))


def test_a_file_cannot_have_the_name_and_takes_over_whom_it_names() -> None:
    with pytest.raises(TopologyError, match="'direct' stands for what guestnet guard, forward and address set"):
        loads("name: direct", "x.yaml")
    other = domain("db", nic(OTHER), mark=OWNED.format("direct", PORT.format(OTHER, "yes", "")).replace("web", "db"))
    seen = marked(GUARDED, others=[other])
    both = text(survey(seen, Request("mine")))
    one = loads(text(survey(seen, Request("mine", names=frozenset({"web"})))), "x.yaml")
    (note,) = plan(wanted(resolved(one, seen.snapshot), HostMap()), seen.snapshot).notes
    assert note.startswith("domain 'db' is on network 'default', and keeps what guestnet guard, forward or address set")
    found = loads(both, "x.yaml")
    made = plan(wanted(resolved(found, seen.snapshot), HostMap()), seen.snapshot)
    assert sorted({f"{change.VERB} {change.KIND}" for change in made.changes}) == [
        "adopt network",
        "set guest metadata",
    ]
    assert made.interrupts == ()
    assert "was=" in mark_of(made.changes[1]), "or destroy would unplug the NIC"


def test_a_file_that_goes_leaves_the_network_to_who_is_not_in_it() -> None:
    """The hooks must go on knowing the network, by which the other guest has what DHCP tells it."""
    other = domain("db", nic(OTHER), mark=OWNED.format("direct", PORT.format(OTHER, "yes", "")).replace("web", "db"))
    mine = ADOPTED.replace("direct", "mine")
    seen = host(net(mark=mine.format("yes")), other)
    for made in (plan_destroy("mine", seen.snapshot), plan(Wanted("mine"), seen.snapshot)):
        (change,) = made.changes
        assert change.text() == "adopt network default: its metadata: @topology: mine -> direct; @guarded: yes -> no"
    gone = plan_destroy("mine", host(net(mark=mine.format("yes")), domain("db", nic(OTHER))).snapshot)
    assert [change.verb for change in gone.changes] == ["release"]


def test_a_whole_network() -> None:
    assert network.guard(ONE.snapshot, "default", "on") == "yes"
    made = planned(ONE, (), "", default="yes")
    assert texts(made) == ["adopt network default: its metadata"]
    (line,) = network.lines(ONE.snapshot, "default", "yes")
    assert line.startswith("network default: ports that say nothing themselves are guarded; ")
    assert line.endswith("; running there: web")
    assert "no DHCP server on it" in refused(lambda: network.guard(TWO.snapshot, "closed", "on"))
    assert network.guard(TWO.snapshot, "closed", "observe") == "observe"


def test_a_port_on_a_guarded_network_says_no_for_itself_until_the_network_guards_no_more() -> None:
    seen = host(net(mark=ADOPTED.format("yes")), domain("web", nic()))
    (policy,) = guard(seen, "off")
    assert not policy.guarded
    refusing = marked(PORT.format(WEB, "no", ""), network="yes")
    assert texts(planned(refusing, (), "", default="no")) == [
        "set guest metadata web: none",
        "release network default: nothing needs it",
    ]


def test_where_this_host_guards_everybody_a_domain_says_no_for_itself() -> None:
    """`guard: all` covers whoever says nothing: without metadata, web would be guarded as before."""
    for by_host in ("observe", "all"):
        (port,) = subject(Named("web"), ONE, by_host).ports
        off = guarded(port, "off")
        assert off is not None and not off.guarded
        seen = marked(PORT.format(WEB, "no", ""), network="yes")
        setting = Setting(seen.snapshot, guards={"default": "no"}, by_host=by_host)
        (change,) = plan(setting.wanted(), seen.snapshot).changes
        assert change.text() == "adopt network default: its metadata: @guarded: yes -> no"
    (line,) = network.lines(ONE.snapshot, "default", "no", "all")
    assert "are guarded by this host's default (guard: all in host.yaml); running there: web" in line


def test_a_forward_to_a_port_that_this_host_guards_by_default_does_not_end_that() -> None:
    """What a domain says of a port comes before this host's default."""
    for by_host, observed in (("all", False), ("observe", True)):
        (port,) = subject(Named("web"), ONE, by_host).ports
        policy = forwards.added(port, asked("tcp/80"))
        assert (policy.guarded, policy.observed) == (True, observed)
        assert forwards.removed(replace(port, policy=policy), asked("tcp/80")) is None


def test_a_nic_on_a_networks_bridge_follows_what_the_network_says() -> None:
    """So do hooks see it where the network insists, or this host has a default: nobody else would guard it again."""
    bridged = domain("vm", nic(OTHER, "bridge='virbr0'", "bridge"))
    elsewhere = domain("away", nic(THIRD, "bridge='br0'", "bridge"))
    seen = host(net(mark=ADOPTED.format("yes")), domain("web", nic()), bridged, elsewhere)
    (change,) = planned(seen, (), "", default="no").changes
    assert isinstance(change, AdoptNetwork)
    assert change.ports == ("vm", "web")


def asked(words: str, at: str | None = None, *sources: str) -> forwards.Asked:
    return forwards.asked(words, at, sources or None)


def test_a_forward_follows_dhcp_or_goes_to_what_is_listed() -> None:
    port = only(ONE)
    policy = forwards.added(port, asked("tcp/8080:80"))
    assert policy.forwards == (Forward("tcp", 8080, 8080, LEASE, 80),)
    assert not policy.guarded, "a forward guards nothing"
    assert forwards.removed(replace(port, policy=policy), asked("tcp/8080")) is None
    listed = replace(port, policy=policy._replace(addresses=(ip_address("192.168.122.9"),), forwards=()))
    assert forwards.added(listed, asked("udp/53-54", "198.51.100.1")).forwards == (
        Forward("udp", 53, 54, "192.168.122.9", 53, "198.51.100.1"),
    )


def test_a_forward_is_for_the_clients_that_are_listed() -> None:
    both = tuple(map(ip_address, ("192.168.122.9", "fd00::9")))
    port = replace(only(ONE), policy=only(ONE).policy._replace(addresses=both))
    policy = forwards.added(port, asked("tcp/8080:80", None, "198.51.100.128/25", "198.51.100.0/25", "203.0.113.7"))
    (made,) = policy.forwards
    assert (made.to, list(map(str, made.sources))) == ("192.168.122.9", ["198.51.100.0/24", "203.0.113.7/32"])
    assert report.forward(made).endswith("to 192.168.122.9, port 80, only from 198.51.100.0/24, 203.0.113.7/32")
    everybody = forwards.added(port, asked("tcp/8080:80", None, "0.0.0.0/0", "2001:db8::/32")).forwards
    assert [(each.to, list(map(str, each.sources))) for each in everybody] == [
        ("192.168.122.9", []),
        ("fd00::9", ["2001:db8::/32"]),
    ]
    taken = refused(lambda: forwards.added(replace(port, policy=policy), asked("tcp/8080:80")))
    assert "there is tcp/8080 at every address of the host to 192.168.122.9, port 80, only from 198.51" in taken
    assert forwards.removed(replace(port, policy=policy), asked("tcp/8080")) == port.policy
    nobody = refused(lambda: forwards.added(port, asked("tcp/80", "198.51.100.1", "2001:db8::/32")))
    assert "--from has no IPv4 address, so nobody could ask" in nobody


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        (["198.51.100.1/24"], "did you mean '198.51.100.0/24'?"),
        (["eth0"], "'eth0' is not an IP address"),
        (["ff02::/16"], "ff02::/16 is no address that a client can have"),
        ([f"10.0.{number}.0/24" for number in range(0, 130, 2)], "from: has more than 64 prefixes"),
    ],
)
def test_what_is_no_client(sources: list[str], said: str) -> None:
    assert said in refused(lambda: asked("tcp/80", None, *sources))


def test_a_protocol_without_ports_is_forwarded_at_an_address() -> None:
    port = only(ONE)
    policy = forwards.added(port, asked("proto/47", "198.51.100.1", "203.0.113.7"))
    assert policy.forwards == (Forward("gre", 0, 0, LEASE, 0, "198.51.100.1", False, (ip_network("203.0.113.7"),)),)
    with_it = replace(port, policy=policy)
    assert report.forward(policy.forwards[0]) == (
        "gre at 198.51.100.1 to its IPv4 address by DHCP, only from 203.0.113.7/32"
    )
    assert "there is gre at 198.51.100.1" in refused(lambda: forwards.added(with_it, asked("gre", "198.51.100.1")))
    assert len(forwards.added(with_it, asked("gre", "198.51.100.2")).forwards) == 2
    assert len(forwards.added(with_it, asked("esp", "198.51.100.1")).forwards) == 2
    assert forwards.removed(with_it, asked("gre", "198.51.100.1")) is None
    inside = '<guestnet:forward at="198.51.100.1" protocol="proto/115" to="192.168.122.9" from="203.0.113.0/24"/>'
    seen = marked(PORT.format(WEB, "yes", f'<guestnet:address ip="192.168.122.9"/>{inside}'))
    (imported,) = [each for each in text(survey(seen, Request("mine"))).splitlines() if "services" in each]
    assert imported.strip() == '- { services: ["proto/115"], at: [198.51.100.1], from: ["203.0.113.0/24"] }'


def test_a_forward_to_a_port_that_its_network_guards_does_not_end_that() -> None:
    seen = host(net(mark=ADOPTED.format("yes")), domain("web", nic()))
    policy = forwards.added(only(seen), asked("tcp/80"))
    assert policy.guarded
    assert forwards.removed(replace(only(seen), policy=policy), asked("tcp/80")) is None


@pytest.mark.parametrize(
    ("words", "at", "said"),
    [
        ("tcp", None, "'tcp' names no ports: write it like tcp/8080:80"),
        ("icmp", None, "'icmp' names no ports"),
        ("http/80", None, "http"),
        ("tcp/8080:0", None, "8080:0"),
        ("tcp/60000-65000:62000", None, "there are not enough ports"),
        ("tcp/1-2000:2", None, "more than 1024 ports keep their numbers"),
        ("tcp/80", "127.0.0.1", "127.0.0.1 is no address that others can reach this host at"),
        ("tcp/80", "eth0", "'eth0' is not an IP address"),
        ("gre", None, "gre: at every address tunnels of the host's own would be cut off, so say with --at which"),
        ("gre:80", "198.51.100.1", "gre has no ports"),
        ("all", "198.51.100.1", "whatever comes to an address is a floating address"),
        ("proto/51", "198.51.100.1", "AH is there to notice that an address was translated"),
    ],
)
def test_what_is_no_forward(words: str, at: str | None, said: str) -> None:
    assert said in refused(lambda: asked(words, at))


def test_a_forward_that_could_have_no_effect_is_refused() -> None:
    port = only(ONE)
    assert "there is tcp/8080 at every address of the host to its IPv4 address by DHCP, port 80 already" in refused(
        lambda: forwards.added(
            replace(port, policy=forwards.added(port, asked("tcp/8080:80"))), asked("tcp/8000-9000", "198.51.100.1")
        )
    )
    assert "the host answers DNS for network 'default'" in refused(lambda: forwards.added(port, asked("udp/53")))
    assert "has no IPv6 address that is known" in refused(lambda: forwards.added(port, asked("tcp/80", "2001:db8::1")))
    assert "has no such forward: it has none" in refused(lambda: forwards.removed(port, asked("tcp/80")))
    bridged = host(domain("web", nic(on="bridge='br0'", kind="bridge")))
    assert "the host has no address on 'br0'" in refused(lambda: forwards.added(only(bridged), asked("tcp/80")))
    assert "domain 'web' has 2 NICs: say which is meant, of web.default, web.closed" in refused(
        lambda: one_port(subject(Named("web"), TWO))
    )


def test_what_another_domain_has_forwarded_is_refused() -> None:
    forward = '<guestnet:forward protocol="tcp" ports="80" to="lease4"/>'
    other = domain(
        "db", nic(OTHER), mark=OWNED.format("direct", PORT.format(OTHER, "no", forward)).replace("web", "db")
    )
    seen = marked(GUARDED, others=[other])
    policy = forwards.added(only(seen), asked("tcp/80"))
    with pytest.raises(PlanError, match="tcp/80 is already forwarded to domain 'db'"):
        planned(seen, (policy,))


def test_import_finds_what_was_set() -> None:
    inside = '<guestnet:forward protocol="tcp" ports="8080" to="lease4" first="80"/>'
    seen = marked(PORT.format(WEB, "observe", inside), network="yes")
    said = text(survey(seen, Request("mine")))
    assert "guarded: observe  # set without a file" in said
    assert "  guarded: true" in said
    topology = loads(said, "import")
    (port,) = topology.guests[0].ports
    assert port.observed
    assert [(each.first, each.to_first, each.address) for each in port.forwards] == [(8080, 80, None)]
    unsaid = marked(PORT.format(WEB, "yes", '<guestnet:source prefix="10.0.0.0/8"/>'))
    (left,) = survey(unsaid, Request("mine")).left_out
    assert left.why == "its metadata says sources, which import does not write"


@pytest.mark.parametrize(
    ("clients", "clients6", "written"),
    [
        ("", "", ""),
        (' from="198.51.100.0/24"', "", ', from: [198.51.100.0/24, "::/0"]'),
        (
            ' from="198.51.100.0/24"',
            ' from="fd01::7,fd00::/16"',
            ', from: ["198.51.100.0/24", "fd01::7/128", "fd00::/16"]',
        ),
        (' from="198.51.100.0/24"', None, ', from: ["198.51.100.0/24"]'),
        (None, "", ', from: ["::/0"]'),
    ],
)
def test_import_keeps_for_whom_a_forward_is(clients: str | None, clients6: str | None, written: str) -> None:
    """One line says both families, and opens neither of them to more clients than before."""
    form = '<guestnet:forward protocol="tcp" ports="8080" to="{}" first="80"{}/>'
    said = (("192.168.122.9", clients), ("fd00::9", clients6))
    inside = "".join(form.format(to, who) for to, who in said if who is not None)
    addresses = '<guestnet:address ip="192.168.122.9"/><guestnet:address ip="fd00::9"/>'
    seen = marked(PORT.format(WEB, "yes", addresses + inside))
    (imported,) = [each for each in text(survey(seen, Request("mine"))).splitlines() if "services" in each]
    assert imported.strip().replace('"', "") == f"- {{ services: [tcp/8080], to: 80{written} }}".replace('"', "")


def test_forwards_are_listed() -> None:
    forward = '<guestnet:forward at="198.51.100.1" protocol="udp" ports="7-9" to="192.168.122.9"/>'
    mine = domain("web", nic(), mark=OWNED.format("mine", PORT.format(WEB, "yes", forward)))
    assert list(forwards.listed([mine])) == [
        "web.default: udp/7-9 at 198.51.100.1 to 192.168.122.9, port 7-9 (topology mine)"
    ]


def on(port: DirectPort, **leases: str) -> OnNetwork:
    return OnNetwork(port.link, {WEB: frozenset(), OTHER: frozenset(leases.values())}, ())


def with_added(port: DirectPort, *words: str) -> PortPolicy:
    return addresses.added(port, on(port), addresses.asked(words), {})


def without(port: DirectPort, wanted: Sequence[addresses.Asked]) -> PortPolicy | None:
    return addresses.removed(port, on(port), wanted)


def listed(policy: PortPolicy | None) -> tuple[list[str], list[str]]:
    assert policy is not None
    return list(map(str, policy.addresses)), [str(pair.prefix) for pair in policy.pairs]


def test_an_address_is_used_beside_what_dhcp_tells_or_is_the_ports_own() -> None:
    port = only(ONE)
    policy = with_added(port, "192.168.122.250", "10.9.0.0/24")
    assert listed(policy) == ([], ["192.168.122.250/32", "10.9.0.0/24"]), "its lease is followed still"
    assert not policy.guarded, "it guards nothing"
    assert report.addresses(port, policy, {}) == "addresses by DHCP, and 192.168.122.250, 10.9.0.0/24"
    assert with_added(replace(port, policy=policy), "10.9.0.0/24", "192.168.122.250") == policy
    assert without(replace(port, policy=policy), addresses.asked(["192.168.122.250", "10.9.0.0/24"])) is None
    closed = only(TWO, "web.closed")
    assert listed(with_added(closed, "10.0.9.7", "10.1.0.1")) == (["10.0.9.7"], ["10.1.0.1/32"])
    bridged = only(host(domain("web", nic(on="bridge='br0'", kind="bridge"))))
    assert listed(with_added(bridged, "192.0.2.7")) == (["192.0.2.7"], [])


def test_a_range_of_addresses_is_the_fewest_prefixes() -> None:
    port = only(TWO, "web.closed")
    policy = with_added(port, "10.0.9.240-10.0.9.250")
    assert listed(policy) == ([], ["10.0.9.240/29", "10.0.9.248/31", "10.0.9.250/32"])
    assert without(replace(port, policy=policy), addresses.asked(["10.0.9.240-10.0.9.250"])) is None
    assert list(addresses.given_to_others(on(only(ONE)), addresses.asked(["192.168.122.240-192.168.122.255"]))) == [
        "192.168.122.240/28 is in the DHCP range of network 'default', whose server may give it to another guest that "
        "asks"
    ]


def test_what_was_found_is_decided_once_an_address_is_added() -> None:
    seen = host(net(CLOSED), domain("web", nic(on="network='closed'")), neighbours=[("10.0.9.5", WEB)])
    (found,) = guard(seen, "on")
    assert found.note == FOUND
    policy = with_added(replace(only(seen), policy=found), "10.0.9.6")
    assert (listed(policy), policy.note) == ((["10.0.9.5", "10.0.9.6"], []), "")
    off = guarded(replace(only(seen), policy=policy), "off")
    assert listed(off) == (["10.0.9.5", "10.0.9.6"], [])
    assert without(replace(only(seen), policy=policy), addresses.asked(["10.0.9.5"])) == policy._replace(
        addresses=(ip_address("10.0.9.6"),)
    )
    last = addresses.asked(["10.0.9.5", "10.0.9.6"])
    assert "nobody would know its addresses" in refused(lambda: without(replace(only(seen), policy=policy), last))


def test_an_address_that_cannot_be_the_ports_is_refused() -> None:
    port = only(ONE)
    assert "192.168.122.1 is the host's own" in refused(lambda: with_added(port, "192.168.122.1"))
    here = on(port, other="192.168.122.77")
    assert f"192.168.122.77 is given by DHCP to '{OTHER}'" in refused(
        lambda: addresses.added(port, here, addresses.asked(["192.168.122.77"]), {})
    )
    anything = replace(port, policy=port.policy._replace(addressing="any"))
    assert "may use any address that nobody else has" in refused(lambda: with_added(anything, "192.168.122.7"))
    assert "does not list 192.168.122.7: it lists none" in refused(
        lambda: without(port, addresses.asked(["192.168.122.7"]))
    )
    own = replace(port, policy=port.policy._replace(addresses=(ip_address("192.168.122.7"),)))
    to_it = replace(own, policy=forwards.added(own, asked("tcp/80")))
    assert "192.168.122.7 is forwarded to: `guestnet forward remove` before" in refused(
        lambda: without(to_it, addresses.asked(["192.168.122.7"]))
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("192.168.122.1/32", "192.168.122.1 is the host's own"),
        ("192.168.122.0/30", r"192.168.122.1 \(of 192.168.122.0/30\) is the host's own"),
        ("192.168.122.1-192.168.122.9", "192.168.122.1 is the host's own"),
        ("192.168.122.70-192.168.122.80", r"192.168.122.77 \(of 192.168.122.72/29\) is given by DHCP to"),
        ("192.168.122.0", "192.168.122.0 is the network address of 192.168.122.0/24"),
        ("192.168.122.255/32", "192.168.122.255 is the broadcast address of 192.168.122.0/24"),
    ],
)
def test_what_is_somebodys_is_no_ports_however_it_is_written(words: str, said: str) -> None:
    port = only(ONE)
    here, wanted = on(port, other="192.168.122.77"), addresses.asked([words])
    with pytest.raises(GuestnetError, match=said):
        addresses.added(port, here, wanted, {})


def test_a_nic_on_a_networks_bridge_has_that_networks_addresses_around_it() -> None:
    port = only(host(net(), domain("web", nic(on="bridge='virbr0'", kind="bridge"))))
    assert listed(with_added(port, "192.168.122.250")) == ([], ["192.168.122.250/32"]), "its lease is followed still"
    assert "192.168.122.1 is the host's own" in refused(lambda: with_added(port, "192.168.122.1"))


def test_the_hosts_own_address_on_a_bridge_is_no_guests() -> None:
    seen = host(domain("web", nic(on="bridge='br0'", kind="bridge")))
    port, own = only(seen), frozenset({ip_address("192.0.2.1"), ip_address("fe80::1")})
    here = on_network(port.link, replace(seen, hosts={"br0": own}))
    for words in ("192.0.2.1", "192.0.2.0/24", "192.0.2.1-192.0.2.9", "fe80::1"):
        wanted = addresses.asked([words])
        with pytest.raises(GuestnetError, match=r" is the host's own"):
            addresses.added(port, here, wanted, {})
    assert listed(addresses.added(port, here, addresses.asked(["192.0.2.2"]), {})) == (["192.0.2.2"], [])


def test_another_guests_own_address_is_refused() -> None:
    own = OWNED.format("direct", PORT.format(OTHER, "yes", '<guestnet:address ip="{0}"/>').replace("default", "closed"))
    web = domain("web", nic(on="network='closed'"))
    here = host(net(CLOSED), web, domain("db", nic(OTHER, "network='closed'"), mark=own.format("10.0.9.7")))
    port = only(here)
    others = addresses.of_others(port, here.snapshot)
    for words in ("10.0.9.7", "10.0.9.4/30"):
        wanted = addresses.asked([words])
        with pytest.raises(GuestnetError, match=r"is an address of db\.closed"):
            addresses.added(port, on(port), wanted, others)
    by_bridge = host(net(CLOSED), domain("web", nic(on="bridge='virbr1'", kind="bridge")), here.snapshot.domain["db"])
    port = only(by_bridge)
    assert addresses.of_others(port, by_bridge.snapshot) == others, "it is the same link"
    elsewhere = host(net(), net(CLOSED), web, domain("db", nic(OTHER), mark=own.format("10.0.9.7")))
    assert addresses.of_others(only(elsewhere), elsewhere.snapshot) == {}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("255.255.255.255", "255.255.255.255 is no address that a guest can send from"),
        ("10.0.0.9-10.0.0.1", "is not a range: the lower address comes first"),
        ("10.0.0.9-fd00::1", "is not a range: the lower address comes first"),
        ("0.0.0.0-255.255.255.255", "is every address"),
        ("10.0.0.1-230.0.0.1", "64.0.0.0/2 is no address that a guest can send from"),
        ("0.0.0.0/1", "0.0.0.0/1 is no address that a guest can send from"),
        ("224.0.0.0/3", "224.0.0.0/3 is no address that a guest can send from"),
        ("8000::/1", "8000::/1 is no address that a guest can send from"),
        ("fd00::1-fd00:1::fffe", "would be more than 64 prefixes"),
        ("127.0.0.1", "127.0.0.1 is no address that a guest can send from"),
        ("10.0.0.1/24", "did you mean '10.0.0.0/24'?"),
        ("eth0", "'eth0' is not an IP address"),
    ],
)
def test_what_is_no_address(words: str, said: str) -> None:
    assert said in refused(lambda: addresses.asked([words]))


def test_import_and_list_find_the_addresses_that_were_added() -> None:
    inside = '<guestnet:address ip="10.0.9.7"/><guestnet:pair prefix="10.0.9.240/29"/>'
    mark = OWNED.format("direct", PORT.format(WEB, "yes", inside).replace("default", "closed"))
    seen = host(
        net(CLOSED, ADOPTED.replace("default", "closed").format("no")),
        domain("web", nic(on="network='closed'"), mark=mark),
    )
    said = text(survey(seen, Request("mine")))
    (port,) = loads(said, "import").guests[0].ports
    assert [str(each.ip) for each in port.addresses] == ["10.0.9.7"]
    assert [str(each.prefix) for each in port.pairs] == ["10.0.9.240/29"]
    assert list(addresses.of_domains(seen.snapshot.domains)) == [
        "web.closed: 10.0.9.7",
        "web.closed: 10.0.9.240/29, which others may share",
    ]


@pytest.mark.parametrize(
    "words", [["guard", "on", "web"], ["forward", "add", "web", "tcp/80"], ["address", "add", "web", "10.0.0.1"]]
)
def test_only_root_may(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert main(words) == 1
    assert "run it as root" in capsys.readouterr().err


def test_a_suggested_command_is_one_command_whatever_a_topology_is_called() -> None:
    """A tenant may write what his domain's metadata says."""
    seen = host(net(), domain("web", nic(), mark=OWNED.format("mine; rm -rf /", GUARDED))).snapshot
    assert "`guestnet destroy --name 'mine; rm -rf /'`" in refused(lambda: named("web", seen))
