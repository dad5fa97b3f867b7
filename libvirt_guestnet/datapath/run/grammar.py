"""A second check of each text for nft, iptables-restore and `bridge`: whether we could have written it. Pure.

The text is made from typed values, so this should never refuse anything. But if a value is wrong all the same, its text
reaches no program: a batch has to be lines, each of them one statement of a form that we use, about a table or chain of
ours, made of words from a list and of addresses, prefixes, numbers and names. On the hook path: a port's batch takes a
fifth of a millisecond, since each different word is checked once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from libvirt_guestnet import parse
from libvirt_guestnet.datapath.run.names import LINK_KINDS, check_segment
from libvirt_guestnet.datapath.run.program import RefusedBatchError

OUR_TABLES = frozenset(("arp guestnet", "bridge guestnet", "inet guestnet", "inet guestnet-zones", "netdev guestnet"))
LIBVIRTS_TABLES = frozenset(("ip libvirt_network", "ip6 libvirt_network"))
_OUR_CHAIN = "guestnet"  # in libvirt's tables
_LIBVIRTS_CHAIN = "LIBVIRT_FWI"  # its own, which says what may go into its networks
IPTABLES_CHAINS = frozenset(("GUESTNET-FORWARD", "GUESTNET-ROUTED"))

_LETTERS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_NFT_BYTES = _LETTERS + b" \n\"'{}:;,./@!=<>|&_-"
_PLAIN_BYTES = _LETTERS + b" \n:;,./[]*_-"
_STRING = frozenset((_LETTERS + b" _.-:'").decode())
_LONGEST_STRING = 64
# What comes before strings of any text. All other strings are a device's name or index.
_FREE_STRINGS = (" comment ", " prefix ")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Every word that is not a value. To use another one in a rule, add it here.
_WORDS = _words("""
    add delete flush insert table chain rule set map element handle elements = { } . : != == < >= << | &
    arp bridge inet netdev ip ip6 guestnet guestnet-zones libvirt_network
    type typeof hook device priority filter policy accept drop nat size flags interval dynamic timeout
    ingress egress prerouting input forward output postrouting
    counter comment jump vmap verdict goto return update log prefix
    limit rate over burst packets numgen random mod masquerade dnat snat to
    ether saddr daddr vlan id 8021q 8021ad htype ptype hlen plen operation request
    meta l4proto mark pkttype broadcast multicast ibrname obrname iif oif iifname oifname fib local th dport sport
    udp tcp sctp icmp icmpv6 igmp pim ah vrrp nexthdr length ttl hoplimit exthdr hbh exists frag frag-off ipv6-frag
    nd-neighbor-solicit nd-neighbor-advert nd-router-solicit nd-router-advert
    ct state new established related status direction original reply protocol proto-src proto-dst
    ifname iface_index ipv4_addr ipv6_addr inet_proto inet_service icmp_type icmpv6_type igmp_type ether_type
    @ll @nh @th wanted begun guest_input plain4 plain6 rest4 rest6 nowhere4 nowhere6 asks6 finds6 tells6
""")
# Our names without a device in them, and the kinds of names with one, KIND-DEVICE.
_NAMES = _words("""
    icmp-types icmpv6-types igmp-types igmp-routers-types nd-types routers-types tag-types mld-lengths lease-options
    leasing-types
    same-octets extension-headers opaque-headers unread-headers never-plain never-plain4
    routing-protocols routing-ports judged-ports4 judged-ports6 late-ports
    taps gateways bridges ports zones zoned hosts4 hosts6
    at-port4 at-range4 any-port4 any-range4 floating4 source4 hairpin4 hidden4 cut4 own-at4 own-any4
    at-port6 at-range6 any-port6 any-range6 floating6 source6 hairpin6 hidden6 cut6 own-at6 own-any6
    proto4 limited-proto4 clients-proto4 source-proto4 proto6 limited-proto6 clients-proto6 source-proto6
    limited-at-port4 limited-at-range4 limited-any-port4 limited-any-range4 clients-at4 clients-any4
    limited-at-port6 limited-at-range6 limited-any-port6 limited-any-range6 clients-at6 clients-any6
""")
_KINDS = _words("""
    tap vlan arp ip4 ip4sent ip6 ip6own ip6sent leases told learnt4 learnt6 free4 free6 given4 given6 closed spent
    claimed6 heard seen4 seen6 seentags of from hosts4 hosts6
""")
# The kinds of names with a link: a bridge's name, perhaps with a VLAN.
_LINK_KINDS = frozenset(LINK_KINDS)
_HEX = frozenset("0123456789abcdef")
# Masks, of the bridge guard's rule and of roles', and groups of link-layer protocols: no device has such an address.
_MASKS_AND_GROUPS = _words("""
    ff:ff:ff:ff:ff:f0 ff:ff:ff:f0:00:00 01:00:00:00:00:00 00:00:00:00:00:00 ff:ff:ff:ff:ff:ff 01:00:5e:80:00:00
    01:80:c2:00:00:00 01:80:c2:00:00:02 01:80:c2:00:00:03 01:80:c2:00:00:0e 01:80:c2:00:00:14 01:80:c2:00:00:15
    09:00:2b:00:00:05
""")
_COMMAS = str.maketrans(",;", "  ")


def check_nft(batch: str) -> None:
    """Raises RefusedBatchError unless every line is an nft statement of a form that we use."""
    _check_bytes(batch, _NFT_BYTES, "nft")
    parts = batch.split('"')
    if not len(parts) % 2:
        raise _refused("nft", "a string without an end")
    for before, string in zip(parts[::2], parts[1::2], strict=False):
        if not _is_string(string, before.endswith(_FREE_STRINGS)):
            raise _refused("nft", string)
    text = '""'.join(parts[::2])
    for word in set(text.translate(_COMMAS).replace('""', " ").split()) - _WORDS:
        if not _is_value(word):
            raise _refused("nft", word)
    for line in text.splitlines():
        if not _is_statement(line):
            raise _refused("nft", line)


def _check_bytes(batch: str, allowed: bytes, tool: str) -> None:
    try:
        left = batch.encode("ascii").translate(None, allowed)
    except UnicodeEncodeError as error:
        raise _refused(tool, batch[error.start : error.end]) from error
    if left:
        raise _refused(tool, left.decode())


def _refused(tool: str, what: str) -> RefusedBatchError:
    return RefusedBatchError(f"not given to {tool}, since we never write {parse.shown(what)}; please report this bug")


@lru_cache(4096)
def _is_string(text: str, free: bool) -> bool:
    return _STRING.issuperset(text) and (len(text) <= _LONGEST_STRING if free else _passes(text, parse.device, _index))


def _index(text: str) -> int:
    """A device's index, with so many leading zeros that it cannot be a name."""
    return parse.number(text.lstrip("0"), 1, (1 << 31) - 1) if len(text) == 16 else parse.number("", 0, 0)


def _passes(text: str, *readers: Callable[[str], object]) -> bool:
    """Whether one of these functions accepts the text."""
    for read in readers:
        try:
            read(text)
        except parse.TextError:
            continue
        return True
    return False


def _is_value(word: str) -> bool:
    """Whether a word is a valid value: its form says of which kind, and it has to be valid as that."""
    if word[0] == "@":
        return _is_name(word[1:])
    if word[:2] == "0x" and "-" not in word:
        return len(word) <= 34 and _HEX.issuperset(word[2:]) and len(word) > 2
    if "-" in word:
        low, _, high = word.partition("-")
        return _is_named(low, high) or _is_span(low, high) or word in _NAMES
    if word.count(":") == 5:
        return word in _MASKS_AND_GROUPS or _passes(word, parse.mac) or _passes(word, parse.prefix)
    if ":" in word or "." in word:
        return _passes(word, parse.prefix)
    return _passes(word.removesuffix("/second").removesuffix("/minute").removesuffix("s"), _natural) or word in _NAMES


def _is_name(word: str) -> bool:
    kind, _, device = word.partition("-")
    return _is_named(kind, device) or word in _NAMES


def _is_named(kind: str, device: str) -> bool:
    if kind in _LINK_KINDS:
        return _passes(device, check_segment)
    return kind in _KINDS and _passes(device, parse.device)


def _is_span(low: str, high: str) -> bool:
    """Whether it is a range. The first part may be empty, since priorities can be negative."""
    return (not low or (low[0] not in "@-" and _is_value(low))) and high[:1] not in ("", "@", "-") and _is_value(high)


def _natural(text: str) -> int:
    return parse.number(text, 0, (1 << 64) - 1)


def _is_number(text: str) -> bool:
    return _passes(text, _natural)


def _is_statement(line: str) -> bool:
    verb, what, family, table, name, rest = [*line.split(" ", 5), "", "", "", "", "", ""][:6]
    table = f"{family} {table}"
    if table in OUR_TABLES:
        if not name:
            return what == "table" and verb in ("add", "delete")
        return _STATEMENTS.get(f"{verb} {what}", _nothing)(rest)
    return table in LIBVIRTS_TABLES and _is_libvirts(f"{verb} {what}", name, rest)


def _is_libvirts(do: str, chain: str, rest: str) -> bool:
    """Whether a statement about a table of libvirt's concerns only our chain, or the jump to it."""
    if chain == _OUR_CHAIN:
        return do in ("add chain", "flush chain", "delete chain", "add rule") and (
            _is_rule(rest) if do == "add rule" else not rest
        )
    if (do, chain) == ("insert rule", "forward"):
        return rest == f"jump {_OUR_CHAIN}"
    return (do, chain) == ("delete rule", "forward") and rest.startswith("handle ") and _is_number(rest[7:])


def _nothing(_rest: str) -> bool:
    return False


def _is_bare(rest: str) -> bool:
    return not rest


def _is_rule(rest: str) -> bool:
    """Whether it is one statement of words, in which braces hold elements only."""
    return bool(rest) and ";" not in rest and _is_balanced(rest)


def _is_block(rest: str) -> bool:
    """Whether it is one block in braces up to the end of the line, with at most one inside."""
    return rest[:2] == "{ " and rest[-2:] == " }" and _is_balanced(rest[1:-1])


def _is_chain(rest: str) -> bool:
    return not rest or _is_block(rest)


def _is_balanced(text: str) -> bool:
    """Whether braces are balanced and not nested."""
    if "{" not in text and "}" not in text:
        return True
    *closed, rest = text.split("}")
    return "{" not in rest and all(part.count("{") == 1 for part in closed)


# By command, what may follow TABLE NAME.
_STATEMENTS: dict[str, Callable[[str], bool]] = {
    "add chain": _is_chain,
    "flush chain": _is_bare,
    "delete chain": _is_bare,
    "add set": _is_block,
    "add map": _is_block,
    "flush set": _is_bare,
    "delete set": _is_bare,
    "add element": _is_block,
    "delete element": _is_block,
    "add rule": _is_rule,
}


def check_iptables(batch: str) -> None:
    """Raises RefusedBatchError unless it is input of iptables-restore about our chains and the jumps to them."""
    _check_bytes(batch, _PLAIN_BYTES, "iptables")
    first, *lines = batch.splitlines() or [""]
    if first != "*filter" or lines[-1:] != ["COMMIT"] or not batch.endswith("\n"):
        raise _refused("iptables", first)
    for line in lines[:-1]:
        if not _is_iptables_line(line):
            raise _refused("iptables", line)


def _is_iptables_line(line: str) -> bool:
    words = line.split(" ")
    if words[0].startswith(":"):
        return words[0][1:] in IPTABLES_CHAINS and words[1:] == ["-", "[0:0]"]
    if words[0] in ("-X", "-A"):
        ours = len(words) > 1 and words[1] in IPTABLES_CHAINS
        return ours and (len(words) == 2 if words[0] == "-X" else is_accept(words[2:], ("ACCEPT", _LIBVIRTS_CHAIN)))
    if words[:2] == ["-I", "FORWARD"]:
        return len(words) == 5 and _is_number(words[2]) and words[3] == "-j" and words[4] in IPTABLES_CHAINS
    return words[:3] == ["-D", "FORWARD", "-j"] and len(words) == 4 and words[3] in IPTABLES_CHAINS


def is_accept(words: list[str], targets: tuple[str, ...] = ("ACCEPT",)) -> bool:
    """Whether these are options, each with its value, of a rule that accepts, or whose target is one of those."""
    pairs = list(zip(words[::2], words[1::2], strict=False))
    return (
        bool(pairs)
        and len(words) % 2 == 0
        and pairs[-1][0] == "-j"
        and pairs[-1][1] in targets
        and all(option in _OPTIONS and _OPTIONS[option](value) for option, value in pairs[:-1])
    )


def _is_device(text: str) -> bool:
    return _passes(text, parse.device)


def _is_prefix(text: str) -> bool:
    return _passes(text, parse.prefix)


def _is_ports(text: str) -> bool:
    return _passes(text.replace(":", "-"), lambda ports: parse.span(ports, 1, 65535))


_OPTIONS: dict[str, Callable[[str], bool]] = {
    "-i": _is_device,
    "-o": _is_device,
    "-s": _is_prefix,
    "-d": _is_prefix,
    "-m": ("conntrack", "comment").__contains__,
    "--comment": ("libvirt-guestnet: while libvirt changes DHCP",).__contains__,
    "--ctproto": lambda text: text in ("tcp", "udp", "sctp") or _passes(text, lambda each: parse.number(each, 1, 254)),
    "--ctreplsrc": _is_prefix,
    "--ctorigdst": _is_prefix,
    "--ctreplsrcport": _is_ports,
    "--ctorigdstport": _is_ports,
    "--ctdir": ("ORIGINAL", "REPLY").__contains__,
    "--ctstate": ("DNAT", "ESTABLISHED,RELATED").__contains__,
}


def check_bridge(batch: str) -> None:
    """Raises RefusedBatchError unless every line of a `bridge -batch` is about one VLAN of one device."""
    _check_bytes(batch, _PLAIN_BYTES, "bridge")
    for line in batch.splitlines():
        words = line.split(" ")
        is_vlan_line = len(words) >= 6 and words[0] == "vlan" and words[1] in ("add", "del")
        if not is_vlan_line or [words[2], words[4]] != ["vid", "dev"] or words[6:] not in ([], ["pvid", "untagged"]):
            raise _refused("bridge", line)
        if not (_passes(words[3], lambda vid: parse.number(vid, 1, 4094)) and _is_device(words[5])):
            raise _refused("bridge", line)
