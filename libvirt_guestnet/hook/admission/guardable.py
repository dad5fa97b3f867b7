"""Whether a domain may have its NICs, by what its networks and this host require, whatever its metadata says. Checked
before it runs or gets the NIC; a domain that runs already is not refused, but guarded as far as possible."""

from __future__ import annotations

from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.errors import NotAdmittedError
from libvirt_guestnet.hook.read import hostwide, nics
from libvirt_guestnet.hook.read.domain import Domain, Nic
from libvirt_guestnet.metadata.policy import OBSERVE


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
    """Checks PCI devices that are passed through: one of them may be a NIC's function."""
    kind = nics.of("hostdev")
    for address in domain.pci_devices():
        if name := nics.pci_nic(address):
            raise NotAdmittedError(_refused(f"domain {domain.name!r}: PCI device {name}", kind.type, kind))


def _check(domain: Domain, nic: Nic, refuse: bool) -> None:
    lowered, where = _lowered(nic), f"domain {domain.name!r}: interface {nic.mac}"
    _check_spanning_tree(nic, where)
    if nic.has_tap and not lowered:
        return
    if nic.receipt is not None and nic.receipt.required:
        insists = f"network {nic.network!r} insists on guarded ports"
        if nic.has_tap:
            said = f'the domain\'s metadata says guarded="{lowered}"'
            raise NotAdmittedError(f"{where}: {insists}, and {said}: take that out")
        raise NotAdmittedError(f"{where}: {insists}, and type {nic.type!r} cannot be: {nics.because(nic.kind)}")
    if nic.kind.guarded == nics.NO and refuse:
        raise NotAdmittedError(_refused(where, nic.type, nic.kind))


def _check_spanning_tree(nic: Nic, where: str) -> None:
    """A bridge that takes part in the spanning tree protocol would believe a guest that speaks it, too."""
    if nic.policy is None or "stp" not in nic.policy.roles or not nic.is_guarded:
        return
    bridge = nic.bridge_of_network
    if links.runs_spanning_tree(bridge):
        raise NotAdmittedError(
            f"{where}: its role stp lets it speak the spanning tree protocol, in which bridge {bridge} takes part: "
            f"switch that off (ip link set {bridge} type bridge stp_state 0), or take the role out"
        )


def _lowered(nic: Nic) -> str:
    """What the domain's own metadata says that is less than guarded, or ""."""
    if nic.policy is None or (nic.policy.guarded and not nic.policy.observed):
        return ""
    return OBSERVE if nic.policy.observed else "no"


def _refused(where: str, nic_type: str, kind: nics.Kind) -> str:
    setting = "`unguardable: refuse` in /etc/libvirt-guestnet/host.yaml"
    return (
        f"{where}: type {nic_type!r} cannot be guarded, and this host refuses what cannot ({setting}): "
        f"{nics.because(kind)}"
    )


def without_unguardable(domain: Domain) -> tuple[Domain, list[str]]:
    """A running domain without the NICs that cannot be guarded, so that its other NICs can be; and messages about those
    of them that should be guarded."""
    aside = [nic for nic in domain.nics if not nic.has_tap]
    wrong = [
        f"interface {n.mac}: type {n.type!r} has no tap to guard: {nics.because(n.kind)}"
        for n in aside
        if n.is_guarded and not n.is_observed
    ]
    return domain.without(aside), wrong
