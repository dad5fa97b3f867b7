"""Plans against libvirt's in-process test driver (real libvirt objects, no daemon) and against made-up snapshots."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
from lxml import etree

from libvirt_guestnet import xmlgen
from libvirt_guestnet.apply import ApplyError, DestroyError, InterruptError, apply, destroy, locked, wanted
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.plan import Plan, PlanError, plan, plan_destroy
from libvirt_guestnet.snapshot import DomainState, NetworkState, Snapshot, Wanted, WantedGuest, WantedNetwork
from libvirt_guestnet.topology import loads
from libvirt_guestnet.virt import Connection, connect

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

    def guard(self, domain_xml: bytes) -> None:
        self.calls.append(("guard", etree.fromstring(domain_xml).findtext("name")))

    def release(self, uuid: str, tap: str) -> None:
        self.calls.append(("release", tap))

    @contextmanager
    def kept_open(self, bridge: str) -> Iterator[None]:
        self.calls.append(("kept open", bridge))
        yield


def want(text: str = TOPOLOGY) -> Wanted:
    topology = loads(text, "lab.yaml")
    hosts = HostMap({"lan": "eth9"}, lambda _device: False)
    image = SimpleNamespace(kernel=Path("/kernel"), initrd=Path("/initrd"))
    return wanted(topology, hosts, lambda guest: xmlgen.domain(topology, guest, hosts, image, "test"))


@pytest.fixture(autouse=True)
def _without_dnsmasq(monkeypatch: pytest.MonkeyPatch) -> None:
    """libvirt's test driver drops dnsmasq's namespace, the real one keeps it (tests/libvirt)."""
    monkeypatch.setattr(sys.modules["libvirt_guestnet.xmlgen.network"], "_dnsmasq_options", lambda *_: None)


@pytest.fixture
def libvirt() -> Iterator[Connection]:
    with connect("test:///default") as connection:
        yield connection
        destroy(plan_destroy("lab", connection.snapshot()), connection, Recorder())


def do(connection: Connection, text: str = TOPOLOGY, **options: object) -> Plan:
    made = plan(want(text), connection.snapshot())
    apply(made, connection, Recorder(), **options)
    return made


def fingerprint(connection: Connection) -> list[tuple[str, bytes, bool, bool]]:
    snapshot = connection.snapshot()
    return sorted(
        (o.name, etree.tostring(o.config), o.live is not None, o.autostart)
        for o in (*snapshot.networks, *snapshot.domains)
    )


def lines(made: Plan) -> list[str]:
    return [change.text() for change in made.changes]


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


def test_a_second_apply_is_empty(libvirt: Connection) -> None:
    do(libvirt)
    assert plan(want(), libvirt.snapshot()).changes == ()


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


def test_a_change_of_mode_restarts_the_network(libvirt: Connection) -> None:
    do(libvirt)
    made = do(libvirt, TOPOLOGY.replace("mode: nat", "mode: route"))
    assert [(c.VERB, c.name) for c in made.changes if c.VERB == "restart"] == [("restart", "one")]
    assert libvirt.snapshot().network["one"].current.find("forward").get("mode") == "route"


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


def test_destroy_needs_the_name_alone_and_twice_is_success(libvirt: Connection) -> None:
    do(libvirt)
    destroy(plan_destroy("lab", libvirt.snapshot()), libvirt, Recorder())
    assert set(libvirt.snapshot().network) == {"default"}
    assert plan_destroy("lab", libvirt.snapshot()).changes == ()


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
def test_a_failure_at_any_step_of_a_change_takes_everything_back(libvirt: Connection, failing: int) -> None:
    do(libvirt)
    before = fingerprint(libvirt)
    with pytest.raises(ApplyError, match="injected") as caught:
        do(libvirt, CHANGED, on_step=fail_at(failing))
    assert caught.value.not_undone == ()
    assert fingerprint(libvirt) == before


def fail_at(number: int):
    count = 0

    def step(_what: str) -> None:
        nonlocal count
        count += 1
        if count == number:
            raise GuestnetError("injected")

    return step


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
        (None, "network 'one' exists and was not made by guestnet: give it another name in the topology"),
        ("theirs", "network 'one' belongs to topology 'theirs': give it another name in this topology, or run"),
    ],
)
def test_a_foreign_network_is_refused(libvirt: Connection, owner: str | None, message: str) -> None:
    element = next(n.element for n in want().networks if n.name == "one")
    element = etree.fromstring(etree.tostring(element))
    mark = element.find("metadata/*")
    if owner is None:
        element.find("metadata").remove(mark)
    else:
        mark.set("topology", owner)
    libvirt.define_network(etree.tostring(element, encoding="unicode"))
    try:
        with pytest.raises(PlanError) as caught:
            plan(want(), libvirt.snapshot())
        assert message in str(caught.value)
    finally:
        libvirt.undefine_network("one")


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


def test_a_running_guest_gains_and_loses_nics_live() -> None:
    less = TOPOLOGY.replace("      - network: two\n        addresses: [10.61.2.9]\n", "")
    made = plan(want(less), running(want(), users=None))
    assert [(c.VERB, c.KIND, c.name) for c in made.changes][:1] == [("detach", "NIC", "a")]
    assert made.interrupts == ()
    made = plan(want(), running(want(less), users=None))
    kinds = [(c.VERB, c.KIND) for c in made.changes if c.name == "a"]
    assert kinds == [("define", "guest"), ("set", "guest metadata"), ("attach", "NIC")]


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
    assert 'link state="down"' in nics[0].live.new
    assert 'link state="down"' not in nics[2].live.new
    assert 'network="two"' in nics[2].live.new


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
    for index in range(size):
        nics = [
            etree.fromstring(
                nic.replace(sample.interfaces[0].find("mac").get("address"), f"52:54:00:{index:04x}:{n:02x}")
            )
            for n in range(10)
        ]
        definition = etree.fromstring(etree.tostring(sample.definition))
        devices = definition.find("devices")
        for old in devices.findall("interface"):
            devices.remove(old)
        devices.extend([etree.fromstring(etree.tostring(n)) for n in nics])
        definition.find("uuid").text = f"u{index}"
        guests.append(WantedGuest(f"g{index}", tuple(nics), definition.find("metadata")[0], definition))
    return Wanted("lab", tuple(networks), tuple(guests))


def test_two_applies_do_not_interleave(tmp_path: Path) -> None:
    with locked(tmp_path / "run"):
        assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700
        with pytest.raises(GuestnetError, match="another guestnet apply or destroy"), locked(tmp_path / "run", 0.1):
            pytest.fail("two at once")
    with locked(tmp_path / "run", 0.1):
        pass


def test_a_refusal_is_in_libvirts_words(libvirt: Connection, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(GuestnetError, match=r"updating network 'nope' .*: .*[Nn]etwork not found"):
        libvirt.update_network("nope", "add", "dhcp-host", "<host/>")
    assert capfd.readouterr().err == ""


def test_connecting_to_nothing_says_what_to_try() -> None:
    with pytest.raises(GuestnetError, match=r"(?s)connecting to qemu\+unix.*Is libvirtd running"):
        connect("qemu+unix:///system?socket=/nonexistent")
