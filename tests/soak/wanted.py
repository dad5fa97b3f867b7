"""What there should be, from libvirt's XML alone, and how what is seen differs from it. Knows nothing of the product's
code: only what its documents say of taps, tables, routes and receipts (decision 58)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from lxml import etree

from .seen import Seen
from .setting import BY_HAND, BYSTANDER, NAMESPACE, NEXT, NUMBERS, OF_FILE, addresses, mac

_G = f"{{{NAMESPACE}}}"
_ROUTES = 71  # docs/host-routed.md: `ip route show proto 71`
_GATEWAY = "169.255.30.1"


@dataclass(frozen=True)
class Nic:
    """A NIC of a running guest; `policy` is its port in the metadata, `bridge` "" where it is host-routed."""

    guest: str
    tap: str
    mac: str
    network: str
    bridge: str
    isolated: bool
    guarded: bool
    policy: etree._Element | None

    def addresses(self) -> list[str]:
        return [] if self.policy is None else [str(each.get("ip")) for each in self.policy.findall(f"{_G}address")]

    def published(self) -> list[str]:
        """What the host answers for on its LAN."""
        if self.policy is None:
            return []
        routed = self.policy.find(f"{_G}routed")
        own = self.addresses() if routed is not None and routed.get("publish") != "no" else []
        return [*own, *self.floating()]

    def floating(self) -> list[str]:
        return [] if self.policy is None else [str(each.get("ip")) for each in self.policy.findall(f"{_G}floating")]

    def routed(self) -> list[str]:
        """What the host has a route to: it answers on one link for what is behind another."""
        return self.floating() if self.bridge else self.addresses()

    def forwards(self) -> list[etree._Element]:
        return [] if self.policy is None else self.policy.findall(f"{_G}forward")


def nics(seen: Seen) -> list[Nic]:
    marked = {name for name, xml in seen.networks.items() if _is_marked(xml)}
    return [nic for name, xml in seen.domains.items() for nic in _nics(name, xml, marked)]


def _is_marked(network: etree._Element | None) -> bool:
    return network is not None and network.find(f"metadata/{_G}network") is not None


def _isolates(network: str, seen: Seen) -> bool:
    port = seen.networks[network].find("port") if network in seen.networks else None
    return port is not None and port.get("isolated") == "yes"


def _nics(name: str, domain: etree._Element, marked: set[str]) -> Iterator[Nic]:
    for each in domain.findall("devices/interface"):
        source, target = each.find("source"), each.find("target")
        address = str(each.find("mac").get("address"))
        network = "" if source is None else str(source.get("network", ""))
        policy = _policy(domain, address, network)
        bridge = "" if source is None else str(source.get("bridge", ""))
        isolated = each.find("port") is not None and each.find("port").get("isolated") == "yes"
        guarded = network in marked or policy is not None
        tap = "" if target is None else str(target.get("dev"))  # of a guest that starts, or ends, there is none
        yield Nic(name, tap, address, network, bridge, isolated, guarded, policy)


def _policy(domain: etree._Element, address: str, network: str) -> etree._Element | None:
    """The port of a NIC: that of its network (a host-routed one has none), else the last of its MAC address."""
    mine = [port for port in domain.iter(f"{_G}port") if port.get("mac") == address]
    named = [
        port for port in mine if (port.get("network") == network if network else port.find(f"{_G}routed") is not None)
    ]
    return next(iter([*named, *mine[-1:]]), None)


def amiss(seen: Seen) -> list[str]:
    """Every way in which what is seen differs from what should be."""
    mine = nics(seen)
    running = [nic for nic in mine if nic.guarded and _is_settled(nic, seen)]
    return [
        *_guards(mine, seen),
        *(wrong for nic in running if nic.bridge for wrong in _bridged(nic, seen)),
        *_routed(mine, running, seen),
        *_receipts(mine, seen),
        *_left(mine, seen),
        *(f"a process that should have ended: {line}" for line in seen.hooks()),
    ]


def _is_settled(nic: Nic, seen: Seen) -> bool:
    """Whether its network runs: routes and forwards of a stopped one come back with it (docs/lifecycle.md)."""
    return not nic.network or nic.network in seen.networks


def _guards(mine: list[Nic], seen: Seen) -> Iterator[str]:
    """One chain a guarded tap, which drops, and no others. A stopped network's port keeps what it has, if it had
    something (docs/lifecycle.md, `reconnect`): nobody can tell by the XML."""
    hooked = seen.hooked()
    for nic in mine:
        chains = [policy for tap, policy in hooked if tap == nic.tap]
        if nic.guarded and chains != ["drop"]:
            yield f"{nic.guest}: {nic.tap} ({nic.mac} on {nic.network or 'no network'}) has guards {chains}"
        if not nic.guarded and chains and nic.network in seen.networks:
            yield f"{nic.guest}: {nic.tap} ({nic.mac} on {nic.network}) has a guard that nobody wants"
    for tap, _ in hooked:
        if tap not in {nic.tap for nic in mine}:
            yield f"a guard of {tap}, which no guest has"


def _bridged(nic: Nic, seen: Seen) -> Iterator[str]:
    link, port = seen.link(nic.tap), seen.port(nic.tap)
    who = f"{nic.guest}: {nic.tap}"
    if link.get("master") != nic.bridge:
        yield f"{who} is in {link.get('master')}, not in {nic.bridge}"
        return
    if "UP" not in link.get("flags", []):
        yield f"{who} is down"
    # A guest's XML says what its network did when it was plugged in; docs/lifecycle.md, "with its isolation".
    if bool(port.get("isolated")) != (isolated := nic.isolated or _isolates(nic.network, seen)):
        yield f"{who}: isolated is {port.get('isolated')}, not {isolated}"
    if not _is_marked(seen.networks.get(nic.network)):
        return
    # docs/lifecycle.md, "Towards a guarded port"
    if port.get("learning") or port.get("flood"):
        yield f"{who}: the bridge learns {port.get('learning')}, floods {port.get('flood')}"
    found = [each for each in seen.tables["entries"] if each["mac"] == nic.mac and each.get("master") == nic.bridge]
    if [(each["ifname"], each["state"]) for each in found] != [(nic.tap, "static")]:
        yield f"{who}: the bridge knows {nic.mac} as {found}"


def _routed(mine: list[Nic], running: list[Nic], seen: Seen) -> Iterator[str]:
    """Routes to guests. A stopped network's guests may still be answered for: they run, and it may come back."""
    routes = {(e["dst"], e["dev"]) for e in _routes(seen)}
    wanted = {(ip, nic.bridge or nic.tap) for nic in running for ip in nic.routed()}
    yield from (f"no route to {ip} by {tap}" for ip, tap in wanted - routes)
    left = routes - {(ip, nic.bridge or nic.tap) for nic in mine for ip in nic.routed()}
    yield from (f"a route to {ip} by {tap} that nobody wants" for ip, tap in left)
    published = {(e["dst"], e["dev"]) for e in [*seen.tables["proxies4"], *seen.tables["proxies6"]]}
    asked, allowed = ({(ip, "up0") for nic in nics for ip in nic.published()} for nics in (running, mine))
    yield from (f"nobody answers for {ip} on {uplink}" for ip, uplink in asked - published)
    yield from (f"{ip} is answered for on {uplink} for nobody" for ip, uplink in published - allowed)
    gateways = {e["ifname"] for e in seen.tables["addresses"] for a in e["addr_info"] if a.get("local") == _GATEWAY}
    yield from (
        f"{nic.tap} lacks the gateway's address" for nic in running if not nic.bridge and nic.tap not in gateways
    )


def _routes(seen: Seen) -> list[dict[str, str]]:
    every = [*seen.tables["routes4"], *seen.tables["routes6"]]
    return [each for each in every if str(each.get("protocol")) == str(_ROUTES)]


def _receipts(mine: list[Nic], seen: Seen) -> Iterator[str]:
    """libvirt_guestnet/state/folder.py, first lines: what lies under /run."""
    guarded, taps = {nic.tap for nic in mine if nic.guarded}, {nic.tap for nic in mine}
    if lacking := guarded - seen.receipts("ports"):
        yield f"no receipts of {sorted(lacking)}"
    for kind in ("ports", "vlans", "host-routes", "forwards"):
        if left := seen.receipts(kind) - taps:
            yield f"receipts in {kind}/ of taps that are gone: {sorted(left)}"
    uuids = {str(each.findtext("uuid")) for each in seen.domains.values()}
    if left := seen.receipts("domains") - uuids:
        yield f"receipts of domains that are gone: {sorted(left)}"
    for kind in ("plugging", "incoming", "reconnect", "repairing"):
        if left := seen.receipts(kind):
            yield f"left in {kind}/: {sorted(left)}"


def _left(mine: list[Nic], seen: Seen) -> Iterator[str]:
    """Nothing of ours in the kernel names a guest that does not run: neither its MAC addresses nor its addresses."""
    running = set(seen.domains)
    texts = {
        "nft": str([seen.nft(kind) for kind in ("chain", "rule", "set", "map", "element")]),
        "iptables": seen.texts["iptables"],
        "ip6tables": seen.texts["ip6tables"],
        "bridge": str(seen.tables["entries"]),
        "routes": str(_routes(seen)),
    }
    for guest, names in _names().items():
        if guest not in running:
            found = {where: name for where, text in texts.items() for name in names if _is_named(name, text)}
            if found:
                yield f"{guest} is gone, and still there: {found}"


def _is_named(name: str, text: str) -> bool:
    """Whether it stands there, as it is written or as the number that raw matches of nft have."""
    spelt = [name] if len(name.split(":")) == 6 else [name, str(int(ip_address(name)))]
    return any(re.search(rf"(?<![\w.:]){re.escape(each)}(?![\w.:])", text) for each in spelt)


def _names() -> dict[str, list[str]]:
    """By guest, what is written of it and of nobody else."""
    found: dict[str, list[str]] = {}
    for number, guest in (*enumerate(BY_HAND, 1), *enumerate((BYSTANDER, NEXT), 21)):
        macs = [mac(number, nic) for nic in range(3)]
        ips = [ip for network in NUMBERS.values() for nic in range(3) for ip in addresses(network, number, nic)]
        found[guest] = [*macs, *ips, f"198.18.1.{100 + number}"]
    last: dict[str, tuple[str, ...]] = {OF_FILE[0]: ("10.61.5.10", "fd61:5::10", "198.18.1.111")}
    last[OF_FILE[1]] = ("10.61.5.11", "10.61.5.12", *(f"198.18.1.{each}" for each in (50, 51)))
    return {**found, **{guest: list(names) for guest, names in last.items()}}
