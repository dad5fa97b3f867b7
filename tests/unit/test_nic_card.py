"""What a port says of the NIC that its guest sees, from the file to the plan. On real libvirts: test_nic_keys.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from lxml import etree
from support.elements import inside

from libvirt_guestnet.apply.topology import wanted
from libvirt_guestnet.changes.change import Run
from libvirt_guestnet.datapath.devices.host_devices import Device
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.importing.facts import Request, Seen
from libvirt_guestnet.importing.survey import survey
from libvirt_guestnet.libvirtd.nics import nic_like
from libvirt_guestnet.libvirtd.snapshot import DomainState, NetworkState, Snapshot
from libvirt_guestnet.model.card import Card
from libvirt_guestnet.plan.external import resolved
from libvirt_guestnet.plan.nic import before, merged, nic_differences, plugged, restored
from libvirt_guestnet.plan.order import Plan, PlanError, plan
from libvirt_guestnet.topology import loads

MAC = "52:54:00:00:00:01"
TOPOLOGY = """
name: t
physical-networks: { lan: {} }
networks:
  default: { external: true }
  office: { external: { bridge: br0 } }
  cable: { mode: bridge, physical-network: lan }
guests: { u: { ports: [{ network: NETWORK, mac: "52:54:00:00:00:01", guarded: false, addresses: anyMORE }] } }
"""
DRIVER = "<driver name='vhost' queues='2' event_idx='off'><host csum='off'/></driver>"
NETWORK = "<network><name>default</name><bridge name='virbr0'/>{}</network>"


def nic(*more: str, source: str = "network='default'", kind: str = "network", model: str = "virtio") -> Any:
    inside = f"<mac address='{MAC}'/><source {source}/><model type='{model}'/>{''.join(more)}"
    return etree.fromstring(f"<interface type='{kind}'>{inside}</interface>")


def made(
    more: str,
    *nics: Any,
    network: str = "default",
    mtu: str = "",
    runs: bool = False,
    os: str = "",
    defined: bool = True,
) -> Plan:
    domain = etree.fromstring(f"<domain><name>u</name><uuid>u1</uuid><os>{os}</os><devices/></domain>")
    domain.find("devices").extend(nics)
    live = etree.fromstring(etree.tostring(domain)) if runs else None
    if not defined:
        domain.find("devices").clear()
    xml = etree.fromstring(NETWORK.format(mtu))
    links = {
        "br0": Device(1500, is_bridge=True),
        "eth0": Device(1450, "br0", is_outside=True),
        "vnet0": Device(1000, "br0"),
    }
    snapshot = Snapshot(
        (NetworkState("default", "n1", xml, xml),), (DomainState("u", "u1", domain, live),), links=links
    )
    text = TOPOLOGY.replace("NETWORK", network).replace("MORE", more)
    hosts = HostMap({"lan": "br0"}, lambda _device: True)
    return plan(wanted(resolved(loads(text, "t.yaml"), snapshot), hosts), snapshot)


def test_a_slot_without_quotes_is_no_number() -> None:
    """YAML 1.1 takes 00:10 for ten seconds."""
    for said, slot in (("00:10", "00:10.0"), ('"0a:1F.7"', "0a:1f.7"), ("01:00", "01:00.0")):
        text = TOPOLOGY.replace("NETWORK", "default").replace("MORE", f", pci-slot: {said}")
        assert loads(text, "t.yaml").guest("u").ports[0].card == Card(pci_slot=slot)


def asked(more: str) -> Any:
    text = TOPOLOGY.replace("NETWORK", "default").replace("MORE", more)
    return wanted(loads(text, "t.yaml"), HostMap({"lan": "br0"}, lambda _device: True)).guests[0].interfaces[0]


def driver(element: Any) -> str:
    found = element.find("driver")
    return "" if found is None else etree.tostring(found, method="c14n", with_tail=False).decode()


def options(element: Any) -> dict[str, str]:
    found = element.find("driver")
    return {} if found is None else dict(found.attrib)


@pytest.mark.parametrize("own", ["", DRIVER])
def test_each_option_of_a_driver_is_the_files_or_the_users(own: str) -> None:
    """Whatever the file says after another, and whatever the user changes meanwhile."""
    start = nic(own)
    says = [
        ", queues: 4",
        ", driver: { packed: true }",
        ", queues: 8, driver: { name: qemu, iommu: false }",
        ", queues: 2",
        "",
    ]
    now, was = start, None
    for more in says:
        want = asked(more)
        now, was = merged(want, now, own=False, was=was), before(want, now, was)
        assert nic_differences(want, now, own=False, was=was) == ()
        assert options(now) == options(start) | options(want), more
    assert driver(now) == driver(start)
    last = asked(", driver: { packed: true }")
    now, was = merged(last, now, own=False), before(last, now)
    if now.find("driver") is not None:
        now.find("driver").set("event_idx", "on")
    assert dict(restored(now, was).find("driver").attrib) == {
        **({"name": "vhost", "queues": "2"} if own else {}),
        "event_idx": "on",
    }


def test_options_that_a_model_does_not_have_come_back_with_the_other_one() -> None:
    start, want = nic(DRIVER), asked(", model: e1000e")
    now = merged(want, start, own=False)
    now.remove(inside(now, "driver"))  # as libvirt does
    was = before(want, start)
    assert nic_differences(want, now, own=False, was=was) == ()
    assert driver(before(want, now, was)) == driver(start), "also when the plan is made once more"
    assert driver(restored(now, was)) == driver(start)
    silent = asked("")
    assert {each.path for each in nic_differences(silent, now, own=False, was=was)} == {"model/@type", "driver"}
    assert driver(merged(silent, now, own=False, was=was)) == driver(start)


def test_a_nic_that_was_plugged_in_is_virtio_again() -> None:
    was = plugged(asked(", model: e1000e, queues: 4".replace(", queues: 4", "")))
    assert was is not None
    again = merged(asked(""), nic(model="e1000e"), own=False, was=was)
    assert again.find("model").get("type") == "virtio"


def test_a_running_nic_has_it_at_the_next_start_and_what_can_be_is_changed_now() -> None:
    more = ", link: down, queues: 4, mtu: 1400, boot-order: 1, alias: ua-x"
    found = made(more, nic("<target dev='vnet0'/>"), runs=True)
    assert found.interrupts == ()
    assert [note for note in found.notes if "next start" in note] == [
        f"guest 'u' is running and gets this at its next start: NIC {MAC}: mtu: size=1400 is missing; "
        "driver: queues=4 is missing; boot: order=1 is missing; alias: name=ua-x is missing"
    ]
    live, config = [change for change in found.changes if change.KIND == "NIC"]
    assert "driver" in config.text() and "driver" not in live.text()
    new = etree.fromstring(live.live.new)  # type: ignore[attr-defined]
    assert [new.find(tag) is None for tag in ("link", "driver", "mtu", "boot", "alias")] == [False, *[True] * 4]


@pytest.mark.parametrize(
    ("more", "there", "os", "message"),
    [
        (", queues: 4", nic(model="rtl8139"), "", "model rtl8139, which has neither queues"),
        (", alias: ua-x, teaming: persistent", nic(model="e1000"), "", "model e1000, which has neither queues"),
        (", boot-order: 1", nic(), "<boot dev='hd'/>", "beside that libvirt lets no device have a turn"),
    ],
)
def test_what_a_domain_cannot_have_is_refused(more: str, there: Any, os: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        made(more, there, os=os)
    made(more, nic(), os="")


@pytest.mark.parametrize(
    ("network", "size", "mtu", "message"),
    [
        ("default", 1501, "", "its MTU is 1501, and network 'default' carries 1500"),
        ("default", 1401, "<mtu size='1400'/>", "carries 1400"),
        ("office", 1451, "", "eth0, by which bridge br0 leads outside, carries 1450"),
        ("cable", 1451, "", "eth0, by which bridge br0 leads outside, carries 1450"),
        ("cable, kind: bridge", 1451, "", "eth0, by which bridge br0 leads outside, carries 1450"),
    ],
)
def test_an_mtu_that_does_not_fit_on_this_host_is_refused(network: str, size: int, mtu: str, message: str) -> None:
    on = {"office": nic(source="bridge='br0'", kind="bridge")}.get(network, nic())
    with pytest.raises(GuestnetError, match=message):
        made(f", mtu: {size}", on, network=network, mtu=mtu)
    assert made(f", mtu: {size - 1}", on, network=network, mtu=mtu).changes


def test_the_nic_to_define_anew_is_found_by_its_slot_where_two_have_its_address() -> None:
    slots = [f"<address type='pci' domain='0x0000' bus='0x00' slot='0x0{n}' function='0x0'/>" for n in (3, 4)]
    domain = etree.fromstring("<domain><devices/></domain>")
    domain.find("devices").extend(map(nic, slots))
    assert nic_like(domain, nic(slots[1])) is domain.findall("devices/interface")[1]
    assert nic_like(domain, nic()) is None
    assert nic_like(domain, nic("<address type='pci' slot='0x09'/>")) is None


def test_an_import_takes_the_nic_of_a_pair_that_stays() -> None:
    stays = nic("<teaming type='persistent'/><alias name='ua-x'/>")
    goes = nic("<teaming type='transient' persistent='ua-x'/>", source="network='vfs'")
    domain = etree.fromstring("<domain><name>u</name><uuid>u1</uuid><devices/></domain>")
    domain.find("devices").extend([goes, stays])
    xml = etree.fromstring(NETWORK.format(""))
    snapshot = Snapshot((NetworkState("default", "n1", xml, xml),), (DomainState("u", "u1", domain),))
    found = survey(Seen(snapshot), Request("t"))
    assert [(port.network, port.mac) for guest in found.guests for port in guest.ports] == [("default", MAC)]
    (left,) = found.left_out
    assert left.what == f"domain 'u', NIC '{MAC}'"
    assert left.why.startswith(
        "it is the transient NIC of a net_failover pair, and nobody can guard it: the guest drives"
    )


SLOT = "<address type='pci' domain='0x0000' bus='0x00' slot='0x0{}' function='0x0'/>"
OTHER = "52:54:00:00:00:02"


def two(first: str, second: str, *nics: Any, runs: bool = False) -> Plan:
    """The same with two NICs, of which the file says that."""
    ports = (
        f"""[{{ network: default, mac: "{MAC}"{first} }}, {{ network: default, name: b, mac: "{OTHER}"{second} }}]"""
    )
    text = f"name: t\nnetworks: {{ default: {{ external: true }} }}\nguests: {{ u: {{ ports: {ports} }} }}"
    domain = etree.fromstring("<domain><name>u</name><uuid>u1</uuid><devices/></domain>")
    domain.find("devices").extend(nics)
    xml = etree.fromstring(
        NETWORK.format("<ip address='10.0.0.1' prefix='24'><dhcp><range start='10.0.0.2' end='10.0.0.9'/></dhcp></ip>")
    )
    states = (NetworkState("default", "n1", xml, xml),), (DomainState("u", "u1", domain),)
    snapshot = Snapshot(*states)
    return plan(wanted(resolved(loads(text, "t.yaml"), snapshot), HostMap()), snapshot)


def other(*more: str) -> Any:
    found = nic(*more)
    found.find("mac").set("address", OTHER)
    return found


@pytest.mark.parametrize(
    ("says", "has"),
    [
        ((', pci-slot: "00:04"', ', pci-slot: "00:03"'), (SLOT.format(3), SLOT.format(4))),
        ((", boot-order: 2", ", boot-order: 1"), ("<boot order='1'/>", "<boot order='2'/>")),
        ((', pci-slot: "00:04"', ', pci-slot: "00:05"'), (SLOT.format(3), SLOT.format(4))),
    ],
    ids=["slots", "boot order", "one after the other"],
)
def test_two_nics_that_take_each_others_place_are_defined_in_one_step(
    says: tuple[str, str], has: tuple[str, str]
) -> None:
    """libvirt refuses a definition in which both have the same, as it would be in between."""
    found = two(*says, nic(has[0]), other(has[1]))
    (change,) = [each for each in found.changes if each.KIND == "NIC"]
    done: list[tuple[str, list[tuple[str, str]]]] = []
    undone: list[Any] = []
    libvirt = SimpleNamespace(redefine_nics=lambda name, nics: done.append((name, list(nics))))
    change.run(Run(libvirt, None, lambda _what, undo: undone.append(undo), lambda _: None))  # type: ignore[arg-type]
    ((name, nics),) = done
    assert (name, len(nics)) == ("u", 2)
    assert MAC in change.text() and OTHER in change.text()
    undone[0]()
    assert done[1] == ("u", [(new, old) for old, new in nics])


def test_what_no_nic_of_the_file_leaves_is_taken() -> None:
    with pytest.raises(PlanError, match=r"pci-slot 00:04.0 is that of its domain's interface already"):
        two(', pci-slot: "00:04"', "", nic(SLOT.format(3)), other(SLOT.format(4)))


def test_slots_that_nobody_has_are_changed_one_by_one() -> None:
    found = two(', pci-slot: "00:07"', ', pci-slot: "00:08"', nic(SLOT.format(3)), other(SLOT.format(4)))
    assert len([each for each in found.changes if each.KIND == "NIC"]) == 2


def test_a_nic_that_only_runs_is_defined_with_the_alias_that_its_user_gave() -> None:
    """The one that libvirt makes up, and the slot, may be another's in the definition."""
    for name, kept in (("ua-lan", "ua-lan"), ("net0", None)):
        found = made("", nic(f"<alias name='{name}'/>", SLOT.format(3)), runs=True, defined=False)
        (attach,) = [each for each in found.changes if each.KIND == "NIC" and each.verb == "attach"]
        xml = etree.fromstring(attach.xml)  # type: ignore[attr-defined]
        assert xml.find("address") is None
        alias = xml.find("alias")
        assert (None if alias is None else alias.get("name")) == kept


def test_an_mtu_of_the_network_that_changes_says_whom_it_interrupts() -> None:
    """libvirt changes none of a running NIC; at the next start alone, large frames would vanish until then."""

    def asked_for(mtu: int) -> Any:
        text = TOPOLOGY.replace("NETWORK", "cable").replace("MORE", "")
        text = text.replace("physical-network: lan }", f"physical-network: lan, mtu: {mtu} }}")
        text = text.replace("  default: { external: true }\n  office: { external: { bridge: br0 } }\n", "")
        return wanted(loads(text, "t.yaml"), HostMap({"lan": "br0"}, lambda _device: True))

    there = asked_for(1400)
    domain = etree.fromstring("<domain><name>u</name><uuid>u1</uuid><devices/></domain>")
    domain.find("devices").append(there.guests[0].interfaces[0])
    (network,) = [each.element for each in there.networks]
    running = etree.fromstring(etree.tostring(domain))
    states = (NetworkState("cable", "n", network, network),), (DomainState("u", "u1", domain, running),)
    found = plan(asked_for(1300), Snapshot(*states))
    assert found.interrupts == ("u",)
    assert f"detach NIC u (interrupts u): {MAC}, to plug it in changed: mtu/@size: 1400 -> 1300" in found.text()
