"""<dnsmasq:options>: what libvirt's own elements cannot say.

libvirt writes these lines into dnsmasq's configuration as they are, and dnsmasq has directives that run programs and
read files. So here only lines are made that one of the few forms below has, whatever else was checked before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from lxml import etree

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.model.dhcp_options import DhcpOption
from libvirt_guestnet.model.network import Mode, Network, Subnet
from libvirt_guestnet.model.port_address import Assignment
from libvirt_guestnet.model.services import Boot
from libvirt_guestnet.model.topology import Topology
from libvirt_guestnet.parse import shown
from libvirt_guestnet.xmlgen import services
from libvirt_guestnet.xmlgen.element import Element

DNSMASQ = "http://libvirt.org/schemas/network/dnsmasq/1.0"
IGNORE_CLIENT_IDS = "dhcp-ignore-clid"
# Option 93 (RFC 4578, and IANA's list), by the firmware's architecture.
_UEFI = {"x86-64": (7, 9), "arm64": (11,)}
_HTTP = {"x86-64": (16,), "arm64": (19,)}

_TAG, _QUOTED, _PLAIN = "[a-z0-9-]{1,40}", r'"[ !$-+\--\[\]-~]{1,240}"', r"[A-Za-z0-9_./:+\-\[\]]{1,255}"
_ITEM = f"({_QUOTED}|{_PLAIN})"
_MAC, _BYTES, _NAME = r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", r"[0-9a-f]{2}(:[0-9a-f]{2}){1,129}", r"[A-Za-z0-9_.-]{1,253}"
_IP = r"[0-9a-f:.]{2,39}"
_OPTION = rf"(option6?:[a-z0-9+-]{{1,40}}|[0-9]{{1,5}})(,{_ITEM}){{0,32}}"
_WORDS = re.compile(r"[ !$-+\--\[\]-~]*")
_LINES = re.compile(
    "|".join(
        (
            IGNORE_CLIENT_IDS,
            r"ra-param=\*,0,0",
            rf"dhcp-option=(tag:{_TAG},)?{_OPTION}",
            rf"dhcp-option-force=tag:{_TAG},60,HTTPClient",
            rf"dhcp-mac=set:{_TAG},{_MAC}",
            rf"dhcp-match=set:{_TAG},option:client-arch,[0-9]{{1,5}}",
            rf"dhcp-boot=tag:{_TAG},{_ITEM}(,,{_IP})?",
            rf"dhcp-host=({_MAC},\[{_IP}\]|id:{_BYTES},{_IP}(,{_NAME})?)",
            rf"local=/{_NAME}/",
            rf"address=/{_NAME}/{_IP}",
        )
    )
)


def options(topology: Topology, network: Network) -> Element | None:
    """The element; None where there is nothing to say. Raises GuestnetError rather than write any other line."""
    lines = list(dict.fromkeys(_lines(topology, network)))
    if not lines:
        return None
    element = etree.Element(etree.QName(DNSMASQ, "options"), nsmap={"dnsmasq": DNSMASQ})
    for line in lines:
        etree.SubElement(element, etree.QName(DNSMASQ, "option")).set("value", checked(line, network.name))
    return element


def checked(line: str, network: str) -> str:
    """The line, if it is of one of the forms that are made here. Raises GuestnetError."""
    if _LINES.fullmatch(line) and line.isprintable():
        return line
    raise GuestnetError(f"network {shown(network)}: {shown(line)} is nothing that guestnet gives to dnsmasq")


def check(network: Element, name: str) -> None:
    """libvirt writes what its own elements say into the same configuration, and looks at little of it. Raises
    GuestnetError."""
    for tag in ("domain", "dns", "ip"):
        for element in (inner for part in network.iterfind(tag) for inner in part.iter()):
            for text in (*map(str, element.values()), element.text or ""):
                if not _WORDS.fullmatch(text):
                    raise GuestnetError(
                        f"network {shown(name)}: {shown(text)} is nothing that guestnet gives to dnsmasq"
                    )


def _lines(topology: Topology, network: Network) -> Iterator[str]:
    for subnet in network.subnets:
        yield from _gateway(topology, network, subnet)
    served = [services.dhcp(topology, network, subnet) is not None for subnet in network.subnets]
    if any(here for here, subnet in zip(served, network.subnets, strict=True) if subnet.prefix.version == 4):
        yield from _identities(network)
        yield from (f"dhcp-option={each.dnsmasq}" for each in network.dhcp.options)
        yield from _of_one(topology, network)
        yield from _boot(network.dhcp.boot)
    yield from (f"dhcp-option={each.dnsmasq}" for each in network.dhcp6.options)
    yield from _by_mac6(topology, network)
    yield from (f"local=/{name}/" for name in network.dns.local)
    yield from (f"address=/{name}/{ip}" for name, ip in network.dns.wildcards)


def _gateway(topology: Topology, network: Network, subnet: Subnet) -> Iterator[str]:
    """That the host is not the default gateway: its DHCP server and router advertisements offer it, except in mode
    isolated where they offer nobody (rightly even when the host is called the gateway: it forwards nothing)."""
    isolated = network.mode is Mode.ISOLATED
    if subnet.host is None or subnet.gateway == subnet.host or (isolated and subnet.gateway is None):
        return
    if subnet.prefix.version == 4 and services.dhcp(topology, network, subnet) is not None:
        # Stands after libvirt's own "dhcp-option=3" of mode isolated, and the last one wins (tried with dnsmasq 2.90).
        yield f"dhcp-option=option:router,{subnet.gateway}" if subnet.gateway else "dhcp-option=option:router"
    if subnet.prefix.version == 6 and not isolated:
        # Router lifetime 0: the prefixes are announced, nobody is offered as default router (RFC 4861, 6.2.3).
        yield "ra-param=*,0,0"


def _identities(network: Network) -> Iterator[str]:
    """A lease belongs to a MAC address, which port security knows, and not to the client identifier that a guest
    claims; unless the file itself goes by one."""
    clients = [each for each in network.dhcp.reservations if each.client_id]
    if not clients:
        yield IGNORE_CLIENT_IDS
    for each in clients:
        name = f",{each.hostname}" if each.hostname else ""
        yield f"dhcp-host=id:{each.client_id},{each.address}{name}"


def _of_one(topology: Topology, network: Network) -> Iterator[str]:
    """Options of one machine, which has a tag by its MAC address."""
    told = [(port.mac, port.dhcp_options) for _, port in topology.ports_on(network.name)]
    told += [(each.mac, each.options) for each in network.dhcp.reservations]
    for mac, given in told:
        yield from _tagged(mac, given) if given else ()


def _tagged(mac: str, given: tuple[DhcpOption, ...]) -> Iterator[str]:
    tag = f"mac-{mac.replace(':', '')}"
    yield f"dhcp-mac=set:{tag},{mac}"
    yield from (f"dhcp-option=tag:{tag},{each.dnsmasq}" for each in given)


def _boot(boot: Boot | None) -> Iterator[str]:
    """What UEFI firmware loads, which says its architecture. For HTTP the server has to call itself HTTPClient (UEFI
    specification 2.10, 24.7.3)."""
    server = f",,{boot.server}" if boot and boot.server else ""
    for arch, file in boot.uefi if boot else ():
        yield from (f"dhcp-match=set:uefi-{arch},option:client-arch,{number}" for number in _UEFI[arch])
        yield f"dhcp-boot=tag:uefi-{arch},{file}{server}"
    for arch, url in boot.http if boot else ():
        yield from (f"dhcp-match=set:http-{arch},option:client-arch,{number}" for number in _HTTP[arch])
        yield f"dhcp-option-force=tag:http-{arch},60,HTTPClient"
        yield f'dhcp-boot=tag:http-{arch},"{url}"'


def _by_mac6(topology: Topology, network: Network) -> Iterator[str]:
    """DHCPv6 addresses of machines that nobody knows the DUID of: few form theirs of the MAC address alone."""
    for _, port, address in services.port_addresses(topology, network):
        if address.assignment is Assignment.DHCP and address.ip.version == 6 and not port.duid:
            yield f"dhcp-host={port.mac},[{address.ip}]"
    yield from (f"dhcp-host={each.mac},[{each.address}]" for each in network.dhcp6.reservations if each.mac)
