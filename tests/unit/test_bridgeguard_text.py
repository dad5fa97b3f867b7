"""The bridge guard: what its nft text says, and whose bridges it covers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from libvirt_guestnet.datapath.port import bridge_filter
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.enforce import bridge_guard
from libvirt_guestnet.hook.read import network_receipts, port_receipts
from libvirt_guestnet.state.locked import LockedState, UnlockedState
from libvirt_guestnet.state.receipts import Bridges, NetworkReceipt
from libvirt_guestnet.xmlread import parse

MAC = "52:54:00:61:0a:01"
XMLNS = 'xmlns:g="https://libvirt-guestnet.org/xmlns/1"'
ONE = NetworkReceipt("one", "t", True, "gn-one", subnets=("10.0.0.0/24",), managed=True)
OPEN = NetworkReceipt("open", "t", False, "gn-one")


def domain(source: str, policy: str = "") -> bytes:
    return f"""<domain><name>a</name><uuid>u</uuid><metadata>{policy}</metadata><devices>
      <interface type='bridge'><mac address='{MAC}'/><source {source}/><target dev='vnet0'/></interface>
      </devices></domain>""".encode()


@pytest.fixture
def state(tmp_path: object) -> Iterator[LockedState]:
    with UnlockedState(str(tmp_path)).lock() as locked:
        locked.put_network(ONE)
        locked.put_network(OPEN)
        locked.put_bridges(Bridges({"gn-one": "one"}, settled=True))
        yield locked


def test_the_table_is_the_same_for_any_number_of_ports() -> None:
    small, large = (bridge_filter.guard(["b"], range(1, n)) for n in (2, 2000))
    assert small.count("\n") == large.count("\n")
    assert "add rule bridge guestnet prerouting iif != @ports meta ibrname @bridges counter drop" in large


def test_a_port_is_an_index_that_no_name_can_be_mistaken_for() -> None:
    assert bridge_filter.change([57], []) == 'add element bridge guestnet ports { "0000000000000057" }\n'


def test_what_is_gone_is_added_first_so_that_it_may_be_gone_already() -> None:
    assert bridge_filter.change([5], [5, 4]).splitlines() == [
        'add element bridge guestnet ports { "0000000000000004", "0000000000000005" }',
        'delete element bridge guestnet ports { "0000000000000004" }',
    ]
    assert bridge_filter.change([], []) == ""


def test_a_bridge_with_a_hostile_name_is_never_written() -> None:
    with pytest.raises(GuestnetError, match="cannot be guarded"):
        bridge_filter.guard(['x" }; flush ruleset'], [])


@pytest.mark.parametrize("source", ["bridge='gn-one'", "bridge='gn-one' network='somebodys'"])
def test_a_nic_on_a_managed_bridge_is_on_its_network_however_it_was_plugged(state: LockedState, source: str) -> None:
    tree = parse(domain(source))
    (receipt,) = port_receipts.port_receipts(bridge_guard.joined(tree, state), bridge_guard.closed(state))
    assert (receipt.network, receipt.segment, receipt.trusted) == ("one", "gn-one", False)


def test_a_nic_on_somebodys_bridge_is_none_of_our_business(state: LockedState) -> None:
    tree = parse(domain("bridge='br0'"))
    assert port_receipts.port_receipts(bridge_guard.joined(tree, state), bridge_guard.closed(state)) == []


TRUSTED = f'<g:domain {XMLNS} guest="a"><g:port mac="{MAC}" guarded="no"/></g:domain>'


@pytest.mark.parametrize(
    ("source", "policy"), [("network='open' bridge='gn-one'", ""), ("network='one' bridge='gn-one'", TRUSTED)]
)
def test_a_trusted_port_is_let_through_where_the_kernel_can_keep_it_out(
    state: LockedState, source: str, policy: str
) -> None:
    tree = parse(domain(source, policy))
    (receipt,) = port_receipts.port_receipts(bridge_guard.joined(tree, state), bridge_guard.closed(state))
    assert (receipt.trusted, receipt.own) == (True, policy != "")
    state.put_bridges(Bridges({"gn-one": "one"}, settled=True, cannot="no"))
    assert port_receipts.port_receipts(bridge_guard.joined(tree, state), bridge_guard.closed(state)) == []


def test_nothing_is_said_about_ports_until_the_table_is_settled(state: LockedState) -> None:
    (receipt,) = port_receipts.port_receipts(bridge_guard.joined(parse(domain("network='one' bridge='gn-one'")), state))
    ports = [receipt._replace(ifindex=7)]
    assert '"0000000000000007"' in bridge_guard.change(ports, [], state)
    for known in (Bridges({"gn-one": "one"}), Bridges({"gn-one": "one"}, settled=True, cannot="no")):
        state.put_bridges(known)
        assert bridge_guard.change(ports, [], state) == ""
    state.drop_bridges()
    assert bridge_guard.change(ports, [], state) == ""


def test_networks_that_share_a_bridge_have_the_first_guarded_ones_defaults(state: LockedState) -> None:
    state.put_network(ONE._replace(name="another"))
    bridge_guard.review(state)
    assert state.bridges() == Bridges({"gn-one": "another"})
    for name in ("another", "one"):
        state.drop_network(name)
    bridge_guard.review(state)
    assert state.bridges() == Bridges({})


@pytest.mark.parametrize(
    ("forward", "ours"),
    [
        ("", True),
        ("<forward/>", True),
        ("<forward mode='nat'/>", True),
        ("<forward mode='route'/>", True),
        ("<forward mode='open'/>", True),
        ("<forward mode='bridge'/>", False),
        ("<forward mode='private'/>", False),
    ],
)
def test_whose_bridge_it_is(forward: str, ours: bool) -> None:
    assert (
        network_receipts.is_libvirts_bridge(parse(f"<network>{forward}<bridge name='b'/></network>".encode())) is ours
    )
