"""Two NICs of one MAC address, as net_failover has them: a tap, and a function of a NIC's own that it stands in for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from lxml import etree

from libvirt_guestnet import xmlread
from libvirt_guestnet.apply.topology import wanted
from libvirt_guestnet.changes import guest
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.admission import guardable
from libvirt_guestnet.hook.enforce import bridge_guard
from libvirt_guestnet.hook.helpers import hotplug
from libvirt_guestnet.hook.read import next_hop, port_receipts
from libvirt_guestnet.hook.read.domain import Domain
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.libvirtd.nics import interfaces
from libvirt_guestnet.libvirtd.snapshot import DomainState, NetworkState, Snapshot
from libvirt_guestnet.plan.order import plan, plan_destroy
from libvirt_guestnet.state.locked import UnlockedState
from libvirt_guestnet.state.receipts import NetworkReceipt
from libvirt_guestnet.status.nic_states import NO_RULES
from libvirt_guestnet.status.text import status_text
from libvirt_guestnet.status.unguarded import unguarded_rows
from libvirt_guestnet.topology import loads

MAC = "52:54:00:00:00:01"
XMLNS = 'xmlns:g="https://libvirt-guestnet.org/xmlns/1"'
TAP = f"""<interface type="{{}}"><mac address="{MAC}"/><source network="lan" bridge="br0"/><target dev="t0"/>
<model type="virtio"/><teaming type="persistent"/><alias name="ua-tap"/></interface>"""
VF = f"""<interface type="{{}}" managed="yes"><mac address="{MAC}"/><source network="vfs"/>
<teaming type="transient" persistent="ua-tap"/><alias name="net9"/></interface>"""
PLUGGED = 'was="&lt;interface/&gt;"'
PORT = f'<g:port mac="{MAC}" name="p" network="lan" guarded="yes" {PLUGGED}><g:address ip="10.0.0.5"/>{{}}</g:port>'
DOMAIN = f"""<domain><name>a</name><uuid>u-a</uuid><metadata><g:domain {XMLNS} topology="t" guest="a">{{}}</g:domain>
</metadata><devices>{{}}</devices></domain>"""
LAN = NetworkReceipt("lan", "t", True, "br0")


def parsed(*nics: str, policy: str = PORT.format("")) -> xmlread.Node:
    return xmlread.parse(DOMAIN.format(policy, "".join(nics)).encode())


@pytest.fixture
def state(tmp_path: Path) -> UnlockedState:
    return UnlockedState(str(tmp_path))


@pytest.mark.parametrize("order", [1, -1])
def test_the_policy_is_that_of_the_one_on_its_network(order: int, state: UnlockedState) -> None:
    domain = parsed(*[TAP.format("network"), VF.format("hostdev")][::order])
    guardable.check(bridge_guard.joined(domain, state), refuse=False)
    (receipt,) = port_receipts.port_receipts(Domain(domain, {"lan": LAN}.get))
    assert (receipt.tap, receipt.owned, receipt.own) == ("t0", ("10.0.0.5/32",), True)
    assert guardable.without_unguardable(bridge_guard.joined(domain, state))[1] == []


def test_who_insists_or_names_that_network_is_heard(state: UnlockedState) -> None:
    both = [TAP.format("network"), VF.format("hostdev")]
    with pytest.raises(GuestnetError, match="this host refuses what cannot"):
        guardable.check(bridge_guard.joined(parsed(*both), state), refuse=True)
    with state.lock() as locked:
        locked.put_network(NetworkReceipt("vfs", "t", True, "", required=True))
    with pytest.raises(GuestnetError, match="network 'vfs' insists on guarded ports"):
        guardable.check(bridge_guard.joined(parsed(*both), state), refuse=False)
    both[1] = both[1].replace("vfs", "lan")
    with pytest.raises(GuestnetError, match="type 'hostdev' has no tap to guard"):
        port_receipts.port_receipts(Domain(parsed(*both), {"lan": LAN}.get))
    with pytest.raises(GuestnetError, match="type 'hostdev' has no tap to guard"):
        port_receipts.port_receipts(Domain(parsed(VF.format("hostdev")), {"lan": LAN}.get))


def test_each_of_two_taps_has_the_policy_of_its_network_and_no_tap_goes_without() -> None:
    other = TAP.format("network").replace('"lan"', '"wan"').replace("t0", "t1")
    second = PORT.format("").replace('"lan"', '"wan"').replace("10.0.0.5", "10.9.0.5")
    domain = parsed(TAP.format("network"), other, policy=PORT.format("") + second)
    owned = {r.tap: r.owned for r in port_receipts.port_receipts(Domain(domain, lambda _name: None))}
    assert owned == {"t0": ("10.0.0.5/32",), "t1": ("10.9.0.5/32",)}
    alone = {
        r.tap: r.owned
        for r in port_receipts.port_receipts(Domain(parsed(TAP.format("network"), other), lambda _name: None))
    }
    assert alone == {"t0": ("10.0.0.5/32",), "t1": ("10.0.0.5/32",)}


def test_what_is_behind_a_port_is_behind_the_one_on_its_network() -> None:
    policy = PORT.format('<g:behind prefix="10.7.0.0/16"/>')
    for order in (1, -1):
        domain = parsed(*[TAP.format("network"), VF.format("hostdev")][::order], policy=policy)
        assert [each.tap for each in next_hop.host_routes(Domain(domain))] == ["t0"]
        assert [nic.mac for _, nic in Domain(domain).policies()] == [MAC]


def test_a_function_is_plugged_in_beside_its_tap(state: UnlockedState) -> None:
    text = f"<networkport><uuid>p9</uuid><mac address='{MAC}'/><plug type='{{}}' bridge=''/></networkport>"
    hostdev, network = (xmlread.parse(text.format(kind).encode()) for kind in ("hostdev-pci", "network"))
    running = parsed(TAP.format("network"))
    guardable.check(bridge_guard.joined(hotplug.Plug(running, hostdev, "vfs").domain_with(), state), refuse=False)
    assert port_receipts.port_receipts(Domain(hotplug.Plug(running, hostdev, "vfs").domain_with())) == []
    (moved,) = port_receipts.port_receipts(Domain(hotplug.Plug(running, network, "vfs").domain_with("t1")))
    assert moved.owned == ("10.0.0.5/32",), "a tap has what is said of its MAC address"
    with pytest.raises(GuestnetError, match="type 'hostdev' has no tap to guard"):
        port_receipts.port_receipts(Domain(hotplug.Plug(parsed(), hostdev, "vfs").domain_with()))


TOPOLOGY = """
name: t
networks: { lan: { mode: nat, subnets: [10.0.0.0/24] } }
guests: { a: { ports: [{ network: lan, mac: "52:54:00:00:00:01", addresses: [10.0.0.5], tap: t0, link: down }] } }
"""


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("kind", ["network", "hostdev"])
def test_a_plan_is_of_the_one_on_the_network(order: int, kind: str) -> None:
    asked = wanted(loads(TOPOLOGY, "t.yaml"), HostMap({}))
    nics = [TAP.format("network"), VF.format(kind)][::order]
    config = etree.fromstring(DOMAIN.format(PORT.format(""), "".join(nics)))
    networks = [NetworkState(n.name, "n", n.element, n.element, n.autostart) for n in asked.networks]
    vfs = NetworkState("vfs", "v", etree.fromstring("<network><name>vfs</name></network>"))
    live = etree.fromstring(etree.tostring(config))
    snapshot = Snapshot((*networks, vfs), (DomainState("a", "u-a", config, live),))
    updates = [change for change in plan(asked, snapshot).changes if change.KIND == "NIC"]
    assert [(change.VERB, "teaming" in str(change), "persistent=" in str(change)) for change in updates] == [
        ("update", True, False),
        ("update", True, False),
    ]
    (detach, *_) = plan_destroy("t", snapshot).changes
    assert isinstance(detach, guest.DetachInterface)
    assert detach.live is not None and detach.config is not None
    assert 'type="persistent"' in detach.live and 'type="persistent"' in detach.config
    assert interfaces(live, {MAC: "vfs"})[MAC].find("source").get("network") == "vfs"


def test_status_shows_the_one_that_is_not_guarded() -> None:
    live = etree.fromstring(DOMAIN.format(PORT.format(""), TAP.format("network") + VF.format("hostdev")))
    for xml in (live, etree.fromstring(DOMAIN.format(PORT.format(""), VF.format("hostdev") + TAP.format("network")))):
        (row,) = unguarded_rows([DomainState("a", "u-a", xml, xml)], {})
        assert (row.mac, row.network, row.refused) == (MAC, "vfs", False)
        # That the tap beside it has lost its guard is still said aloud.
        port = {"kind": "port", "guest": "a", "port": "p", "mac": MAC, "running": True, "tap": "t0", "trusted": False}
        lost = {"guarded": False, "offload": "", "state": "unguarded", "reason": NO_RULES}
        text = status_text([{**port, **lost}, row.json()])
        assert "UNGUARDED, try `guestnet hooks sync`: a.p" in text


def test_an_unplug_is_done_when_that_nic_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not when its MAC address is."""
    monkeypatch.setattr(guest, "UNPLUG_SECONDS", 0.0)
    tap, both = TAP.format("network"), TAP.format("network") + VF.format("hostdev")
    texts = [DOMAIN.format("", both), DOMAIN.format("", VF.format("hostdev"))]
    released: list[str] = []
    libvirt = SimpleNamespace(live_xml=lambda _name: texts.pop(0), detach=lambda *_, **__: None)
    effects = SimpleNamespace(release=lambda _uuid, tap: released.append(tap))
    guest.unplug(SimpleNamespace(libvirt=libvirt, effects=effects), "a", tap)  # type: ignore[arg-type]
    assert released == ["t0"]
