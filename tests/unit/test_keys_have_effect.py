"""No key is read and then forgotten: wherever it may stand, it changes what is made of the file, or is an error.

Each key is put into every record of that kind in the good files where it is not, with values that it has elsewhere, and
taken out of those where it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from enum import StrEnum
from functools import cache
from typing import Any

import pytest
from lxml import etree
from support.topology_files import GOOD, HOSTMAP, IMAGE, SCHEMA, read_yaml

from libvirt_guestnet import draw, xmlgen
from libvirt_guestnet.apply.topology import wanted
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hostmap import HostMap, of_host
from libvirt_guestnet.lab import checks
from libvirt_guestnet.libvirtd.snapshot import DomainState, NetworkState, Snapshot, Wanted, WantedExternal, WantedGuest
from libvirt_guestnet.model.host import Host
from libvirt_guestnet.model.placing import in_file
from libvirt_guestnet.model.topology import Guest, Topology
from libvirt_guestnet.plan.nic import before as remembered
from libvirt_guestnet.plan.nic import plugged
from libvirt_guestnet.plan.order import plan
from libvirt_guestnet.router.config import router_config
from libvirt_guestnet.router.document import document as document_of
from libvirt_guestnet.topology import loads
from libvirt_guestnet.xmlgen import Element

# Facts about what guestnet does not make, and words for people: they say something, and ask for nothing.
FACTS = {
    (".description", "one sentence for people"),
    ("physical.mtu", "what passes there: larger ones on top of it are errors"),
    ("physical.vlans", "a pool that something may draw from"),
    ("physical.vnis", "a pool that something may draw from"),
    ("physical.traffic", "what it is for: what does not fit is an error, also by its device: test_separation.py"),
    ("guest.hostname", "on an external network, for a DNS server that only its host knows of: test_hostnames.py"),
    ("port.hostname", "the same"),
    ("host.uri", "how the host is reached: test_many_hosts.py"),
    ("host.chassis", "its name in OVN"),
    (".fabric", "of kind ovn: nothing is built on it yet"),
    ("fabric.northbound", "where OVN's database is"),
    ("fabric.encapsulation", "how OVN's chassis send frames"),
    *((f"tls.{key}", "a file for OVN's database") for key in ("key", "certificate", "ca")),
    ("port.default-route", "how a guest of the user's own is configured: its forwards and floating addresses obey"),
}
# Of a network that nobody is on.
NEEDS_PORTS = {"network.mtu", "network.offload", "network.log-drops"}
_MOST = 3
_GONE = object()
DOCUMENTS = {path.stem: read_yaml(path) for path in GOOD}
LABELS = sorted({label for document in DOCUMENTS.values() for label in document.get("physical-networks", {})})
HOST = HostMap(
    {**{label: f"eth{number}" for number, label in enumerate(LABELS, 20)}, **HOSTMAP.devices},
    device_is_bridge=lambda device: device.startswith("br-"),
)
Path = tuple[str | int, ...]


def wished(topology: Topology) -> Wanted:
    return wanted(topology, HOST, lambda guest: defined(topology, guest))


def defined(topology: Topology, guest: Guest) -> Element:
    make = xmlgen.domain if guest.virtual_router is None else xmlgen.router_domain
    return make(topology, guest, HOST, IMAGE, "qemu")


def made(document: Any) -> object:
    """All that is made of a file."""
    topology = loads(json.dumps(document), "t.yaml")
    libvirt = wished(topology)
    networks = [(each.name, xmlgen.to_string(each.element), each.autostart) for each in libvirt.networks]
    networks += [(each.name, xmlgen.to_string(each.mark), False) for each in libvirt.externals]
    guests = [
        (each.name, each.autostart, *map(xmlgen.to_string, (*each.interfaces, each.metadata)))
        for each in libvirt.guests
    ]
    domains = [xmlgen.to_string(each.definition) for each in libvirt.guests if each.definition is not None]
    lans = [(each.label, each.stand_in, each.host) for each in topology.physical_networks]
    routers = [
        (guest.memory_mib, guest.autostart, document_of(router_config(topology, guest)))
        for guest in topology.guests
        if guest.virtual_router
    ]
    hosts = [made_on(topology, host) for host in topology.hosts]
    here = libvirt.topology, networks, guests, domains, lans, routers
    return here, hosts, checks.plan(topology), topology.libvirt_networks


def made_on(topology: Topology, host: Host) -> object:
    """What one of several hosts has of it."""
    part = in_file(topology, host)
    networks = [xmlgen.to_string(each.element) for each in wanted(part, of_host(host)).networks]
    return networks, [guest.name for guest in part.guests]


def drawn(document: Any) -> object:
    topology = loads(json.dumps(document), "t.yaml")
    return [draw.draw(topology, view, "dot") for view in ("logical", "physical")]


def records(value: Any, schema: dict[str, Any], name: str = "", path: Path = ()) -> Iterator[tuple[str, Path, Any]]:
    """Every record in a file: its kind, where it is, and its schema."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        schema = SCHEMA["$defs"][name]
    for option in schema.get("anyOf", ()):
        yield from records(value, option, name, path)
    if isinstance(value, list) and "items" in schema:
        for number, item in enumerate(value):
            yield from records(item, schema["items"], "", (*path, number))
    elif isinstance(value, dict):
        if "properties" in schema:
            yield name, path, schema
        for key, inner in value.items():
            if below := schema.get("properties", {}).get(key) or schema.get("additionalProperties"):
                yield from records(inner, below, "", (*path, key))


def unlike(document: Any) -> Iterator[tuple[str, Path, Any]]:
    """One record of those that have the same keys, in the same place."""
    seen = set()
    for name, path, schema in records(document, SCHEMA):
        record = at(document, path)
        like = name, *sorted(record), str(record.get("network")), str(record.get("mode"))
        if like not in seen:
            seen.add(like)
            yield name, path, schema


def at(document: Any, path: Path) -> Any:
    for step in path:
        document = document[step]
    return document


@cache
def values() -> dict[str, list[Any]]:
    """What each key is in the good files."""
    found: dict[str, list[Any]] = {}
    for document in DOCUMENTS.values():
        for name, path, _ in records(document, SCHEMA):
            for key, value in at(document, path).items():
                known = found.setdefault(f"{name}.{key}", [])
                if value not in known:
                    known.append(value)
    return found


def tries(name: str, schema: dict[str, Any], now: Any) -> Iterator[Any]:
    """Other values than it has, and none."""
    if now is not _GONE:
        yield _GONE
    words = [option["const"] for option in schema.get("anyOf", ()) if "const" in option]
    words += [[word] for word in schema.get("items", {}).get("enum", ())]
    listed = [True, False] if schema.get("type") == "boolean" else [*values().get(name, [])[:_MOST], *words]
    yield from (value for value in [*schema.get("enum", ()), *listed] if value != now)


def changed_at(document: Any, path: Path, key: str, value: Any) -> Any:
    changed = deepcopy(document)
    record = at(changed, path)
    if value is _GONE:
        del record[key]
    else:
        record[key] = value
    return changed


def has_effect(document: Any, path: Path, key: str, value: Any, before: list[object]) -> bool:
    changed = changed_at(document, path, key, value)
    try:
        return made(changed) != before[0] or drawn(changed) != before[1]
    except GuestnetError:
        return True


def forgotten(document: Any) -> Iterator[tuple[str, str]]:
    """Each key without effect, and where."""
    before = [made(document), drawn(document)]
    used = {port["network"] for guest in document.get("guests", {}).values() for port in guest.get("ports", ())}
    facts = {name for name, _ in FACTS}
    for name, path, schema in unlike(document):
        for key, of_key in schema["properties"].items():
            what = f"{name}.{key}"
            if what in facts or (what in NEEDS_PORTS and path[-1] not in used):
                continue
            now = at(document, path).get(key, _GONE)
            if not any(has_effect(document, path, key, value, before) for value in tries(what, of_key, now)):
                yield what, ".".join(map(str, path))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_key_changes_something_or_is_an_error(name: str) -> None:
    assert list(forgotten(DOCUMENTS[name])) == []


def test_what_only_says_something_is_a_key() -> None:
    known = {
        f"{name}.{key}" for name, record in {"": SCHEMA, **SCHEMA["$defs"]}.items() for key in record["properties"]
    }
    assert {name for name, _ in FACTS} | NEEDS_PORTS <= known


# What changes in a file must also reach what is there already.


class Nics(StrEnum):
    """Whose NICs are there: a lab guest's, or a user's domain's, which had them before or had them plugged in."""

    LAB = "lab"
    HAD = "had before"
    PLUGGED = "plugged in"


def there(libvirt: Wanted, nics: Nics, live: bool) -> tuple[Wanted, Snapshot]:
    """A host that has all of it."""
    if nics is not Nics.LAB:
        libvirt = replace(libvirt, guests=tuple(replace(each, definition=None) for each in libvirt.guests))
    networks = tuple(NetworkState(n.name, f"u-{n.name}", n.element, n.element, n.autostart) for n in libvirt.networks)
    networks += tuple(_external(each) for each in libvirt.externals)
    domains = tuple(_domain(each, nics, live) for each in libvirt.guests)
    return libvirt, Snapshot(networks, domains, devices=frozenset(HOST.devices.values()))


def _external(wanted: WantedExternal) -> NetworkState:
    isolated = "<forward mode='nat'/><port isolated='yes'/>"
    network = etree.fromstring(f"<network><name>{wanted.name}</name><metadata/>{isolated}</network>")
    network.find("metadata").append(deepcopy(wanted.mark))
    return NetworkState(wanted.name, f"u-{wanted.name}", network, network, True)


def _domain(guest: WantedGuest, nics: Nics, live: bool) -> DomainState:
    if guest.definition is not None:
        domain = deepcopy(guest.definition)
    else:
        domain = etree.fromstring(f"<domain><name>{guest.name}</name><metadata/><devices/></domain>")
        domain.find("devices").extend(deepcopy(each) for each in guest.interfaces)
        domain.find("metadata").append(_noted(guest, nics))
    return DomainState(guest.name, f"u-{guest.name}", domain, deepcopy(domain) if live else None, guest.autostart)


def _noted(guest: WantedGuest, nics: Nics) -> Any:
    """Our metadata, with what it keeps of NICs as they were: as plain as libvirt takes one, or plugged in."""
    metadata = deepcopy(guest.metadata)
    for nic, port in zip(guest.interfaces, metadata.iterfind("{*}port"), strict=True):
        plain = etree.fromstring("<interface type='network'><source network='default'/></interface>")
        kept = remembered(nic, plain) if nics is Nics.HAD else plugged(nic)
        port.set("was", etree.tostring(kept).decode())
    return metadata


def said(libvirt: Wanted) -> list[list[str]]:
    """What the guests' NICs are to be, without what says only what is so anyway: a cable that nobody speaks of is
    plugged in, and what is on no network of libvirt's is isolated by itself alone."""
    return [[_said(xmlgen.to_string(nic)) for nic in guest.interfaces] for guest in libvirt.guests]


def _said(nic: str) -> str:
    nic = re.sub(r'\s*<link state="up"/>', "", nic)
    return nic if "<source network=" in nic else re.sub(r'\s*<port isolated="no"/>', "", nic)


def changes_of_nics(document: Any, before: Wanted) -> Iterator[tuple[str, Wanted]]:
    """Each value of a network's or port's key that makes other NICs, and what is to be then."""
    for name, path, schema in unlike(document):
        for key, of_key in schema["properties"].items() if name in ("port", "network") else ():
            for value in tries(f"{name}.{key}", of_key, at(document, path).get(key, _GONE)):
                try:
                    after = wished(loads(json.dumps(changed_at(document, path, key, value)), "t.yaml"))
                except GuestnetError:
                    continue
                if {each.name for each in after.externals} - {each.name for each in before.externals}:
                    continue  # the host does not have that network, and `plan.external` says so
                if said(after) != said(before):
                    yield f"{'.'.join(map(str, path))}.{key}: {value}", after


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_key_reaches_the_nics_that_are_there(name: str) -> None:
    """Whoever's they are, running or not: a plan sees that they are not as the file says now."""
    before = wished(loads(json.dumps(DOCUMENTS[name]), "t.yaml"))
    hosts = {(nics, live): there(before, nics, live)[1] for nics in Nics for live in (False, True)}
    unseen = []
    for change, after in changes_of_nics(DOCUMENTS[name], before):
        for (nics, live), host in hosts.items():
            try:
                found = plan(there(after, nics, live)[0], host)
            except GuestnetError:
                continue
            if not any(each.KIND in ("NIC", "guest") for each in found.changes):
                unseen.append((change, nics.value, live))
    assert unseen == [], unseen
