"""The topology as libvirt XML. Pure: nothing here asks libvirt or the kernel for anything.

What a whole `<network>`, `<interface>` or `<domain>` of ours looks like is in the module of that name, top to bottom
in the order in which libvirt prints it; `xml/` in the repository holds the output for every mode.
"""

from libvirt_guestnet.xmlgen.disk_domain import USERS_TAG, without_users
from libvirt_guestnet.xmlgen.domain import domain
from libvirt_guestnet.xmlgen.element import Element, api_text, to_string
from libvirt_guestnet.xmlgen.external import external_metadata
from libvirt_guestnet.xmlgen.interface import interface
from libvirt_guestnet.xmlgen.network import network, network_uuid
from libvirt_guestnet.xmlgen.policy import domain_metadata, network_metadata
from libvirt_guestnet.xmlgen.router_domain import router_domain

__all__ = [
    "USERS_TAG",
    "Element",
    "api_text",
    "domain",
    "domain_metadata",
    "external_metadata",
    "interface",
    "network",
    "network_metadata",
    "network_uuid",
    "router_domain",
    "to_string",
    "without_users",
]
