"""What a port has learnt and keeps when it is guarded again; other ports may have all the rest."""

from typing import Any

import pytest
from steps import steps

from libvirt_guestnet.datapath.port import held_sets, learning
from libvirt_guestnet.hook.enforce import address_sets
from libvirt_guestnet.hook.read.port_receipts import guard_of
from libvirt_guestnet.model.slaac import mac_of
from libvirt_guestnet.parse import address
from libvirt_guestnet.state.folder import State
from libvirt_guestnet.state.locked import LockedState, UnlockedState
from libvirt_guestnet.state.receipts import PortReceipt

LEARNS = PortReceipt(
    "vme0", "52:54:00:00:00:0a", "a", "u1", "lab", ifindex=7, dhcp=("10.0.0.1", "fd00::1"), bridge="br0", segment="br0"
)


@pytest.mark.parametrize(
    ("now", "versions"),
    [
        (LEARNS, {4, 6}),
        (LEARNS._replace(owned=("10.0.0.9",), dhcp=("fd00::1",)), {6}),  # reserved one address
        (LEARNS._replace(owned=("10.0.0.9",), dhcp=()), set()),
        (LEARNS._replace(trusted=True), set()),
        (LEARNS._replace(segment="br0.7"), set()),  # its network has another VLAN by now
        (LEARNS._replace(ifindex=8), set()),  # another tap of that name
        (LEARNS._replace(network="other"), set()),
    ],
)
def test_what_a_port_keeps(now: PortReceipt, versions: set[int]) -> None:
    assert set(address_sets.keeps(LEARNS, now)) == versions
    both = {"learnt4-vme0": [0x0A000009], "learnt6-vme0": [0xFD << 120 | 9]}
    batch = address_sets.given_back(LEARNS, lambda name: both[name], now)
    assert ("delete element netdev guestnet held4-br0 { 0xa000009 }" in batch) is (4 not in versions)
    assert ("delete element netdev guestnet held6-br0" in batch) is (6 not in versions)


CLAIMS = LEARNS._replace(dhcp=(), claims=("fd00::/64",))


@pytest.mark.parametrize(
    ("now", "kept"),
    [
        (CLAIMS, True),
        (CLAIMS._replace(owned=("10.0.0.9",), dhcp=("10.0.0.1",)), True),
        (CLAIMS._replace(claims=()), False),
        (CLAIMS._replace(trusted=True), False),
        (CLAIMS._replace(segment="br0/7"), False),
        (CLAIMS._replace(ifindex=8), False),
    ],
)
def test_what_a_port_has_claimed_it_keeps_while_it_may(now: PortReceipt, kept: bool) -> None:
    claimed = {"claimed6-vme0": [0xFD << 120 | 9]}
    batch = address_sets.given_back(CLAIMS, lambda name: claimed[name], now)
    assert ("delete element netdev guestnet held6-br0" in batch) is not kept


def test_a_set_is_made_what_is_wanted() -> None:
    assert learning.replace_held("held4-br0", {1: 60, 2: 60}, {1: 5, 2: 70}) == [], "the kernel's own ends are right"
    assert learning.replace_held("held4-br0", {1: 60, 2: 60}, {2: 60, 3: 0})[1:] == [
        "add element netdev guestnet held4-br0 { 0x1 }",
        "delete element netdev guestnet held4-br0 { 0x1 }",
        "add element netdev guestnet held4-br0 { 0x3 timeout 1s }",
    ]


def _port(number: int, **more: Any) -> PortReceipt:
    owned = (f"10.0.{number >> 8}.{number & 255}/32", f"fd00::{number:x}/128")
    mac = f"52:54:00:00:{number >> 8:02x}:{number & 255:02x}"
    bare = PortReceipt(f"vme{number}", mac, f"g{number}", f"u{number}", "lab", segment="br0", unclaimed=("fd00::ffff",))
    return bare._replace(**{"owned": owned, **more})


GOING = _port(
    7,
    owned=("10.0.0.7/32", "10.0.9.9/32", "fe80::5054:ff:fe00:63/128"),
    pairs=(("", "10.0.8.0/30"), ("", "10.0.7.7/32")),
)
STAYING = [
    _port(8, pairs=(("", "10.0.7.7/32"),)),  # shared with it
    _port(9, owned=("0.0.0.0/0",)),  # may use any that nobody holds, and holds none
    _port(10, pairs=(("52:54:00:00:00:aa", "10.0.8.2/31"),)),
    _port(11, beside=(("br0", "10.0.9.9/32"),)),
    _port(0x63),  # whose link-local address is in the other's policy
]


@pytest.mark.parametrize("most", range(len(STAYING) + 1))
def test_what_nobody_else_holds_is_given_up(most: int) -> None:
    state = UnlockedState()
    with state.lock() as locked:
        _put([GOING, *STAYING[:most]], locked)
    others = frozenset().union(*(held_sets.held(guard_of(each)) for each in STAYING[:most]))
    lost = held_sets.held(guard_of(GOING)) - others
    said = address_sets.given_up([GOING], [], state)
    assert said.splitlines()[1:] == held_sets.give_up(lost)
    assert 4 <= len(lost) <= 10


def _put(receipts: list[PortReceipt], locked: LockedState) -> None:
    for receipt in receipts:
        locked.put_ports(receipt.uuid, [receipt])


def test_the_end_of_a_guest_reads_no_receipt_that_says_nothing_of_its_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All have the host's address in them, which is the first's as much as everybody's."""
    state, read = UnlockedState(), list[str]()
    with state.lock() as locked:
        _put([_port(number) for number in range(300)], locked)

    def sound_port(self: State, tap: str) -> PortReceipt | None:
        read.append(tap)
        return self.port(tap)

    monkeypatch.setattr(State, "sound_port", sound_port)
    monkeypatch.setattr(State, "ports", lambda _: pytest.fail("it reads all"))
    said = address_sets.given_up([_port(7)], [], state)
    assert "{ 0xa000007 }" in said
    assert len(read) == 1
    assert steps(lambda going: address_sets.given_up([going], [], state), _port(7)) < 300 * 130


def test_a_mac_address_follows_from_the_address_formed_of_it() -> None:
    assert mac_of(address("fe80::5054:ff:fe00:63")) == "52:54:00:00:00:63"
    assert [mac_of(address(each)) for each in ("10.0.0.1", "fd00::1")] == ["", ""]
