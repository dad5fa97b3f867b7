"""The VLANs that a domain's XML wants for its taps: pure reading, no effects."""

from __future__ import annotations

from libvirt_guestnet import parse
from libvirt_guestnet.hook.read.domain import Domain, Nic
from libvirt_guestnet.metadata.policy import Vlans
from libvirt_guestnet.state.receipts import TapVlans


def tap_vlans(domain: Domain) -> list[TapVlans]:
    """The VLANs of a domain's taps: a port's own, libvirt's <vlan>, or those of its network; none for the others.

    Raises GuestnetError on anything that cannot be carried out.
    """
    return [found for nic in domain.nics if (found := _tap_vlans(domain, nic))]


def _tap_vlans(domain: Domain, nic: Nic) -> TapVlans | None:
    if nic.virtualport == "openvswitch":
        return None  # libvirt itself configures Open vSwitch
    network, policy = nic.receipt, nic.policy
    network = None if network is None or network.undeclared else network
    if network is None and (policy is None or policy.vlans is None):
        return None  # nothing of ours
    vlans = nic.vlans or Vlans(network.vlan if network else 0)
    if vlans == Vlans():
        return None
    return TapVlans(
        tap=nic.checked_tap(),
        uuid=domain.uuid,
        bridge=parse.device(nic.bridge_of_network),
        uplink=network.vlan_uplink if network else "",
        pvid=vlans.untagged,
        tagged=vlans.tagged,
        domain=domain.name,
    )
