"""The impairments that a domain's XML wants for its taps: pure reading, no effects."""

from __future__ import annotations

from libvirt_guestnet.hook.read.domain import Domain
from libvirt_guestnet.state.receipts import ImpairedTap


def impaired_taps(domain: Domain) -> list[ImpairedTap]:
    """Those taps of a domain that have any. A NIC without a tap has none: `without_tap` names it."""
    return [
        ImpairedTap(nic.tap, domain.uuid, domain.name, 0, *nic.policy.impairment)
        for nic in domain.nics
        if nic.has_tap and nic.tap and nic.policy and nic.policy.impairment
    ]


def without_tap(domain: Domain) -> list[str]:
    """A message about each NIC that is to be impaired and cannot be."""
    nics = (nic for nic in domain.nics if not nic.has_tap and nic.policy and nic.policy.impairment)
    return [f"interface {nic.mac} is not impaired: type {nic.type!r} has no tap" for nic in nics]
