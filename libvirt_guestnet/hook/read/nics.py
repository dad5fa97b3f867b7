"""Which NICs of libvirt's can be guarded, and why others cannot: the one table, which docs/unguarded.md shows.

A guard is a chain at the ingress of a tap, so there has to be a tap that all frames of the guest pass.
"""

from __future__ import annotations

from collections.abc import Mapping

from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.light_typing import NamedTuple
from libvirt_guestnet.xmlread import Node

# Kinds that can be guarded, that cannot, and that need no guard, since nothing receives what they send.
YES, NO, NOTHING = "yes", "no", "nothing to guard"


class Kind(NamedTuple):
    """One kind of NIC: its `type` in libvirt's <interface>; `what` distinguishes kinds of one type; `modes` are the
    forward modes of networks with such NICs; whether it can be `guarded`, `why`, and what to use `instead`."""

    type: str
    what: str
    guarded: str
    why: str
    instead: str = ""
    modes: tuple[str, ...] = ()


_OWN, _MACVTAPS = ("", "nat", "route", "open"), ("private", "vepa", "passthrough")
_MACVTAP = "a macvtap device hands the guest's frames straight to the NIC below: no bridge, and no tap with an ingress"
_PCI = "the guest drives a function of the NIC itself: the host sees none of its frames"
_SHARED = "its frames are in memory that it shares with another program: the kernel does not see them"
_SOCKETS = "a program makes connections of its own of the guest's packets, as the host: no frame of it leaves"
_TUNNEL = "QEMU packs the guest's frames into packets of its own, to another program"
_PORT = "a port of type network"
_LABEL = f"a network of mode bridge over that NIC, and {_PORT}"
_SPOOFCHK = f"the NIC's own check (ip link set NIC vf N spoofchk on), which knows MAC addresses only; or {_LABEL}"
_INSIDE = f"a network of mode isolated (between hosts, one with vxlan), and {_PORT}"

TABLE = (
    Kind("network", "nat, route, open or no forward", YES, "its tap is in libvirt's own bridge", "", _OWN),
    Kind("network", "forward mode bridge with a bridge", YES, "its tap is in that bridge", "", ("bridge",)),
    Kind("network", "forward mode vepa, private, passthrough, or bridge with NICs", NO, _MACVTAP, _LABEL, _MACVTAPS),
    Kind("network", "forward mode hostdev", NO, _PCI, _LABEL, ("hostdev",)),
    Kind("bridge", "a bridge of Linux or Open vSwitch", YES, "its tap is in that bridge"),
    Kind("ethernet", "a tap", YES, "it is a tap; a macvtap device in its place counts as direct"),
    Kind("direct", "macvtap, mode vepa, bridge, private or passthrough", NO, _MACVTAP, _LABEL),
    Kind("hostdev", "PCI passthrough, SR-IOV", NO, _PCI, _SPOOFCHK),
    Kind("vhostuser", "DPDK, passt", NO, _SHARED, f"that program's own filter; or {_PORT}"),
    Kind("vdpa", "", NO, "the NIC itself serves the guest's queues: the host sees none of its frames", _LABEL),
    Kind("user", "slirp, passt", NO, _SOCKETS, f"a network of mode nat, and {_PORT}"),
    Kind("udp", "", NO, _TUNNEL, _INSIDE),
    Kind("mcast", "", NO, _TUNNEL, _INSIDE),
    Kind("server", "", NO, _TUNNEL, _INSIDE),
    Kind("client", "", NO, _TUNNEL, _INSIDE),
    Kind("null", "", NOTHING, "it is connected to nothing"),
    Kind("internal", "", NO, "QEMU does not have it", _PORT),
    Kind("vds", "", NO, "only VMware has it", _PORT),
)

_PCI_PARTS = ("domain", "bus", "slot", "function")
_NETWORK_CLASS = "0x02"  # PCI's base class of network controllers
_UNKNOWN = Kind("", "", NO, "libvirt-guestnet does not know this type", _PORT)
_OF_TYPE = {kind.type: kind for kind in reversed(TABLE)}
_OF_MODE = {mode: kind for kind in TABLE for mode in kind.modes}
_DIRECT = next(kind for kind in TABLE if "private" in kind.modes)


def of(nic_type: str, device: str = "") -> Kind:
    """The kind of a NIC, by its type in libvirt's live XML (which for a NIC on a network says what that gave it) and
    its device on the host."""
    if nic_type == "ethernet" and links.is_macvtap(device):
        return _OF_TYPE["direct"]
    return _OF_TYPE.get(nic_type, _UNKNOWN)


def pci_nic(address: Mapping[str, str], devices: str = "/sys/bus/pci/devices") -> str:
    """The PCI address of a <hostdev>, if that device is a NIC of this host, else ""."""
    try:
        domain, bus, slot, function = (int(address.get(part, "0"), 16) for part in _PCI_PARTS)
        name = f"{domain:04x}:{bus:02x}:{slot:02x}.{function:x}"
        with open(f"{devices}/{name}/class") as file:
            return name if file.read(100).startswith(_NETWORK_CLASS) else ""
    except (OSError, ValueError):
        return ""


def of_network(network: Node) -> Kind:
    """The kind of NIC that a <network> gives."""
    forward = network.one("forward")
    mode = (forward.get("mode") or "nat") if forward is not None else ""
    if mode == "bridge" and network.one("bridge") is None:
        return _DIRECT
    return _OF_MODE.get(mode, _UNKNOWN)


def because(kind: Kind) -> str:
    """Why it is not guarded and what to do, as the end of a sentence."""
    return f"{kind.why}; use {kind.instead}" if kind.instead else kind.why
