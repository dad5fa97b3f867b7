"""The NICs in libvirt's XML of a domain. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from lxml import etree

Element = etree._Element


def networks_of(domain: Element) -> frozenset[str]:
    """The libvirt networks that a <domain> has NICs on."""
    return frozenset(name for nic in domain.iterfind("devices/interface") if (name := source_network(nic)))


def interfaces(domain: Element | None, networks: Mapping[str, str | None] | None = None) -> dict[str, Element]:
    """The interfaces of a <domain> by lower-case MAC address, in order; empty for None.

    Of two of one MAC address it is the one on its network in `networks`, else the one that does not stand in for the
    other (net_failover), or is no function of a NIC's own.
    """
    found: dict[str, Element] = {}
    for interface in () if domain is None else domain.iterfind("devices/interface"):
        address = mac(interface)
        other = found.get(address)
        network = None if networks is None else networks.get(address)
        if other is None or _rank(interface, network) >= _rank(other, network):
            found[address] = interface
    return found


def _rank(interface: Element, network: str | None) -> tuple[bool, bool]:
    """How much an interface is the one that is meant by its MAC address."""
    is_meant = interface.get("type") != "hostdev" and not stands_in(interface)
    return network is not None and source_network(interface) == network, is_meant


def stands_in(interface: Element) -> bool:
    """Whether an <interface> is the one of a net_failover pair that goes before its guest migrates."""
    return interface.find("teaming[@type='transient']") is not None


def mac(interface: Element) -> str:
    """The MAC address of an <interface>, lower case; empty when libvirt is to choose one."""
    element = interface.find("mac")
    return "" if element is None else element.get("address", "").lower()


def nic_like(domain: Element, nic: Element) -> Element | None:
    """The <interface> of a <domain> with the MAC address and, where it says one, the PCI address of this one; None
    unless there is one."""
    alike = [each for each in domain.iterfind("devices/interface") if mac(each) == mac(nic)]
    if (address := nic.find("address")) is not None:
        alike = [each for each in alike if (at := each.find("address")) is not None and at.attrib == address.attrib]
    return alike[0] if len(alike) == 1 else None


def tap(interface: Element) -> str | None:
    """The host-side device of an <interface>."""
    target = interface.find("target")
    return None if target is None else target.get("dev")


def source_network(interface: Element) -> str | None:
    """The libvirt network an <interface> is on (also where libvirt shows a live one as type bridge)."""
    source = interface.find("source")
    return None if source is None else source.get("network")
