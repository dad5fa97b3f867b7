"""The VLANs that the XML on a hook's stdin wants for taps: pure reading, no effects."""

from __future__ import annotations

from libvirt_guestnet import parse
from libvirt_guestnet.datapath.devices.vlan_bridge import TapVlans
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.read import values
from libvirt_guestnet.hook.read.values import NetworkOf, attribute, number, tap_of
from libvirt_guestnet.hook.read.xmlread import Node
from libvirt_guestnet.model.metadata import NAMESPACE


def tap_vlans(domain: Node, network_of: NetworkOf) -> list[TapVlans]:
    """The VLANs of a domain's taps: a port's own, libvirt's <vlan>, or those of its network; none for the others.

    Raises GuestnetError on anything that cannot be carried out.
    """
    own = values.Policies(domain)
    found = (_tap_vlans(domain, nic, own, network_of) for nic in domain.all("devices/interface"))
    return [each for each in found if each]


def _tap_vlans(domain: Node, nic: Node, own: values.Policies, network_of: NetworkOf) -> TapVlans | None:
    mac, name = attribute(nic, "mac", "address").lower(), attribute(nic, "source", "network")
    network, policy = network_of(name) if name else None, own.of(nic)
    if attribute(nic, "virtualport", "type") == "openvswitch":
        return None  # libvirt itself tells Open vSwitch
    if network is None and (policy is None or policy.one(f"{NAMESPACE} vlan", "|") is None):
        return None  # nothing of ours
    pvid, tagged = vlans(nic, policy) or (network.vlan if network else 0, ())
    if not (pvid or tagged):
        return None
    return TapVlans(
        tap=tap_of(domain, nic, mac),
        uuid=domain.text_of("uuid"),
        bridge=parse.device(attribute(nic, "source", "bridge") or (network.bridge if network else "")),
        uplink=network.vlan_uplink if network else "",
        pvid=pvid,
        tagged=tagged,
        domain=domain.text_of("name"),
    )


Vlans = tuple[int, tuple[tuple[int, int], ...]]


def vlans(nic: Node, policy: Node | None) -> Vlans | None:
    """The VLAN of the NIC's untagged frames (0: none) and its tagged ones, where they are not those of its network."""
    ours, libvirts = policy.one(f"{NAMESPACE} vlan", "|") if policy else None, nic.one("vlan")
    if ours is not None:
        return _own_vlans(ours)
    return _libvirts_vlans(libvirts) if libvirts is not None else None


def _own_vlans(policy: Node) -> Vlans:
    if policy.get("tag"):
        return number(policy, "tag", 4094), ()
    native = number(policy, "native", 4094) if policy.get("native") else 0
    return native, tuple(map(_range, policy.get("trunk").split(",")))


def _range(text: str) -> tuple[int, int]:
    try:
        return parse.span(text, 1, 4094)
    except parse.TextError as error:
        raise GuestnetError(f"metadata: {parse.shown(text)} is neither a VLAN nor a range of them") from error


def _libvirts_vlans(vlan: Node) -> Vlans:
    """libvirt 11 tags the tap itself, but leaves the uplink, and a default PVID other than 1, as they are."""
    tags = list(vlan.all("tag"))
    trunk = vlan.get("trunk") == "yes" or len(tags) > 1
    native = [tag for tag in tags if not trunk or tag.get("nativeMode")]
    tagged = [tag for tag in tags if trunk and tag.get("nativeMode") != "untagged"]
    ids = [number(tag, "id", 4094) for tag in tagged]
    return (number(native[0], "id", 4094) if native else 0), tuple((vid, vid) for vid in ids)
