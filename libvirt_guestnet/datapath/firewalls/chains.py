"""What a survey of other firewalls finds, and whom that concerns: not for the hook path."""

from __future__ import annotations

from typing import NamedTuple


class RefusingChain(NamedTuple):
    """One chain of the hook `forward` or `input` that refuses whatever nothing in it accepts.

    `refuses` says how; `tool` names the firewall whose it is. `ours`: our accepts count in it; `libvirts`: libvirt's
    do; `dnat`: what was translated on its way in passes before. `inward` and `outward` are the devices (or PREFIX*)
    that rules in its table let something out of and into: whoever wrote them has thought of these. `within` are those
    that something is let out of where they are in a VRF.
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
    """Those that a chain refuses something: their bridge, or taps as PREFIX*, and the VRF that these are in ("": none).
    `routed`: libvirt routes their network; `untranslated`: they have addresses that reach them as they are."""

    device: str
    vrf: str = ""
    routed: bool = False
    untranslated: bool = False

    @property
    def inward(self) -> str:
        """What comes from a VRF has that as its input device, whichever device in it it came by."""
        return self.vrf or self.device
