"""Apply and destroy on a real libvirtd with running domains, taps and bridges, in a sandbox.

The domains are real but empty machines of 8 MiB: nothing boots in them, so an unplug only completes at a reset.
"""

import json
import re
import select
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from lxml import etree
from support.elements import attribute, inside
from support.sandboxes import HERE, LIBVIRTS

from libvirt_guestnet import xmlgen
from libvirt_guestnet.apply.apply import ApplyError, InterruptError, apply, destroy
from libvirt_guestnet.apply.topology import wanted
from libvirt_guestnet.changes.guest import AttachInterface
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.guest.image import TinyImage
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.libvirtd.connection import Connection, connect
from libvirt_guestnet.libvirtd.snapshot import DomainState, NetworkState, Wanted, interfaces, parse_xml
from libvirt_guestnet.metadata.policy import NAMESPACE
from libvirt_guestnet.plan.order import Plan, PlanError, plan, plan_destroy
from libvirt_guestnet.sandbox import Sandbox
from libvirt_guestnet.topology import loads

pytestmark = pytest.mark.libvirt

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
  b:
    image: tiny
    ports:
      - network: one
        isolated: true
      - network: two
"""
PLUGGED = TOPOLOGY.replace("      - network: one\n  b:", "      - network: one\n      - network: two\n  b:")
WITH_NAME = TOPOLOGY.replace("    dhcp: {}", "    dhcp: {}\n    dns: {printer: [10.61.1.77]}")
SMALLER_MTU = TOPOLOGY.replace("mode: nat", "mode: nat\n    mtu: 1400")
# One process inside makes all effects: starting Python and importing pyroute2 for each would take most of the time.
_EFFECTS = """
import json, sys
from libvirt_guestnet.apply.apply import KernelEffects
effects = KernelEffects()
for line in sys.stdin:
    name, *arguments = json.loads(line)
    if name in ("guard", "adopt_network"):
        arguments = [arguments[0].encode()]
    try:
        getattr(effects, name)(*arguments)
        print("", flush=True)
    except Exception as error:
        print(" ".join(str(error).split()), flush=True)
"""


class Host:
    """A sandbox and a connection into it; the real effects, made inside."""

    def __init__(self, sandbox: Sandbox, connection: Connection, effects: subprocess.Popen[str]) -> None:
        self.sandbox = sandbox
        self.libvirt = connection
        self.effects = effects
        self.guarded: list[etree._Element] = []

    def enslave(self, tap: str, bridge: str, isolated: bool) -> None:
        self._effect("enslave", tap, bridge, isolated)

    def guard(self, domain_xml: bytes) -> None:
        self.guarded.append(parse_xml(domain_xml.decode()))
        self._effect("guard", domain_xml.decode())

    def release(self, uuid: str, tap: str) -> None:
        self._effect("release", uuid, tap)

    def adopt_network(self, network_xml: bytes) -> None:
        self._effect("adopt_network", network_xml.decode())

    def kept_open(self, _bridge: str) -> AbstractContextManager[None]:
        return nullcontext()

    def _effect(self, *call: object) -> None:
        print(json.dumps(call), file=self.effects.stdin, flush=True)
        answers = self.effects.stdout
        assert answers is not None
        assert select.select([answers], [], [], 30)[0], f"no answer to {call[0]}"
        failure = answers.readline()
        if failure != "\n":
            raise GuestnetError(failure)

    def plan(self, text: str = TOPOLOGY) -> Plan:
        return plan(want(text), self.libvirt.snapshot(self.devices()))

    def apply(self, text: str = TOPOLOGY, **options: Any) -> Plan:
        made = self.plan(text)
        apply(made, self.libvirt, self, **options)
        return made

    def destroy(self, name: str = "lab") -> Plan:
        made = plan_destroy(name, self.libvirt.snapshot())
        destroy(made, self.libvirt, self)
        return made

    def devices(self) -> list[str]:
        return [link["ifname"] for link in self.json("ip", "-j", "link")]

    def json(self, *argv: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.sandbox.run(argv).stdout or "[]")
        return found

    def ports(self) -> dict[str, tuple[str, bool]]:
        """Tap -> (bridge, isolated), as iproute2 sees it."""
        links = self.json("bridge", "-j", "-d", "link")
        return {p["ifname"]: (p["master"], p["isolated"]) for p in links if "master" in p}

    def start(self, *guests: str) -> None:
        for guest in guests:
            self.libvirt.start_domain(guest)

    @contextmanager
    def cooperative(self, *guests: str) -> Iterator[None]:
        """Empty machines let go of a NIC only when they are reset."""
        done = threading.Event()

        def nudge() -> None:
            while not done.wait(0.3):
                for guest in guests:
                    self.sandbox.run(["virsh", "-q", "-c", "qemu:///system", "reset", guest], check=False)

        thread = threading.Thread(target=nudge)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def fingerprint(self) -> object:
        """Everything that an undone apply must have left as it was; not what libvirt numbers anew."""
        snapshot = self.libvirt.snapshot()
        objects: list[NetworkState | DomainState] = [*snapshot.networks, *snapshot.domains]
        texts = [(o.name, clean(o.config), None if o.live is None else clean(o.live), o.autostart) for o in objects]
        return sorted(texts), self.ports()


def clean(element: etree._Element) -> str:
    text = etree.tostring(element, method="c14n").decode().replace("\n", "")
    text = re.sub(
        r"<(alias|address)\b[^>]*></\1>| (portid|connections|id)=\"[^\"]*\"|<link state=\"up\"></link>", "", text
    )
    return re.sub(r">\s+<", "><", text)


def empty_machine(domain: etree._Element) -> etree._Element:
    for path in ("sysinfo", "os/kernel", "os/initrd", "os/cmdline"):
        for element in domain.findall(path):
            element.getparent().remove(element)
    domain.find("memory").text = "8"
    return domain


def want(text: str = TOPOLOGY) -> Wanted:
    topology = loads(text, "lab.yaml")
    hosts = HostMap({"lan": "uplink0"}, lambda _device: False)
    image = TinyImage(kernel=Path("/kernel"), initrd=Path("/initrd"))
    return wanted(topology, hosts, lambda guest: empty_machine(xmlgen.domain(topology, guest, hosts, image, "qemu")))


@pytest.fixture(scope="module", params=LIBVIRTS)
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    """On 11.3 with our hooks installed."""
    found: Sandbox = request.getfixturevalue("plain_sandbox" if request.param == HERE else "trixie_sandbox")
    return found


@pytest.fixture(scope="module")
def effects(sandbox: Sandbox) -> Iterator[subprocess.Popen[str]]:
    command = sandbox.python(["-c", _EFFECTS])
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.stdin.close()
        assert process.wait(10) == 0


@pytest.fixture
def host(sandbox: Sandbox, effects: subprocess.Popen[str]) -> Iterator[Host]:
    uri = f"qemu+unix:///system?socket=/proc/{sandbox.first.pid}/root/run/libvirt/libvirt-sock"
    with connect(uri) as connection:
        made = Host(sandbox, connection, effects)
        yield made
        for name in ("lab", "other"):
            made.destroy(name)
        leftover = connection.snapshot()
        assert (leftover.networks, leftover.domains) == ((), ())
        assert {d for d in made.devices() if d.startswith(("gn-", "vme", "vnet"))} == set()


def verbs(made: Plan) -> list[tuple[str, str, str]]:
    return [(change.VERB, change.KIND, change.name) for change in made.changes]


def test_a_second_apply_is_empty_also_with_the_guests_running(host: Host) -> None:
    host.apply()
    assert host.plan().changes == ()
    host.start("a", "b")
    assert host.plan().changes == ()
    assert sorted(bridge for bridge, _ in host.ports().values()) == ["gn-one", "gn-one", "gn-two"]


def test_drawn_numbers_stay_and_are_nobody_elses(host: Host) -> None:
    drawn = """
name: {}
physical-networks: {{ lan: {{ vnis: [5000] }} }}
networks:
  {}: {{ mode: bridge, vxlan: {{ vni: auto, underlay: lan, group: 239.1.1.1 }} }}
"""
    host.sandbox.run(["ip", "link", "add", "uplink0", "up", "type", "veth", "peer", "name", "uplink1"])
    host.sandbox.run(["ip", "addr", "add", "198.18.9.1/24", "dev", "uplink0"])
    try:
        host.apply(drawn.format("lab", "red"))
        assert host.plan(drawn.format("lab", "red")).changes == ()
        found = host.libvirt.snapshot().network["red"].live
        assert found is not None
        assert found.find(f".//{{{NAMESPACE}}}vxlan").get("vni") == "5000"
        with pytest.raises(PlanError, match="VNI 5000, drawn from the pool, is that of libvirt network 'red'"):
            host.plan(drawn.format("other", "blue"))
        host.destroy()
    finally:
        host.sandbox.run(["ip", "link", "del", "uplink0"])


def test_dhcp_and_dns_change_under_running_guests_without_a_restart(host: Host) -> None:
    host.apply()
    host.start("a")
    bridge = next(link["ifindex"] for link in host.json("ip", "-j", "link") if link["ifname"] == "gn-one")
    reserved = TOPOLOGY.replace(
        "image: tiny\n    ports:\n      - network: one\n  b",
        "image: tiny\n    ports:\n      - network: one\n        addresses: [10.61.1.33]\n  b",
    )
    for text in (WITH_NAME, reserved, TOPOLOGY):
        made = host.apply(text)
        assert made.interrupts == ()
        assert ("restart", "network", "one") not in verbs(made)
        assert host.plan(text).changes == ()
    assert bridge == next(link["ifindex"] for link in host.json("ip", "-j", "link") if link["ifname"] == "gn-one")
    host.apply(WITH_NAME)
    served = host.sandbox.run(["cat", "/var/lib/libvirt/dnsmasq/one.addnhosts"]).stdout
    assert "10.61.1.77\tprinter" in served


def test_a_network_restart_needs_leave_and_gives_the_taps_back(host: Host) -> None:
    host.apply()
    host.start("a", "b")
    before = host.ports()
    assert sorted(before.values()) == [("gn-one", False), ("gn-one", True), ("gn-two", False)]
    with pytest.raises(InterruptError, match=r"restart network one \(interrupts a, b\): mtu: size=1400 is missing"):
        host.apply(SMALLER_MTU)
    assert host.ports() == before
    host.apply(SMALLER_MTU, allow_interrupt=True)
    assert host.ports() == before
    assert host.plan(SMALLER_MTU).changes == ()
    assert host.json("ip", "-j", "link", "show", "gn-one")[0]["mtu"] == 1400


def test_a_nic_is_plugged_in_guarded_before_its_link_is_up_and_unplugged(host: Host) -> None:
    host.apply()
    host.start("a")
    with_nic = host.apply(PLUGGED)
    assert ("attach", "NIC", "a") in verbs(with_nic)
    assert host.plan(PLUGGED).changes == ()
    attach = next(change for change in with_nic.changes if change.KIND == "NIC")
    assert isinstance(attach, AttachInterface)
    address = attach.mac
    first = next(xml for xml in host.guarded if address in interfaces(xml))
    nic = interfaces(first)[address]
    assert nic.find("link").get("state") == "down"
    device = attribute(inside(nic, "target"), "dev")
    assert host.ports()[device] == ("gn-two", False)
    assert device in host.sandbox.run(["nft", "list", "ruleset"]).stdout
    live = interfaces(host.libvirt.snapshot().domain["a"].live)[address]
    assert live.find("link") is None or live.find("link").get("state") == "up"
    with host.cooperative("a"):
        host.apply(TOPOLOGY)
    assert host.plan().changes == ()
    assert device not in host.devices()
    assert device not in host.sandbox.run(["nft", "list", "ruleset"]).stdout


def test_a_guest_that_never_lets_go_of_a_nic_fails_and_nothing_changes(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("libvirt_guestnet.changes.guest.UNPLUG_SECONDS", 0.5)
    host.apply(PLUGGED)
    host.start("a")
    before = host.fingerprint()
    with pytest.raises(ApplyError, match=r"has not let go of NIC .* within"):
        host.apply(TOPOLOGY)
    assert host.fingerprint() == before


def test_link_state_changes_live(host: Host) -> None:
    host.apply()
    host.start("a")
    down = TOPOLOGY.replace("      - network: one\n  b", "      - network: one\n        link: down\n  b")
    made = host.apply(down)
    assert ("update", "NIC", "a") in verbs(made)
    (live,) = interfaces(host.libvirt.snapshot().domain["a"].live).values()
    assert live.find("link").get("state") == "down"
    host.apply()
    assert host.plan().changes == ()


def test_a_nic_moves_to_another_network_live(host: Host) -> None:
    host.apply()
    host.start("a")
    (old,) = interfaces(host.libvirt.snapshot().domain["a"].live).values()
    address, device = (attribute(inside(old, tag), name) for tag, name in (("mac", "address"), ("target", "dev")))
    moved = TOPOLOGY.replace(
        "      - network: one\n  b", f"      - network: two\n        mac: {address}\n        tap: {device}\n  b"
    )
    host.apply(moved)
    assert host.ports()[device] == ("gn-two", False)
    assert host.plan(moved).changes == ()


def fail_at(number: int) -> Callable[[str], None]:
    count = 0

    def step(_what: str) -> None:
        nonlocal count
        count += 1
        if count == number:
            raise GuestnetError("injected")

    return step


def test_a_failure_at_every_step_under_running_guests_is_rolled_back(host: Host) -> None:
    changed = SMALLER_MTU.replace("      - network: two\n", "      - network: two\n        addresses: [10.61.2.77]\n")
    changed = changed.replace("      - network: one\n  b", "      - network: one\n        link: down\n  b")
    host.apply()
    total = 0
    host.start("a", "b")
    before = host.fingerprint()
    for failing in range(1, 30):
        try:
            host.apply(changed, allow_interrupt=True, on_step=fail_at(failing))
        except ApplyError as error:
            total += 1
            assert error.not_undone == ()
            assert "injected" in str(error)
        else:
            break
        assert host.fingerprint() == before, f"step {failing}"
    assert total >= 5


def test_a_failed_plug_is_unplugged_again(host: Host) -> None:
    host.apply()
    host.start("a")
    before = host.fingerprint()
    total = 0
    with host.cooperative("a"):
        for step in ("plugged, link down", "link up"):

            def fail(what: str, step: str = step) -> None:
                if what == step:
                    raise GuestnetError("injected")

            with pytest.raises(ApplyError) as caught:
                host.apply(PLUGGED, on_step=fail)
            assert caught.value.not_undone == ()
            assert host.fingerprint() == before
            total += 1
    assert total == 2


USERS_OWN = """
<domain type='qemu'>
  <name>u</name><memory unit='MiB'>8</memory><os><type machine='pc'>hvm</type></os>
  <features><acpi/></features><cpu mode='custom' match='exact'><model>qemu64</model></cpu>
  <devices>
    <controller type='usb' model='none'/><memballoon model='none'/>
    <interface type='user'><mac address='52:54:00:99:99:99'/><model type='rtl8139'/></interface>
  </devices>
</domain>"""
WITH_USER = """
name: lab
networks:
  one: {mode: nat, subnets: [10.61.1.0/24]}
guests:
  u:
    ports: [{network: one}]
"""


def test_a_users_own_domain_gets_our_nics_only_and_loses_them_only(host: Host) -> None:
    host.libvirt.define_domain(USERS_OWN)
    host.start("u")
    before = host.libvirt.snapshot().domain["u"]
    try:
        host.apply(WITH_USER)
        assert host.plan(WITH_USER).changes == ()
        state = host.libvirt.snapshot().domain["u"]
        assert state.topology == "lab"
        assert len(interfaces(state.live)) == len(interfaces(state.config)) == 2
        with host.cooperative("u"):
            host.destroy()
        after = host.libvirt.snapshot().domain["u"]
        assert clean(after.config).replace("<metadata></metadata>", "") == clean(before.config)
        assert list(interfaces(after.live)) == ["52:54:00:99:99:99"]
        assert after.mark is None
    finally:
        host.libvirt.stop_domain("u")
        host.libvirt.undefine_domain("u")


@pytest.mark.parametrize("how", ["managed save", "snapshot"])
def test_what_is_saved_of_a_guest_keeps_its_networks(host: Host, how: str) -> None:
    host.libvirt.define_domain(USERS_OWN)
    try:
        host.apply(WITH_USER)
        host.start("u")
        if how == "managed save":
            host.sandbox.run(["virsh", "managedsave", "u"])
        else:
            _snapshot(host, "u")
            host.libvirt.stop_domain("u")
        made = plan_destroy("lab", host.libvirt.snapshot(), ["u"])
        assert made.interrupts == ("u",)
        with pytest.raises(InterruptError, match=r"remove network one \(interrupts u\).*what is saved of u cannot"):
            destroy(made, host.libvirt, host)
        host.start("u")  # it can be brought back
    finally:
        host.libvirt.stop_domain("u")
        host.libvirt.undefine_domain("u")


def _snapshot(host: Host, guest: str) -> None:
    """What libvirt knows of a snapshot with memory; the image of it would need a disk."""
    text = str(host.libvirt.live_xml(guest))
    snapshot = (
        f"<domainsnapshot><name>s</name><state>running</state><memory snapshot='internal'/>{text}</domainsnapshot>"
    )
    argv = ["virsh", "snapshot-create", guest, "/dev/stdin", "--redefine", "--current"]
    host.sandbox.run(argv, stdin=snapshot.replace("<memory snap", "<creationTime>1</creationTime><memory snap", 1))


def test_destroy_takes_everything_whatever_the_file_says_now(host: Host) -> None:
    host.apply(PLUGGED)
    host.start("a", "b")
    other = "name: other\nnetworks:\n  three: {mode: nat, subnets: [10.61.3.0/24]}\n"
    host.apply(other)
    host.destroy()
    snapshot = host.libvirt.snapshot()
    assert set(snapshot.network) == {"three"}
    assert snapshot.domains == ()
    assert host.plan(other).changes == ()
    assert host.destroy().changes == ()


def test_foreign_objects_are_refused_before_anything_is_touched(host: Host) -> None:
    host.libvirt.define_network("<network><name>two</name><bridge name='theirs0'/></network>")
    host.sandbox.run(["ip", "link", "add", "gn-one", "type", "bridge"])
    try:
        with pytest.raises(PlanError) as caught:
            host.apply()
        assert len(caught.value.problems) == 2
        assert "network 'two' exists and was not made by guestnet" in str(caught.value)
        assert "this host has a device 'gn-one' already" in str(caught.value)
        assert set(host.libvirt.snapshot().network) == {"two"}
    finally:
        host.sandbox.run(["ip", "link", "delete", "gn-one"])
        host.libvirt.undefine_network("two")


def test_what_left_the_file_goes_with_leave_for_running_guests(host: Host) -> None:
    host.apply()
    host.start("b")
    less = TOPOLOGY[: TOPOLOGY.index("  b:")]
    with pytest.raises(InterruptError, match=r"remove guest b \(interrupts b\): no longer in the topology"):
        host.apply(less)
    host.apply(less, allow_interrupt=True)
    assert set(host.libvirt.snapshot().domain) == {"a"}
    assert host.plan(less).changes == ()
