"""Plans against libvirt's in-process test driver (real libvirt objects, no daemon) and against made-up snapshots."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from lxml import etree
from support.elements import attribute, inside

from libvirt_guestnet import xmlgen
from libvirt_guestnet.apply.apply import ApplyError, DestroyError, InterruptError, apply, destroy, locked
from libvirt_guestnet.apply.topology import wanted
from libvirt_guestnet.changes.change import Change
from libvirt_guestnet.changes.guest import AttachInterface, UpdateInterface
from libvirt_guestnet.datapath.devices.host_devices import Device
from libvirt_guestnet.datapath.forwards import listeners
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.guest.image import TinyImage
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.libvirtd.connection import Connection, connect
from libvirt_guestnet.libvirtd.snapshot import DomainState, NetworkState, Snapshot, Wanted, WantedGuest, WantedNetwork
from libvirt_guestnet.metadata.policy import NAMESPACE
from libvirt_guestnet.model.claims import Claim
from libvirt_guestnet.model.drift import GUEST, NETWORK, Drift
from libvirt_guestnet.plan import addresses
from libvirt_guestnet.plan.nic import plugged
from libvirt_guestnet.plan.order import Plan, PlanError, plan, plan_destroy
from libvirt_guestnet.topology import loads

TOPOLOGY = """
name: lab
networks:
  one:
    mode: nat
    subnets: [10.61.1.0/24, "fd61:1::/64"]
    dhcp: {}
  two:
    mode: isolated
    subnets: [10.61.2.0/24]
guests:
  a:
    image: tiny
    ports:
      - network: one
      - network: two
        addresses: [10.61.2.9]
  u:
    ports:
      - network: two
        addresses: [10.61.2.8]
"""


@dataclass
class Recorder:
    """Effects that only remember: no tap exists in the test driver."""

    calls: list[tuple[str, ...]] = field(default_factory=list)

    def enslave(self, tap: str, bridge: str, isolated: bool) -> None:
        self.calls.append(("enslave", tap, bridge))

    def guard(self, domain_xml: bytes, settle: bool = True) -> None:
        self.calls.append(("guard", etree.fromstring(domain_xml).findtext("name", "")))

    def release(self, uuid: str, tap: str) -> None:
        self.calls.append(("release", tap))

    def adopt_network(self, network_xml: bytes) -> None:
        self.calls.append(("adopt", etree.fromstring(network_xml).findtext("name", "")))

    @contextmanager
    def kept_open(self, bridge: str) -> Iterator[None]:
        self.calls.append(("kept open", bridge))
        yield


def want(text: str = TOPOLOGY) -> Wanted:
    topology = loads(text, "lab.yaml")
    hosts = HostMap({"lan": "eth9"}, lambda _device: False)
    image = TinyImage(kernel=Path("/kernel"), initrd=Path("/initrd"))
    return wanted(topology, hosts, lambda guest: xmlgen.domain(topology, guest, hosts, image, "test"))


@pytest.fixture(autouse=True)
def _without_dnsmasq(monkeypatch: pytest.MonkeyPatch) -> None:
    """libvirt's test driver drops dnsmasq's namespace, the real one keeps it (tests/libvirt)."""
    monkeypatch.setattr(sys.modules["libvirt_guestnet.xmlgen.dnsmasq"], "options", lambda *_: None)


@pytest.fixture
def libvirt() -> Iterator[Connection]:
    with connect("test:///default") as connection:
        yield connection
        destroy(plan_destroy("lab", connection.snapshot()), connection, Recorder())


def do(connection: Connection, text: str = TOPOLOGY, **options: Any) -> Plan:
    made = plan(want(text), connection.snapshot())
    apply(made, connection, Recorder(), **options)
    return made


@pytest.mark.system
def test_a_network_that_is_gone_needs_nothing_taken_out(libvirt: Connection) -> None:
    mark = f'<g:network xmlns:g="{NAMESPACE}" topology="t"/>'
    libvirt.set_network_mark("gone", mark, None)
    with pytest.raises(GuestnetError, match="changing the metadata of network 'gone'"):
        libvirt.set_network_mark("gone", None, mark)


def fingerprint(connection: Connection) -> list[tuple[str, bytes, bool, bool]]:
    snapshot = connection.snapshot()
    objects: list[NetworkState | DomainState] = [*snapshot.networks, *snapshot.domains]
    return sorted((o.name, etree.tostring(o.config), o.live is not None, o.autostart) for o in objects)


def lines(made: Plan) -> list[str]:
    return [change.text() for change in made.changes]


@pytest.mark.system
def test_a_new_topology_is_defined_and_started(libvirt: Connection) -> None:
    made = do(libvirt)
    assert lines(made) == [
        "define network one: nat, bridge gn-one",
        "set network autostart one: on",
        "start network one",
        "define network two: isolated, bridge gn-two",
        "set network autostart two: on",
        "start network two",
        "define guest a: 2 NICs",
    ]
    assert made.notes == ("guest 'u' has no domain yet: define it with libvirt, then apply again to plug its NICs in",)
    assert made.json()[0] == {
        "verb": "define",
        "kind": "network",
        "name": "one",
        "detail": "nat, bridge gn-one",
        "interrupts": [],
    }
    snapshot = libvirt.snapshot()
    assert snapshot.network["one"].live is not None
    assert snapshot.network["one"].autostart
    assert snapshot.domain["a"].topology == "lab"


@pytest.mark.system
def test_a_second_apply_is_empty(libvirt: Connection) -> None:
    do(libvirt)
    assert plan(want(), libvirt.snapshot()).changes == ()


@pytest.mark.system
def test_a_dns_name_and_a_dhcp_range_change_live(libvirt: Connection) -> None:
    do(libvirt)
    changed = TOPOLOGY.replace("dhcp: {}", "dhcp: {range: [10.61.1.50, 10.61.1.60]}").replace(
        "    mode: nat", "    mode: nat\n    dns: {printer: [10.61.1.77]}"
    )
    made = plan(want(changed), libvirt.snapshot())
    verbs = {change.VERB for change in made.changes if change.name == "one"}
    assert verbs <= {"define", "update"}
    assert "update" in verbs
    apply(made, libvirt, Recorder())
    assert plan(want(changed), libvirt.snapshot()).changes == ()


@pytest.mark.system
def test_a_change_of_mode_restarts_the_network(libvirt: Connection) -> None:
    do(libvirt)
    made = do(libvirt, TOPOLOGY.replace("mode: nat", "mode: route"))
    assert [(c.VERB, c.name) for c in made.changes if c.VERB == "restart"] == [("restart", "one")]
    assert libvirt.snapshot().network["one"].current.find("forward").get("mode") == "route"


@pytest.mark.system
def test_what_left_the_file_is_removed_and_nothing_else(libvirt: Connection) -> None:
    do(libvirt)
    smaller = TOPOLOGY[: TOPOLOGY.index("guests:")].replace(
        TOPOLOGY[TOPOLOGY.index("  two:") : TOPOLOGY.index("guests:")], ""
    )
    made = do(libvirt, smaller)
    assert {(c.VERB, c.KIND, c.name) for c in made.changes if c.VERB == "remove"} == {
        ("remove", "network", "two"),
        ("remove", "guest", "a"),
    }
    snapshot = libvirt.snapshot()
    assert set(snapshot.network) == {"default", "one"}
    assert set(snapshot.domain) == {"test"}


@pytest.mark.system
def test_topologies_side_by_side_leave_each_other_alone(libvirt: Connection) -> None:
    do(libvirt)
    other = """
name: other
networks:
  three: {mode: nat, subnets: [10.61.3.0/24]}
"""
    do(libvirt, other)
    assert plan(want(), libvirt.snapshot()).changes == ()
    destroy(plan_destroy("lab", libvirt.snapshot()), libvirt, Recorder())
    assert set(libvirt.snapshot().network) == {"default", "three"}
    destroy(plan_destroy("other", libvirt.snapshot()), libvirt, Recorder())
    assert set(libvirt.snapshot().network) == {"default"}


@pytest.mark.system
def test_destroy_needs_the_name_alone_and_twice_is_success(libvirt: Connection) -> None:
    do(libvirt)
    destroy(plan_destroy("lab", libvirt.snapshot()), libvirt, Recorder())
    assert set(libvirt.snapshot().network) == {"default"}
    assert plan_destroy("lab", libvirt.snapshot()).changes == ()


@pytest.mark.system
def test_destroy_goes_on_past_errors_and_reports_them(libvirt: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    do(libvirt)
    stop = libvirt.stop_network

    def stuck(name: str) -> None:
        if name == "one":
            raise GuestnetError("one is stuck")
        stop(name)

    with monkeypatch.context() as patch:
        patch.setattr(libvirt, "stop_network", stuck)
        with pytest.raises(DestroyError, match=r"remove network one: .*: one is stuck") as caught:
            destroy(plan_destroy("lab", libvirt.snapshot()), libvirt, Recorder())
    assert len(caught.value.failures) == 1
    assert set(libvirt.snapshot().network) == {"default", "one"}
    assert set(libvirt.snapshot().domain) == {"test"}


@pytest.mark.parametrize("failing", range(1, 8))
@pytest.mark.system
def test_a_failure_at_any_step_of_a_first_apply_takes_everything_back(libvirt: Connection, failing: int) -> None:
    before = fingerprint(libvirt)
    with pytest.raises(ApplyError, match="rolled back: everything is as before"):
        do(libvirt, on_step=fail_at(failing))
    assert fingerprint(libvirt) == before


CHANGED = (
    TOPOLOGY.replace("mode: nat", "mode: route")
    .replace("10.61.2.9", "10.61.2.10")
    .replace("two:\n    mode: isolated", "two:\n    mode: isolated\n    mtu: 1400")
)


@pytest.mark.parametrize("failing", range(1, 8))
@pytest.mark.system
def test_a_failure_at_any_step_of_a_change_takes_everything_back(libvirt: Connection, failing: int) -> None:
    do(libvirt)
    before = fingerprint(libvirt)
    with pytest.raises(ApplyError, match="injected") as caught:
        do(libvirt, CHANGED, on_step=fail_at(failing))
    assert caught.value.not_undone == ()
    assert fingerprint(libvirt) == before


def fail_at(number: int) -> Callable[[str], None]:
    count = 0

    def step(_what: str) -> None:
        nonlocal count
        count += 1
        if count == number:
            raise GuestnetError("injected")

    return step


@pytest.mark.system
def test_what_cannot_be_undone_is_reported_with_the_failure(libvirt: Connection) -> None:
    def step(_what: str) -> None:
        if "two" in libvirt.snapshot().network:
            libvirt.undefine_network = broken  # type: ignore[method-assign]
            raise GuestnetError("injected")

    def broken(name: str) -> None:
        raise GuestnetError(f"{name} is stuck")

    with pytest.raises(ApplyError, match=r"(?s)failed: injected.*undefine network one: one is stuck") as caught:
        do(libvirt, on_step=step)
    assert len(caught.value.not_undone) == 2
    del libvirt.undefine_network


@pytest.mark.parametrize(
    ("owner", "message"),
    [
        (None, "network 'one' exists and was not made by guestnet: say external: true to have its ports"),
        (
            "theirs",
            "network 'one' belongs to topology 'theirs': give it another name in this topology, "
            "or run `guestnet destroy --name theirs` first",
        ),
    ],
)
@pytest.mark.system
def test_a_foreign_network_is_refused(libvirt: Connection, owner: str | None, message: str) -> None:
    element = next(n.element for n in want().networks if n.name == "one")
    element = etree.fromstring(etree.tostring(element))
    mark = inside(element, "metadata/*")
    if owner is None:
        inside(element, "metadata").remove(mark)
    else:
        mark.set("topology", owner)
    libvirt.define_network(etree.tostring(element, encoding="unicode"))
    try:
        with pytest.raises(PlanError) as caught:
            plan(want(), libvirt.snapshot())
        assert message in str(caught.value)
    finally:
        libvirt.undefine_network("one")


@pytest.mark.system
def test_every_clash_is_reported_at_once_and_nothing_is_touched(libvirt: Connection) -> None:
    foreign = "<network><name>{}</name><bridge name='{}'/></network>"
    libvirt.define_network(foreign.format("two", "x1"))
    libvirt.define_network(foreign.format("squatter", "gn-one"))
    try:
        with pytest.raises(PlanError) as caught:
            plan(want(), libvirt.snapshot())
        assert len(caught.value.problems) == 2
        assert "bridge 'gn-one' is held by libvirt network 'squatter': choose another `bridge:`" in str(caught.value)
    finally:
        libvirt.undefine_network("two")
        libvirt.undefine_network("squatter")


DRAWN = """
name: {name}
physical-networks: {{ lan: {{ vlans: [100], vnis: [5000] }} }}
networks:
  {net}: {{ mode: bridge, physical-network: lan, vlan: {vlan} }}
  {net}-far: {{ mode: bridge, vxlan: {{ vni: {vni}, underlay: lan, group: 239.1.1.1 }} }}
"""


@pytest.mark.parametrize("device", ["br0", "br0/eth1", "ovs:br0"])
def test_a_drawn_number_is_never_shared_with_another_topology(device: str) -> None:
    """On a bridge that exists, networks of one VLAN may share it: not where that came out of a pool."""
    hostmap = HostMap({"lan": device}, lambda name: name.startswith("br"))

    def want_drawn(name: str, vlan: str, vni: str) -> Wanted:
        return wanted(loads(DRAWN.format(name=name, net=f"{name}-net", vlan=vlan, vni=vni), f"{name}.yaml"), hostmap)

    theirs = running(want_drawn("theirs", "100", "5000"), users=None)
    with pytest.raises(PlanError) as caught:
        plan(want_drawn("ours", "auto", "auto"), theirs)
    vlan, vni = ("VLAN 100", "ours-net"), ("VNI 5000", "ours-net-far")
    assert [problem.partition(", drawn")[0] for problem in caught.value.problems] == [
        f"network '{net}': {what}" for what, net in (vlan, vni)
    ]
    assert "is that of libvirt network 'theirs-net' of topology 'theirs'" in caught.value.problems[0]
    plan(want_drawn("ours", "100", "5000"), theirs)  # asked for by number
    assert not plan(want_drawn("theirs", "auto", "auto"), theirs).changes


def test_a_device_of_the_hosts_own_is_refused_as_a_bridge() -> None:
    with pytest.raises(PlanError, match="this host has a device 'gn-one' already"):
        plan(want(), Snapshot(devices=frozenset({"gn-one", "eth0"})))


SHARED = """
name: {name}
physical-networks: {{ lan: {{ subnets: [198.18.9.0/24] }} }}
networks: {{ {network}: {{ mode: bridge, physical-network: lan{more} }} }}
guests: {{}}
"""


def bridged(name: str = "q", network: str = "n", more: str = "", device: str = "up0") -> Wanted:
    hostmap = HostMap({"lan": device}, device_is_bridge=lambda each: each.startswith("br"))
    return wanted(loads(SHARED.format(name=name, network=network, more=more), "t"), hostmap)


def refusals(made: Wanted, snapshot: Snapshot) -> list[str]:
    try:
        plan(made, snapshot)
    except PlanError as error:
        return list(error.problems)
    return []


@pytest.mark.parametrize("more", ["", ", bridge: gn-lan2"])
def test_a_nic_that_another_topology_has_in_a_bridge_is_refused_with_a_hint_that_works(more: str) -> None:
    theirs = bridged("q1", "teamA")
    held = Snapshot(tuple(NetworkState(n.name, "u", n.element) for n in theirs.networks))
    [refused] = refusals(bridged("q2", "teamB", more), held)
    assert refused.startswith(
        "network 'teamB': NIC up0 is that of libvirt network 'teamA' of topology 'q1', and can be"
    )
    assert "make a bridge of your own (ip link add br0 type bridge; ip link set up0 master br0)" in refused
    both = [bridged(name, network, device="br0") for name, network in (("q1", "teamA"), ("q2", "teamB"))]
    held = Snapshot(tuple(NetworkState(n.name, "u", n.element) for n in both[0].networks))
    assert refusals(both[1], held) == []
    vlan = bridged("q2", "teamB", ", vlan: 7")
    assert refusals(vlan, Snapshot(tuple(NetworkState(n.name, "u", n.element) for n in theirs.networks))) == []


UP0, OURS = Device(1500), Device(1500, "", "libvirt-guestnet", True)


@pytest.mark.parametrize(
    ("links", "refused"),
    [
        ({"up0": UP0}, ""),
        ({"up0": UP0._replace(master="gn-lan"), "gn-lan": OURS}, ""),
        ({"lo": UP0}, "this host has no device up0: map the label to one that it has"),
        ({"up0": UP0._replace(master="br9"), "br9": OURS._replace(alias="")}, "NIC up0 is in bridge br9 already: map "),
        (
            {"up0": UP0._replace(master="bond0"), "bond0": UP0},
            "NIC up0 is in device bond0 already: map the label to bond0",
        ),
        (
            {"up0": UP0._replace(addresses=("192.0.2.1",))},
            "NIC up0 carries 192.0.2.1, which the host would lose: make a",
        ),
        ({"up0": UP0, "gn-lan": OURS._replace(alias="")}, "device gn-lan exists and is not ours: choose another"),
    ],
)
def test_what_the_start_of_a_bridged_network_would_be_refused_for_is_refused_by_the_plan(
    links: dict[str, Device], refused: str
) -> None:
    found = refusals(bridged(), Snapshot(links=links))
    assert [text[: len(refused)] for text in (each.removeprefix("network 'n': ") for each in found)] == (
        [refused] if refused else []
    )


WIDE = """
name: t
physical-networks: {{ lan: {{ subnets: [198.18.9.0/24] }} }}
networks: {{ n: {{ mode: {mode}, physical-network: lan, mtu: 9000{more} }} }}
guests: {{ g: {{ ports: [{{ network: n, addresses: [{address}] }}] }} }}
"""
TUNNEL = """
name: t
physical-networks: { lan: { subnets: [198.18.9.0/24], mtu: 9000 } }
networks: { n: { mode: bridge, vxlan: { vni: 9, underlay: lan, group: 239.1.1.1 }, subnets: [10.0.0.0/24] } }
guests: { g: { ports: [{ network: n, addresses: [10.0.0.9] }] } }
"""


@pytest.mark.parametrize(
    ("device", "text", "narrow"),
    [
        ("up0", WIDE.format(mode="bridge", more="", address="198.18.9.9"), "up0"),
        ("up0", WIDE.format(mode="bridge", more=", vlan: 7", address="198.18.9.9"), "up0"),
        ("up0", WIDE.format(mode="bridge", more=", service-vlan: 7", address="198.18.9.9"), "up0"),
        ("br0", WIDE.format(mode="bridge", more="", address="198.18.9.9"), "up0"),
        ("br0/up0", WIDE.format(mode="bridge", more=", vlan: 7", address="198.18.9.9"), "up0"),
        ("up0", WIDE.format(mode="nat", more=", subnets: [10.0.0.0/24]", address="10.0.0.9"), ""),
        ("up0", WIDE.format(mode="route", more=", subnets: [10.0.0.0/24]", address="10.0.0.9"), ""),
        ("up0", WIDE.format(mode="host-routed", more="", address="198.18.9.9"), ""),
        ("up0", TUNNEL, "up0"),
    ],
)
def test_what_the_real_nic_does_not_carry_is_refused_by_the_plan(device: str, text: str, narrow: str) -> None:
    hostmap = HostMap({"lan": device}, device_is_bridge=lambda each: each == "br0")
    made = wanted(loads(text, "t"), hostmap)
    master = "br0" if device.startswith("br0") else ""
    for mtu, refused in ((1500, narrow), (9000, "")):
        links = {"up0": Device(mtu, master, "", False, True), "br0": OURS, "tap": Device(1000, "br0")}
        found = refusals(made, Snapshot(links=links))
        assert [(refused in each, "9000" in each or "8950" in each) for each in found] == (
            [(True, True)] if refused else []
        )


def test_a_mapped_bridge_that_is_not_there_is_refused_by_the_plan() -> None:
    assert refusals(bridged(device="br0"), Snapshot(links={"br0": OURS})) == []
    [refused] = refusals(bridged(device="br0"), Snapshot(links={"up0": UP0}))
    assert "this host has no device br0" in refused


def test_a_port_that_a_program_of_the_host_listens_on_is_refused_by_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    text = """
name: t
networks: { web: { mode: nat, subnets: [10.61.1.0/24] } }
guests: { a: { ports: [{ network: web, forwards: [{ services: [tcp/8080] }] }] } }
"""
    listener = Claim("0.0.0.0", "tcp", 8080, 8080, "nginx (process 7)")
    monkeypatch.setattr(listeners, "taken", lambda claims: (claims[0], listener) if claims else None)
    made = wanted(loads(text, "t"), HostMap())
    [said] = addresses._listened(made, Snapshot())
    assert said == "guest 'a': tcp/8080 cannot be forwarded: nginx (process 7) on this host listens on tcp/8080"
    domain = etree.fromstring("<domain><name>a</name><metadata/></domain>")
    domain.find("metadata").append(made.guests[0].metadata)
    has_it = Snapshot(domains=(DomainState("a", "u", domain, domain),))
    assert addresses._listened(made, has_it) == [], "what a guest has is not asked for again"


def test_interrupting_running_guests_needs_leave() -> None:
    snapshot = running(want())
    made = plan(want(TOPOLOGY.replace("mode: nat", "mode: route")), snapshot)
    assert made.interrupts == ("a",)
    assert any(
        line.startswith("restart network one (interrupts a): forward/@mode: nat -> route") for line in lines(made)
    )
    with pytest.raises(InterruptError, match="--allow-interrupt"):
        apply(made, None, Recorder())  # type: ignore[arg-type]  # not even asked


def running(wanted: Wanted, *, users: str | None = "u") -> Snapshot:
    """A host on which everything that is wanted is there and runs; `users` is the user's own domain."""
    networks = [NetworkState(n.name, uuid_of(n), n.element, n.element, n.autostart) for n in wanted.networks]
    definitions = {g.name: g.definition for g in wanted.guests if g.definition is not None}
    domains = [DomainState(name, d.findtext("uuid") or f"uuid of {name}", d, d) for name, d in definitions.items()]
    if users:
        text = f"<domain><name>{users}</name><uuid>d1</uuid><devices/></domain>"
        domains.append(DomainState(users, "d1", etree.fromstring(text), etree.fromstring(text)))
    return Snapshot(tuple(networks), tuple(domains))


def uuid_of(network: WantedNetwork) -> str:
    return network.element.findtext("uuid") or "n0"


def test_a_users_domain_gets_our_nics_and_metadata_and_is_not_redefined() -> None:
    made = plan(want(), running(want()))
    assert [(c.VERB, c.KIND, c.name) for c in made.changes] == [
        ("set", "guest metadata", "u"),
        ("attach", "NIC", "u"),
    ]
    attach = made.changes[1]
    assert isinstance(attach, AttachInterface)
    assert attach.live
    assert attach.config


def test_a_domain_of_the_users_own_is_never_taken_over() -> None:
    snapshot = running(want(), users=None)
    text = "<domain><name>a</name><uuid>d1</uuid><devices/></domain>"
    foreign = DomainState("a", "d1", etree.fromstring(text))
    with pytest.raises(PlanError, match="domain 'a' exists and was not made by guestnet"):
        plan(want(), replace(snapshot, domains=(foreign,)))


def test_a_mac_in_use_by_somebody_else_is_refused() -> None:
    wanted = want()
    nic = etree.tostring(wanted.guests[0].interfaces[0], encoding="unicode")
    text = f"<domain><name>z</name><uuid>d9</uuid><devices>{nic}</devices></domain>"
    with pytest.raises(PlanError, match="is in use by domain 'z'"):
        plan(wanted, Snapshot(domains=(DomainState("z", "d9", etree.fromstring(text)),)))


def test_what_of_a_policy_changes_is_named() -> None:
    made = plan(want(TOPOLOGY.replace("10.61.2.9", "10.61.2.10")), running(want(), users=None))
    said = [c.detail for c in made.changes if (c.KIND, c.name) == ("guest metadata", "a")]
    assert len(said) == 1
    assert "10.61.2.10 is missing" in said[0]


def test_a_running_guest_gains_and_loses_nics_live() -> None:
    less = TOPOLOGY.replace("      - network: two\n        addresses: [10.61.2.9]\n", "")
    made = plan(want(less), running(want(), users=None))
    assert [(c.VERB, c.KIND, c.name) for c in made.changes][:1] == [("detach", "NIC", "a")]
    assert made.interrupts == ()
    made = plan(want(), running(want(less), users=None))
    kinds = [(c.VERB, c.KIND) for c in made.changes if c.name == "a"]
    assert kinds == [("define", "guest"), ("set", "guest metadata"), ("attach", "NIC")]


def test_what_somebody_took_from_a_running_guests_taps_is_a_change() -> None:
    wanted_now = want()
    name = wanted_now.networks[0].name
    off = Drift(GUEST, "u", "vme0", "is in no bridge and not in gn-one", link="no bridge")
    moved = Drift(GUEST, "u", "vme1", "is in br9 and not in gn-one", "ip link set vme1 master gn-one")
    bare = Drift(NETWORK, name, "gn-one", "lacks 10.0.0.1", "restart it")
    others = (Drift(GUEST, "x", "vme9", "is down"), Drift(NETWORK, "y", "br-y", "is gone", "start it"))
    made = plan(wanted_now, replace(running(wanted_now), wrong=(off, moved, bare, *others)))
    put_back = [line for line in lines(made) if line.startswith("put back")]
    assert put_back == ["put back guest ports u: vme0 is in no bridge and not in gn-one"]
    assert made.notes[-2:] == (
        "guest 'u': vme1 is in br9 and not in gn-one: ip link set vme1 master gn-one",
        f"network {name!r}: gn-one lacks 10.0.0.1: restart it",
    )
    assert not made.interrupts


def test_a_nic_that_moves_is_down_until_its_new_metadata_is_in_force() -> None:
    before = want(TOPOLOGY.replace("      - network: one\n", "      - network: one\n        mac: 52:54:00:00:00:07\n"))
    moved = TOPOLOGY.replace(
        "      - network: one\n", "      - network: two\n        name: second\n        mac: 52:54:00:00:00:07\n"
    )
    tap = next(g for g in before.guests if g.name == "a").interfaces[0].find("target").get("dev")
    moved = moved.replace("        name: second\n", f"        name: second\n        tap: {tap}\n")
    made = plan(want(moved), running(before, users=None))
    nics = [c for c in made.changes if c.name == "a" and c.KIND != "guest"]
    assert [(c.VERB, c.KIND) for c in nics] == [("update", "NIC"), ("set", "guest metadata"), ("update", "NIC")]
    down, _, up = nics
    assert 'link state="down"' in _made_live(down)
    assert 'link state="down"' not in _made_live(up)
    assert 'network="two"' in _made_live(up)


def _made_live(change: Change) -> str:
    """The XML that a change gives a NIC of a running guest."""
    assert isinstance(change, UpdateInterface) and change.live is not None and change.live.new is not None
    return change.live.new


def test_what_only_a_reboot_brings_is_said_and_not_repeated() -> None:
    bigger = TOPOLOGY.replace("    image: tiny\n", "    image: tiny\n    memory: 256\n")
    made = plan(want(bigger), running(want(), users=None))
    assert made.notes[0].startswith("guest 'a' is running and gets this at its next start: memory: 131072 KiB")


def test_planning_takes_steps_in_proportion_to_what_is_planned() -> None:
    """How long they take `scripts/bench/apply` measures."""
    few, many = (_steps_to_plan(_big(count)) for count in (50, 150))
    assert 2.5 < many / few < 3.2


def _steps_to_plan(big: Wanted) -> int:
    snapshot, steps = running(big, users=None), count()
    sys.setprofile(lambda *_: next(steps) and None)
    try:
        changes = plan(big, snapshot).changes
    finally:
        sys.setprofile(None)
    assert changes == ()
    return next(steps)


def _big(size: int) -> Wanted:
    networks, guests = [], []
    one = want().networks[0]
    for index in range(size):
        element = etree.fromstring(etree.tostring(one.element).replace(b"gn-one", f"gn{index}".encode()))
        element.find("name").text = f"n{index}"
        networks.append(WantedNetwork(f"n{index}", element))
    sample = want().guests[0]
    nic = etree.tostring(sample.interfaces[0]).decode()
    address = attribute(inside(sample.interfaces[0], "mac"), "address")
    for index in range(size):
        nics = [etree.fromstring(nic.replace(address, f"52:54:00:{index:04x}:{n:02x}")) for n in range(10)]
        assert sample.definition is not None
        definition = etree.fromstring(etree.tostring(sample.definition))
        devices = definition.find("devices")
        for old in devices.findall("interface"):
            devices.remove(old)
        devices.extend([etree.fromstring(etree.tostring(n)) for n in nics])
        definition.find("uuid").text = f"u{index}"
        mark = inside(definition, "metadata")[0]
        mark.set("guest", f"g{index}")
        guests.append(WantedGuest(f"g{index}", tuple(nics), mark, definition))
    return Wanted("lab", tuple(networks), tuple(guests))


def test_two_applies_do_not_interleave(tmp_path: Path) -> None:
    with locked(tmp_path / "run"):
        assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700
        with pytest.raises(GuestnetError, match="another guestnet apply or destroy"), locked(tmp_path / "run", 0.1):
            pytest.fail("two at once")
    with locked(tmp_path / "run", 0.1):
        pass


@pytest.mark.system
def test_a_refusal_is_in_libvirts_words(libvirt: Connection, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(GuestnetError, match=r"updating network 'nope' .*: .*[Nn]etwork not found"):
        libvirt.update_network("nope", "add", "dhcp-host", "<host/>")
    assert capfd.readouterr().err == ""


@pytest.mark.system
def test_connecting_to_nothing_says_what_to_try() -> None:
    with pytest.raises(GuestnetError, match=r"(?s)connecting to qemu\+unix.*Is libvirtd running"):
        connect("qemu+unix:///system?socket=/nonexistent")


def test_an_address_that_is_somebodys_is_a_clash() -> None:
    """`taken` is what this host says of the wanted addresses, which are read as the hooks read them."""
    topology = loads(LED, "led.yaml")
    want = wanted(topology, HostMap({"lan": "up0"}))
    found = {
        (str(each.prefix), each.what, each.bridge, each.published, each.probe)
        for guest in addresses.requested(want, Snapshot()).values()
        for each in guest
    }
    assert found == {
        ("192.0.2.50/32", "address", "", True, False),
        ("198.51.100.0/28", "prefix", "", False, True),
        ("10.61.1.9/32", "address", "gn-one", False, True),
        ("192.0.2.60/32", "floating address", "", True, True),
        ("192.0.2.61/32", "floating address", "", True, True),
        ("192.0.2.1/32", "forward at", "", False, True),
    }
    with pytest.raises(PlanError, match=r"^domain 'a': address 192.0.2.50 is somebody's$"):
        plan(want, Snapshot(taken=("domain 'a': address 192.0.2.50 is somebody's",)))


LED = """
name: led
physical-networks: { lan: { subnets: [192.0.2.0/24], stand-in: [192.0.2.99] } }
networks:
  direct: { mode: host-routed, physical-network: lan }
  one: { mode: nat, subnets: [10.61.1.0/24], physical-network: lan, bridge: gn-one }
guests:
  a: { ports: [{ network: direct, addresses: [192.0.2.50], sources: [198.51.100.0/28], probe: false }] }
  b:
    ports:
      - network: one
        addresses: [10.61.1.9]
        floating: [192.0.2.60]
        floating-untranslated: [192.0.2.61]
        forwards: [{ services: [tcp/80], at: [192.0.2.1] }]
"""


def test_destroy_cuts_nobody_off_unasked_but_the_topologys_own_guests() -> None:
    """A clone has our metadata, which speaks of the guest that it was made of, and other MAC addresses."""
    snapshot = running(want(), users=None)
    assert plan_destroy("lab", snapshot, ["a"]).interrupts == ()
    (guest,) = snapshot.domains
    text = etree.tostring(guest.config, encoding="unicode").replace("<name>a</name>", "<name>copy</name>")
    xml = etree.fromstring(text.replace("52:54:00", "52:54:01"))
    for mac in xml.iterfind("devices/interface/mac"):
        mac.set("address", attribute(mac, "address")[:-2] + "ff")
    copy = DomainState("copy", "d2", xml, xml)
    both = replace(snapshot, domains=(guest, copy))
    made = plan_destroy("lab", both, ["a"])
    assert made.interrupts == ("copy",)
    assert ("remove", "guest", "copy") not in [(change.verb, change.KIND, change.name) for change in made.changes]
    with pytest.raises(
        InterruptError, match=r"(?s)--allow-interrupt:\n  remove network one \(interrupts copy\)"
    ) as caught:
        destroy(made, None, Recorder())  # type: ignore[arg-type]  # not even asked
    assert "remove guest a" not in str(caught.value)
    assert plan_destroy("lab", snapshot, []).interrupts == ("a",), "not in the file any more"
    assert plan(want(), both).interrupts == ()


class Deaf:
    """A libvirt that only remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> object:
        return lambda *_args, **_options: self.asked.append(name)


def with_users_nic() -> tuple[Wanted, Snapshot, str]:
    """The user's own domain `u` with the NIC that the topology has for it, stopped; and its XML."""
    made = want()
    guest = next(guest for guest in made.guests if guest.name == "u")
    (nic,) = guest.interfaces
    mark = deepcopy(guest.metadata)
    inside(mark, "{*}port").set("was", etree.tostring(plugged(nic), encoding="unicode"))
    metadata = etree.tostring(mark, encoding="unicode")
    text = (
        f"<domain><name>u</name><uuid>d1</uuid><metadata>{metadata}</metadata>"
        f"<devices>{etree.tostring(nic, encoding='unicode')}</devices></domain>"
    )
    domain = DomainState("u", "d1", etree.fromstring(text))
    snapshot = running(made, users=None)
    return made, replace(snapshot, domains=(*snapshot.domains, domain)), text


def test_a_users_domain_whose_metadata_claims_an_image_is_not_removed() -> None:
    """Whoever may change a domain's metadata, and no more, must not have it stopped and undefined."""
    made, snapshot, text = with_users_nic()
    claims = etree.fromstring(text.replace('guest="u"', 'guest="u" image="tiny"'))
    *others, user = snapshot.domains
    runs = replace(snapshot, domains=(*others, replace(user, config=claims, live=claims)))
    assert runs.domains[-1].mark.get("image") == "tiny"
    for each in (plan_destroy("lab", runs), plan(replace(made, guests=made.guests[:1]), runs)):
        assert [change.KIND for change in each.changes if change.name == "u"] == ["NIC", "guest metadata"]
    assert plan(replace(made, guests=made.guests[:1]), runs).interrupts == (), "nor does it keep the others waiting"
    assert ("remove", "a") in [(change.verb, change.name) for change in plan_destroy("lab", runs).changes]


def test_a_saved_guest_is_cut_off_no_more_than_a_running_one() -> None:
    _, snapshot, text = with_users_nic()
    assert plan_destroy("lab", snapshot, ["a", "u"]).interrupts == ()
    *others, user = snapshot.domains
    saved = replace(snapshot, domains=(*others, replace(user, saved=(etree.fromstring(text),))))
    made = plan_destroy("lab", saved, ["a", "u"])
    assert made.interrupts == ("u",)
    with pytest.raises(
        InterruptError, match=r"remove network two \(interrupts u\): .*what is saved of u cannot be res"
    ):
        destroy(made, None, Recorder())  # type: ignore[arg-type]
    without = TOPOLOGY[: TOPOLOGY.index("  two:")] + "guests: {}\n"
    assert plan(want(without), saved).interrupts == ("a", "u"), "apply, too; `a` runs"
    # A lab guest goes with what was saved of it: of course, where the file names it.
    guest = replace(others[0], live=None, saved=(others[0].config,))
    alone = replace(snapshot, domains=(guest,))
    assert plan_destroy("lab", alone, ["a"]).interrupts == ()
    assert plan_destroy("lab", alone, []).interrupts == ("a",)


def test_a_network_stays_while_a_guest_does_not_let_go_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    _, snapshot, text = with_users_nic()
    *_, user = snapshot.domains
    runs = replace(snapshot, domains=(replace(user, live=etree.fromstring(text)),))

    def stuck(*_: object) -> None:
        raise GuestnetError("has not let go")

    monkeypatch.setattr("libvirt_guestnet.changes.guest.unplug", stuck)
    libvirt = Deaf()
    with pytest.raises(DestroyError) as caught:
        destroy(plan_destroy("lab", runs, ["u"]), libvirt, Recorder())  # type: ignore[arg-type]
    first, second = caught.value.failures
    assert first.endswith("has not let go")
    assert second.startswith("network two stays: u ")
    assert libvirt.asked == ["stop_network", "undefine_network"], "network one's alone"


def test_a_users_other_nic_on_a_leaving_network_is_interrupted() -> None:
    """The topology takes its own NICs off a network that leaves it; of others it knows nothing."""
    _, snapshot, text = with_users_nic()
    *_, user = snapshot.domains
    xml = etree.fromstring(text)
    nic = etree.fromstring(etree.tostring(inside(xml, "devices/interface")))
    nic.find("mac").set("address", "52:54:00:99:99:99")
    xml.find("devices").append(nic)
    runs = replace(snapshot, domains=(replace(user, config=xml, live=xml),))
    without = TOPOLOGY[: TOPOLOGY.index("  two:")] + "guests: {u: {ports: [{network: one}]}}\n"
    removal = next(c for c in plan(want(without), runs).changes if (c.verb, c.KIND) == ("remove", "network"))
    assert removal.interrupts == ("u",)
    assert plan_destroy("lab", runs, ["a", "u"]).interrupts == ("u",), "destroy asks first, too"
