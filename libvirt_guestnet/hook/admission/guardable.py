"""Whether a domain may have the NICs that it has: what its networks and this host insist on, whatever its own metadata
says. Asked where a refusal helps, before it runs or has the NIC; who runs already is guarded as far as that goes."""

from __future__ import annotations

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.enforce import bridge_guard
from libvirt_guestnet.hook.read import hostwide, nics, port_policy, values
from libvirt_guestnet.hook.read.values import attribute
from libvirt_guestnet.hook.read.xmlread import Node
from libvirt_guestnet.state.folder import State
from libvirt_guestnet.state.receipts import NetworkReceipt


def check(domain: Node, state: State, refuse: bool | None = None) -> None:
    """Raises GuestnetError for the first NIC that is not to be. `refuse`: whether this host refuses what cannot be
    guarded, as hooks.json says unless given."""
    bridge_guard.name_networks(domain, state)
    refuse = _host_refuses() if refuse is None else refuse
    policies = values.Policies(domain)
    for nic in domain.all("devices/interface"):
        _check(domain, nic, policies, state, refuse)
    if refuse:
        _check_devices(domain)


def _host_refuses() -> bool:
    return hostwide.read().unguardable == hostwide.REFUSE


def _check_devices(domain: Node) -> None:
    """A NIC's function that is given as any PCI device is a NIC all the same."""
    kind = nics.of("hostdev")
    for address in domain.all("devices/hostdev/source/address"):
        if name := nics.pci_nic(address.attributes):
            raise GuestnetError(_refused(f"domain {domain.text_of('name')!r}: PCI device {name}", kind.type, kind))


def _check(domain: Node, nic: Node, policies: values.Policies, state: State, refuse: bool) -> None:
    kind, mac, policy = _kind(nic), values.mac_of(nic), policies.of(nic)
    lowered = policy is not None and policy.get("guarded") == "no"
    if kind.guarded == nics.YES and not lowered:
        return
    where, name = f"domain {domain.text_of('name')!r}: interface {mac}", attribute(nic, "source", "network")
    network = state.network(name) if name else None
    if network is not None and network.required:
        insists = f"network {name!r} insists on guarded ports"
        if kind.guarded == nics.YES:
            raise GuestnetError(f'{where}: {insists}, and the domain\'s metadata says guarded="no": take that out')
        raise GuestnetError(f"{where}: {insists}, and type {nic.get('type')!r} cannot be: {nics.because(kind)}")
    if kind.guarded == nics.NO and refuse:
        raise GuestnetError(_refused(where, nic.get("type"), kind))


def _refused(where: str, nic_type: str, kind: nics.Kind) -> str:
    setting = "`unguardable: refuse` in /etc/libvirt-guestnet/host.yaml"
    return (
        f"{where}: type {nic_type!r} cannot be guarded, and this host refuses what cannot ({setting}): "
        f"{nics.because(kind)}"
    )


def set_aside(domain: Node, state: State) -> list[str]:
    """Takes the NICs that cannot be guarded out of what a hook would see of a running domain, so that they do not keep
    its others from being guarded; what is wrong with those that are to be guarded."""
    bridge_guard.name_networks(domain, state)
    policies, wrong = values.Policies(domain), []
    for devices in domain.all("devices"):
        aside = [c for c in devices.children if c.tag == "interface" and _kind(c).guarded != nics.YES]
        devices.children = [child for child in devices.children if child not in aside]
        wrong += [_wrong(nic) for nic in aside if port_policy.is_guarded(*_wanted(nic, policies, state))]
    return wrong


def _wanted(nic: Node, policies: values.Policies, state: State) -> tuple[Node | None, NetworkReceipt | None]:
    name = attribute(nic, "source", "network")
    return policies.of(nic), state.network(name) if name else None


def _wrong(nic: Node) -> str:
    mac, kind = attribute(nic, "mac", "address").lower(), _kind(nic)
    return f"interface {mac}: type {nic.get('type')!r} has no tap to guard: {nics.because(kind)}"


def _kind(nic: Node) -> nics.Kind:
    return nics.of(nic.get("type"), attribute(nic, "target", "dev"))
