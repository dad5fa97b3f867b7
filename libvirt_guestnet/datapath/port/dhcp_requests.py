"""What a port may ask of DHCP servers, as nft text: no guest takes the addresses that are there for all. Pure.

A server gives an address to every new identity, and a guest makes up as many as it likes: DUIDs, associations (IAID)
of one DUID, several in one message; on DHCPv4 client identifiers, where dnsmasq heeds them. No rule finds a client's
DUID: an option may stand anywhere, and systemd-networkd and Windows do not write it first. So what is counted is what
cannot be made up: the addresses in the server's answers, which pass the tap's egress. A port that was given too many
has its questions dropped for a lease's time. Three more rules bound what it may be given before the answers tell: so
many questions a second, of so many octets, with so many associations and addresses in each.

nft 1.0.6 and the kernel follow no chain of options, but can compare every four octets of a message with an option's
code and length: that finds each one there is, and now and then one that is none, for which there is room.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv6Address

from libvirt_guestnet.datapath.port.ranges import as_raw
from libvirt_guestnet.datapath.run.names import TABLE, check_device, check_mac, digits

Drop = Callable[[str, str], list[str]]

# Octets of a DHCPv6 message with its UDP header: nft on Linux 6.1 reads none behind the 255th (NFTA_PAYLOAD_OFFSET).
LONGEST = 256
# Solicit (it may ask for a rapid commit), Request, Renew, Rebind: what a server may answer with a lease (RFC 8415).
_LEASING = "{ 1, 3, 5, 6 }"
# Relay-forward and Relay-reply: what is inside speaks for anybody.
_RELAYED = "@th,64,8 12-13"
_FIRST_OPTION = 12  # octets from the beginning of the UDP header

# Options of one question: an association with an address, and as many again; the rest is by chance, as in a prefix.
_MOST_OPTIONS = 4
# Answers, for a lease's time, that cannot be read or lease an address that is not learnt.
GIVEN = 8
_RATE6, _RATE4 = "4/second burst 4 packets", "20/second burst 40 packets"

_LEASES_OF = {4: "@th,192,32", 6: "@th,64,128"}
TOO_MANY, TOO_OFTEN, UNREADABLE = "DHCP leases", "DHCP rate", "DHCPv6 message"

# Code and length of IA_NA, IA_TA and IAADDR.
_OPTIONS = ((0x0003000C, 0x000301FF), (0x00040004, 0x000401FF), (0x00050018, 0x000501FF))
# What the chains for all ports leave in a frame's mark beside a count. It is 0 before and after.
_UNREADABLE, _RELAYS = 1 << 31, 1 << 30
# Which layout an answer has that can be read, by the identifier's length and whether a rapid commit stands behind it.
_LAYOUT = 20
_COUNTED = 1 << 10  # where counting ends, so that no number of finds is too much for a mark


def shared() -> list[str]:
    """The lines that are the same for every port. A mark counts from 1 on: it is shifted by one for each find."""
    finds = [f"@th,{bit},32 @lease-options meta mark set meta mark << 1" for bit in range(96, 8 * (LONGEST - 3), 8)]
    for number in range(len(finds) // 8 * 8, 0, -8):
        finds.insert(number, f"meta mark >= {_COUNTED:#x} return")
    leasing = f"@th,64,8 {_LEASING}"
    return [
        f"add set {TABLE} lease-options {{ typeof @th,96,32; flags interval; size 8; }}",
        f"flush set {TABLE} lease-options",
        f"add element {TABLE} lease-options {as_raw(list(_OPTIONS))}",
        *_chain("finds6", ["meta mark set 1", *finds]),
        *_chain("asks6", [
            f"{_RELAYED} meta mark set {_RELAYS:#x} return",
            f"udp length != {_FIRST_OPTION}-{LONGEST} meta mark set {_UNREADABLE:#x} return",
            f"{leasing.replace('{', '!= {')} accept",
            "goto finds6",
        ]),
        *_chain("tells6", ["jump finds6", *_layouts()]),
    ]  # fmt: skip


def _layouts() -> Iterator[str]:
    for number, (duid, rapid) in enumerate(LAYOUTS):
        options, ia = _leasing(duid, rapid)
        # To a release of what nobody leased dnsmasq says that address, with a valid lifetime of 0.
        yield f"{options} @th,{8 * (ia + 40)},32 0 {NOTED}"
        yield f"{options} @th,{8 * ia},16 3 meta mark >= 2 meta mark set meta mark | {1 << _LAYOUT + number:#x}"


# DUIDs: link-layer address; with time, or systemd's by vendor; UUID (RFC 8415, 11). Others are not learnt from.
LAYOUTS = tuple((duid, rapid) for duid in (10, 14, 18) for rapid in (False, True))
_SERVER_DUID = 14  # dnsmasq's own, which has the time in it where leases are kept


def _leasing(duid: int, rapid: bool) -> tuple[str, int]:
    """A Reply as dnsmasq writes it (src/rfc3315.c; RFC 8415): client, server, perhaps rapid commit, an association and
    its first address. What matches these options, and where the association begins."""
    after = 20 + duid + _SERVER_DUID
    ia = after + 4 if rapid else after
    middle = f"{_option(after, 14, 0)} " if rapid else ""
    return f"{_option(12, 1, duid)} {_option(16 + duid, 2, _SERVER_DUID)} {middle}{_option(ia + 16, 5, 24)}", ia


def _option(at: int, code: int, length: int) -> str:
    """Matches an option's code and length, so many octets behind the beginning of the UDP header."""
    return f"@th,{8 * at},32 {code << 16 | length:#x}"


def answers6() -> Iterator[tuple[str, str]]:
    """By layout, what to match behind `counting6`, and where the address is in the answer."""
    for number, (duid, rapid) in enumerate(LAYOUTS):
        bit, (_, ia) = 1 << _LAYOUT + number, _leasing(duid, rapid)
        yield f"meta mark & {bit:#x} != 0", f"@th,{8 * (ia + 20)},128"


def _chain(name: str, rules: list[str]) -> list[str]:
    start = [f"add chain {TABLE} {name}", f"flush chain {TABLE} {name}"]
    return start + [f"add rule {TABLE} {name} {rule}" for rule in rules]


def questions4(asks: Iterable[str], tap: str, drop: Drop, counted: bool) -> list[str]:
    """Rules for questions that one of `asks` matches."""
    closed = drop(TOO_MANY, f"udp dport 67 udp dport @{closed_set(tap)}") if counted else []
    often = drop(TOO_OFTEN, f"udp dport 67 limit rate over {_RATE4}")
    return [*closed, *often, *(f"{each} accept" for each in asks)]


def questions6(tap: str, drop: Drop, counted: int, relays: bool) -> list[str]:
    """Rules for DHCPv6 questions. `counted`: how many addresses an answer has at most, 0 if nobody counts them;
    `relays`: the port may relay others'."""
    asks, most = "ip6 nexthdr udp udp dport 547", max(_MOST_OPTIONS, 2 * counted + 2)
    relayed = f"{asks} meta mark {_RELAYS:#x}"
    return [
        *drop(TOO_OFTEN, f"{asks} @th,64,8 {_LEASING} limit rate over {_RATE6}"),
        f"{asks} jump asks6",
        *([f"{relayed} meta mark set 0 accept"] if relays else drop("DHCPv6 relay", relayed)),
        *drop(UNREADABLE, f"{asks} meta mark >= {2 << most:#x}"),
        *(drop(TOO_MANY, f"{asks} udp dport @{closed_set(tap)}") if counted else []),
        f"{asks} meta mark set 0 accept",
    ]


def closed_set(tap: str) -> str:
    """The name of the set of the server ports that a port may not ask for leases for now."""
    return f"closed-{check_device(tap)}"


def given_set(version: int, tap: str) -> str:
    """The name of the set of the addresses that a port was given and has not learnt."""
    return f"given{version}-{check_device(tap)}"


def _spent_set(tap: str) -> str:
    return f"spent-{check_device(tap)}"


def declared(tap: str, given: Iterable[int] = (4, 6), emptied: bool = False) -> list[str]:
    """The lines that declare the sets of a port whose leases are counted, with `given` for these IP versions."""
    flags = "flags dynamic,timeout;"
    kinds = [
        (closed_set(tap), "type inet_service; size 2;"),
        (_spent_set(tap), f"typeof {_LEASES_OF[4]}; size {GIVEN};"),
    ]
    kinds += [(given_set(v, tap), f"typeof {_LEASES_OF[v]}; size {GIVEN};") for v in given]
    lines = [f"add set {TABLE} {name} {{ {kind} {flags} }}" for name, kind in kinds]
    return lines + [f"flush set {TABLE} {name}" for name, _ in kinds if emptied]


def forgotten(tap: str) -> list[str]:
    """The lines after which nothing is known of what a port was given."""
    names = (closed_set(tap), _spent_set(tap), *(given_set(v, tap) for v in _LEASES_OF))
    return [*declared(tap), *(f"delete set {TABLE} {name}" for name in names)]


def overdrawn4(answer: str, address: str, tap: str, held: str, seconds: int) -> str:
    """The rule, behind the one that notes an acknowledged address in the set `held`, for one that had no room there."""
    return f"{answer} {address} != @{held} {_close(tap, seconds)}"


def counting6(tap: str, usual: int, seconds: int) -> tuple[list[str], list[str]]:
    """Rules for a Reply, before and behind those that note its address and then say `NOTED`. `usual`: how many it has
    usually."""
    pays = f"update @{_spent_set(tap)} {{ numgen random mod 4294967295 timeout {seconds}s }}"
    finds = f"meta mark & {(1 << _LAYOUT) - 1:#x}"
    many, some = f"{finds} >= {4 << usual:#x}", f"{finds} >= 4"
    before = ["jump tells6", f"{many} {pays} {NOTED}", f"{many} {_close(tap, seconds)}"]
    return before, [f"{some} {pays} {NOTED}", f"{some} {_close(tap, seconds)}", "meta mark set 0"]


NOTED = "meta mark set 1"


def _close(tap: str, seconds: int) -> str:
    return f"update @{closed_set(tap)} {{ udp sport timeout {seconds}s }}"


def usual_addresses(starts: Iterable[IPv6Address], *macs: str) -> int:
    """How many addresses a Reply may seem to have: one of each range, whose first addresses are `starts`, and one more
    for each prefix and MAC that looks like an option. 0 without a range."""
    listed = list(starts)
    fixed = [start.packed[:8] for start in listed] + [bytes.fromhex(digits(check_mac(mac))) for mac in macs if mac]
    return len(listed) + sum(map(_seems_an_option, fixed)) if listed else 0


def _seems_an_option(octets: bytes) -> bool:
    fours = (int.from_bytes(octets[at : at + 4], "big") for at in range(len(octets) - 3))
    return any(first <= four <= last for four in fours for first, last in _OPTIONS)
