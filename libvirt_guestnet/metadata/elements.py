"""Our <metadata> as libvirt's API returns it, for people and plans: what hooks would refuse is left out."""

from __future__ import annotations

from typing import TypeAlias

from lxml import etree

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.metadata import reader
from libvirt_guestnet.metadata.policy import OBSERVE, PortPolicy
from libvirt_guestnet.xmlread import Node

Element: TypeAlias = etree._Element


def node_of(element: Element) -> Node:
    """The element as hooks read it."""
    name = etree.QName(element)
    node = Node(f"{name.namespace} {name.localname}" if name.namespace else name.localname, {})
    node.attributes.update((str(key), str(value)) for key, value in element.attrib.items())
    node.children = [node_of(child) for child in element.iterchildren(etree.Element)]
    node.text = element.text or ""
    return node


def port_policies(mark: Element | None) -> list[PortPolicy]:
    """Each port of a <guestnet:domain>. Of one that cannot be carried out, only what it is."""
    return [] if mark is None else [_policy(port) for port in node_of(mark).children]


def _policy(port: Node) -> PortPolicy:
    try:
        return reader.read_port(port)
    except GuestnetError:  # a user may have edited it: the hooks complain
        guarded = port.get("guarded") != "no"
        observed = port.get("guarded") == OBSERVE
        who = port.get("mac").lower(), port.get("name"), port.get("network")
        return PortPolicy(*who, guarded, was=port.get("was"), observed=observed)
