"""Whether a domain may have the NICs that it has: what its networks and this host insist on, whatever its own metadata
says. Asked where a refusal helps, before it runs or has the NIC; who runs already is guarded as far as that goes."""

from __future__ import annotations

from libvirt_guestnet.errors import NotAdmittedError
from libvirt_guestnet.hook.read import hostwide, nics
from libvirt_guestnet.hook.read.domain import Domain, Nic


def check(domain: Domain, refuse: bool | None = None) -> None:
    """Raises NotAdmittedError for the first NIC that is not to be. `refuse`: whether this host refuses what cannot be
    guarded, as hooks.json says unless given."""
    refuse = _host_refuses() if refuse is None else refuse
    for nic in domain.nics:
        _check(domain, nic, refuse)
    if refuse:
        _check_devices(domain)


def _host_refuses() -> bool:
    return hostwide.read().unguardable == hostwide.REFUSE


def _check_devices(domain: Domain) -> None:
    """A NIC's function that is given as any PCI device is a NIC all the same."""
    kind = nics.of("hostdev")
    for address in domain.pci_devices():
        if name := nics.pci_nic(address):
            raise NotAdmittedError(_refused(f"domain {domain.name!r}: PCI device {name}", kind.type, kind))


def _check(domain: Domain, nic: Nic, refuse: bool) -> None:
    lowered = nic.policy is not None and not nic.policy.guarded
    if nic.has_tap and not lowered:
        return
    where = f"domain {domain.name!r}: interface {nic.mac}"
    if nic.receipt is not None and nic.receipt.required:
        insists = f"network {nic.network!r} insists on guarded ports"
        if nic.has_tap:
            raise NotAdmittedError(f'{where}: {insists}, and the domain\'s metadata says guarded="no": take that out')
        raise NotAdmittedError(f"{where}: {insists}, and type {nic.type!r} cannot be: {nics.because(nic.kind)}")
    if nic.kind.guarded == nics.NO and refuse:
        raise NotAdmittedError(_refused(where, nic.type, nic.kind))


def _refused(where: str, nic_type: str, kind: nics.Kind) -> str:
    setting = "`unguardable: refuse` in /etc/libvirt-guestnet/host.yaml"
    return (
        f"{where}: type {nic_type!r} cannot be guarded, and this host refuses what cannot ({setting}): "
        f"{nics.because(kind)}"
    )


def without_unguardable(domain: Domain) -> tuple[Domain, list[str]]:
    """A running domain without the NICs that cannot be guarded, so that they do not keep its others from being guarded;
    and what is wrong with those that are to be guarded."""
    aside = [nic for nic in domain.nics if not nic.has_tap]
    wrong = [
        f"interface {n.mac}: type {n.type!r} has no tap to guard: {nics.because(n.kind)}" for n in aside if n.is_guarded
    ]
    return domain.without(aside), wrong
