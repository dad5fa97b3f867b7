"""Hostile text in whatever the hooks read, and a stand-in for the host that keeps what it is told.

`documents` has every attribute of xml/metadata.rng, by walking the schema, inside XML as libvirt hands it to the hooks.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stderr
from copy import deepcopy
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from lxml import etree
from support import elements

from libvirt_guestnet import log
from libvirt_guestnet.datapath.devices import subinterface, vlan_bridge, vxlan_device
from libvirt_guestnet.datapath.forwards import conntrack, listeners
from libvirt_guestnet.datapath.netlink import fdb, kernel, links, present, probe
from libvirt_guestnet.datapath.netlink.rtnl import HostAddress
from libvirt_guestnet.datapath.routing import gateway, routes, servers
from libvirt_guestnet.datapath.run import program
from libvirt_guestnet.datapath.run.program import Output
from libvirt_guestnet.hook import dispatch
from libvirt_guestnet.hook.admission import address_owners
from libvirt_guestnet.hook.enforce import address_sets, checksum_guard, impairing, reachability
from libvirt_guestnet.hook.processes import detached, incoming
from libvirt_guestnet.hook.read import libvirt_records
from libvirt_guestnet.metadata.policy import NAMESPACE
from libvirt_guestnet.state import serialiser
from libvirt_guestnet.state.locked import UnlockedState

ROOT = Path(__file__).parents[2]
MARK = "INJECT"
RULE = f"\n-I INPUT 1 -j {MARK}"
# What stands for itself, before, behind and in the middle of a clean value.
TEXTS = {
    "newline": RULE,
    "scope id": f"%1{RULE}",
    "percent": f"%{MARK}",
    "carriage return": f"\r{MARK}",
    "quote": f'" {MARK}',
    "apostrophe": f"' {MARK}",
    "semicolon": f"; {MARK} ;",
    "hash": f" # {MARK}",
    "braces": f"}} {MARK} {{",
    "backslash": f"\\{MARK}",
    "leading dash": f"-{MARK}--------",  # as long as a name may be
    "folder": f"../{MARK}",
    "Unicode digits": "١٢٣",
    "10 kB": "9" * 10_240,
}
_LONG = "9" * 40

TAP, TAP2, MAC, MAC2 = "tapa", "tapb", "52:54:00:00:09:0a", "52:54:00:00:09:0d"
UUID, PORTID = "0b5e0000-0000-4000-8000-00000000000a", "0b5e0000-0000-4000-8000-0000000000aa"


def is_hostile(text: str) -> bool:
    """Whether something of the texts is in what a program was given."""
    return MARK in text or not text.isascii() or _LONG in text or "\0" in text


# --- the schema ---

_RNG = "{http://relaxng.org/ns/structure/1.0}"
# Values that fit together; an attribute that is not here gets one by its type.
_VALUES = {
    ("port", "note"): "the shop",
    ("network", "external"): "no",  # what comes of <network>'s own elements is another thing for one that is
    ("port", "mac"): MAC,
    ("lent", "mac"): "52:54:00:00:09:98",
    ("subnet", "host"): "fd09::1",
    ("subnet", "prefix"): "fd09::/64",
    ("routed", "gateway"): "169.255.30.1",
    ("dhcp", "routers"): "edge",
    ("server", "ip"): "10.9.0.1",
    ("vxlan", "group"): "ff05::9",
    ("remote", "ip"): "fd99::2",
    ("forward", "at"): "fd99::9",
    ("forward", "to"): "fd09::5",
    ("forward", "ports"): "80-81",
    ("forward", "first"): "8080",
    ("forward", "from"): "fd99::/32,fd98::7",
    ("floating", "ip"): "fd99::10",
    ("impairment", "rate"): "10mbit",
    ("behind", "prefix"): "fd09:2::/64",
    ("onlink", "prefix"): "fd09:3::/64",
    ("vlan", "trunk"): "10-12,14",
    ("network", "name"): "net",
    ("port", "network"): "net",
    ("port", "was"): '<interface type="network"><source network="default"/><target/></interface>',
}
_BY_TYPE = {
    "address": "fd09::5",
    "prefix": "fd09:1::/64",
    "mac": "52:54:00:00:09:99",
    "device": "dev9",
    "word": "clean",
    "duration": "20ms",
    "share": "1%",
}
# A domain has ports on bridges, and others that the host routes to.
_NEED_ADDRESSES = ("address", "forward", "floating", "behind")
_ONLY_BRIDGED = ("pair", "lent", "forward", "floating", "behind", "vlan", "role", "onlink")
_ROUTED = "routed"


class _Schema:
    def __init__(self) -> None:
        self.tree = etree.parse(str(ROOT / "xml/metadata.rng")).getroot()
        self.defines = {define.get("name"): define for define in self.tree.iterfind(f"{_RNG}define")}

    def attributes(self) -> set[tuple[str, str]]:
        """Every element with every attribute that the schema has."""
        return {(name, a) for define in self.defines.values() for name, a in self._named(define, "")}

    def _named(self, node: Any, element: str) -> Iterator[tuple[str, str]]:
        for child in node.iterchildren(f"{_RNG}*"):
            if child.tag == f"{_RNG}attribute":
                yield from ((each, child.get("name")) for each in ([element] if element else self._users(child)))
            else:
                yield from self._named(child, child.get("name") if child.tag == f"{_RNG}element" else element)

    def _users(self, attribute: Any) -> list[str]:
        """The elements that refer to the definition that an attribute stands alone in."""
        define = next(node for node in attribute.iterancestors(f"{_RNG}define"))
        refs = self.tree.iterfind(f".//{_RNG}ref[@name='{define.get('name')}']")
        return [elements.attribute(next(ref.iterancestors(f"{_RNG}element")), "name") for ref in refs]

    def made(self, name: str, pick: int) -> Any:
        """The element that a definition is, with everything that may be in it; `pick`: of choices which."""
        (made,) = self._content(self.defines[name], pick, None)
        return made

    def _content(self, node: Any, pick: int, parent: Any) -> list[Any]:
        found = []
        children = list(node.iterchildren(f"{_RNG}*"))
        if node.tag == f"{_RNG}choice":
            # Without addresses there would be nothing to forward to: "domain without addresses" is that.
            children = [children[1 if children[0].get("name") == "addresses" else pick % len(children)]]
        for child in children:
            kind = child.tag.removeprefix(_RNG)
            if kind == "attribute":
                parent.set(child.get("name"), self._value(parent, child))
            elif kind == "element":
                made = etree.Element(f"{{{NAMESPACE}}}{child.get('name')}", nsmap={"g": NAMESPACE})
                for inside in self._content(child, pick, made):
                    made.append(inside)
                found.append(made)
            elif kind == "ref":
                found += self._content(self.defines[child.get("name")], pick, parent)
            else:
                found += self._content(child, pick, parent)
        return found

    def _value(self, element: Any, attribute: Any) -> str:
        known = _VALUES.get((etree.QName(element).localname, attribute.get("name")))
        if known is not None:
            return known
        if (ref := attribute.find(f"{_RNG}ref")) is not None and ref.get("name") in _BY_TYPE:
            return _BY_TYPE[ref.get("name")]
        if (value := attribute.find(f".//{_RNG}value")) is not None:
            return str(value.text)
        typed = self.defines[ref.get("name")] if ref is not None else attribute
        return str(typed.find(f".//{_RNG}param[@name='minInclusive']").text)


SCHEMA = _Schema()


# --- documents ---


class Document(NamedTuple):
    """What a chain of hook calls of one object is given; with `record`, libvirt has it as that of a running domain."""

    name: str
    object: str
    calls: tuple[tuple[str, str], ...]
    xml: Any
    record: Any = None


_DOMAIN_CALLS = (("qemu", "start"), ("qemu", "started"), ("qemu", "reconnect"), ("qemu", "release"))
_NETWORK_CALLS = (("network", "start"), ("network", "started"), ("network", "updated"), ("network", "stopped"))

_NETWORK = """<hookData><network><name>net</name><uuid>0b5e0000-0000-4000-8000-00000000000b</uuid><metadata/>
<forward mode="{mode}" dev="up9"/><bridge name="br9" macTableManager="kernel"/><mac address="52:54:00:00:09:01"/>
<ip family="ipv6" address="fd09::1" prefix="64"><dhcp><range start="fd09::100" end="fd09::1ff">
<lease expiry="1" unit="hours"/></range><host id="00:03:00:01:52:54:00:00:09:0c" name="other" ip="fd09::6"/>
</dhcp></ip><ip address="10.9.0.1" netmask="255.255.255.0"><dhcp><range start="10.9.0.100" end="10.9.0.200"/>
<host mac="52:54:00:00:09:0d" ip="10.9.0.6"/></dhcp></ip></network></hookData>"""
_NIC = """<interface type="{type}"><mac address="{mac}"/>
<source network="{network}" portid="{portid}" bridge="{bridge}"/>
<virtualport type="{virtualport}"/>{vlan}<target dev="{tap}"/></interface>"""
_LIBVIRTS_VLAN = '<vlan trunk="yes"><tag id="42" nativeMode="untagged"/><tag id="47"/></vlan>'


def _nic(tap: str, mac: str, kind: str = "network", vlan: str = "") -> str:
    on = {"network": ("net", PORTID, "br9"), "ethernet": ("", "", "")}[kind]
    network, portid, bridge = on
    return _NIC.format(
        type=kind, mac=mac, network=network, portid=portid, bridge=bridge, tap=tap, vlan=vlan, virtualport="midonet"
    )


def _domain(metadata: Any, *nics: str) -> Any:
    devices = f"<devices>{''.join(nics)}</devices>"
    domain = etree.fromstring(f"<domain><name>guest</name><uuid>{UUID}</uuid><metadata/>{devices}</domain>")
    if metadata is not None:
        domain.find("metadata").append(metadata)
    return domain


def _network(metadata: Any, mode: str = "route") -> Any:
    network = etree.fromstring(_NETWORK.format(mode=mode))
    network.find("network/metadata").append(metadata)
    return network


def _without(element: Any, *tags: str) -> Any:
    element = deepcopy(element)
    for tag in tags:
        for found in list(element.iter(f"{{{NAMESPACE}}}{tag}")):
            found.getparent().remove(found)
    return element


def _port(domain: Any) -> Any:
    return domain.find(f"{{{NAMESPACE}}}port")


def _plugged(metadata: Any) -> tuple[Any, Any]:
    port = f"""<hookData><network><name>net</name><uuid>0b5e0000-0000-4000-8000-00000000000b</uuid></network>
    <networkport><uuid>{PORTID}</uuid><owner><name>guest</name><uuid>{UUID}</uuid></owner><mac address="{MAC}"/>
    <virtualport type="midonet"/><plug type="network" bridge="br9"/></networkport></hookData>"""
    record = etree.fromstring("<domstatus state='running' reason='booted' pid='1'/>")
    record.append(_domain(metadata))
    return etree.fromstring(port), record


def documents() -> dict[str, Document]:
    """By name; every choice of the schema is made in one of them."""
    found = []
    for pick in range(6):
        network = SCHEMA.made("network", pick)
        network = network if pick == 5 else _without(network, "dhcp")  # the host serves all but one
        found.append(Document(f"network {pick}", "net", _NETWORK_CALLS, _network(network)))
    for pick in range(2):
        domain = SCHEMA.made("domain", pick)
        bridged, by_host = _without(domain, _ROUTED), _without(domain, *_ONLY_BRIDGED)
        for each in (by_host, *([bridged] if pick else [])):
            del _port(each).attrib["addresses"]  # "any"
        found.append(Document(f"domain {pick}", "guest", _DOMAIN_CALLS, _domain(bridged, _nic(TAP, MAC))))
        found.append(
            Document(f"host-routed {pick}", "guest", _DOMAIN_CALLS, _domain(by_host, _nic(TAP, MAC, "ethernet")))
        )
    bare = _without(SCHEMA.made("domain", 0), _ROUTED, *_NEED_ADDRESSES)
    _port(bare).set("addresses", "none")
    found.append(Document("domain without addresses", "guest", _DOMAIN_CALLS, _domain(bare, _nic(TAP, MAC))))
    plain = _domain(None, _nic(TAP, MAC), _nic(TAP2, MAC2, vlan=_LIBVIRTS_VLAN))
    found.append(Document("domain without metadata", "guest", _DOMAIN_CALLS, plain))
    found.append(
        Document(
            "network of mode nat",
            "net",
            _NETWORK_CALLS,
            _network(_without(SCHEMA.made("network", 1), "vlan", "dhcp"), "nat"),
        )
    )
    whole = _without(SCHEMA.made("domain", 0), _ROUTED)
    del _port(whole).attrib["addresses"]
    port, record = _plugged(whole)
    plugging = (("network", "port-created"), ("network", "port-deleted"))
    found.append(Document("plugged NIC", "net", plugging, port, record))
    return {each.name: each for each in found}


# --- the host ---


class Host:
    """Runs hook calls in this process, on a host that has every device and does whatever it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.patch, self.root, self.folder = monkeypatch, folder / "state", folder
        self.told: list[str] = []
        self.said: list[str] = []
        self._network: dict[Path, bytes] = {}
        self._stand_in()

    def call(self, hook: str, operation: str, name: str, data: bytes) -> int:
        """One hook call's exit status."""
        serialiser._reported.clear()
        with redirect_stderr(_Said(self.said)):
            return dispatch.dispatch(hook, ["", name, operation, "begin", "-"], data)

    def run(
        self, document: Document, data: bytes | None = None, record: bytes | None = None
    ) -> tuple[list[str], list[str]]:
        """What the host was told by a chain of calls, as far as it came, and what the hooks said."""
        self.told.clear()
        self.said.clear()
        (self.folder / "guest.xml").unlink(missing_ok=True)
        if document.record is not None:
            (self.folder / "guest.xml").write_bytes(record or etree.tostring(document.record))
        for hook, operation in document.calls:
            if self.call(hook, operation, document.object, data or etree.tostring(document.xml)):
                break
        return list(self.told), list(self.said)

    def fresh(self) -> None:
        """Without any receipt but that of the network."""
        shutil.rmtree(self.root, ignore_errors=True)
        _Watch.joined = "", ""
        if not self._network:
            network = _without(SCHEMA.made("network", 1), "vlan", "dhcp")
            assert self.call("network", "started", "net", etree.tostring(_network(network))) == 0, self.said
            self._network = {path: path.read_bytes() for path in self.root.rglob("*.json")}
        for path, data in self._network.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def tell(self, what: str, arguments: int = 9) -> Callable[..., Any]:
        """A function that does nothing, but of which it is kept with which of its first arguments it was called."""

        def told(*given: Any, **more: Any) -> Any:
            self.told.append(" ".join([what, *map(str, given[:arguments]), *map(str, more.values())]))

        return told

    def _program(self, argv: list[str], stdin: str, package: str, hold: int | None = None) -> Output:
        self.told.append(f"{' '.join(argv)}\n{stdin}")
        answers = {
            "nft list tables": "table inet firewalld\n",
            "iptables -w 5 -S FORWARD": "-P FORWARD DROP\n",
            "ip6tables -w 5 -S FORWARD": "-P FORWARD DROP\n",
            "nft -a list chain ip6 libvirt_network forward": "chain forward {\n}\n",
            "nft -a list chain ip libvirt_network forward": "chain forward {\n}\n",
        }
        by_program = {"bridge": "[]", "busctl": '{"data":[[]]}'}
        json_asked = argv[:2] == ["nft", "-j"]
        return Output(
            0, answers.get(" ".join(argv), '{"nftables":[]}' if json_asked else by_program.get(argv[0], "")), ""
        )

    def _stand_in(self) -> None:
        patch = self.patch.setattr
        patch(UnlockedState.__init__, "__defaults__", (str(self.root),))
        patch(libvirt_records, "STATUS", str(self.folder / "{}.xml"))
        defaults = address_sets.leases.__defaults__
        assert defaults is not None
        patch(address_sets.leases, "__defaults__", (defaults[0], str(self.folder / "{}.status")))
        patch(program, "run", self._program)
        patch(os, "posix_spawnp", self._forbidden)
        patch(links, "index_of", lambda name: 7 if name else 0)
        patch(links, "names", lambda: {TAP, TAP2, "tapo", "br9"})
        patch(links, "name_of", {7: "dev7", 8: "up8"}.get)
        patch(links, "master_of", lambda name: {"dev7": "dev9", "up8": ""}.get(name, "br9"))
        patch(links, "is_on", lambda name, bridge: (name, bridge) == _Watch.joined)
        patch(links, "is_vlan_aware", lambda _: True)
        patch(links, "set_down", self.tell("down"))
        patch(links, "Watch", _Watch)
        patch(vlan_bridge, "_read", lambda bridge, setting: {"vlan_protocol": "0x88a8"}.get(setting, "1"))
        patch(vlan_bridge, "_write", self.tell("bridge setting"))
        patch(gateway, "_read", lambda path: "")
        patch(gateway, "_write", self.tell("sysctl"))
        patch(routes, "Rtnl", lambda: _Netlink(self))
        patch(gateway, "Rtnl", lambda: _Netlink(self))
        patch(address_owners, "Rtnl", lambda: _Netlink(self))
        patch(reachability, "announce", self.tell("announce"))
        patch(incoming, "is_incoming", lambda domain: False)
        patch(conntrack, "forget", self.tell("forget flows"))
        patch(conntrack, "forget_behind", self.tell("forget flows behind"))
        patch(listeners, "taken", lambda wanted: None)
        patch(servers, "servers", list)
        patch(present, "missing", list)
        patch(probe, "ask", self._ask)
        for name in ("ensure_static", "silence", "release"):
            patch(fdb, name, self.tell(f"{name} MAC address"))
        patch(checksum_guard, "guard", lambda *_: checksum_guard.Put())
        for name in ("release", "guard_when_limited", "tidy"):
            patch(checksum_guard, name, lambda *_: None)
        patch(detached, "leave", lambda work, seconds, why, promise=None: work())
        patch(kernel, "ensure_uplink_bridge", self.tell("uplink", 2))
        patch(kernel, "remove_bridge", self.tell("remove bridge"))
        patch(vxlan_device, "ensure_overlay", self.tell("overlay", 1))
        patch(vxlan_device, "remove_overlay", self.tell("remove overlay"))
        patch(subinterface, "ensure_subinterface", self.tell("subinterface", 1))
        patch(impairing, "Netem", lambda: _Netem(self))
        patch(log, "complain", self.said.append)

    def _ask(self, questions: Mapping[Any, Any]) -> None:
        self.told.extend(f"ask {question}" for question in questions)

    def _forbidden(self, *_: object) -> int:
        raise AssertionError("a program runs past program.run")


class _Netem:
    def __init__(self, host: Host) -> None:
        self.ensure, self.delete = host.tell("impair", 2), host.tell("impair no more", 1)

    def __enter__(self) -> _Netem:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def roots(self) -> dict[int, object]:
        return {}


class _Said(io.StringIO):
    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self.lines = lines

    def write(self, text: str) -> int:
        self.lines.append(text.strip())
        return len(text)


class _Watch:
    """The new tap joins whatever bridge somebody waits at."""

    joined = "", ""

    def tap(self, _mac: str, bridge: str, *_: object) -> str:
        _Watch.joined = TAP, bridge
        return TAP

    def close(self) -> None:
        pass


class _Netlink:
    """A netlink socket that says yes, and keeps what is changed over it."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def __enter__(self) -> _Netlink:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def routes(self, version: int) -> list[Any]:
        return []

    def published(self, version: int) -> list[Any]:
        return []

    def is_taken(self, *_: object) -> bool:
        return False

    def vrf_table(self, index: int) -> int:
        return 100

    def next_hops(self, *_: object) -> list[Any]:
        return []

    def addresses(self, **_: bool) -> list[HostAddress]:
        near = ((8, "fd99::1", "fd99::/64"), (7, "fd09:0:0:9::1", "fd09::/32"))
        return [HostAddress(index, ip_address(own), ip_network(subnet)) for index, own, subnet in near]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return self.host.tell(f"netlink {name}")


# --- what can be made hostile ---


class Place(NamedTuple):
    """An attribute, or the text of an element, of a document's XML or of its record."""

    document: str
    what: str
    in_record: bool
    path: str
    attribute: str

    def read(self, tree: Any) -> str:
        node = self.node(tree)
        return str(node.get(self.attribute) if self.attribute else node.text)

    def node(self, tree: Any) -> Any:
        (node,) = tree.xpath(self.path)
        return node


def places(document: Document) -> Iterator[Place]:
    for in_record, tree in ((False, document.xml), (True, document.record)):
        for node in () if tree is None else tree.iter(etree.Element):
            path = node.getroottree().getpath(node) if node is not tree else "."
            path = _plain_path(tree, node)
            name = etree.QName(node)
            shown = f"guestnet:{name.localname}" if name.namespace else name.localname
            if node.text and node.text.strip():
                yield Place(document.name, f"<{_parent(node)}{shown}> text", in_record, path, "")
            for attribute in node.attrib:
                yield Place(document.name, f"<{_parent(node)}{shown}> {attribute}", in_record, path, str(attribute))


def _parent(node: Any) -> str:
    parent = node.getparent()
    return f"{etree.QName(parent).localname}/" if parent is not None and not etree.QName(node).namespace else ""


def _plain_path(tree: Any, node: Any) -> str:
    steps = []
    while node is not tree:
        parent = node.getparent()
        steps.append(f"*[{list(parent).index(node) + 1}]")
        node = parent
    return "/".join(["self::*", *reversed(steps)])


def variants(clean: str, text: str) -> Iterator[str]:
    """A hostile text alone, and before, behind and inside what is clean."""
    middle = clean.find("/") if "/" in clean else len(clean) // 2
    yield from dict.fromkeys((text, text + clean, clean + text, clean[:middle] + text + clean[middle:]))


def changed(tree: Any, place: Place, value: str | None) -> bytes:
    """The XML with another value in a place; None takes it out."""
    tree = deepcopy(tree)
    node = place.node(tree)
    if not place.attribute:
        node.text = value or ""
    elif value is None:
        del node.attrib[place.attribute]
    else:
        node.set(place.attribute, value)
    return etree.tostring(tree)


def allowed_values(place: Place) -> list[str | None]:
    """What a reader may take a hostile value for: none at all or, of an enumeration, another one."""
    words = ("yes", "no", "tcp", "udp", "dhcp-server", "ra-sender", "network", "bridge", "ethernet", "", "untagged")
    return [None, *words] if place.attribute else [None, "another"]


def hostile_json(value: Any, make: Callable[[str], Any]) -> Iterator[Any]:
    """Every variant of a receipt with one of its texts and numbers replaced."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from ({**value, key: other} for other in hostile_json(each, make))
    elif isinstance(value, list):
        for place, each in enumerate(value):
            yield from ([*value[:place], other, *value[place + 1 :]] for other in hostile_json(each, make))
        yield make(json.dumps(value))
    else:
        yield make(str(value))
