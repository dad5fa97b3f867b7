"""Whether what a NIC may send fits through the port by which its bridge leads outside: a bridge drops what does not
without a word and without a counter, and no ICMP error tells the guest, as a router's would."""

from __future__ import annotations

from libvirt_guestnet import parse
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.read import values
from libvirt_guestnet.hook.read.values import attribute
from libvirt_guestnet.hook.read.xmlread import Node
from libvirt_guestnet.state.folder import State


def check(domain: Node, state: State) -> None:
    """Raises GuestnetError for the first NIC of ours that is too wide."""
    wide = [nic for nic in domain.all("devices/interface") if nic.one("mtu") and attribute(nic, "source", "bridge")]
    if not wide:
        return
    from libvirt_guestnet.datapath.devices import host_devices

    policies, name = values.Policies(domain), domain.text_of("name")
    for nic in wide:
        mac, network = attribute(nic, "mac", "address").lower(), attribute(nic, "source", "network")
        if policies.of(nic) is None and not (network and state.network(network)):
            continue
        bridge = parse.device(attribute(nic, "source", "bridge"))
        size = parse.number(attribute(nic, "mtu", "size"), 1, 65535)
        outlet = host_devices.outlet(bridge, outlets(bridge, state))
        if outlet and size > outlet.mtu:
            raise GuestnetError(f"domain {name!r}: interface {mac}: {host_devices.too_wide(size, outlet, bridge)}")


def outlets(bridge: str, state: State) -> set[str]:
    """The ports by which a bridge leads outside, as far as the hooks know."""
    mine = [each for each in state.networks() if each.bridge == bridge]
    return {port for each in mine for port in (each.uplink, each.overlay, each.vlan_uplink)} - {""}
