"""iptables' FORWARD, in which rules of libvirt's, Docker's and ufw's may be. Arranging is on the hook path."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from libvirt_guestnet.datapath.firewalls import forward_chain
from libvirt_guestnet.datapath.firewalls.accepts import (
    Accept,
    Masqueraded,
    OriginalDestination,
    Passage,
    RoutedLink,
    Wanted,
    span,
)
from libvirt_guestnet.datapath.firewalls.contract import Change, Firewall
from libvirt_guestnet.datapath.firewalls.forward_chain import ForwardChain
from libvirt_guestnet.datapath.run import grammar, iptables, program
from libvirt_guestnet.datapath.run.names import check_device
from libvirt_guestnet.datapath.run.program import LockDescriptor
from libvirt_guestnet.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from libvirt_guestnet.datapath.firewalls.chains import Guests, RefusingChain

CHAIN, LAST_CHAIN = "GUESTNET-FORWARD", "GUESTNET-ROUTED"
_JUMP = {chain: f"-A FORWARD -j {chain}" for chain in (CHAIN, LAST_CHAIN)}
_LIBVIRT = "-j LIBVIRT_FW"  # its chains in iptables' FORWARD
_INTO_NETWORKS = "LIBVIRT_FWI"  # the one that keeps each of its networks from what is not for it
_JUMPS = {"FORWARD": "-j LIBVIRT_FW", "INPUT": "-j LIBVIRT_INP"}
_NOT_SURVEYED = ("LIBVIRT_", CHAIN, LAST_CHAIN)
_FAMILIES = {"ip": "iptables", "ip6": "ip6tables"}


class Iptables(Firewall):
    """iptables of either kind, nft or legacy; `tenants` are other firewalls that have their rules in it."""

    tool, managed = "iptables", False

    def __init__(self, tenants: Sequence[Firewall]) -> None:
        self._tenants = tenants
        self._refusals = [target for tenant in tenants for target in tenant.refusals]
        self._forward = [self._chain("iptables", 4), self._chain("ip6tables", 6)]

    def _chain(self, tool: str, version: int) -> ForwardChain:
        def read() -> list[str] | None:
            rules = iptables.forward(tool)
            return None if rules == ["-P FORWARD ACCEPT"] else rules

        def write(change: str, lock: LockDescriptor | None) -> None:
            iptables.restore(tool, change, lock)

        return ForwardChain(f"{tool} FORWARD", version, read, self._is_in_place, self._plan, write)

    def _plan(self, wanted: list[Wanted], forward: list[str]) -> str:
        return batch(wanted, forward, self._refusals)

    def _is_in_place(self, wanted: list[Wanted], forward: list[str]) -> bool:
        last = any(isinstance(each, RoutedLink) for each in wanted)
        first = any(not isinstance(each, RoutedLink) for each in wanted)
        return (not first or _before_libvirt(forward)) and (not last or _is_last_in_place(forward, self._refusals))

    def check(self, wanted: Sequence[Wanted]) -> None:
        if rules := batch(wanted, []):
            grammar.check_iptables(rules)

    def arrange(self, change: Change) -> list[str]:
        return forward_chain.arrange(self._forward, change)

    def missing(self, wanted: Sequence[Wanted]) -> list[str]:
        return forward_chain.missing(self._forward, wanted)

    def survey(self) -> Iterator[RefusingChain]:
        """Only tables that exist are listed: by listing one, iptables would make it."""
        from libvirt_guestnet.datapath.firewalls.base_chains import base_chains, is_iptables

        used = {chain["family"] for chain in base_chains() if is_iptables(chain)}
        for family in sorted(used):
            yield from self._survey(family, False)
        for family, tables in legacy().items():
            if "filter" in tables:
                yield from self._survey(family, True)

    def _survey(self, family: str, of_legacy: bool) -> list[RefusingChain]:
        tool = _FAMILIES[family]
        used = ("legacy" in program.said([tool, "-V"], "iptables")) == of_legacy
        name = tool if used else f"{tool}-{'legacy' if of_legacy else 'nft'}"
        found = self.chains(name, program.said([name, "-w", "5", "-S"], "iptables").splitlines())
        return found if used else [chain._replace(ours=False) for chain in found]

    def chains(self, name: str, rules: list[str]) -> list[RefusingChain]:
        """What `iptables -S` says of FORWARD and INPUT, where they refuse something. Pure."""
        surveyed = [rule for rule in rules if rule.startswith("-A ") and not rule[3:].startswith(_NOT_SURVEYED)]
        let = [rule for rule in surveyed if rule.endswith("-j ACCEPT")]
        found = ((chain, _refuses(chain, rules)) for chain in _JUMPS)
        return [self._described(name, chain, refuses, rules, let) for chain, refuses in found if refuses]

    def _described(self, name: str, chain: str, refuses: str, rules: list[str], let: list[str]) -> RefusingChain:
        from libvirt_guestnet.datapath.firewalls.chains import RefusingChain

        return RefusingChain(
            f"{name} {chain}",
            chain.lower(),
            (6,) if name.startswith("ip6") else (4,),
            refuses,
            self._whose(rules),
            chain == "FORWARD",
            any(rule.startswith(f"-A {chain} {_JUMPS[chain]}") for rule in rules),
            inward=frozenset(_devices(let, "-i")),
            outward=frozenset(_devices(let, "-o")),
        )

    def _whose(self, rules: list[str]) -> str:
        return next((each.tool for each in self._tenants if not set(each.marks).isdisjoint(rules)), self.tool)

    def advice(self, chain: RefusingChain, guests: Guests) -> str:
        return advice(chain, guests, "FORWARD")


def advice(chain: RefusingChain, guests: Guests, first: str) -> str:
    """The commands that make a chain accept guests' packets: forwarded ones by rules in the chain `first`."""
    tool = chain.name.partition(" ")[0]
    if chain.hook == "input":
        return f"{tool} -I INPUT -i {guests.device.replace('*', '+')} -j ACCEPT"
    rules = (f"{tool} -I {first} {match} -j ACCEPT" for match in (f"-i {guests.inward}", f"-o {guests.device}"))
    return f"{' && '.join(rules)}, at every boot".replace("*", "+")


def legacy() -> dict[str, list[str]]:
    """By family (ip, ip6), the tables that iptables-legacy has in use. Needs root."""
    found = {family: _words(f"/proc/net/{family}_tables_names") for family in _FAMILIES}
    return {family: tables for family, tables in found.items() if tables}


def _words(path: str) -> list[str]:
    try:
        with open(path) as file:
            return file.read().split()
    except OSError:
        return []


def batch(wanted: Iterable[Wanted], forward: list[str], refusals: Sequence[str] = ()) -> str:
    """Input of `iptables-restore --noflush` after which our chains hold exactly these accepts and FORWARD jumps to
    them, first and last; without accepts, the chains are removed.

    `forward` is what `iptables -S FORWARD` prints, `refusals` are targets of other firewalls that let nothing pass.
    Empty when nothing has to be done. Pure.
    """
    ours: dict[str, list[str]] = {CHAIN: [], LAST_CHAIN: []}
    current = _rules(forward)
    protected = f"-A FORWARD -j {_INTO_NETWORKS}" in current
    for each in wanted:
        chain = LAST_CHAIN if isinstance(each, RoutedLink) else CHAIN
        rules = _masqueraded(each, protected) if isinstance(each, Masqueraded) else _accepts(each)
        ours[chain] += [f"-A {chain} {rule}" for rule in rules]
    chains = [chain for chain, rules in ours.items() if rules or _JUMP[chain] in current]
    lines = [line for chain in chains for line in (f":{chain} - [0:0]", *ours[chain])]
    lines += _moves(current, {chain for chain in chains if ours[chain]}, refusals)
    lines += [f"-X {chain}" for chain in chains if not ours[chain]]
    return "\n".join(["*filter", *lines, "COMMIT", ""]) if lines else ""


def _rules(forward: list[str]) -> list[str]:
    return [line for line in forward if line.startswith("-A ")]


def _moves(rules: list[str], ours: set[str], refusals: Sequence[str]) -> list[str]:
    """The lines that put the jumps to these chains of ours, and no other jumps, into their places."""
    others = [rule for rule in rules if rule not in _JUMP.values()]
    end = _end(others, refusals)
    jumps = {chain: [_JUMP[chain]] if chain in ours else [] for chain in _JUMP}
    if rules == [*jumps[CHAIN], *others[:end], *jumps[LAST_CHAIN], *others[end:]]:
        return []
    gone = [f"-D{rule[2:]}" for rule in rules if rule in _JUMP.values()]
    positions = {LAST_CHAIN: end + 1, CHAIN: 1}
    return [*gone, *(f"-I FORWARD {position} -j {chain}" for chain, position in positions.items() if chain in ours)]


def _end(others: list[str], refusals: Sequence[str]) -> int:
    """The place before the first rule that lets nothing pass."""
    last = tuple(f"-A FORWARD -j {target}" for target in ("DROP", "REJECT", *refusals))
    return next((position for position, rule in enumerate(others) if rule.startswith(last)), len(others))


def _before_libvirt(rules: list[str]) -> bool:
    # Docker and ufw refuse by the chain's policy or at its end; libvirt puts its rejects first when it starts.
    jump = _JUMP[CHAIN]
    return jump in rules and not any(_LIBVIRT in rule for rule in rules[: rules.index(jump)])


def _is_last_in_place(forward: list[str], refusals: Sequence[str]) -> bool:
    """Whether the jump to our last chain is in its place."""
    rules = [rule for rule in _rules(forward) if rule != _JUMP[CHAIN]]
    others = [rule for rule in rules if rule != _JUMP[LAST_CHAIN]]
    return rules.index(_JUMP[LAST_CHAIN]) == _end(others, refusals) if _JUMP[LAST_CHAIN] in rules else False


def _masqueraded(each: Masqueraded, protected: bool) -> tuple[str, ...]:
    """`protected`: libvirt has a chain that says what may go into its networks."""
    bridge, answers = check_device(each.bridge), " -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"
    out, back = f"-i {bridge} -s {each.guest}", f"-o {bridge} -d {each.guest}"
    if each.other:
        other = check_device(each.other)
        return f"{out} -o {other} -j ACCEPT", f"-i {other} {back}{answers}"
    before = (f"{out} -j {_INTO_NETWORKS}",) if protected else ()
    return *before, f"{out} -j ACCEPT", f"{back}{answers}"


def _accepts(accept: Accept | Passage | RoutedLink) -> tuple[str, str]:
    if isinstance(accept, RoutedLink):
        tap, from_ = check_device(accept.tap), check_device(accept.vrf or accept.tap)
        return f"-o {tap} -d {accept.guest} -j ACCEPT", f"-i {from_} -s {accept.guest} -j ACCEPT"
    if isinstance(accept, Passage):
        near, other = check_device(accept.bridge), check_device(accept.other)
        to, by = (f" -d {accept.far}", f" -s {accept.far}") if accept.far else ("", "")
        return (
            f"-i {other}{by} -o {near} -d {accept.guest} -j ACCEPT",
            f"-i {near} -s {accept.guest} -o {other}{to} -j ACCEPT",
        )
    # Matched by conntrack's record of the connection, not by the packet's own header, as ICMP errors must pass, too.
    bridge, match = check_device(accept.bridge), " -m conntrack"
    if accept.protocol:
        match += f" --ctproto {accept.protocol} --ctreplsrc {accept.guest}"
        match += f" --ctreplsrcport {span(accept.ports, ':')}" if accept.ports else ""
    match += _origin(accept.published)
    return (
        f"-o {bridge} -d {accept.guest}{match} --ctdir ORIGINAL -j ACCEPT",
        f"-i {bridge} -s {accept.guest}{match} --ctdir REPLY -j ACCEPT",
    )


def _origin(published: OriginalDestination | None) -> str:
    if published is None:
        return ""
    address = f" --ctorigdst {published.address}" if published.address else ""
    ports = f" --ctorigdstport {span(published.ports, ':')}" if published.ports else ""
    return f" --ctstate DNAT{address}{ports}"


def _refuses(name: str, rules: list[str]) -> str:
    if f"-P {name} DROP" in rules:
        return "its policy is DROP"
    ends = (f"-A {name} -j DROP", f"-A {name} -j REJECT")
    return next((f"it ends in a {end[-6:].split()[-1]}" for end in ends for rule in rules if rule.startswith(end)), "")


def _devices(rules: list[str], option: str) -> Iterator[str]:
    for words in map(str.split, rules):
        for before, word, after in zip(["", *words], words, words[1:], strict=False):
            if word == option and before != "!":
                yield after.replace("+", "*")
