"""Host-routed guests in VRFs, which only Debian's kernels have: packets between LANs and guests of the same addresses.

One lab for all tests, in their order: nothing is cheap here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.kernel_routed import HOST, ON_LAN, A, B, RoutedLab, X, both, domain, tap

C = (12, 0xC)
VRFS = (("red", "x", "up0"), ("blue", "y", "up1"))
CHECK = """
import json, sys
from libvirt_guestnet.datapath.routing.routes import HostRoutes, Route, check
from libvirt_guestnet.errors import GuestnetError

def taken(prefix, device, table, vrf):
    try:
        check([HostRoutes(device, "u", "g", (Route(prefix, device, table=table),), vrf=vrf)])
    except GuestnetError:
        return True
    return False

print(json.dumps([taken(*each) for each in json.loads(sys.argv[1])]))
"""


def inside(vrf: str, name: str, who: tuple[int, int], *more: tuple[int, int]) -> bytes:
    """A guest in a VRF, which has the addresses of others, too."""
    addresses = "".join(f'<guestnet:address ip="{address}"/>' for each in more for address in both(each))
    return domain(name, who, ON_LAN.replace("/>", f' vrf="{vrf}"/>'), addresses)


A_IN_RED = inside("red", "a", A)
# Trusted: what it forges only the reverse path filter can stop.
B_IN_BLUE = inside("blue", "b", B, A).replace(b'guarded="yes"', b'guarded="no"')


class VRFLab(RoutedLab):
    """The server with an uplink in each of two VRFs, X behind red's and Y behind blue's: both LANs have the same
    addresses. Whatever is forwarded and not accepted is dropped."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._connect("y", "up1", "02:00:00:00:00:19")
        for address, length in zip(both(X), (24, 64), strict=True):
            self.ip(f"address add {address}/{length} dev eth0", "y")
        self.make("red", 10, "up0")
        self.make("blue", 20, "up1")
        for family in ("-4", "-6"):  # as docs/host-routed.md has it, but that red's table falls through to the main one
            self.ip(f"{family} route add vrf blue unreachable default metric 4278198272")
            self.ip(f"{family} rule add pref 32765 table local")
            self.ip(f"{family} rule del pref 0")
        for tool in ("iptables", "ip6tables"):
            self.box.ok(tool, "-P", "FORWARD", "DROP")
        self.rules = self.firewall()

    def firewall(self) -> list[str]:
        return [self.box.ok(tool, "-S") for tool in ("iptables", "ip6tables")]

    def make(self, vrf: str, table: int, uplink: str) -> None:
        self.ip(f"link add {vrf} type vrf table {table}")
        self.ip(f"link set {vrf} up")
        self.ip(f"link set {uplink} master {vrf}")
        for address, length in zip(both(HOST), (24, 64), strict=True):
            self.ip(f"address replace {address}/{length} dev {uplink}")

    def answered(self, namespace: str, address: str) -> str:
        """The MAC address at which a computer reaches an address; "" when it does not."""
        reached = self.reaches(namespace, address)
        found = json.loads(self.ip(f"-j neigh show to {address}", namespace))
        return found[0].get("lladdr", "") if reached and found else ""

    def mac_of(self, device: str) -> str:
        return str(json.loads(self.ip(f"-j link show {device}"))[0]["address"])

    def reverse_path_drops(self) -> int:
        counters = json.loads(self.box.ok("nstat", "-asjz", "TcpExtIPReversePathFilter"))["kernel"]
        return int(counters["TcpExtIPReversePathFilter"])

    def taken(self, *asked: tuple[str, str, int, str]) -> list[bool]:
        run = ["env", f"PYTHONPATH={Path(__file__).parents[3]}", sys.executable, "-c", CHECK]
        found: list[bool] = json.loads(self.box.ok(*run, json.dumps(asked)))
        return found


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VRFLab]:
    lab = VRFLab(tmp_path_factory.mktemp("vrf"))
    for name, who in (("a", A), ("b", B)):
        lab.boot(name, who)
    for address in both(A):
        lab.ip(f"address add {address} dev eth0", "b")
    yield lab
    lab.box.close()


def test_each_guest_is_found_in_its_own_vrf_whatever_firewalls_refuse(lab: VRFLab) -> None:
    lab.start("a", A, A_IN_RED)
    lab.start("b", B, B_IN_BLUE)
    assert lab.routes("10") == {f"{address} {tap(A)}" for address in both(A)}
    assert lab.routes("20") == {f"{address} {tap(B)}" for address in (*both(A), *both(B))}
    assert lab.routes("main") == set()
    assert lab.published() == {f"{a} up0" for a in both(A)} | {f"{a} up1" for a in (*both(A), *both(B))}
    for _, computer, uplink in VRFS:
        assert {lab.answered(computer, address) for address in both(A)} == {lab.mac_of(uplink)}
    for address in (*both(X), "169.255.30.1"):
        assert lab.reaches("a", address)


def test_nothing_passes_from_one_vrf_to_the_other(lab: VRFLab) -> None:
    for address in both(B):
        assert lab.reaches("y", address)
        assert not lab.reaches("a", address)


def test_a_tap_in_a_vrf_is_what_others_are(lab: VRFLab) -> None:
    """The gateway answers there alone, and what comes from elsewhere than where the host routes it to is dropped."""
    arping = ("busybox", "arping", "-c", "2", "-w", "2", "-f", "-I", "eth0", "169.255.30.1")
    assert lab.run("b", *arping)[0] == 0
    assert lab.run("y", *arping)[0] != 0
    before = lab.reverse_path_drops()
    lab.ip("address add 192.0.2.77 dev eth0", "b")
    lab.run("b", "busybox", "ping", "-c", "1", "-W", "1", "-I", "192.0.2.77", both(X)[0])
    assert lab.reverse_path_drops() == before + 1


def test_an_address_is_taken_in_its_own_vrf_alone(lab: VRFLab) -> None:
    lab.ip("route add 192.0.2.99 dev lo")
    lab.ip("-6 route add 2001:db8::99 dev lo")
    addresses = (*both(A), *both(B), "192.0.2.99", "2001:db8::99", *both(HOST))
    asked = [(f"{address}/{128 if ':' in address else 32}", "up0", 10, "red") for address in addresses]
    assert lab.taken(*asked) == [True, True, False, False, False, False, True, True]


def test_what_is_somebodys_is_that_in_its_own_vrf_alone(lab: VRFLab) -> None:
    """The host's own address, and a router of its; a guest may have what they are called in another VRF."""
    lab.boot("c", C)
    for command in (
        "address add 192.0.2.98/32 dev lo",
        "route add vrf red 10.0.0.0/8 via 192.0.2.9",
        "-6 route add vrf red 2001:db8:1::/48 via 2001:db8::9",
        "route add vrf blue 10.0.0.0/8 via 192.0.2.97",
    ):
        lab.ip(command)
    wanted = {
        both(HOST)[0]: "is this host's own, on device up0",
        both(X)[0]: "is a router of this host's, by which it routes on device up0",
        both(X)[1]: "is a router of this host's, by which it routes on device up0",
        "192.0.2.97": "",
        "192.0.2.98": "",
        both(B)[0]: "",
        both(A)[0]: "is already routed to running guest 'a'",
    }
    for address, message in wanted.items():
        xml = inside("red", "c", C).replace(both(C)[":" in address].encode(), address.encode())
        status, said = lab.hooks.call("qemu", "c", "start", "begin", xml)
        assert (status, f"domain 'c': address {address} {message}" in said) == ((1, True) if message else (0, False)), (
            said
        )
        lab.stop("c", C)
    lab.ip("address del 192.0.2.98/32 dev lo")


def test_a_vrf_that_was_made_again_has_its_guests_back(lab: VRFLab) -> None:
    lab.ip("link delete red")
    lab.make("red", 11, "up0")
    assert lab.routes("10") == lab.routes("11") == set()
    assert lab.hooks.call("qemu", "a", "reconnect", "begin", A_IN_RED) == (0, "")
    assert lab.routes("11") == {f"{address} {tap(A)}" for address in both(A)}
    assert all(lab.reaches("x", address) for address in both(A))


def test_all_of_it_is_withdrawn_and_the_other_guest_stays(lab: VRFLab) -> None:
    lab.stop("b", B)
    assert lab.published() == {f"{address} up0" for address in both(A)}
    assert (lab.reaches("x", both(A)[0]), lab.reaches("y", both(A)[0])) == (True, False)
    # One that vanished unheard is swept by anybody's call.
    lab.ip(f"link delete {tap(A)}")
    lab.stop("b", B)
    assert (lab.routes(), lab.published(), lab.hooks.receipts(), lab.hooks.chains()) == (set(), set(), [], [])
    assert lab.firewall() == lab.rules
