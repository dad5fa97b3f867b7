"""Docker: its rules stand in iptables' FORWARD, whose policy it makes DROP; what passes first is in DOCKER-USER."""

from __future__ import annotations

from typing import TYPE_CHECKING

from libvirt_guestnet.datapath.firewalls import iptables
from libvirt_guestnet.datapath.firewalls.contract import Firewall

if TYPE_CHECKING:
    from libvirt_guestnet.datapath.firewalls.chains import Guests, RefusingChain


class Docker(Firewall):
    """Ours stand before its rules, which keep DOCKER-USER for others'."""

    tool = "docker"
    marks = ("-N DOCKER-USER",)

    def advice(self, chain: RefusingChain, guests: Guests) -> str:
        return iptables.advice(chain, guests, "DOCKER-USER")
