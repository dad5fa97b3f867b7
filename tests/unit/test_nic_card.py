"""What a port says of the NIC that its guest sees, from the file to the plan. On real libvirts: test_nic_keys.py."""

from __future__ import annotations

from typing import Any

import pytest
from lxml import etree
from support.elements import inside

from libvirt_guestnet.apply.topology import wanted
from libvirt_guestnet.datapath.devices.host_devices import Device
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.importing.facts import Request, Seen
from libvirt_guestnet.importing.survey import survey
from libvirt_guestnet.libvirtd.snapshot import DomainState, NetworkState, Snapshot, nic_like
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


def made(more: str, *nics: Any, network: str = "default", mtu: str = "", runs: bool = False, os: str = "") -> Plan:
    domain = etree.fromstring(f"<domain><name>u</name><uuid>u1</uuid><os>{os}</os><devices/></domain>")
    domain.find("devices").extend(nics)
    live = etree.fromstring(etree.tostring(domain)) if runs else None
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
