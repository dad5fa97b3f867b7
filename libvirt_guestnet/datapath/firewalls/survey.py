"""What other tools' firewalls say about forwarded traffic and the host's own, for `guestnet doctor`. Only reads.

Reading is all that is done with them: nothing is listed whose listing would make it (iptables makes its tables).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from libvirt_guestnet.datapath.firewalls import accepts
from libvirt_guestnet.datapath.run import program
from libvirt_guestnet.datapath.run.nft import items

_HOOKS = ("forward", "input")
_FAMILIES = {"ip": (4,), "ip6": (6,), "inet": (4, 6)}
_OURS = {"guestnet", "libvirt_network"}  # the second is libvirt's: what ours has to say there `places` arranges
_NEUTRAL = {"counter", "log"}
_JUMPS = {"FORWARD": "-j LIBVIRT_FW", "INPUT": "-j LIBVIRT_INP"}
_NOT_ASKED = ("LIBVIRT_", accepts.CHAIN, accepts.LAST_CHAIN)


class Chain(NamedTuple):
    """One chain of the hook `forward` or `input` that refuses whatever nothing in it accepts.

    `refuses` says how; `tool` whose it is: nft, firewalld, iptables, ufw or docker. `ours`: our accepts count in it;
    `libvirts`: libvirt's do; `dnat`: what was translated on its way in passes before. `inward` and `outward` are the
    devices (or PREFIX*) that rules in its table let something out of and into: whoever wrote them has thought of these.
    `within` are those that something is let out of where they are in a VRF.
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


def chains() -> list[Chain]:
    """Every such chain on this host. Needs root. Raises GuestnetError when a program does not answer."""
    base = [item for kind, item in items("chains") if kind == "chain"]
    base = [chain for chain in base if chain.get("hook") in _HOOKS and chain["family"] in _FAMILIES]
    by_iptables = sorted({chain["family"] for chain in base if _of_iptables(chain)})
    found = [
        *(_nft_chain(chain) for chain in base if chain["table"] not in _OURS and not _of_iptables(chain)),
        *(chain for family in by_iptables for chain in _iptables(family, False)),
        *(chain for family, tables in legacy().items() if "filter" in tables for chain in _iptables(family, True)),
    ]
    return [chain for chain in found if chain is not None]


def legacy() -> dict[str, list[str]]:
    """By family (ip, ip6), the tables that iptables-legacy has in use. Needs root."""
    found = {family: _lines(f"/proc/net/{family}_tables_names") for family in ("ip", "ip6")}
    return {family: tables for family, tables in found.items() if tables}


def _of_iptables(chain: dict[str, Any]) -> bool:
    return chain["table"] == "filter" and chain["name"] in _JUMPS and chain["family"] != "inet"


def _nft_chain(chain: dict[str, Any]) -> Chain | None:
    rules = [item for kind, item in items("table", chain["family"], chain["table"]) if kind == "rule"]
    return nft_chain(chain, rules)


def nft_chain(chain: dict[str, Any], rules: list[dict[str, Any]]) -> Chain | None:
    """A base chain and all rules of its table, as `nft -j` lists them; None where it refuses nothing. Pure."""
    own = [rule["expr"] for rule in rules if rule["chain"] == chain["name"]]
    refuses = "its policy is drop" if chain.get("policy") == "drop" else _last(own)
    if not refuses:
        return None
    let = [rule["expr"] for rule in rules if any(verdict in rule["expr"][-1] for verdict in ("accept", "jump", "goto"))]
    return Chain(
        f"{chain['family']} {chain['table']} {chain['name']}",
        chain["hook"],
        _FAMILIES[chain["family"]],
        refuses,
        "firewalld" if chain["table"] == "firewalld" else "nft",
        dnat=any(_is_dnat(expr[0]) and "accept" in expr[-1] for expr in own),
        inward=frozenset(_named(let, "iifname")),
        outward=frozenset(_named(let, "oifname")),
        within=frozenset(_named(let, "sdifname")),
    )


def _last(own: list[list[dict[str, Any]]]) -> str:
    """Whether there is a rule that refuses whatever gets to it."""
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


def _iptables(family: str, of_legacy: bool) -> list[Chain]:
    tool = "iptables" if family == "ip" else "ip6tables"
    used = ("legacy" in program.said([tool, "-V"], "iptables")) == of_legacy
    name = tool if used else f"{tool}-{'legacy' if of_legacy else 'nft'}"
    found = iptables_chains(name, program.said([name, "-w", "5", "-S"], "iptables").splitlines())
    return found if used else [chain._replace(ours=False) for chain in found]


def iptables_chains(tool: str, rules: list[str]) -> list[Chain]:
    """What `iptables -S` says of FORWARD and INPUT, where they refuse something. Pure."""
    asked = [rule for rule in rules if rule.startswith("-A ") and not rule[3:].startswith(_NOT_ASKED)]
    let = [rule for rule in asked if rule.endswith("-j ACCEPT")]
    return [
        Chain(
            f"{tool} {name}",
            name.lower(),
            (6,) if tool.startswith("ip6") else (4,),
            refuses,
            _whose(rules),
            name == "FORWARD",
            any(rule.startswith(f"-A {name} {jump}") for rule in rules),
            inward=frozenset(_devices(let, "-i")),
            outward=frozenset(_devices(let, "-o")),
        )
        for name, jump in _JUMPS.items()
        if (refuses := _iptables_refuses(name, rules))
    ]


def _iptables_refuses(name: str, rules: list[str]) -> str:
    if f"-P {name} DROP" in rules:
        return "its policy is DROP"
    ends = (f"-A {name} -j DROP", f"-A {name} -j REJECT")
    return next((f"it ends in a {end[-6:].split()[-1]}" for end in ends for rule in rules if rule.startswith(end)), "")


def _whose(rules: list[str]) -> str:
    known = {"docker": "-N DOCKER-USER", "ufw": "-N ufw-user-forward", "ufw6": "-N ufw6-user-forward"}
    return next((tool.rstrip("6") for tool, rule in known.items() if rule in rules), "iptables")


def _devices(rules: list[str], option: str) -> Iterator[str]:
    for words in map(str.split, rules):
        for before, word, after in zip(["", *words], words, words[1:], strict=False):
            if word == option and before != "!":
                yield after.replace("+", "*")


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().split()
    except OSError:
        return []
