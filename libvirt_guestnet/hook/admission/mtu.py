"""Whether a NIC's MTU fits through the port that connects its bridge to other hosts. A bridge drops larger frames
silently: there is no counter, and no ICMP error for the guest, as a router would send."""

from __future__ import annotations

from libvirt_guestnet import parse
from libvirt_guestnet.errors import NotAdmittedError
from libvirt_guestnet.hook.read.domain import Domain
from libvirt_guestnet.state.folder import State


def check(domain: Domain, state: State) -> None:
    """Raises NotAdmittedError for the first NIC whose MTU is too large, of those that their domain or network declares
    to us: nobody else's guest is held up on an adopted network, or by this host's default."""
    found = [nic for nic in domain.nics if nic.mtu and nic.bridge]
    wide = [nic for nic in found if nic.is_declared]
    if not wide:
        return
    from libvirt_guestnet.datapath.devices import host_devices

    for nic in wide:
        bridge, size = parse.device(nic.bridge), parse.number(nic.mtu, 1, 65535)
        outlet = host_devices.outlet(bridge, outlets(bridge, state))
        if outlet and size > outlet.mtu:
            why = host_devices.too_wide(size, outlet, bridge)
            raise NotAdmittedError(f"domain {domain.name!r}: interface {nic.mac}: {why}")


def outlets(bridge: str, state: State) -> set[str]:
    """The ports that connect a bridge to other hosts, as far as the hooks know."""
    networks = [each for each in state.networks() if each.bridge == bridge]
    return {port for each in networks for port in (each.uplink, each.overlay, each.vlan_uplink)} - {""}
