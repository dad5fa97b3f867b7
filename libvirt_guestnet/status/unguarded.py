"""NICs of running domains that cannot be guarded, or are not yet: of any domain, with our mark or without."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass

from libvirt_guestnet.hook.read import nics
from libvirt_guestnet.hook.read.hostwide import NOTHING_REQUIRED, REFUSE, HostWide
from libvirt_guestnet.libvirtd.nics import interfaces, mac, source_network, tap
from libvirt_guestnet.libvirtd.snapshot import DomainState, Element
from libvirt_guestnet.metadata.policy import PortPolicy
from libvirt_guestnet.state.receipts import NetworkReceipt, Plugging
from libvirt_guestnet.status.nic_states import CANNOT, UNGUARDED

PENDING = "its tap had not come when its plug helper gave up, or the helper was ended"


@dataclass(frozen=True)
class UnguardedRow:
    """One NIC, by its MAC address (a bare <hostdev> by its PCI address). `type` is libvirt's, in the live XML; `reason`
    says why it is not guarded, `instead` what to do. `refused`: its network, its domain's metadata or this host insists
    on a guard all the same. `device` is its own on the host, "" if it has none or it is not known. `state` is one of
    the words in `nic_states`."""

    topology: str
    guest: str
    mac: str
    type: str
    network: str
    reason: str
    instead: str
    refused: bool
    device: str = ""
    state: str = CANNOT

    def json(self) -> dict[str, object]:
        return {"kind": "unguarded", **asdict(self)}


def unguarded_rows(
    domains: Iterable[DomainState],
    networks: Mapping[str, NetworkReceipt],
    host: HostWide = NOTHING_REQUIRED,
    plugging: Iterable[Plugging] = (),
) -> list[UnguardedRow]:
    """A row for every NIC that cannot be guarded, and for every one that waits for it. `networks` are those that the
    hooks know."""
    running = [domain for domain in domains if domain.live is not None]
    rows = [
        row for domain in running for row in (*_unguardable(domain, networks, host), *_passed_through(domain, host))
    ]
    by_uuid = {domain.uuid: domain for domain in running}
    return rows + [_pending(by_uuid[mark.uuid], mark) for mark in plugging if mark.uuid in by_uuid]


def _unguardable(domain: DomainState, networks: Mapping[str, NetworkReceipt], host: HostWide) -> Iterator[UnguardedRow]:
    live = domain.live
    if live is None:
        return
    policies = {port.mac: port for port in domain.policies}
    meant = interfaces(live, domain.marked_networks)
    for interface in live.iterfind("devices/interface"):
        kind = nics.of(interface.get("type", ""), tap(interface) or "")
        if kind.guarded == nics.NO:
            address, network = mac(interface), source_network(interface) or ""
            policy = policies.get(address) if interface is meant[address] else None
            refused = host.unguardable == REFUSE or _is_wanted(policy, networks.get(network))
            yield UnguardedRow(
                topology=domain.topology or "",
                guest=domain.name,
                mac=address,
                type=_type(interface),
                network=network,
                reason=kind.why,
                instead=kind.instead,
                refused=refused,
                device=tap(interface) or "",
            )


def _passed_through(domain: DomainState, host: HostWide) -> Iterator[UnguardedRow]:
    """NICs that are passed through as PCI devices, with their PCI address in the place of a MAC address."""
    kind = nics.of("hostdev")
    for address in () if domain.live is None else domain.live.iterfind("devices/hostdev/source/address"):
        if name := nics.pci_nic({str(key): str(value) for key, value in address.attrib.items()}):
            refused = host.unguardable == REFUSE
            yield UnguardedRow(domain.topology or "", domain.name, name, kind.type, "", kind.why, kind.instead, refused)


def _is_wanted(policy: PortPolicy | None, network: NetworkReceipt | None) -> bool:
    if network is not None and network.required:
        return True
    found = network if policy is None else policy
    return found is not None and found.guarded and not found.observed


def _type(interface: Element) -> str:
    """The type, with the mode of a macvtap device."""
    source, name = interface.find("source"), interface.get("type", "")
    mode = source.get("mode") if source is not None else None
    return f"{name} {mode}" if mode else name


def _pending(domain: DomainState, mark: Plugging) -> UnguardedRow:
    do = "nothing, where libvirt-guestnet.service runs; else `guestnet hooks sync`"
    place = domain.topology or "", domain.name, mark.mac
    return UnguardedRow(*place, "network", mark.network, PENDING, do, True, state=UNGUARDED)
