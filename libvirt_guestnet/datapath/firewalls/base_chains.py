"""The base chains of nftables by which guests' traffic passes, whoever made them: where surveys begin."""

from __future__ import annotations

from typing import Any

from libvirt_guestnet.datapath.run.nft import items

FAMILIES = {"ip": (4,), "ip6": (6,), "inet": (4, 6)}
"""With the IP versions of each."""
_HOOKS = ("forward", "input")
_IPTABLES = ("FORWARD", "INPUT")


def base_chains() -> list[dict[str, Any]]:
    """Those of the hooks by which guests' traffic passes, as nft lists them. Raises GuestnetError."""
    chains = (item for kind, item in items("chains") if kind == "chain")
    return [chain for chain in chains if chain.get("hook") in _HOOKS and chain["family"] in FAMILIES]


def is_iptables(chain: dict[str, Any]) -> bool:
    """Whether a base chain, as nft lists it, is one that iptables-nft has made."""
    return chain["table"] == "filter" and chain["name"] in _IPTABLES and chain["family"] != "inet"
