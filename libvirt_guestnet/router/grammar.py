"""A second check of each file for a router: whether we could have written it. Pure; decision 36 says why.

The files are made of typed values, so this should never refuse anything. But dnsmasq has directives that run programs,
and a router's ruleset decides who reaches whom: a line has to be of a form below, word by word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from libvirt_guestnet import parse
from libvirt_guestnet.errors import GuestnetError


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_WORDS = _words("""
    add flush table chain rule set counter inet guestnet { } : ; , == != & |
    type filter nat hook priority policy accept drop goto mangle dstnat srcnat filter prerouting input forward output
    postrouting marks translate sources ingress tiers size flags dynamic timeout ether_addr ipv4_addr ipv6_addr ether
    ways update name limit rate over burst packets 100/second 50/second 20/second 10/second 5/second 10s 1s
    ct state established related invalid new mark status
    dnat snat to map meta l4proto nfproto ipv4 ipv6 tcp udp sctp icmp icmpv6 th dport sport saddr daddr ip ip6 hoplimit
    iifname oifname lo echo-request nd-neighbor-solicit nd-neighbor-advert nd-router-solicit denied refused spoofed
    limited crowded goto reject with reset count queue num
""")
_STARTS = re.compile(r"add table inet guestnet$|(add (counter|set|chain|rule)|flush chain) inet guestnet [a-z]")
_SEPARATORS = str.maketrans(",;", "  ")
_NIC = re.compile("eth[0-9]{1,3}")
_OWN = "[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
_KIND = "egress-eth[0-9]{1,3}|forward|static|ingress|tier|egress|balance|unserved"
_COUNTER = re.compile(rf"(?:(?:{_KIND})-{_OWN}|member-{_OWN}/{_OWN})")
_TARGET = re.compile(r"([0-9.]+|\[[0-9a-f:]+\]):([0-9]{1,5})")
_LIMIT_SET = re.compile("@?(?:asking|connected|tracked|crowded)-[a-z0-9-]{1,20}")
_HEX = re.compile("0x[0-9a-f]{1,3}")
_QUOTED = re.compile('"([A-Za-z0-9_./-]*)"')

_PREFIX, _TAG = r"[0-9a-f.:]+(?:/[0-9]+)?", r"[a-z0-9-]{1,40}"
_ADDRESS, _MAC = r"[0-9a-f.:]{2,39}", "[0-9a-f]{2}(?::[0-9a-f]{2}){5}"
_NAME, _NUMBER, _ETH = "[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}", "[0-9]{1,10}", "eth[0-9]{1,3}"
_ITEM = r'(?:"[ !$-+\--\[\]-~]{1,240}"|[A-Za-z0-9_./:+\-\[\]]{1,255})'
_METHOD = "(?:round-robin|source|least-connections)"
_CHECK = rf"(?:-|{_NUMBER} {_NUMBER} {_NUMBER} {_NUMBER})"
_FORMS = {
    "net": (
        rf"nic {_ETH} {_MAC} (?:{_NUMBER}|-) 46?(?: {_MAC})?",
        rf"address (?:{_ETH}|lo) {_PREFIX}",
        rf"route {_PREFIX} {_ADDRESS} {_ETH} {_NUMBER}",
        rf"rule [46] (?:from {_PREFIX}|mark {_NUMBER}) {_NUMBER}",
    ),
    "dnsmasq": (
        "user=dnsmasq|group=dnsmasq|no-resolv|no-hosts|no-ping|bind-dynamic|domain-needed|bogus-priv|enable-ra",
        "quiet-dhcp|quiet-dhcp6|quiet-ra|dhcp-authoritative|dhcp-ignore-clid",
        rf"dhcp-lease-max={_NUMBER}|dns-forward-max={_NUMBER}|dhcp-leasefile=/run/dnsmasq/leases",
        "dhcp-hostsfile=/run/router/hosts|dhcp-optsfile=/run/router/options|addn-hosts=/run/router/names",
        "servers-file=/run/router/servers",
        rf"interface={_ETH}|local=/{_NAME}/|domain={_NAME},{_PREFIX}|ra-param={_ETH},{_NUMBER},{_NUMBER}",
        rf"dhcp-range=set:{_ETH},{_ADDRESS},(?:static|{_ADDRESS})(?:,slaac)?,[0-9.]{{1,15}},(?:{_NUMBER}|infinite)",
        rf"dhcp-mac=set:{_TAG},{_MAC}|address=/{_NAME}/{_ADDRESS}",
        rf'txt-record={_NAME},"[ !$-+\--\[\]-~]{{1,240}}"',
        rf"srv-host=_{_NAME}(?:,{_NAME},{_NUMBER},{_NUMBER},{_NUMBER})?",
    ),
    "hosts": (rf"(?:{_MAC}|id:[0-9a-f]{{2}}(?::[0-9a-f]{{2}})+)(?:,[0-9.]+|,\[[0-9a-f:]+\])*,(?![0-9.]+$){_NAME}",),
    "options": (rf"tag:{_TAG},(?:option6?:[a-z0-9+-]{{1,40}}|{_NUMBER})(?:,{_ITEM}){{0,32}}",),
    "names": (rf"{_ADDRESS} {_NAME}(?: {_NAME})?",),
    "metadata": (
        "data (?:[A-Za-z0-9+/]+={0,2}|-)",
        rf"guest(?: {_ADDRESS})+",
        rf"file [A-Za-z0-9][A-Za-z0-9./-]{{0,99}} {_NUMBER}",
    ),
    "servers": (rf"server=(?:/{_NAME}/)?{_ADDRESS}",),
    "balance": (
        rf"balancer {_OWN} {_METHOD} (?:tcp|udp) {_ADDRESS} {_NUMBER} {_NUMBER} {_CHECK}",
        rf"member {_OWN} {_OWN} {_ADDRESS}",
    ),
    "sync": (
        "}|(?:Sync|Mode FTFW|UDP|General|UNIX|Filter From Kernelspace|Protocol Accept|Address Ignore) {",
        "(?:DisableExternalCache|StartupResync) yes|Checksum on|TCP|UDP|SCTP|ICMP|IPv6-ICMP",
        rf"(?:IPv4_address|IPv4_Destination_Address|IPv6_address) {_ADDRESS}|Interface {_ETH}",
        rf"(?:Port|HashSize|HashLimit|NetlinkBufferSize|NetlinkBufferSizeMaxGrowth) {_NUMBER}",
        "LockFile /run/router/conntrackd.lock|Path /run/router/conntrackd.socket",
    ),
}
_LINES = {section: re.compile("|".join(forms)) for section, forms in _FORMS.items()}


def checked(section: str, lines: Iterable[str]) -> str:
    """The text of a document's section. Raises GuestnetError unless every line is of a form that we write."""
    fits: Callable[[str], object] = _is_nft if section == "nft" else _LINES[section].fullmatch
    made = list(lines)
    for line in made:
        if not line.isascii() or not line.isprintable() or not fits(line):
            raise GuestnetError(
                f"not given to a router, since we never write {parse.shown(line)} ({section}); please report this bug"
            )
    return "".join(f"{line}\n" for line in made)


def _is_nft(line: str) -> bool:
    if not _STARTS.match(line):
        return False
    plain = line.translate(_SEPARATORS)
    return all(word in _WORDS or _is_value(word) for word in plain.split())


def _is_value(word: str) -> bool:
    if quoted := _QUOTED.fullmatch(word):
        return quoted[1] in _WORDS or bool(_COUNTER.fullmatch(quoted[1]))
    if _NIC.fullmatch(word) or _HEX.fullmatch(word) or _COUNTER.fullmatch(word) or _LIMIT_SET.fullmatch(word):
        return True
    if target := _TARGET.fullmatch(word):
        return _passes(target[1].strip("[]"), parse.address) and _passes(target[2], _port)
    return _passes(word, parse.prefix) or _passes(word, lambda text: parse.span(text, 0, 65535))


def _port(text: str) -> int:
    return parse.number(text, 1, 65535)


def _passes(text: str, read: Callable[[str], object]) -> bool:
    try:
        read(text)
    except parse.TextError:
        return False
    return True
