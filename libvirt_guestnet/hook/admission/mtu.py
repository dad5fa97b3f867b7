"""Whether what a NIC may send fits through the port by which its bridge leads outside: a bridge drops what does not
without a word and without a counter, and no ICMP error tells the guest, as a router's would."""

from __future__ import annotations

from libvirt_guestnet import parse
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.read.domain import Domain
from libvirt_guestnet.state.folder import State


def check(domain: Domain, state: State) -> None:
    """Raises GuestnetError for the first NIC of ours that is too wide."""
    wide = [nic for nic in domain.nics if nic.mtu and nic.bridge and (nic.policy is not None or nic.receipt)]
    if not wide:
        return
    from libvirt_guestnet.datapath.devices import host_devices

    for nic in wide:
        bridge, size = parse.device(nic.bridge), parse.number(nic.mtu, 1, 65535)
        outlet = host_devices.outlet(bridge, outlets(bridge, state))
        if outlet and size > outlet.mtu:
            why = host_devices.too_wide(size, outlet, bridge)
            raise GuestnetError(f"domain {domain.name!r}: interface {nic.mac}: {why}")


def outlets(bridge: str, state: State) -> set[str]:
    """The ports by which a bridge leads outside, as far as the hooks know."""
    networks = [each for each in state.networks() if each.bridge == bridge]
    return {port for each in networks for port in (each.uplink, each.overlay, each.vlan_uplink)} - {""}
