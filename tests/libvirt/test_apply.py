"""Apply and destroy on a real libvirtd with running domains, taps and bridges, in a sandbox.

The domains are real but empty machines of 8 MiB: nothing boots in them, so an unplug only completes at a reset.
"""

from collections.abc import Callable

import pytest
from support.elements import attribute, inside
from support.libvirt_apply import TOPOLOGY, USERS_OWN, WITH_USER, ApplyHost, clean

from libvirt_guestnet.apply.apply import ApplyError, InterruptError, UnfinishedError, destroy
from libvirt_guestnet.changes.guest import AttachInterface
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.libvirtd.nics import interfaces
from libvirt_guestnet.libvirtd.snapshot import Element, to_text
from libvirt_guestnet.metadata.policy import NAMESPACE
from libvirt_guestnet.plan.order import Plan, PlanError, plan_destroy

pytestmark = pytest.mark.libvirt

PLUGGED = TOPOLOGY.replace("      - network: one\n  b:", "      - network: one\n      - network: two\n  b:")
WITH_NAME = TOPOLOGY.replace("    dhcp: {}", "    dhcp: {}\n    dns: {printer: [10.61.1.77]}")
SMALLER_MTU = TOPOLOGY.replace("mode: nat", "mode: nat\n    mtu: 1400")


@pytest.fixture
def host(apply_host: ApplyHost) -> ApplyHost:
    return apply_host


def verbs(made: Plan) -> list[tuple[str, str, str]]:
    return [(change.VERB, change.KIND, change.name) for change in made.changes]


def test_a_second_apply_is_empty_also_with_the_guests_running(host: ApplyHost) -> None:
    host.apply()
    assert host.plan().changes == ()
    host.start("a", "b")
    assert host.plan().changes == ()
    assert sorted(bridge for bridge, _ in host.ports().values()) == ["gn-one", "gn-one", "gn-two"]


def test_drawn_numbers_stay_and_are_nobody_elses(host: ApplyHost) -> None:
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


def test_dhcp_and_dns_change_under_running_guests_without_a_restart(host: ApplyHost) -> None:
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


def test_a_network_restart_needs_leave_and_gives_the_taps_back(host: ApplyHost) -> None:
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


def test_a_nic_is_plugged_in_guarded_before_its_link_is_up_and_unplugged(host: ApplyHost) -> None:
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


def _guarded(host: ApplyHost, nics: dict[str, Element]) -> set[str]:
    """The taps of these NICs that nft's rules speak of."""
    rules = host.sandbox.run(["nft", "list", "ruleset"]).stdout
    return {tap for nic in nics.values() if (tap := attribute(inside(nic, "target"), "dev")) in rules}


def test_a_guest_that_never_lets_go_of_a_nic_keeps_it_guarded_and_all_else_is_done(
    host: ApplyHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.apply()
    host.start("a")
    host.apply(PLUGGED)  # which guards what it plugs in, though no hook is there
    before = interfaces(host.libvirt.snapshot().domain["a"].live)
    guarded = _guarded(host, before)
    assert guarded
    other = TOPOLOGY.replace("    dhcp: {}", "    dhcp: {}\n    dns: {printer: [10.61.1.77]}")
    with monkeypatch.context() as patch:
        patch.setattr("libvirt_guestnet.changes.guest.UNPLUG_SECONDS", 0.5)
        with pytest.raises(UnfinishedError, match=r"has not let go of NIC .* within"):
            host.apply(other)
    after = interfaces(host.libvirt.snapshot().domain["a"].live)
    assert after.keys() == before.keys()
    assert _guarded(host, after) == guarded
    assert "printer" in to_text(host.libvirt.snapshot().network["one"].current), "what is no such guest's is done"
    assert {change.name for change in host.plan(other).changes} == {"a"}
    with host.cooperative("a"):
        host.apply(other)
    assert host.plan(other).changes == ()


def test_link_state_changes_live(host: ApplyHost) -> None:
    host.apply()
    host.start("a")
    down = TOPOLOGY.replace("      - network: one\n  b", "      - network: one\n        link: down\n  b")
    made = host.apply(down)
    assert ("update", "NIC", "a") in verbs(made)
    (live,) = interfaces(host.libvirt.snapshot().domain["a"].live).values()
    assert live.find("link").get("state") == "down"
    host.apply()
    assert host.plan().changes == ()


def test_a_nic_moves_to_another_network_live(host: ApplyHost) -> None:
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


def test_a_failure_at_every_step_under_running_guests_is_rolled_back(host: ApplyHost) -> None:
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


def test_a_failed_plug_is_unplugged_again(host: ApplyHost) -> None:
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


def test_a_users_own_domain_gets_our_nics_only_and_loses_them_only(host: ApplyHost) -> None:
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
def test_what_is_saved_of_a_guest_keeps_its_networks(host: ApplyHost, how: str) -> None:
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


def _snapshot(host: ApplyHost, guest: str) -> None:
    """What libvirt knows of a snapshot with memory; the image of it would need a disk."""
    text = str(host.libvirt.live_xml(guest))
    snapshot = (
        f"<domainsnapshot><name>s</name><state>running</state><memory snapshot='internal'/>{text}</domainsnapshot>"
    )
    argv = ["virsh", "snapshot-create", guest, "/dev/stdin", "--redefine", "--current"]
    host.sandbox.run(argv, stdin=snapshot.replace("<memory snap", "<creationTime>1</creationTime><memory snap", 1))


def test_destroy_takes_everything_whatever_the_file_says_now(host: ApplyHost) -> None:
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


def test_foreign_objects_are_refused_before_anything_is_touched(host: ApplyHost) -> None:
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


def test_what_left_the_file_goes_with_leave_for_running_guests(host: ApplyHost) -> None:
    host.apply()
    host.start("b")
    less = TOPOLOGY[: TOPOLOGY.index("  b:")]
    with pytest.raises(InterruptError, match=r"remove guest b \(interrupts b\): no longer in the topology"):
        host.apply(less)
    host.apply(less, allow_interrupt=True)
    assert set(host.libvirt.snapshot().domain) == {"a"}
    assert host.plan(less).changes == ()
