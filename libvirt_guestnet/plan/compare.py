"""Compare XML by meaning: what we want against what libvirt made of it.

libvirt fills in defaults, reorders, and adds uuids, addresses, aliases, live state. So everything *wanted* must be
there, and only in what we own (DHCP hosts and ranges, DNS hosts, subnets, portgroups, our guests' interfaces, our
metadata, …) must there be nothing more. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from lxml import etree

from libvirt_guestnet import parse
from libvirt_guestnet.carriers import registry
from libvirt_guestnet.libvirtd.snapshot import Element
from libvirt_guestnet.metadata.policy import NAMESPACE

_OURS = f"{{{NAMESPACE}}}"
_DNSMASQ = "{http://libvirt.org/schemas/network/dnsmasq/1.0}"

_SINGLE = frozenset(f"{_OURS}{name}" for name in ("network", "domain", "impairment", *registry.TAGS))

NIC_PARTS = frozenset({"link", "bandwidth", "port", "vlan", "driver"})
"""What is a topology's alone in the <interface> of a lab guest."""

# parent tag -> child tags that are ours alone there: one that is not wanted is a difference.
_OWNED: dict[str, frozenset[str]] = {
    "network": frozenset(
        {
            "ip",
            "portgroup",
            "dns",
            "forward",
            "mtu",
            "bandwidth",
            "domain",
            "port",
            "route",
            "vlan",
            f"{_DNSMASQ}options",
        }
    ),
    "ip": frozenset({"dhcp", "tftp"}),
    "dhcp": frozenset({"host", "range", "bootp"}),
    "range": frozenset({"lease"}),
    "dns": frozenset({"host", "forwarder", "srv", "txt"}),
    "host": frozenset({"hostname", "lease"}),
    "portgroup": frozenset({"port", "bandwidth", "vlan"}),
    "interface": NIC_PARTS,
    "bandwidth": frozenset({"inbound", "outbound"}),
    "devices": frozenset({"interface"}),
    "sysinfo": frozenset({"entry"}),
    "vlan": frozenset({"tag"}),
    f"{_DNSMASQ}options": frozenset({f"{_DNSMASQ}option"}),
}
# tag -> attributes that are ours alone there (in our metadata: all).
_OWNED_ATTRIBUTES: dict[str, frozenset[str]] = {
    "host": frozenset({"mac", "ip", "name", "id"}),
    "range": frozenset({"start", "end"}),
    "bootp": frozenset({"server"}),
    "forwarder": frozenset({"addr", "domain"}),
    "srv": frozenset({"domain", "target", "port", "priority", "weight"}),
    "nat": frozenset({"ipv6"}),
    "forward": frozenset({"mode", "dev"}),
    "inbound": frozenset({"average", "peak", "burst", "floor"}),
    "outbound": frozenset({"average", "peak", "burst"}),
    "network": frozenset({"ipv6"}),
    "dns": frozenset({"enable"}),
    "domain": frozenset({"localOnly"}),
    "source": frozenset({"portgroup"}),
    "driver": frozenset({"name", "queues", "rx_queue_size", "packed", "iommu"}),
    "tag": frozenset({"nativeMode"}),
    "vlan": frozenset({"trunk"}),
}
_DEFAULTS: dict[tuple[str, str], str] = {
    ("link", "state"): "up",
    ("driver", "name"): "vhost",
    ("port", "isolated"): "no",
    ("nat", "ipv6"): "no",
    ("ip", "family"): "ipv4",
    ("forward", "mode"): "nat",
    ("portgroup", "default"): "no",
    ("domain", "localOnly"): "no",
    ("dns", "enable"): "yes",
    ("lease", "unit"): "minutes",
    ("srv", "port"): "1",
    ("srv", "priority"): "0",
    ("srv", "weight"): "0",
    ("network", "ipv6"): "no",
    ("vlan", "trunk"): "no",
}
_CONTAINERS = frozenset({"dhcp", "dns"})  # missing and empty are the same
_DROPPED_AT_DEFAULT = frozenset({"link", "port", "driver"})
_CASELESS = frozenset({"mac", "address", "uuid"})
_SIZES = frozenset({"memory", "currentMemory", "maxMemory"})
_SECONDS = {"seconds": 1, "minutes": 60, "hours": 3600}
_Tags = frozenset[str]
_KIB = {"b": 1 / 1024, "bytes": 1 / 1024, "k": 1, "KiB": 1, "M": 1024, "MiB": 1024, "G": 1024**2, "GiB": 1024**2}


@dataclass(frozen=True)
class Difference:
    """One place where libvirt differs from what we want; None on the side that has nothing there."""

    path: str
    wanted: str | None
    actual: str | None

    def __str__(self) -> str:
        if self.wanted is None:
            return f"{self.path}: {self.actual} is not wanted"
        if self.actual is None:
            return f"{self.path}: {self.wanted} is missing"
        if "\n" in self.wanted and self.actual:
            return f"{self.path}: {_lines(self.wanted, self.actual)}"
        return f"{self.path}: {self.actual} -> {self.wanted}"


def _lines(wanted: str, actual: str) -> str:
    """The lines of a text that are added and removed, in one line."""
    new, old = wanted.splitlines(), actual.splitlines()
    changed = [f"-{line}" for line in old if line not in new] + [f"+{line}" for line in new if line not in old]
    return ", ".join(changed) or "other order"


def differences(wanted: Element, actual: Element, inherited: frozenset[str] = frozenset()) -> tuple[Difference, ...]:
    """What would have to change in `actual` to mean `wanted`.

    `inherited` are tags of children that libvirt copies into a live interface from its network: no difference there.
    """
    return tuple(_compare(wanted, actual, "", inherited))


def summary(found: Iterable[Difference], limit: int = 3) -> str:
    """The first differences in one line."""
    texts = [str(difference) for difference in found]
    more = [f"and {len(texts) - limit} more"] if len(texts) > limit else []
    return "; ".join(texts[:limit] + more)


def _compare(wanted: Element, actual: Element, path: str, inherited: _Tags = frozenset()) -> Iterator[Difference]:
    yield from _compare_attributes(wanted, actual, path)
    if len(wanted) == 0 and (wanted.text or "").strip() and _text(wanted) != _text(actual):
        yield Difference(path or str(wanted.tag), _text(wanted), _text(actual))
    yield from _compare_children(wanted, actual, path, inherited)


def _compare_attributes(wanted: Element, actual: Element, path: str) -> Iterator[Difference]:
    tag = str(wanted.tag)
    if tag == "lease" and _lease(wanted) == _lease(actual):
        return
    for name, value in _attributes(wanted):
        if name == "unit" and tag in _SIZES:
            continue  # their text is compared in KiB
        found = actual.get(name)
        if found != value and not _same(tag, name, value, _effective(actual, tag, name)):
            yield Difference(_join(path, f"@{name}"), value, found)
    owned = {name for name, _ in _attributes(actual)} if tag.startswith(_OURS) else _OWNED_ATTRIBUTES.get(tag, ())
    for name, value in _attributes(actual):
        if name in owned and wanted.get(name) is None and value != _DEFAULTS.get((tag, name)):
            yield Difference(_join(path, f"@{name}"), None, value)


def _attributes(element: Element) -> list[tuple[str, str]]:
    return [(str(name), str(value)) for name, value in element.items()]


def _effective(element: Element, tag: str, name: str) -> str | None:
    """An attribute's value, with libvirt's default for it, and without what libvirt only does to live objects."""
    if tag == "interface" and name == "type":
        source = element.find("source")
        if source is not None and source.get("network"):
            return "network"  # a live port of a forward=bridge network shows as type bridge
    value = element.get(name)
    if value is None and tag in ("ip", "route") and name == "prefix" and element.get("netmask"):
        return str(parse.netmask(str(element.get("netmask"))))
    return _DEFAULTS.get((tag, name)) if value is None else value


def _lease(element: Element) -> int:
    """The seconds of a lease; 0 for ever."""
    return int(element.get("expiry", "0")) * _SECONDS.get(element.get("unit", "minutes"), 60)


def _identity(text: str) -> str:
    """A client identifier or DUID, of which people leave out zeros."""
    return ":".join(octet.zfill(2) for octet in text.lower().split(":"))


def _same(tag: str, name: str, wanted: str, actual: str | None) -> bool:
    if actual is None or wanted == actual:
        return wanted == actual
    if name in _CASELESS and wanted.lower() == actual.lower():
        return True
    if tag == "host" and name == "id" and _identity(wanted) == _identity(actual):
        return True
    if tag == "type" and name == "machine":
        return actual.startswith(f"{wanted}-" if wanted == "pc" else f"pc-{wanted}-")
    return _as_address(wanted) is not None and _as_address(wanted) == _as_address(actual)


def _as_address(value: str) -> object:
    try:
        return parse.address(value)
    except parse.TextError:
        return None


def _text(element: Element) -> str:
    text = (element.text or "").strip()
    if element.tag in _SIZES and text.isdecimal():
        return f"{int(int(text) * _KIB.get(element.get('unit', 'KiB'), 1))} KiB"
    return text


def _compare_children(wanted: Element, actual: Element, path: str, inherited: frozenset[str]) -> Iterator[Difference]:
    tag = str(wanted.tag)
    if len(wanted) == 0 and (len(actual) == 0 or (tag not in _OWNED and not tag.startswith(_OURS))):
        return
    groups = _by_tag(wanted)
    found = _by_tag(actual)
    for child in groups:
        owned = child not in inherited and _owns(tag, child)
        yield from _compare_group(groups[child], found.get(child, []), path, owned)
    for child, elements in found.items():
        if child not in groups and child not in inherited and _owns(tag, child):
            yield from _unwanted(elements, path)


def _owns(parent: str, child: str) -> bool:
    return parent.startswith(_OURS) or child in _OWNED.get(parent, ())


def _by_tag(element: Element) -> dict[str, list[Element]]:
    groups: dict[str, list[Element]] = {}
    for child in element:
        if isinstance(child.tag, str) and (not _means_nothing(child) or _overrides(element, child)):
            groups.setdefault(child.tag, []).append(child)
    return groups


def _means_nothing(element: Element) -> bool:
    tag = str(element.tag)
    return tag in _DROPPED_AT_DEFAULT and all(_DEFAULTS.get((tag, k)) == v for k, v in _attributes(element))


def _overrides(nic: Element, child: Element) -> bool:
    """A NIC that says that it is not isolated may be on a network whose ports are; one that says nothing is as they."""
    on_network = nic.get("type") == "network" or nic.find("source[@network]") is not None
    return child.tag == "port" and nic.tag == "interface" and on_network


def _compare_group(wanted: list[Element], actual: list[Element], path: str, owned: bool) -> Iterator[Difference]:
    """Elements of one tag under one parent: pair them, compare the pairs, report the rest."""
    left = _Candidates(actual)
    for element in wanted:
        key = element_key(element)
        other = left.take(element, key, single=len(wanted) == 1)
        here = _join(path, _step(element, key))
        if other is not None:
            yield from _compare(element, other, here)
        elif element.tag in _CONTAINERS:
            yield from _compare(element, etree.Element(str(element.tag)), here)
        else:
            yield Difference(here, _describe(element), None)
    if owned:
        yield from _unwanted(left.rest(), path)


class _Candidates:
    """Elements not yet paired, in order; finding one by its key takes constant time."""

    def __init__(self, elements: list[Element]) -> None:
        self._left = dict(enumerate(elements))
        self._by_key: dict[str, list[int]] = {}
        for index, element in enumerate(elements):
            key = element_key(element)
            if key is not None:
                self._by_key.setdefault(key, []).append(index)

    def take(self, wanted: Element, key: str | None, single: bool) -> Element | None:
        """The element that is, or is to become, the wanted one; None when there is none."""
        if key is not None:
            indexes = self._by_key.get(key)
            return self._left.pop(indexes.pop(0)) if indexes else None
        index = self._best(wanted, single)
        return None if index is None else self._left.pop(index)

    def _best(self, wanted: Element, single: bool) -> int | None:
        first = next(iter(self._left), None)
        if single and len(self._left) == 1:
            return first
        exact = (i for i, other in self._left.items() if next(_compare(wanted, other, ""), None) is None)
        return next(exact, first)

    def rest(self) -> list[Element]:
        return list(self._left.values())


def _unwanted(elements: list[Element], path: str) -> Iterator[Difference]:
    for element in elements:
        here = _join(path, _step(element, element_key(element)))
        if element.tag in _CONTAINERS:
            yield from _compare(etree.Element(str(element.tag)), element, here)
        else:
            yield Difference(here, None, _describe(element))


def element_key(element: Element) -> str | None:
    """What identifies an element among its siblings; None if only its content does."""
    tag = str(element.tag)
    if tag in _SINGLE:
        return None
    if tag.startswith(_OURS):
        identity = element.get("mac")
        return identity.lower() if identity else ",".join(f"{k}={v}" for k, v in sorted(_attributes(element))) or None
    maker = _KEYS.get(tag)
    return None if maker is None else maker(element)


def _ip_key(element: Element) -> str | None:
    length, address = element.get("prefix") or element.get("netmask") or "", element.get("address")
    if address is None:
        return None
    ip = parse.address(address)
    bits = parse.netmask(length) if "." in length else parse.number(length or str(ip.max_prefixlen), 0, 128)
    return f"{ip}/{bits}"


def _host_key(element: Element) -> str | None:
    mac = element.get("mac")
    if mac is not None:
        return mac.lower()
    if identity := element.get("id"):
        return _identity(identity)
    address = element.get("ip")
    return (None if address is None else str(parse.address(address))) or element.get("name")


def _interface_key(element: Element) -> str | None:
    mac = element.find("mac")
    return element.get("dev") if mac is None else mac.get("address", "").lower()


def _disk_key(element: Element) -> str | None:
    target = element.find("target")
    return None if target is None else target.get("dev")


_KEYS: dict[str, Callable[[Element], str | None]] = {
    "ip": _ip_key,
    "route": _ip_key,
    "host": _host_key,
    "interface": _interface_key,
    "range": lambda e: f"{e.get('start')}-{e.get('end')}",
    "portgroup": lambda e: e.get("name"),
    "hostname": lambda e: e.text,
    "srv": lambda e: " ".join(e.get(name, "-") for name in ("service", "protocol", "domain", "target")),
    "txt": lambda e: e.get("name"),
    "entry": lambda e: e.get("name"),
    "tag": lambda e: e.get("id"),
    "disk": _disk_key,
    f"{_DNSMASQ}option": lambda e: e.get("value"),
}


def _join(path: str, step: str) -> str:
    return f"{path}/{step}" if path else step


def _step(element: Element, key: str | None) -> str:
    name = _local(element)
    return name if key is None else f"{name}[{key}]"


def _local(element: Element) -> str:
    return str(element.tag).rpartition("}")[2]


def _describe(element: Element) -> str:
    """An element in a few words: its own attributes and text, and those of its children."""
    words = [f"{k}={v}" for k, v in _attributes(element)]
    words += [text] if (text := (element.text or "").strip()) else []
    words += [_describe(child) for child in element if isinstance(child.tag, str)]
    return " ".join(words) or f"<{_local(element)}/>"
