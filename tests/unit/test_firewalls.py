"""The contract for other firewalls: a new one is a file and a name in the registry, and everybody asks it then."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_network
from typing import Any

import pytest

from libvirt_guestnet.datapath.firewalls import base_chains, iptables, nftables, registry
from libvirt_guestnet.datapath.firewalls.accepts import RoutedLink, Wanted
from libvirt_guestnet.datapath.firewalls.chains import Guests, RefusingChain
from libvirt_guestnet.datapath.firewalls.contract import Change, Firewall
from libvirt_guestnet.datapath.firewalls.iptables import Iptables
from libvirt_guestnet.datapath.firewalls.nftables import Nftables
from libvirt_guestnet.doctor.host_facts import HostFacts, NetworkFacts
from libvirt_guestnet.doctor.judge import judge
from libvirt_guestnet.errors import GuestnetError

LINK = RoutedLink("vme1", ip_network("192.0.2.7"))


class Shorewall(Firewall):
    """One that nobody has heard of, with everything that the contract has."""

    tool = "shorewall"
    marks = ("-N dynamic",)
    refusals = ("reject-all",)
    tables = ("shorewall",)

    def check(self, wanted: Sequence[Wanted]) -> None:
        raise GuestnetError("shorewall cannot write this")

    def arrange(self, change: Change) -> list[str]:
        return [f"shorewall: {change.name(each)}" for each in change.wanted] + [f"gone {each}" for each in change.gone]

    def missing(self, wanted: Sequence[Wanted]) -> list[str]:
        return ["shorewall's rules"]

    def sources(self, wanted: Sequence[Wanted]) -> list[str]:
        return ["192.0.2.7"]

    def survey(self) -> Iterable[RefusingChain]:
        return [
            RefusingChain("shorewall forward", "forward", (4,), "it says so", self.tool, inward=frozenset({"br-web"}))
        ]

    def knows(self, wanted: Sequence[Wanted]) -> bool:
        return LINK in wanted

    def advice(self, chain: RefusingChain, guests: Guests) -> str:
        return f"shorewall allow {guests.device}"


@pytest.fixture
def shorewall(monkeypatch: pytest.MonkeyPatch) -> Shorewall:
    """On a host on which there is nothing else."""
    found = Shorewall()
    monkeypatch.setattr(registry, "ALL", (*registry.ALL, found))
    monkeypatch.setattr(base_chains, "items", lambda *_: [])
    monkeypatch.setattr(iptables, "legacy", dict)
    for each in registry.ALL[:-1]:
        monkeypatch.setattr(each, "missing", lambda _wanted: [])
        monkeypatch.setattr(each, "arrange", lambda _change: [])
    return found


@pytest.mark.usefixtures("shorewall")
def test_one_that_is_registered_is_asked_for_everything() -> None:
    assert registry.arrange(Change([LINK], ["192.0.2.8"], None, lambda _: "g")) == ["shorewall: g", "gone 192.0.2.8"]
    assert registry.missing([LINK]) == ["shorewall's rules"]
    assert registry.sources([LINK]) == ["192.0.2.7"]
    assert [chain.ours for wanted in ([], [LINK]) for chain in registry.survey(wanted)] == [False, True]
    assert registry.managed(registry.survey([])) == ("shorewall",)
    with pytest.raises(GuestnetError, match="shorewall"):
        registry.check([LINK])


@pytest.mark.usefixtures("shorewall")
def test_doctor_gives_its_advice() -> None:
    facts = HostFacts(chains=tuple(registry.survey([])), networks=(NetworkFacts("web", "br-web", "nat", reached=True),))
    (row,) = [row for row in judge(facts) if row.check == "firewall" and row.level == "must"]
    assert (row.about, row.do) == ("shorewall forward", "shorewall allow br-web")


def test_a_tenant_of_iptables_is_told_by_its_rules_and_our_last_jump_stands_before_its_reject() -> None:
    mine = Iptables((Shorewall(),))
    rules = ["-P FORWARD ACCEPT", "-N dynamic", "-A FORWARD -j dynamic", "-A FORWARD -j reject-all"]
    assert "-I FORWARD 2 -j GUESTNET-ROUTED" in mine._plan([LINK], rules)
    (chain,) = mine.chains("iptables", ["-P FORWARD DROP", "-N dynamic"])
    assert chain.tool == "shorewall"


@pytest.mark.parametrize("refuses", [True, False])
def test_a_tenant_of_nftables_is_told_by_its_table(monkeypatch: pytest.MonkeyPatch, refuses: bool) -> None:
    base = {"family": "inet", "table": "shorewall", "name": "f", "hook": "forward", "policy": "drop"}
    ours, theirs = {**base, "table": "guestnet"}, {**base, "family": "ip", "table": "filter", "name": "FORWARD"}
    listed: list[tuple[str, dict[str, Any]]] = [("chain", each) for each in (base, ours, theirs)]
    for module in (base_chains, nftables):
        monkeypatch.setattr(module, "items", lambda *what: listed if what == ("chains",) else [])
    tenant = Shorewall()
    monkeypatch.setattr(tenant, "refuses_others", refuses)
    found = [(chain.tool, chain.name) for chain in Nftables((tenant,)).survey()]
    assert found == ([("shorewall", "inet shorewall f")] if refuses else [])


def test_every_one_has_a_name_of_its_own_and_advice_for_its_chains() -> None:
    tools = [each.tool for each in registry.surveyed()]
    assert len(set(tools)) == len(tools) == 6
    chain = RefusingChain("ip6tables FORWARD", "forward", (6,), "its policy is DROP")
    advised = {tool for tool in tools if registry.advice(chain._replace(tool=tool), Guests("br-web"))}
    assert advised == set(tools) - {"libvirt"}, "libvirt's tables are surveyed by nobody"


def test_what_iptables_legacy_has_is_surveyed_beside_what_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"-V": "iptables v1.8.9 (nf_tables)", "-S": "-P FORWARD DROP\n"}
    asked: list[str] = []

    def run(argv: list[str], _package: str) -> str:
        asked.append(argv[0])
        return said[argv[-1]]

    monkeypatch.setattr(iptables.program, "said", run)
    monkeypatch.setattr(iptables, "legacy", lambda: {"ip": ["filter"], "ip6": ["nat"]})
    monkeypatch.setattr(base_chains, "base_chains", lambda: [{"family": "ip", "table": "filter", "name": "FORWARD"}])
    found = [(chain.name, chain.ours) for chain in registry.IPTABLES.survey()]
    assert found == [("iptables FORWARD", True), ("iptables-legacy FORWARD", False)]
    assert asked == ["iptables", "iptables", "iptables", "iptables-legacy"]
