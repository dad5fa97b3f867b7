"""ufw: its rules are in iptables. It may refuse routed traffic by a chain at the end of FORWARD that rejects."""

from __future__ import annotations

from libvirt_guestnet.datapath.firewalls.contract import Firewall
from libvirt_guestnet.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from libvirt_guestnet.datapath.firewalls.chains import Guests, RefusingChain


class Ufw(Firewall):
    """What it lets pass is best said by its own command, which keeps that over a boot."""

    tool = "ufw"
    marks = ("-N ufw-user-forward", "-N ufw6-user-forward")
    refusals = ("ufw-reject-forward", "ufw6-reject-forward")

    def advice(self, chain: RefusingChain, guests: Guests) -> str:
        if chain.hook == "input":
            return f"ufw allow in on {guests.device}"
        command = f"ufw route allow in on {guests.inward} && ufw route allow out on {guests.device}"
        return command.replace("*", "+")
