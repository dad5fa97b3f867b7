"""From what is to be set to what libvirt must have: the metadata of domains, and that of the networks of libvirt's that
their ports are on. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property

from libvirt_guestnet.direct.guard import needed
from libvirt_guestnet.direct.subject import network_policy, unguarded
from libvirt_guestnet.hook.read.hostwide import DECLARED
from libvirt_guestnet.importing.places import Known, all_nics, of_nic, places
from libvirt_guestnet.libvirtd.nics import interfaces, mac, tap
from libvirt_guestnet.libvirtd.snapshot import (
    DomainState,
    Element,
    Snapshot,
    Wanted,
    WantedExternal,
    WantedGuest,
    parse_xml,
)
from libvirt_guestnet.metadata import writer
from libvirt_guestnet.metadata.elements import port_policies
from libvirt_guestnet.metadata.policy import DomainPolicy, NetworkPolicy, PortPolicy
from libvirt_guestnet.model.topology import DIRECT

Policies = tuple[PortPolicy, ...]


@dataclass(frozen=True)
class Setting:
    """What is to be: the policies of whole domains, and how networks guard the ports that have none ("yes", "observe",
    "no"); `by_host` is this host's default."""

    snapshot: Snapshot
    policies: Mapping[str, Policies] = field(default_factory=dict)
    guards: Mapping[str, str] = field(default_factory=dict)
    by_host: str = DECLARED

    def wanted(self) -> Wanted:
        """What libvirt must have for it."""
        domains = [self.snapshot.domain[name] for name in self._domains]
        staying = [state for state in domains if self._domains[state.name]]
        networks = [self.snapshot.network[name] for name in sorted(self._networks(domains))]
        kept = [state for state in networks if self._is_needed(state.name)]
        gone = {("domain", state.name) for state in domains if state not in staying}
        return Wanted(
            topology=DIRECT,
            guests=tuple(_guest(state, self._domains[state.name]) for state in staying),
            externals=tuple(WantedExternal(s.name, writer.network_element(self._policy(s.name))) for s in kept),
            leaving=frozenset(gone | {("network", state.name) for state in networks if state not in kept}),
        )

    @cached_property
    def _domains(self) -> dict[str, Policies]:
        """The policies of the domains, also of those that only said that they are not guarded on a network that guarded
        all and does so no more. Where this host guards everybody, they say it still."""
        freed = {name for name, guard in self.guards.items() if guard == "no" and self.by_host == DECLARED}
        found = dict(self.policies)
        for state in self.snapshot.domains if freed else ():
            before = found.get(state.name, self._said(state))
            on = _places(state)
            after = tuple(p for p in before if on.get(p.mac) not in freed or needed(p, unguarded(p)) is not None)
            if after != before:
                found[state.name] = after
        return found

    def _said(self, state: DomainState) -> Policies:
        """What is set for a domain that the setting is not about."""
        return tuple(port_policies(state.mark)) if state.topology == DIRECT and not state.is_copy else ()

    def _networks(self, domains: list[DomainState]) -> set[str]:
        """The networks whose metadata may change."""
        found = set(self.guards)
        for state in domains:
            macs = {policy.mac for policy in (*self._domains[state.name], *self._said(state))}
            found |= {name for address, name in _places(state).items() if address in macs}
        return {name for name in found if ("network", name) in self._known}

    @cached_property
    def _known(self) -> dict[tuple[str, str], Known]:
        return places(self.snapshot, DIRECT).known

    def _is_needed(self, network: str) -> bool:
        """Whether the hooks must know the network: it guards ports itself, or a port on it has a policy."""
        return self._policy(network).guarded != "no" or any(self._ports(network))

    def _ports(self, network: str) -> Iterator[tuple[DomainState, PortPolicy]]:
        for state in self.snapshot.domains:
            on = _places(state)
            for policy in self._domains.get(state.name, self._said(state)):
                if on.get(policy.mac) == network:
                    yield state, policy

    def _policy(self, network: str) -> NetworkPolicy:
        policy = network_policy(self.snapshot.network[network])
        return policy._replace(guarded=self.guards.get(network, policy.guarded))


def _places(state: DomainState) -> dict[str, str]:
    """The network of libvirt's that each NIC is on, by MAC address."""
    found = {mac(nic): place for nic in all_nics(state) if (place := of_nic(nic))}
    return {address: name for address, (kind, name) in found.items() if kind == "network"}


def _guest(state: DomainState, policies: Policies) -> WantedGuest:
    """The domain with exactly the NICs that it has."""
    live, config = interfaces(state.live), interfaces(state.config)
    nics = {**live, **config}
    kept = [policy.mac for policy in policies if policy.mac in nics]
    return WantedGuest(
        name=state.name,
        interfaces=tuple(_nic(nics[address], live.get(address)) for address in kept),
        metadata=writer.domain_element(DomainPolicy(DIRECT, state.name, "", policies)),
        kept=frozenset(kept),
    )


def _nic(nic: Element, live: Element | None) -> Element:
    """Where a NIC is, of which nothing changes, with its tap, or while it has none a name that a tap could have."""
    result = deepcopy(nic)
    for child in list(result):
        if child.tag not in ("mac", "source"):
            result.remove(child)
    device = (None if live is None else tap(live)) or f"vme{mac(nic).replace(':', '')[-8:]}"
    target = parse_xml("<target/>")
    target.set("dev", device)
    result.append(target)
    return result
