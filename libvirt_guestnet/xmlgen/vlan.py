"""The VLANs of a network and of its ports in XML; which carrier has them is the registry's to say."""

from __future__ import annotations

from collections.abc import Iterable

from libvirt_guestnet.carriers.contract import Tag
from libvirt_guestnet.model.topology import Port
from libvirt_guestnet.xmlgen.element import Element, fill, node


def elements(tags: Iterable[Tag]) -> list[Element]:
    """What a carrier has to say in libvirt's own words."""
    return [_element(each) for each in tags]


def _element(tag: Tag) -> Element:
    element = node(tag.name)
    fill(element, elements(tag.children), **tag.attributes)
    return element


def has_vlans(port: Port) -> bool:
    """Whether the port's VLANs are its own rather than its network's."""
    return port.vlan is not None or bool(port.trunk)
