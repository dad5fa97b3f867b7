"""The second wall: what we write passes, what somebody could make of it does not; and batches without culprits."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest

from libvirt_guestnet import parse
from libvirt_guestnet.datapath.devices import vlan_bridge
from libvirt_guestnet.datapath.firewalls import iptables, libvirt_nftables
from libvirt_guestnet.datapath.firewalls.accepts import Accept, Masqueraded, OriginalDestination, Passage, RoutedLink
from libvirt_guestnet.datapath.forwards.table import batch
from libvirt_guestnet.datapath.port import bridge_filter, filters, learning
from libvirt_guestnet.datapath.port.learning import DhcpServer
from libvirt_guestnet.datapath.port.port_facts import ROLES, PortGuard, Trunk
from libvirt_guestnet.datapath.routing import gateway
from libvirt_guestnet.datapath.run import culprits, grammar, program
from libvirt_guestnet.datapath.run.culprits import left_out
from libvirt_guestnet.datapath.run.program import RefusedBatchError
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.parse import address, prefix
from libvirt_guestnet.state.receipts import Floating, ForwardRule, PortForwards

SERVER = DhcpServer(
    "br0",
    "52:54:00:00:00:02",
    (prefix("10.0.0.1"), prefix("fd00::1")),
    (prefix("10.0.0.128/25"), prefix("fd00::/64")),
    served=((4, 1), (6, 2)),
    leases=((address("10.0.0.130"), 33), (address("fd00::30"), 44)),
    is_new=True,
)
PORT = PortGuard(
    "tap-x.1",
    "52:54:00:00:00:01",
    (prefix("0.0.0.0/0"), prefix("fd00::2")),
    (prefix("10.9.0.0/16"), prefix("::/0")),
    (prefix("10.0.0.1"), prefix("fd00::1")),
    (("52:54:00:00:00:77", prefix("10.0.0.99")), ("", prefix("fd00:9::/64"))),
    ROLES,
    SERVER,
    True,
    Trunk([(1, 5), (9, 9)], True, True),
    segment="a-bridge-of-15c/4094",
)
PLAIN = PortGuard("vnet0", "52:54:00:00:00:01", (prefix("10.0.0.2"),))
FORWARDS = (
    ForwardRule("tcp", 80, 81, "10.0.0.2", 8080, "192.0.2.1", True),
    ForwardRule("udp", 5000, 5010, "fd00::2", 5000),
    ForwardRule("udp", 5000, 5010, "10.0.0.2", 5000, "192.0.2.1"),
    ForwardRule("tcp", 22, 22, "fd00::2", 22),
    ForwardRule("tcp", 90, 91, "10.0.0.2", 8090, "192.0.2.1", sources=("198.51.100.0/24", "203.0.113.9/32")),
    ForwardRule("tcp", 5100, 5110, "10.0.0.2", 5100, "192.0.2.1", sources=("198.51.100.0/24",)),
    ForwardRule("udp", 6000, 6010, "fd00::2", 6000, sources=("fd00:1:2:3::/64", "::/0")),
    ForwardRule("sctp", 36412, 36412, "10.0.0.2", 3000),
    ForwardRule("tcp", 25, 25, "fd00::2", 25, sources=("fd00:1:2:3::/64",)),
    ForwardRule("gre", 0, 0, "10.0.0.2", 0, "192.0.2.1"),
    ForwardRule("proto/115", 0, 0, "fd00::2", 0, "fd00:9::1", True, ("fd00:1:2:3::/64",)),
)
FLOATING = (Floating("192.0.2.9", "10.0.0.2"), Floating("fd00:9::9", "fd00:9::9", "fd00::2"))
PORT_FORWARDS = PortForwards("vnet0", "52:54:00:00:00:01", "u", "d", "br0", 3, True, FORWARDS, FLOATING)
WANTED: list[Accept | Passage | Masqueraded] = [
    Accept("br0", prefix("10.0.0.2"), "47", published=OriginalDestination(prefix("192.0.2.1"))),
    Masqueraded("br0", prefix("10.3.0.0/24"), "eth0"),
    Masqueraded("br0", prefix("10.2.0.0/24")),
    Accept("br0", prefix("10.0.0.2"), "tcp", (80, 81), OriginalDestination(prefix("192.0.2.1"), (80, 81))),
    Accept("br0", prefix("10.0.0.2"), published=OriginalDestination()),
    Passage("br0", prefix("10.0.0.0/24"), "eth0"),
    Passage("br0", prefix("10.0.0.0/24"), "br1", prefix("10.1.0.0/24")),
]
NFT = {
    "port": filters.guard(PORT),
    "fresh port": filters.own(PLAIN, fresh=True),
    "plain port": filters.guard(PLAIN),
    "release": filters.release(["tap-x.1", "vnet0"]),
    "remove": filters.remove(),
    "give back": learning.give_back("br0", [address("10.0.0.130"), address("fd00::30")]),
    "forget network": learning.forget_network("br0"),
    "bridges": bridge_filter.guard(["br0", "br-1"], [1, 999999]),
    "admission": bridge_filter.change([1, 2], [3]),
    "no bridges": bridge_filter.remove(),
    "forwards": batch([PORT_FORWARDS]),
    "masquerade": batch(
        [], [Masqueraded("br0", prefix("fd00:2::/64")), Masqueraded("br0", prefix("10.2.0.0/24"), "eth0")]
    ),
    "no forwards": batch([]),
    "gate": gateway.gate([gateway.RoutedTap("vnet0", (address("169.255.30.1"), address("fe80::1")))]),
    "ungate": gateway.ungate(["vnet0"], last=False),
    "ungate last": gateway.ungate(["vnet0"], last=True),
    "accepts": libvirt_nftables.batch(WANTED, "ip libvirt_network", []),
    "accepts gone": libvirt_nftables.batch([], "ip6 libvirt_network", ["\t\tjump guestnet # handle 12"]),
}


@pytest.mark.parametrize("text", NFT.values(), ids=NFT)
def test_all_that_is_written_for_nft_passes(text: str) -> None:
    assert text
    grammar.check_nft(text)


IPTABLES = iptables.batch(
    [*WANTED, RoutedLink("vnet0", prefix("10.0.0.2"), "vrf1")], ["-P FORWARD DROP", "-A FORWARD -j LIBVIRT_FWI"]
)
IPTABLES_GONE = iptables.batch([], ["-A FORWARD -j GUESTNET-FORWARD", "-A FORWARD -j GUESTNET-ROUTED"])


@pytest.mark.parametrize("text", [IPTABLES, IPTABLES_GONE])
def test_all_that_is_written_for_iptables_passes(text: str) -> None:
    assert text
    grammar.check_iptables(text)


HOSTILE = ("\n", "\0", "\r", "\\", "%1", "`x`", "$(x)", "<", ">", "|", "?", "*", "~", "^", "(", "ä", "١", "9" * 10_000)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_nothing_hostile_passes_wherever_it_stands(hostile: str) -> None:
    for check, text in (
        (grammar.check_nft, NFT["forwards"]),
        (grammar.check_nft, NFT["port"]),
        (grammar.check_iptables, IPTABLES),
    ):
        for value in ("10.0.0.2", "br0", "tap-x.1"):
            if value in text:
                with pytest.raises(RefusedBatchError, match="please report this bug"):
                    check(text.replace(value, value + hostile + "x", 1))


@pytest.mark.parametrize(
    "line",
    [
        "flush ruleset",
        "delete table ip filter",
        "add table inet other",
        "flush table inet guestnet",
        "add rule ip filter INPUT accept",
        "add rule inet guestnet wanted accept; flush ruleset",
        "add rule inet guestnet wanted accept } flush ruleset {",
        "add rule inet guestnet wanted",
        "add chain inet guestnet wanted { type filter hook input priority 0; } ; flush ruleset { }",
        "add chain inet guestnet wanted { { }",
        "add set inet guestnet hairpin4 accept",
        "insert rule ip libvirt_network forward accept",
        "add rule ip libvirt_network forward accept",
        "delete chain ip libvirt_network forward",
        "delete rule ip libvirt_network forward handle 1 accept",
        "insert rule inet guestnet wanted accept",
        'add rule netdev guestnet tap-x log prefix "a\nb"',
        'add rule netdev guestnet tap-x comment "open',
        'add rule netdev guestnet tap-x iifname "eth0 or so" accept',
        'add rule netdev guestnet tap-x iifname "-x" accept',
        "add rule netdev guestnet tap-x ip saddr 10.0.0.256 accept",
        "add rule netdev guestnet tap-x ip saddr fd00::1%1 accept",
        "add rule netdev guestnet tap-x ip saddr 10.0.0.1-x accept",
        "add rule netdev guestnet tap-x queue",
        "include @nh",
        "  add table inet guestnet",
        "table inet guestnet {",
        "# add table inet guestnet",
    ],
)  # fmt: skip
def test_no_line_passes_that_we_do_not_write(line: str) -> None:
    for text in (f"{line}\n", f"{NFT['plain port']}{line}\n", f"{line}\n{NFT['plain port']}"):
        with pytest.raises(RefusedBatchError):
            grammar.check_nft(text)


@pytest.mark.parametrize(
    "line",
    [
        "-I INPUT 1 -j ACCEPT",
        "-A INPUT -j ACCEPT",
        "-A GUESTNET-FORWARD -j DROP",
        "-A GUESTNET-FORWARD",
        "-A GUESTNET-FORWARD -i br0 -j ACCEPT -j ACCEPT",
        "-A GUESTNET-FORWARD -d fd00::1%1 -j ACCEPT",
        "-A GUESTNET-FORWARD -i -o -j ACCEPT",
        "-A GUESTNET-FORWARD -i br0 -s -j ACCEPT",
        "-A GUESTNET-FORWARD --ctreplsrcport 0:99 -j ACCEPT",
        "-I FORWARD 1 -j ACCEPT",
        "-I FORWARD x -j GUESTNET-FORWARD",
        "-D FORWARD 1",
        "-F FORWARD",
        "-X INPUT",
        "-P INPUT ACCEPT",
        ":INPUT ACCEPT [0:0]",
        ":GUESTNET-FORWARD ACCEPT [0:0]",
        "*nat",
        "COMMIT",
        "",
    ],
)  # fmt: skip
def test_no_rule_passes_that_we_do_not_write(line: str) -> None:
    with pytest.raises(RefusedBatchError):
        grammar.check_iptables(f"*filter\n{line}\nCOMMIT\n")


@pytest.mark.parametrize(
    "line",
    ["link set dev br0 up", "vlan add vid 4095 dev tap0", "vlan add vid 1 dev tap0 master", "vlan add vid 1 dev -x"],
)
def test_bridge_is_told_of_vlans_alone(line: str) -> None:
    grammar.check_bridge(vlan_bridge.batch("tap0", {1: frozenset()}, {5: frozenset({"PVID"}), 6: frozenset()}))
    with pytest.raises(RefusedBatchError):
        grammar.check_bridge(f"{line}\n")


@pytest.mark.parametrize("argument", ["a\nb", "\0", "ä", "a\x1bb"])
def test_no_argument_of_a_program_has_more_than_a_line(argument: str) -> None:
    with pytest.raises(RefusedBatchError):
        program.run(["true", argument], "", "coreutils")


def test_programs_run_where_batches_are_checked_alone() -> None:
    """Who else runs nft, iptables or `bridge` only lists, or is no hook."""
    package = Path(parse.__file__).parent
    found = {str(path.relative_to(package)) for path in package.rglob("*.py") if _writes(ast.parse(path.read_text()))}
    assert found == {
        "datapath/run/nft.py",
        "datapath/run/iptables.py",
        "datapath/devices/vlan_bridge.py",
        "sandbox/__init__.py",
    }


def _writes(tree: ast.Module) -> bool:
    words = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return any(word in ("-f", "-batch", "--noflush", "-restore") for word in words)


def test_of_many_only_the_culprits_are_left_out() -> None:
    written: list[list[int]] = []
    refused = left_out(range(100), _refusing({7, 8, 63}, written))
    assert [item for item, _ in refused] == [7, 8, 63]
    assert written[-1] == [item for item in range(100) if item not in (7, 8, 63)]
    assert len(written) < 50


def _refusing(bad: set[int], written: list[list[int]]) -> Callable[[list[int]], None]:
    def write(items: list[int]) -> None:
        if found := bad.intersection(items):
            raise RefusedBatchError(f"no {min(found)}")
        written.append(items)

    return write


def test_where_all_are_culprits_what_was_written_before_goes() -> None:
    written: list[list[int]] = [[1, 2]]
    refused = left_out([1, 2], _refusing({1, 2}, written))
    assert (written, [item for item, _ in refused]) == ([[1, 2], []], [1, 2])
    assert culprits.named(refused, str) == ["no 1 (1)", "no 2 (2)"]


def test_the_search_ends_where_nothing_is_taken() -> None:
    tries = 0

    def write(items: list[int]) -> None:
        nonlocal tries
        tries += 1
        raise RefusedBatchError("nothing at all")

    with pytest.raises(RefusedBatchError, match="nothing at all"):
        left_out(range(100_000), write)
    assert tries < 150


def test_what_is_no_refusal_is_not_searched() -> None:
    def write(items: list[int]) -> None:
        raise GuestnetError("nft did not finish within 10 s")

    with pytest.raises(GuestnetError, match="did not finish"):
        left_out(range(100), write)
