"""What a port has learnt and keeps when it is guarded again; other ports may have all the rest."""

import pytest

from libvirt_guestnet.datapath.port import learning
from libvirt_guestnet.hook.enforce import address_sets
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
