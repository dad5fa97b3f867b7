"""Networks and domains as texts, from libvirt's own objects: what `Connection.snapshot` is made of."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from libvirt_guestnet.libvirtd.bindings import libvirt
from libvirt_guestnet.libvirtd.snapshot import Element, parse_xml
from libvirt_guestnet.router.folder import Owner


def gather(list_all: Callable[[int], list[Any]], autostart: int, active: int, persistent: int, inactive: int) -> Any:
    """The texts and flags of all objects of a kind; one that vanishes meanwhile is left out."""
    automatic, running, kept = ({o.UUIDString() for o in list_all(flag)} for flag in (autostart, active, persistent))
    found = []
    for item in list_all(0):
        uuid = item.UUIDString()
        try:
            texts = _texts(item, inactive) if uuid in running else (item.XMLDesc(0), None)
        except libvirt.libvirtError as error:
            if error.get_error_code() not in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_NO_NETWORK):
                raise
            continue
        state = {"autostart": uuid in automatic, "persistent": uuid in kept}
        found.append({"name": item.name(), "uuid": uuid, "config": texts[0], "live": texts[1], **state})
    return found


def _texts(item: Any, inactive: int) -> tuple[str, str]:
    """The defined and the live XML of an active object."""
    live = item.XMLDesc(0)
    try:
        return item.XMLDesc(inactive), live
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_INVALID_ARG:
            raise
        return live, live  # libvirt's test driver has but one XML of a network


def parsed(fields: dict[str, Any]) -> dict[str, Any]:
    live = fields["live"]
    return {**fields, "config": parse_xml(fields["config"]), "live": None if live is None else parse_xml(live)}


def saved_texts(raw: Any) -> dict[str, list[str]]:
    """By UUID of its domain: the XML of each managed save and each current snapshot."""
    found: dict[str, list[str]] = {}
    for flag, text_of in (
        (libvirt.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE, lambda domain: domain.managedSaveGetXMLDesc(0)),
        (libvirt.VIR_CONNECT_LIST_DOMAINS_HAS_SNAPSHOT, lambda domain: domain.snapshotCurrent(0).getXMLDesc(0)),
    ):
        for domain in raw.listAllDomains(flag):
            found.setdefault(domain.UUIDString(), []).extend(_text_or_definition(domain, text_of))
    return found


def _text_or_definition(domain: Any, text_of: Callable[[Any], str]) -> list[str]:
    """A damaged image, or a driver that shows none, is taken for one of the domain as it is defined."""
    try:
        return [text_of(domain)]
    except libvirt.libvirtError as error:
        if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_NO_DOMAIN_SNAPSHOT):
            return []  # gone meanwhile, or there are snapshots of which none is current
    try:
        return [domain.XMLDesc(0)]
    except libvirt.libvirtError:
        return []  # the same


def saved_domains(texts: list[str]) -> tuple[Element, ...]:
    """The <domain> of each of them; of a snapshot also what would be defined by it."""
    roots = list(map(parse_xml, texts))
    inside = (element for root in roots for element in (*root.findall("domain"), *root.findall("inactiveDomain")))
    return (*(root for root in roots if root.tag == "domain"), *inside)


def owner(capabilities: str) -> Owner:
    """By libvirt's capabilities: a label of its model "dac" is "+64055:+64055"."""
    for model in parse_xml(capabilities).iterfind("host/secmodel"):
        label = re.fullmatch(r"\+([0-9]{1,10}):\+([0-9]{1,10})", model.findtext("baselabel", ""))
        if model.findtext("model") == "dac" and label is not None:
            return Owner(int(label[1]), int(label[2]))
    return Owner(0, 0)
