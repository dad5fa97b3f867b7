"""What there is: libvirt's XML of what runs, and the kernel as ip, bridge, nft and /proc tell it. Judges nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import libvirt
from lxml import etree

from libvirt_guestnet.sandbox import Sandbox

# What a killed port-created leaves in plugging/ waits for ten minutes, as its NIC may yet come (hook/helpers).
_SCRIPT = r"""
ask() { echo "@ $1"; shift; "$@" 2>/dev/null; }
ask links ip -j -d link
ask ports bridge -j -d link
ask entries bridge -j fdb
ask addresses ip -j address
ask routes4 ip -j -4 route show table all
ask routes6 ip -j -6 route show table all
ask proxies4 ip -j -4 neigh show proxy
ask proxies6 ip -j -6 neigh show proxy
ask nft nft -j list ruleset
ask hooked nft list table netdev guestnet
ask iptables iptables-save
ask ip6tables ip6tables-save
ask receipts find /run/libvirt-guestnet -mindepth 2 -type f '(' '!' -path '*/plugging/*' -o -mmin +11 ')'
ask guests sh -c 'cd /run/libvirt/qemu && grep -H "" *.pid'
ask processes ps -ww -eo pid,ppid,stat,args
"""


@dataclass(frozen=True)
class Seen:
    """Domains and networks that run, by name; the kernel's tables; receipts as paths; processes as lines of ps."""

    domains: dict[str, etree._Element]
    networks: dict[str, etree._Element]
    tables: dict[str, Any]
    texts: dict[str, str]

    @property
    def taps(self) -> dict[str, str]:
        """Tap -> name of its running guest, as libvirt has it."""
        found = {}
        for name, xml in self.domains.items():
            found.update({t.get("dev", ""): name for t in xml.findall("devices/interface/target")})
        return found

    def link(self, name: str) -> dict[str, Any]:
        return next((each for each in self.tables["links"] if each["ifname"] == name), {})

    def port(self, name: str) -> dict[str, Any]:
        return next((each for each in self.tables["ports"] if each["ifname"] == name), {})

    def nft(self, kind: str, *families: str) -> list[dict[str, Any]]:
        """Chains, rules or sets of our tables."""
        every = [each[kind] for each in self.tables["nft"].get("nftables", []) if kind in each]
        ours = [each for each in every if each["table"].startswith("guestnet")]
        return [each for each in ours if not families or each["family"] in families]

    def hooked(self) -> list[tuple[str, str]]:
        """Each device with a chain of ours that drops what nobody lets pass: its tap, and the chain's policy."""
        pattern = r'type filter hook ingress device "(\S+)" [^\n]*?policy (\w+);'  # nft 1.0.6's JSON names no device
        return re.findall(pattern, self.texts["hooked"])

    def receipts(self, kind: str) -> set[str]:
        lines = self.texts["receipts"].splitlines()
        return {p.rpartition("/")[2].removesuffix(".json") for p in lines if p.split("/")[3] == kind}

    def hooks(self) -> list[str]:
        """Processes of hooks, helpers and repairs, and what nobody has waited for; the service is none of these."""
        lines = self.texts["processes"].splitlines()
        return [each for each in lines if re.search(r"hook/main\.py (?!watch)|50-guestnet|<defunct>", each)]


def look(sandbox: Sandbox) -> Seen:
    """All of it, at nearly the same moment. Raises GuestnetError, libvirt.libvirtError or ValueError."""
    with closing(libvirt.open(sandbox.uri)) as connection:
        flags = libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE
        domains = {each.name(): _xml(each.XMLDesc) for each in connection.listAllDomains(flags)}
        active = connection.listAllNetworks(libvirt.VIR_CONNECT_LIST_NETWORKS_ACTIVE)
        networks = {each.name(): _xml(each.XMLDesc) for each in active}
    found = dict(_sections(sandbox.run(["sh", "-c", _SCRIPT], check=False, timeout=120).stdout))
    plain = ("hooked", "iptables", "ip6tables", "receipts", "guests", "processes")
    tables = {name: json.loads(text or "[]") for name, text in found.items() if name not in plain}
    return Seen(domains, networks, tables, {name: found[name] for name in plain})


def _xml(describe: Any) -> etree._Element:
    return etree.fromstring(describe(0).encode())


def _sections(text: str) -> Iterable[tuple[str, str]]:
    for section in re.split(r"^@ ", text, flags=re.M)[1:]:
        name, _, body = section.partition("\n")
        yield name, body.strip()
