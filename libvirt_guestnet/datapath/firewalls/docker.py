"""Docker: its rules are in iptables' FORWARD, whose policy it sets to DROP; DOCKER-USER is for others' accepts."""

from __future__ import annotations

from libvirt_guestnet.datapath.firewalls import iptables
from libvirt_guestnet.datapath.firewalls.contract import Firewall
from libvirt_guestnet.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from libvirt_guestnet.datapath.firewalls.chains import Guests, RefusingChain


class Docker(Firewall):
    """Our jump stands before Docker's rules; DOCKER-USER is left to the administrator."""

    tool = "docker"
    marks = ("-N DOCKER-USER",)

    def advice(self, chain: RefusingChain, guests: Guests) -> str:
        return iptables.advice(chain, guests, "DOCKER-USER")
