"""What a survey of other firewalls finds, and which guests that concerns: not for the hook path."""

from __future__ import annotations

from libvirt_guestnet.light_typing import NamedTuple


class RefusingChain(NamedTuple):
    """One chain of the hook `forward` or `input` that refuses whatever nothing in it accepts.

    `refuses` says how; `tool` names the firewall to which it belongs. `ours`: our accepts count in it; `libvirts`:
    libvirt's do; `dnat`: packets whose destination was translated pass. `inward` and `outward` are the input and output
    devices (or PREFIX*) of rules in its table that accept something: whoever wrote them has thought of these devices.
    `within` are the input devices of such rules for devices in a VRF.
    """

    name: str
    hook: str
    versions: tuple[int, ...]
    refuses: str
    tool: str = "nft"
    ours: bool = False
    libvirts: bool = False
    dnat: bool = False
    inward: frozenset[str] = frozenset()
    outward: frozenset[str] = frozenset()
    within: frozenset[str] = frozenset()


class Guests(NamedTuple):
    """The guests that a chain refuses something: their bridge, or their taps as PREFIX*, and the VRF of these ("":
    none). `routed`: libvirt routes their network; `untranslated`: they have addresses that are not translated."""

    device: str
    vrf: str = ""
    routed: bool = False
    untranslated: bool = False

    @property
    def inward(self) -> str:
        """The input device of their packets: the VRF, for those in one."""
        return self.vrf or self.device
