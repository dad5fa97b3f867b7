"""Limits on what a port asks of DHCP servers, as nft text, so that no guest uses up the addresses of all. Pure.

A server gives an address to every new identity, and a guest can invent as many as it likes: DUIDs, associations (IAID)
of one DUID, several in one message; on DHCPv4, client identifiers where dnsmasq heeds them. A rule cannot find a
client's DUID, as options may come in any order, and systemd-networkd and Windows do not write it first. So the rules
count what a guest cannot invent: the addresses in the server's answers, which pass the tap's egress. A port that was
given too many has its requests dropped for the time of a lease. Until the answers show that, three more limits hold:
the rate of requests, the length of each, and the number of associations and addresses in it.

nft 1.0.6 and the kernel cannot walk a list of options. But they can compare every four octets of a message with an
option's code and length. That finds each option that is there, and now and then four octets that only look like one;
the limits leave room for these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv6Address

from libvirt_guestnet.datapath.port.ranges import as_raw
from libvirt_guestnet.datapath.run.names import TABLE, check_device, check_mac, digits

Drop = Callable[[str, str], list[str]]

# The longest DHCPv6 message with its UDP header: nft on Linux 6.1 reads no octet after the 255th (NFTA_PAYLOAD_OFFSET).
LONGEST = 256
# The messages that a server may answer with a lease (RFC 8415): Solicit, Request, Renew, Rebind.
_LEASING = "leasing-types"
# Relay-forward and Relay-reply: the message inside can be in anybody's name.
_RELAYED = "@th,64,8 12-13"
_FIRST_OPTION = 12  # octets from the beginning of the UDP header

# How many options one request may seem to have: an association with its address, and two found by chance.
_MOST_OPTIONS = 4
# How many answers a port may get in the time of a lease that cannot be read, or give an address that is not learnt.
GIVEN = 8
_RATE6, _RATE4 = "4/second burst 4 packets", "20/second burst 40 packets"
_RELAYED_RATE = "100/second burst 200 packets"  # a whole network's: its clients start together after a power cut

_LEASES_OF = {4: "@th,192,32", 6: "@th,64,128"}
TOO_MANY, TOO_OFTEN, UNREADABLE = "DHCP leases", "DHCP rate", "DHCPv6 message"

# Code and length of IA_NA, IA_TA and IAADDR.
_OPTIONS = ((0x0003000C, 0x000301FF), (0x00040004, 0x000401FF), (0x00050018, 0x000501FF))
# Flags that the shared chains leave in a frame's mark beside the count. The mark is 0 before these chains and after.
_UNREADABLE, _RELAYS = 1 << 31, 1 << 30
# The first bit of those that say which of the LAYOUTS an answer has.
_LAYOUT = 20
_COUNTED = 1 << 10  # counting ends here, so that the count never reaches the mark's flags


def shared() -> list[str]:
    """The lines that are the same for every port. The mark is 1 at first, and shifted by one for each option found."""
    finds = [f"@th,{bit},32 @lease-options meta mark set meta mark << 1" for bit in range(96, 8 * (LONGEST - 3), 8)]
    for number in range(len(finds) // 8 * 8, 0, -8):
        finds.insert(number, f"meta mark >= {_COUNTED:#x} return")
    return [
        f"add set {TABLE} lease-options {{ typeof @th,96,32; flags interval; size 8; }}",
        f"flush set {TABLE} lease-options",
        f"add element {TABLE} lease-options {as_raw(list(_OPTIONS))}",
        f"add set {TABLE} {_LEASING} {{ typeof @th,64,8; size 8; }}",
        f"flush set {TABLE} {_LEASING}",
        f"add element {TABLE} {_LEASING} {{ 1, 3, 5, 6 }}",
        *_chain("finds6", ["meta mark set 1", *finds]),
        *_chain("asks6", [
            f"{_RELAYED} meta mark set {_RELAYS:#x} return",
            f"udp length != {_FIRST_OPTION}-{LONGEST} meta mark set {_UNREADABLE:#x} return",
            f"@th,64,8 != @{_LEASING} accept",
            "goto finds6",
        ]),
        *_chain("tells6", ["jump finds6", *_layouts()]),
    ]  # fmt: skip


def _layouts() -> Iterator[str]:
    for number, (duid, rapid) in enumerate(LAYOUTS):
        options, ia = _leasing(duid, rapid)
        # If a client releases an address that was not leased, dnsmasq's answer repeats it with a valid lifetime of 0.
        yield f"{options} @th,{8 * (ia + 40)},32 0 {NOTED}"
        yield f"{options} @th,{8 * ia},16 3 meta mark >= 2 meta mark set meta mark | {1 << _LAYOUT + number:#x}"


# Answers that can be read: by the length of the client's DUID (link-layer address: 10; link-layer address with time, or
# systemd's vendor DUID: 14; UUID: 18; RFC 8415, 11), and whether a rapid commit option follows.
LAYOUTS = tuple((duid, rapid) for duid in (10, 14, 18) for rapid in (False, True))
_SERVER_DUID = 14  # the length of dnsmasq's own DUID, which has the time in it where leases are kept


def _leasing(duid: int, rapid: bool) -> tuple[str, int]:
    """A match for a Reply in the order in which dnsmasq writes its options (src/rfc3315.c; RFC 8415): client, server,
    perhaps rapid commit, an association and its first address; and the octet at which the association begins."""
    after = 20 + duid + _SERVER_DUID
    ia = after + 4 if rapid else after
    middle = f"{_option(after, 14, 0)} " if rapid else ""
    return f"{_option(12, 1, duid)} {_option(16 + duid, 2, _SERVER_DUID)} {middle}{_option(ia + 16, 5, 24)}", ia


def _option(at: int, code: int, length: int) -> str:
    """A match for an option's code and length, `at` octets after the beginning of the UDP header."""
    return f"@th,{8 * at},32 {code << 16 | length:#x}"


def answers6() -> Iterator[tuple[str, str]]:
    """For each layout, the match that tells it after the rules of `counting6`, and the field with the address."""
    for number, (duid, rapid) in enumerate(LAYOUTS):
        bit, (_, ia) = 1 << _LAYOUT + number, _leasing(duid, rapid)
        yield f"meta mark & {bit:#x} != 0", f"@th,{8 * (ia + 20)},128"


def _chain(name: str, rules: list[str]) -> list[str]:
    start = [f"add chain {TABLE} {name}", f"flush chain {TABLE} {name}"]
    return start + [f"add rule {TABLE} {name} {rule}" for rule in rules]


# A DHCP client's own address in its request.
CLIENT = "@th,160,32"


def request4(mac: str) -> str:
    """A match for a DHCP client's message: a BOOTREQUEST over Ethernet, not by way of a relay, with that hardware
    address (RFC 2131). It must not be a fragment, as an overlapping fragment could change it."""
    return f"udp dport 67 ip frag-off & 0x3fff == 0 @th,64,24 0x010106 @th,256,32 0 @th,288,48 0x{digits(mac)}"


def questions4(asks: Iterable[str], tap: str, drop: Drop, counted: bool) -> list[str]:
    """The rules for DHCPv4 requests, which one of `asks` matches."""
    closed = drop(TOO_MANY, f"udp dport 67 udp dport @{closed_set(tap)}") if counted else []
    often = drop(TOO_OFTEN, f"udp dport 67 limit rate over {_RATE4}")
    return [*closed, *often, *(f"{each} accept" for each in asks)]


def relayed(version: int, drop: Drop) -> list[str]:
    """The rule for what a relay asks in the name of its clients, before what lets it pass."""
    asks = {4: "udp sport 67 udp dport 67 @th,64,8 1", 6: "ip6 nexthdr udp udp sport 547 udp dport 547 @th,64,8 12"}
    return drop(TOO_OFTEN, f"{asks[version]} limit rate over {_RELAYED_RATE}")


def questions6(tap: str, drop: Drop, counted: int) -> list[str]:
    """The rules for DHCPv6 requests. `counted` is how many addresses an answer has at most, 0 if they are not
    counted. What a role lets a port relay has passed before."""
    asks, most = "ip6 nexthdr udp udp dport 547", max(_MOST_OPTIONS, 2 * counted + 2)
    relayed = f"{asks} meta mark {_RELAYS:#x}"
    return [
        *drop(TOO_OFTEN, f"{asks} @th,64,8 @{_LEASING} limit rate over {_RATE6}"),
        f"{asks} jump asks6",
        *drop("DHCPv6 relay", relayed),
        *drop(UNREADABLE, f"{asks} meta mark >= {2 << most:#x}"),
        *(drop(TOO_MANY, f"{asks} udp dport @{closed_set(tap)}") if counted else []),
        f"{asks} meta mark set 0 accept",
    ]


def closed_set(tap: str) -> str:
    """The name of the set of UDP ports (DHCPv4's, DHCPv6's) to which a port may send no request for now."""
    return f"closed-{check_device(tap)}"


def given_set(version: int, tap: str) -> str:
    """The name of the set of the addresses that a DHCP server gave a port and that it has not learnt."""
    return f"given{version}-{check_device(tap)}"


def _spent_set(tap: str) -> str:
    return f"spent-{check_device(tap)}"


def declared(tap: str, given: Iterable[int] = (4, 6), emptied: bool = False) -> list[str]:
    """The lines that declare the sets of a port whose leases are counted; `given`: the IP versions with a given set."""
    flags = "flags dynamic,timeout;"
    kinds = [
        (closed_set(tap), "type inet_service; size 2;"),
        (_spent_set(tap), f"typeof {_LEASES_OF[4]}; size {GIVEN};"),
    ]
    kinds += [(given_set(v, tap), f"typeof {_LEASES_OF[v]}; size {GIVEN};") for v in given]
    lines = [f"add set {TABLE} {name} {{ {kind} {flags} }}" for name, kind in kinds]
    return lines + [f"flush set {TABLE} {name}" for name, _ in kinds if emptied]


def forgotten(tap: str) -> list[str]:
    """The lines that delete the sets of what a port was given."""
    names = (closed_set(tap), _spent_set(tap), *(given_set(v, tap) for v in _LEASES_OF))
    return [*declared(tap), *(f"delete set {TABLE} {name}" for name in names)]


def overdrawn4(answer: str, address: str, tap: str, held: str, seconds: int) -> str:
    """The rule, after the one that adds an acknowledged address to `held`, that stops requests if it had no room."""
    return f"{answer} {address} != @{held} {_close(tap, seconds)}"


def spent4(answer: str, address: str, tap: str, seconds: int) -> list[str]:
    """The rules that count an acknowledged address, and stop requests if there were too many."""
    spent = _spent_set(tap)
    return [
        f"{answer} update @{spent} {{ {address} timeout {seconds}s }}",
        f"{answer} {address} != @{spent} {_close(tap, seconds)}",
    ]


def counting6(tap: str, usual: int, seconds: int) -> tuple[list[str], list[str]]:
    """The rules before and after those that note a Reply's address and end in `NOTED`. It usually has `usual`
    addresses."""
    pays = f"update @{_spent_set(tap)} {{ numgen random mod 4294967295 timeout {seconds}s }}"
    finds = f"meta mark & {(1 << _LAYOUT) - 1:#x}"
    many, some = f"{finds} >= {4 << usual:#x}", f"{finds} >= 4"
    before = ["jump tells6", f"{many} {pays} {NOTED}", f"{many} {_close(tap, seconds)}"]
    return before, [f"{some} {pays} {NOTED}", f"{some} {_close(tap, seconds)}", "meta mark set 0"]


NOTED = "meta mark set 1"


def _close(tap: str, seconds: int) -> str:
    return f"update @{closed_set(tap)} {{ udp sport timeout {seconds}s }}"


def usual_addresses(starts: Iterable[IPv6Address], *macs: str) -> int:
    """How many addresses a Reply may seem to have: one of each DHCP range (`starts` are their first addresses), and one
    more for each prefix and MAC address whose octets look like an option. 0 without a range."""
    listed = list(starts)
    fixed = [start.packed[:8] for start in listed] + [bytes.fromhex(digits(check_mac(mac))) for mac in macs if mac]
    return len(listed) + sum(map(_seems_an_option, fixed)) if listed else 0


def _seems_an_option(octets: bytes) -> bool:
    fours = (int.from_bytes(octets[at : at + 4], "big") for at in range(len(octets) - 3))
    return any(first <= four <= last for four in fours for first, last in _OPTIONS)
