"""Forwards and floating addresses that a domain's XML asks for: pure reading, no effects."""

from __future__ import annotations

from libvirt_guestnet import parse
from libvirt_guestnet.datapath.run.names import check_device
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.read.domain import Domain, Nic
from libvirt_guestnet.metadata.policy import FloatingAddress, Forward, PortPolicy
from libvirt_guestnet.model.claims import MOST_MOVED
from libvirt_guestnet.state.receipts import Floating, ForwardRule, PortForwards

# Of one domain: what nft keeps an element for. All guests' forwards are written in one transaction, which all wait for.
_MOST_OF_ALL = 4 * MOST_MOVED


def port_forwards(domain: Domain) -> list[PortForwards]:
    """Those of a domain's ports that have any. Raises GuestnetError on what cannot be carried out."""
    found = [each for nic in domain.nics if (each := _port_forwards(domain, nic))]
    moved = sum(f.last - f.first + 1 for each in found for f in each.forwards if f.first != f.to_first)
    if moved > _MOST_OF_ALL:
        raise GuestnetError(f"metadata: the forwards of one domain may move {_MOST_OF_ALL} ports at most, not {moved}")
    clients = sum(len(f.sources) for each in found for f in each.forwards)
    if clients > _MOST_OF_ALL:
        raise GuestnetError(
            f"metadata: the forwards of one domain may list {_MOST_OF_ALL} prefixes of clients at most, not {clients}"
        )
    return found


def _port_forwards(domain: Domain, nic: Nic) -> PortForwards | None:
    policy = nic.policy
    if policy is None or not (policy.forwards or policy.floating):
        return None
    return PortForwards(
        tap=nic.checked_tap(),
        mac=nic.mac,
        uuid=domain.uuid,
        domain=domain.name,
        bridge=_device(nic, policy),
        forwards=tuple(map(rule, policy.forwards)),
        floating=tuple(map(_floating, policy.floating)),
    )


def _device(nic: Nic, policy: PortPolicy) -> str:
    """What leads to the guest: its bridge, or the tap that the host routes to. Raises GuestnetError."""
    if policy.routed is None:
        return check_device(nic.bridge_of_network)
    if policy.floating:
        raise GuestnetError(f"interface {policy.mac}: metadata: a host-routed port has its addresses itself")
    if policy.routed.vrf or policy.routed.table:
        raise GuestnetError(f"interface {policy.mac}: metadata: the host forwards by its main table, not to others")
    return nic.checked_tap()


def rule(f: Forward) -> ForwardRule:
    """What the kernel is to do for a forward."""
    sources = tuple(map(str, parse.fewest(f.sources)))
    return ForwardRule(f.protocol, f.first, f.last, f.to, f.to_first, f.at, f.hide, sources)


def _floating(requested: FloatingAddress) -> Floating:
    ip = str(requested.ip)
    return Floating(ip, ip, str(requested.via)) if requested.via else Floating(ip, str(requested.to))
