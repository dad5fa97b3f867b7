"""What a port says of the NIC that its guest sees, on a real libvirtd: declared on new NICs and on a user's own ones,
which keep all that is not declared, and are left as they were."""

import re
from collections.abc import Iterator

import pytest
from lxml import etree
from support.elements import inside
from support.libvirt_apply import USERS_OWN, ApplyHost, clean

from libvirt_guestnet.apply.apply import apply
from libvirt_guestnet.apply.topology import wanted
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.importing.facts import Request, Seen
from libvirt_guestnet.importing.survey import survey
from libvirt_guestnet.importing.text import text as written
from libvirt_guestnet.libvirtd.nics import interfaces
from libvirt_guestnet.plan.external import resolved
from libvirt_guestnet.plan.order import Plan, plan
from libvirt_guestnet.status.nic_states import CANNOT
from libvirt_guestnet.status.unguarded import unguarded_rows
from libvirt_guestnet.topology import loads

pytestmark = pytest.mark.libvirt

MAC, NEW = "52:54:00:aa:bb:01", "52:54:00:aa:bb:02"
NETWORK = "<network><name>default</name><bridge name='virbr9'/></network>"
DISK = """<disk type='file' device='disk'><source file='/tmp/u.img'/><target dev='vda' bus='virtio'/><boot order='2'/>
<address type='pci' domain='0x0000' bus='0x00' slot='0x0c' function='0x0'/></disk>"""
# What nobody declares is beside what somebody does, in the same elements, too.
OWN = f"""<interface type='network'><mac address='{MAC}'/><source network='default'/><model type='virtio'/>
<driver name='vhost' queues='2' event_idx='off'><guest csum='off'/></driver><rom enabled='no'/><boot order='3'/>
<coalesce><rx><frames max='7'/></rx></coalesce><alias name='ua-old'/>
<address type='pci' domain='0x0000' bus='0x00' slot='0x0a' function='0x0'/></interface>"""
TOPOLOGY = """
name: lab
networks: {{ default: {{ external: true, guarded: observe }} }}
guests: {{ u: {{ ports: [{{ network: default, mac: "{mac}", addresses: any{more} }}] }} }}
"""
KEYS = (
    ", queues: 4, driver: { name: qemu, rx-queue-size: 512, packed: true }, mtu: 1400, boot-order: 1, "
    'pci-slot: "00:0b", alias: ua-wan, teaming: persistent'
)


@pytest.fixture
def host(apply_host: ApplyHost) -> Iterator[ApplyHost]:
    apply_host.libvirt.define_network(NETWORK)
    apply_host.libvirt.start_network("default")
    apply_host.sandbox.run(["truncate", "-s", "1M", "/tmp/u.img"])
    yield apply_host
    apply_host.libvirt.stop_domain("u")
    apply_host.libvirt.undefine_domain("u")
    apply_host.libvirt.stop_network("default")
    apply_host.libvirt.undefine_network("default")


def defined(host: ApplyHost, *nics: str) -> None:
    """The user's domain; its disk has a turn to boot, so its NICs may have one."""
    host.libvirt.define_domain(
        USERS_OWN.replace("<interface type='user'>", f"{DISK}{''.join(nics)}<interface type='user'>")
    )


def asked(more: str = "", mac: str = MAC) -> str:
    return TOPOLOGY.format(mac=mac, more=more)


def plan_here(host: ApplyHost, text: str) -> Plan:
    """With what the host says of its external networks, as the command line has it."""
    here = host.libvirt.snapshot(host.devices())
    return plan(wanted(resolved(loads(text, "lab.yaml"), here), HostMap({})), here)


def apply_here(host: ApplyHost, text: str) -> Plan:
    made = plan_here(host, text)
    apply(made, host.libvirt, host)
    return made


def nic(host: ApplyHost, mac: str = MAC, *, live: bool = False) -> etree._Element:
    state = host.libvirt.snapshot().domain["u"]
    return interfaces(state.live if live else state.config)[mac]


def attributes_of(element: etree._Element) -> dict[str, str]:
    return {str(name): str(value) for name, value in element.items()}


def part(element: etree._Element, tag: str) -> str:
    found = element.find(tag)
    return (
        "" if found is None else re.sub(r">\s+<", "><", etree.tostring(found, method="c14n", with_tail=False).decode())
    )


def parts(element: etree._Element) -> dict[str, str]:
    return {str(child.tag): part(element, str(child.tag)) for child in element}


def changed(old: dict[str, str], new: dict[str, str]) -> set[str]:
    return {tag for tag in old.keys() | new.keys() if old.get(tag, "") != new.get(tag, "")}


EACH = {
    ", queues: 4": {"driver": {"name": "vhost", "queues": "4", "event_idx": "off"}},
    ", driver: { name: qemu }": {"driver": {"name": "qemu", "queues": "2", "event_idx": "off"}},
    ", driver: { packed: true, iommu: false, rx-queue-size: 1024 }": {
        "driver": {
            "name": "vhost",
            "queues": "2",
            "event_idx": "off",
            "packed": "on",
            "iommu": "off",
            "rx_queue_size": "1024",
        }
    },
    ", model: virtio-non-transitional": {"model": {"type": "virtio-non-transitional"}},
    ", mtu: 1300": {"mtu": {"size": "1300"}},
    ", boot-order: 1": {"boot": {"order": "1"}},
    ', pci-slot: "00:0b"': {
        "address": {"type": "pci", "domain": "0x0000", "bus": "0x00", "slot": "0x0b", "function": "0x0"}
    },
    ", alias: ua-wan": {"alias": {"name": "ua-wan"}},
    ", alias: ua-wan, teaming: persistent": {"alias": {"name": "ua-wan"}, "teaming": {"type": "persistent"}},
}


def test_each_key_changes_what_it_says_of_a_defined_nic_and_nothing_else(host: ApplyHost) -> None:
    defined(host, OWN)
    before = parts(nic(host))
    whole = clean(host.libvirt.snapshot().domain["u"].config)
    for more, said in EACH.items():
        text = asked(more)
        plan = apply_here(host, text)
        assert ["defined: " in each.text() for each in plan.changes if each.KIND == "NIC"] == [True], more
        now = nic(host)
        for tag, attributes in said.items():
            assert attributes_of(inside(now, tag)) == attributes, more
        assert changed(before, parts(now)) == set(said), more
        assert plan_here(host, text).changes == (), more
    apply_here(host, asked())
    assert changed(before, parts(nic(host))) == set(), "what the file says no more is as it was"
    apply_here(host, asked(KEYS))
    host.destroy()
    assert parts(nic(host)) == before
    assert clean(host.libvirt.snapshot().domain["u"].config).replace("<metadata></metadata>", "") == whole


def test_another_model_takes_the_driver_along_and_gives_it_back(host: ApplyHost) -> None:
    """libvirt drops the options of virtio's driver where the model is another one."""
    defined(host, OWN)
    before = parts(nic(host))
    text = asked(", model: e1000e, mtu: 1300")
    apply_here(host, text)
    assert changed(before, parts(nic(host))) == {"model", "mtu", "driver"}
    assert nic(host).find("driver") is None
    assert plan_here(host, text).changes == ()
    apply_here(host, text.replace("1300", "1200"))
    host.destroy()
    assert parts(nic(host)) == before


def test_a_new_nic_is_plugged_in_with_all_of_it(host: ApplyHost) -> None:
    defined(host)
    host.start("u")
    text = asked(KEYS, NEW)
    apply_here(host, text)
    for live in (True, False):
        found = parts(nic(host, NEW, live=live))
        assert found["model"] == '<model type="virtio"></model>'
        assert found["mtu"] == '<mtu size="1400"></mtu>'
        assert found["teaming"] == '<teaming type="persistent"></teaming>'
        assert found["alias"] == '<alias name="ua-wan"></alias>'
        assert found["boot"] == '<boot order="1"></boot>'
        assert 'slot="0x0b"' in found["address"]
        driver = inside(nic(host, NEW, live=live), "driver")
        assert attributes_of(driver) == {"name": "qemu", "queues": "4", "rx_queue_size": "512", "packed": "on"}
    device = inside(nic(host, NEW, live=True), "target").get("dev")
    (tap,) = host.json("ip", "-j", "-d", "link", "show", str(device))
    assert (tap["mtu"], tap["linkinfo"]["info_data"]["multi_queue"]) == (1400, True)
    assert (plan_here(host, text).changes, plan_here(host, text).notes) == ((), ())
    less = asked(", queues: 4", NEW)
    (note,) = plan_here(host, less).notes
    assert "is running and gets this at its next start" in note
    apply_here(host, less)
    assert parts(nic(host, NEW))["driver"] == '<driver queues="4"></driver>'
    apply_here(host, asked("", NEW))
    assert changed(parts(nic(host, NEW)), {}) == {"mac", "source", "target", "model", "address"}


def test_a_running_nic_keeps_what_its_guest_sees_until_it_starts_again(host: ApplyHost) -> None:
    defined(host, OWN)
    host.start("u")
    running = parts(nic(host, live=True))
    made = apply_here(host, asked(KEYS))
    (note,) = [each for each in made.notes if "next start" in each]
    assert made.interrupts == ()
    for said in ("boot/@order: 3 -> 1", "alias/@name: ua-old -> ua-wan", "driver/@queues: 2 -> 4", "mtu: size=1400"):
        assert said in note
    assert parts(nic(host, live=True)) == running
    again = plan_here(host, asked(KEYS))
    assert (again.changes, again.notes) == ((), (note,)), "until then it says so"
    host.libvirt.stop_domain("u")
    host.start("u")
    assert (plan_here(host, asked(KEYS)).changes, plan_here(host, asked(KEYS)).notes) == ((), ())
    driver = inside(nic(host, live=True), "driver")
    assert (driver.get("queues"), driver.get("event_idx")) == ("4", "off")
    kept = parts(nic(host, live=True))
    host.destroy()
    assert parts(nic(host, live=True)) == kept, "nothing of a running NIC changes but its guard"
    assert part(nic(host), "alias") == '<alias name="ua-old"></alias>'


OURS = """
name: lab
networks: { one: { mode: nat, subnets: [10.61.1.0/24], mtu: 1450 } }
guests: { u: { ports: [{ network: one, mac: "52:54:00:aa:bb:01"MORE }] } }
"""


def test_a_nic_that_moves_to_another_network_is_plugged_in_again_with_all_of_it(host: ApplyHost) -> None:
    defined(host, OWN)
    before = parts(nic(host))
    host.start("u")
    text = OURS.replace("MORE", KEYS)
    with host.cooperative("u"):
        host.apply(text, allow_interrupt=True)
    assert (host.plan(text).changes, host.plan(text).notes) == ((), ())
    for live in (True, False):
        found = nic(host, live=live)
        driver = attributes_of(inside(found, "driver"))
        assert driver == {"name": "qemu", "queues": "4", "rx_queue_size": "512", "packed": "on", "event_idx": "off"}
        assert inside(found, "alias").get("name") == "ua-wan"
        assert (inside(found, "mtu").get("size"), inside(found, "boot").get("order")) == ("1400", "1")
        assert 'slot="0x0b"' in part(found, "address")
        assert changed(before, parts(found)) - {"source", "target", "link"} == {
            *("driver", "alias", "mtu", "boot", "address", "teaming")
        }
    (tap,) = host.json("ip", "-j", "-d", "link", "show", str(inside(nic(host, live=True), "target").get("dev")))
    assert (tap["mtu"], tap["linkinfo"]["info_data"]["multi_queue"]) == (1400, True)
    with host.cooperative("u"):
        host.destroy()
    assert parts(nic(host)) == before


LAB = """
name: lab
networks: { one: { mode: nat, subnets: [10.61.1.0/24] } }
guests: { a: { image: tiny, ports: [{ network: one, tap: tap0MORE }] } }
"""


def test_a_guest_with_an_image_has_queues_and_an_mtu(host: ApplyHost) -> None:
    text = LAB.replace("MORE", ", model: virtio-non-transitional, queues: 2, driver: { packed: true }, mtu: 1400")
    host.apply(text)
    host.start("a")
    assert (host.plan(text).changes, host.plan(text).notes) == ((), ())
    (tap,) = host.json("ip", "-j", "-d", "link", "show", "tap0")
    assert (tap["mtu"], tap["linkinfo"]["info_data"]["multi_queue"]) == (1400, True)
    plain = LAB.replace("MORE", ", mtu: 1400")
    made = host.apply(plain)
    assert any("is running and gets this at its next start: NIC" in note for note in made.notes)
    assert [each.KIND for each in made.changes] == ["guest"]
    (found,) = interfaces(host.libvirt.snapshot().domain["a"].config).values()
    assert (part(found, "driver"), part(found, "model")) == ("", '<model type="virtio"></model>')
    host.libvirt.stop_domain("a")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (", boot-order: 2", "boot-order 2 is that of its domain's disk already"),
        (', pci-slot: "00:0c"', "pci-slot 00:0c.0 is that of its domain's disk already"),
        (", mtu: 1501", "its MTU is 1501, and network 'default' carries 1500: say mtu: 1500"),
    ],
)
def test_what_libvirt_would_refuse_is_refused_before(host: ApplyHost, more: str, message: str) -> None:
    defined(host, OWN)
    before = host.fingerprint()
    with pytest.raises(GuestnetError, match=message):
        apply_here(host, asked(more))
    assert host.fingerprint() == before


def test_a_domain_that_boots_by_its_os_has_no_turn_for_a_nic(host: ApplyHost) -> None:
    host.libvirt.define_domain(
        USERS_OWN.replace("<interface type='user'>", f"{nic_without_turn()}<interface type='user'>")
    )
    with pytest.raises(GuestnetError, match="boots by <boot dev=…/> in <os>"):
        apply_here(host, asked(", boot-order: 1"))


def nic_without_turn() -> str:
    return OWN.replace("<boot order='3'/>", "")


PAIR = OWN.replace("ua-old", "ua-wan").replace("<rom", "<teaming type='persistent'/><rom")
FUNCTION = f"""<interface type='hostdev' managed='yes'><mac address='{MAC}'/><source>
<address type='pci' domain='0x0000' bus='0x65' slot='0x00' function='0x1'/></source>
<teaming type='transient' persistent='ua-wan'/></interface>"""


def test_of_a_pair_the_one_that_stays_is_imported_and_the_other_is_left_alone(host: ApplyHost) -> None:
    defined(host, PAIR, FUNCTION)
    before = [parts(each) for each in host.libvirt.snapshot().domain["u"].config.iterfind("devices/interface")]
    found = survey(Seen(host.libvirt.snapshot(host.devices())), Request("lab", names=frozenset({"u"})))
    text = written(found)
    assert f'mac: "{MAC}"' in text
    assert "it is the transient NIC of a net_failover pair, and nobody can guard it" in text
    apply_here(host, text)
    assert plan_here(host, text).changes == ()
    apply_here(host, asked(", mtu: 1300, alias: ua-wan, teaming: persistent"))
    now = [parts(each) for each in host.libvirt.snapshot().domain["u"].config.iterfind("devices/interface")]
    assert [changed(*each) for each in zip(before, now, strict=True)] == [{"mtu"}, set(), set()]
    host.destroy()
    state = host.libvirt.snapshot().domain["u"]
    assert [parts(each) for each in state.config.iterfind("devices/interface")] == before


def test_the_one_that_stays_is_guarded_and_status_says_of_the_other_why_it_is_not(host: ApplyHost) -> None:
    """No machine here has SR-IOV: the pair runs without its function, and status is asked of it as it would be."""
    defined(host, PAIR)
    host.start("u")
    apply_here(host, asked(", alias: ua-wan, teaming: persistent").replace("observe", "true"))
    device = inside(nic(host, live=True), "target").get("dev")
    assert f"chain tap-{device} " in host.sandbox.run(["nft", "list", "table", "netdev", "guestnet"]).stdout
    state = host.libvirt.snapshot().domain["u"]
    assert state.live is not None
    inside(state.live, "devices").append(etree.fromstring(FUNCTION))
    rows = [row for row in unguarded_rows([state], {}) if row.type == "hostdev"]
    assert [(row.state, row.mac, row.refused) for row in rows] == [(CANNOT, MAC, False)]
    assert "the host sees none of its frames" in rows[0].reason
