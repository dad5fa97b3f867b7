"""What the service misses in the kernel, as the receipts have it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from libvirt_guestnet.datapath.forwards.table import ForwardRule, PortForwards
from libvirt_guestnet.datapath.netlink import links, present
from libvirt_guestnet.datapath.netlink.present import ChainKey, ElementKey, SetKey, index_key, name_key
from libvirt_guestnet.datapath.netlink.rtnl import HostAddress, Rtnl
from libvirt_guestnet.datapath.routing.routes import HostRoutes
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.enforce import forwards, lease_forwards
from libvirt_guestnet.hook.services import missing_state, watch
from libvirt_guestnet.state.locked import UnlockedState
from libvirt_guestnet.state.receipts import Bridges, PortReceipt

ALL = {"netdev guestnet", "bridge guestnet", "arp guestnet"}
PORT = PortReceipt("vme0", "52:54:00:00:00:01", "g", "u", ifindex=7)
GATEWAY = IPv4Address("169.255.30.1")
CHECKSUM_GUARD = "checksum guard"
Absent = Sequence[ChainKey | ElementKey | SetKey | str]


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UnlockedState:
    """A host with a guarded bridge and a host-routed guest; other firewalls are looked at elsewhere."""
    monkeypatch.setattr(forwards, "lost", lambda _state: [])
    state = UnlockedState(str(tmp_path))
    with state.lock() as locked:
        locked.put_ports("u", [PORT])
        locked.put_host_routes(HostRoutes("vme0", "u", "g", gateway="169.255.30.1"))
        locked.put_bridges(Bridges({"gn-one": "one"}, True, ""))
    return state


def missing(state: UnlockedState, monkeypatch: pytest.MonkeyPatch, there: set[str], absent: Absent = ()) -> watch.Lost:
    """What is missed on a host with these tables, in which `absent` is not."""
    monkeypatch.setattr(missing_state, "tables", lambda: there | {"ip filter"})
    # Nor has a port that is not observed a set of notes.
    absent = [*absent, SetKey("netdev guestnet", "seen4-vme0")]
    monkeypatch.setattr(present, "missing", lambda wanted: [each for each in wanted if each in absent])
    monkeypatch.setattr(links, "index_of", {"vme0": 7}.get)
    monkeypatch.setattr(links, "names", lambda: {"vme0"})
    monkeypatch.setattr(Rtnl, "addresses", lambda *_, **__: [HostAddress(7, GATEWAY, IPv4Network("169.255.30.1"))])
    guard_lost = {"vme0": "g"} if CHECKSUM_GUARD in absent else {}
    monkeypatch.setitem(missing_state.OF_PORTS, CHECKSUM_GUARD, lambda _state: guard_lost)
    return watch.lost(state)


def test_every_table_of_ours_is_missed(state: UnlockedState, monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing(state, monkeypatch, ALL) == watch.NOTHING
    for table in ("netdev guestnet", "arp guestnet"):
        assert missing(state, monkeypatch, ALL - {table}) == watch.Lost([table], {}, [])
    assert missing(state, monkeypatch, ALL - {"bridge guestnet"}) == watch.Lost([], {}, ["bridge guestnet"])


@pytest.mark.parametrize(
    "absent",
    [
        ChainKey("netdev guestnet", "tap-vme0", drops=True),
        ChainKey("arp guestnet", "input"),
        ElementKey("arp guestnet", "taps", name_key("vme0")),
        ElementKey("arp guestnet", "gateways", bytes((169, 255, 30, 1))),
        CHECKSUM_GUARD,
    ],
    ids=str,
)
def test_what_one_port_lacks_is_missed_for_its_guest(
    state: UnlockedState, monkeypatch: pytest.MonkeyPatch, absent: ChainKey | ElementKey | str
) -> None:
    assert missing(state, monkeypatch, ALL, [absent]) == watch.Lost([], {"vme0": "g"}, [])


@pytest.mark.parametrize(
    "absent",
    [
        *(ChainKey("bridge guestnet", hook) for hook in ("prerouting", "input", "forward", "output")),
        ElementKey("bridge guestnet", "bridges", name_key("gn-one")),
        ElementKey("bridge guestnet", "ports", index_key(7)),
    ],
    ids=str,
)
def test_what_the_bridge_guard_lacks_is_missed(
    state: UnlockedState, monkeypatch: pytest.MonkeyPatch, absent: ChainKey | ElementKey
) -> None:
    assert missing(state, monkeypatch, ALL, [absent]) == watch.Lost([], {}, ["bridge guestnet"])


def test_a_receipt_of_another_device_or_of_a_trusted_port_wants_no_chain(
    state: UnlockedState, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = ChainKey("netdev guestnet", "tap-vme0", drops=True)
    with state.lock() as locked:
        locked.put_ports("u", [PORT._replace(trusted=True)])
    assert missing(state, monkeypatch, ALL, [chain]) == watch.NOTHING
    with state.lock() as locked:
        locked.put_ports("u", [PORT._replace(ifindex=8)])
    assert (
        missing(state, monkeypatch, ALL, [chain, ElementKey("bridge guestnet", "ports", index_key(7))]) == watch.NOTHING
    )


def test_only_what_is_needed_is_missed(state: UnlockedState, monkeypatch: pytest.MonkeyPatch) -> None:
    with state.lock() as locked:
        locked.put_bridges(Bridges({"gn-one": "one"}, True, "the kernel cannot"))
        locked.drop_host_routes("vme0")
    assert missing(state, monkeypatch, set()) == watch.Lost(["netdev guestnet"], {}, [])
    with state.lock() as locked:
        locked.drop_ports(["vme0"])
    assert missing(state, monkeypatch, set()) == watch.NOTHING


def test_what_cannot_be_put_back_is_tried_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """The try is a change of rules itself, and every change is a reason to look."""
    now, tried = [1000.0], []
    lost = watch.Lost([], {"vme0": "g"}, [])
    monkeypatch.setattr(watch, "lost", lambda _state: lost)
    monkeypatch.setattr(watch, "_lost_for_good", lambda _state: lost)
    monkeypatch.setattr(watch, "_close_bridges", lambda _state: None)
    monkeypatch.setattr(watch.libvirt_rules, "look", lambda _: watch.libvirt_rules.Seen(frozenset(), False, ""))
    monkeypatch.setattr(watch.log, "complain", lambda _text: None)
    monkeypatch.setattr(watch.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(watch.repair, "repair", lambda names, _when: tried.append(names))
    service = watch._Watch()
    for _ in range(5):
        service.look()
    assert tried == [["g"]]
    began, at = now[0], [now[0]]
    while now[0] < began + 31:  # it looks by itself when it is time again: a firewall that restarts is ready later
        now[0] += service.patience
        service.look()
        at += [now[0]] if len(tried) > len(at) else []
    assert [round(each - began, 1) for each in at] == [0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5]
    del tried[4:]
    lost = watch.Lost([], {"vme0": "g", "vme1": "h"}, [])
    service.look()
    assert tried == [*[["g"]] * 4, ["g", "h"]]
    for each in (watch.NOTHING, watch.Lost([], {"vme0": "g"}, [])) * 5:
        lost = each
        service.look()
    assert tried[5:] == [["g"]] * 5, "it comes back, and somebody takes it away again"


def test_what_follows_a_lease_is_tried_when_that_changes_and_not_at_every_change(
    state: UnlockedState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A try that fails changes rules, which wakes the service."""
    leases, tried = {4: "10.0.0.5"}, []
    port = PortForwards("vme0", PORT.mac, "u", "g", "gn-one", 7, True, (ForwardRule("tcp", 80, 80, "lease4", 80),))

    def follow(_state: UnlockedState) -> None:
        tried.append(dict(leases))
        raise GuestnetError("no")

    monkeypatch.setattr(forwards, "follow", follow)
    monkeypatch.setattr(lease_forwards, "_addresses", lambda *_: leases)
    service = watch._Watch()
    service._see_to_leases(state)
    assert tried == []
    with state.lock() as locked:
        locked.put_forwards(port)
    for _ in range(3):
        with suppress(GuestnetError):
            service._see_to_leases(state)
    assert tried == [{4: "10.0.0.5"}]
    for change in ({4: "10.0.0.6"}, {}):
        leases.clear()
        leases.update(change)
        with pytest.raises(GuestnetError, match="no"):
            service._see_to_leases(state)
    assert tried[1:] == [{4: "10.0.0.6"}, {}]
    monkeypatch.setattr(watch, "_LOOK_SECONDS", 0.0)
    with pytest.raises(GuestnetError, match="no"):
        service._see_to_leases(state)
