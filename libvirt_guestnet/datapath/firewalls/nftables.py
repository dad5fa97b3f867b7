"""Base chains of nftables that anybody wrote, for `guestnet doctor`. Only reads; nothing can be arranged in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from libvirt_guestnet.datapath.firewalls.base_chains import base_chains, is_iptables
from libvirt_guestnet.datapath.firewalls.contract import Firewall
from libvirt_guestnet.datapath.run.nft import items
from libvirt_guestnet.light_typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from libvirt_guestnet.datapath.firewalls.chains import Guests, RefusingChain

_HOOKS = ("forward", "input")
_FAMILIES = {"ip": (4,), "ip6": (6,), "inet": (4, 6)}
_OURS = "guestnet"
_NEUTRAL = {"counter", "log"}


class Nftables(Firewall):
    """`tenants` are firewalls that have tables of their own in it."""

    tool, managed = "nft", False

    def __init__(self, tenants: Sequence[Firewall]) -> None:
        self._whose = {table: tenant for tenant in tenants for table in tenant.tables}

    def survey(self) -> Iterator[RefusingChain]:
        for chain in base_chains():
            if not is_iptables(chain) and self._is_surveyed(chain["table"]):
                rules = (item for kind, item in items("table", chain["family"], chain["table"]) if kind == "rule")
                if found := self.chain(chain, list(rules)):
                    yield found

    def _is_surveyed(self, table: str) -> bool:
        return table != _OURS and (table not in self._whose or self._whose[table].refuses_others)

    def chain(self, chain: dict[str, Any], rules: list[dict[str, Any]]) -> RefusingChain | None:
        """A base chain and all rules of its table, as `nft -j` lists them; None where it refuses nothing. Pure."""
        from libvirt_guestnet.datapath.firewalls.chains import RefusingChain

        own = [rule["expr"] for rule in rules if rule["chain"] == chain["name"]]
        refuses = "its policy is drop" if chain.get("policy") == "drop" else _last(own)
        if not refuses:
            return None
        verdicts = ("accept", "jump", "goto")
        let = [rule["expr"] for rule in rules if any(verdict in rule["expr"][-1] for verdict in verdicts)]
        return RefusingChain(
            f"{chain['family']} {chain['table']} {chain['name']}",
            chain["hook"],
            _FAMILIES[chain["family"]],
            refuses,
            self._whose.get(chain["table"], self).tool,
            dnat=any(_is_dnat(expr[0]) and "accept" in expr[-1] for expr in own),
            inward=frozenset(_named(let, "iifname")),
            outward=frozenset(_named(let, "oifname")),
            within=frozenset(_named(let, "sdifname")),
        )

    def advice(self, chain: RefusingChain, guests: Guests) -> str:
        if chain.hook == "input":
            return f'nft insert rule {chain.name} iifname "{guests.device}" accept'
        keys = ("meta sdifname" if guests.vrf else "iifname", "oifname")
        both = " ".join(f"'{key} \"{guests.device}\" accept'" for key in keys)
        return f"nft insert rule {chain.name} RULE, for each RULE of {both}; keep them where that table is loaded from"


def _last(own: list[list[dict[str, Any]]]) -> str:
    """How a chain ends, if one of its rules refuses whatever reaches it; else ""."""
    for expr in own:
        verdict = [statement for statement in expr if not _NEUTRAL & set(statement)]
        if len(verdict) == 1 and ("drop" in verdict[0] or "reject" in verdict[0]):
            return f"it ends in a {next(iter(verdict[0]))}"
    return ""


def _is_dnat(statement: dict[str, Any]) -> bool:
    match = statement.get("match", {})
    return (match.get("left"), match.get("right")) == ({"ct": {"key": "status"}}, "dnat")


def _named(rules: Iterable[list[dict[str, Any]]], key: str) -> Iterator[str]:
    for match in (statement["match"] for expr in rules for statement in expr if "match" in statement):
        if match["left"] == {"meta": {"key": key}} and match["op"] in ("==", "in"):
            right = match["right"]
            values = right["set"] if isinstance(right, dict) and "set" in right else [right]
            yield from (value for value in values if isinstance(value, str))
