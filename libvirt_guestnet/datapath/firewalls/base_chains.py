"""The base chains by which guests' traffic passes, as nft lists them: also those that iptables-nft makes."""

from __future__ import annotations

from libvirt_guestnet.datapath.run.nft import items
from libvirt_guestnet.light_typing import Any

_HOOKS = ("forward", "input")
_FAMILIES = {"ip": (4,), "ip6": (6,), "inet": (4, 6)}


def base_chains() -> list[dict[str, Any]]:
    """All of them. Raises GuestnetError."""
    chains = (item for kind, item in items("chains") if kind == "chain")
    return [chain for chain in chains if chain.get("hook") in _HOOKS and chain["family"] in _FAMILIES]


def is_iptables(chain: dict[str, Any]) -> bool:
    """Whether it is one that iptables-nft has made."""
    return chain["table"] == "filter" and chain["name"] in ("FORWARD", "INPUT") and chain["family"] != "inet"
