"""What a receipt of each kind says; `folder` says where it lies, `serialiser` reads it. On the hook path."""

from __future__ import annotations

from typing import NamedTuple

from libvirt_guestnet.state import serialiser


class PortReceipt(NamedTuple):
    """One guarded tap. Addresses and prefixes are text as in `ipaddress`; `portid` is libvirt's network port UUID;
    `ifindex` is the tap's in the kernel; `own` says that the policy is the port's own, not its network's default.

    `pairs` are (MAC or "", prefix). `dhcp` are the addresses of the host's DHCP server if the port's own address is
    what that one acknowledges of its `dynamic` ones; `dhcp_mac` and `bridge` are its MAC and bridge, `lease` and
    `lease6` how long an answer holds, in seconds; `served` says by IP version how many addresses an answer of that
    server has, whether the port learns or not. A port with VLANs in `trunk` tags its frames (with 802.1ad's tags if
    `service`), but those of its `native` VLAN, if there is one. A `trusted` port has no chains: it is only let through
    the bridge guard. `offload` is "refuse" if the port must not be on a host without the checksum guard. A `bare` port
    is to have no address of its own. `segment` names the link on which what the port holds is kept from others: its
    bridge, with its VLAN on one that tells VLANs apart (a trunk has none), "" where unknown. `reached` are the
    addresses for which the host answers elsewhere, in its `vrf` if there is one: floating and published ones; `beside`
    are the other links on which it holds them, for that. `claims` are where it may have IPv6 addresses that it forms
    itself, but for those `unclaimed`; with `privacy` also if it has not asked whether anybody has them. `reserved`
    is the link whose set of reservations its chains look into, instead of having them among the `excluded`.
    """

    tap: serialiser.Device
    mac: serialiser.Mac
    domain: str
    uuid: str
    network: str = ""
    portid: str = ""
    owned: serialiser.Prefixes = ()
    routed: serialiser.Prefixes = ()
    excluded: serialiser.Prefixes = ()
    ifindex: serialiser.Index = 0
    own: bool = False
    pairs: serialiser.MacAndPrefixes = ()
    roles: tuple[str, ...] = ()
    privacy: bool = False
    log: bool = False
    dhcp: serialiser.Addresses = ()
    dynamic: serialiser.Prefixes = ()
    dhcp_mac: serialiser.MaybeMac = ""
    bridge: serialiser.MaybeDevice = ""
    lease: int = 0
    lease6: int = 0
    trunk: serialiser.Vlans = ()
    service: bool = False
    native: bool = False
    trusted: bool = False
    offload: str = ""
    served: serialiser.Counts = ()
    bare: bool = False
    segment: serialiser.MaybeLink = ""
    reached: serialiser.Prefixes = ()
    vrf: serialiser.MaybeDevice = ""
    beside: serialiser.LinkAndPrefixes = ()
    claims: serialiser.Prefixes = ()
    unclaimed: serialiser.Prefixes = ()
    reserved: serialiser.MaybeLink = ""


class NetworkReceipt(NamedTuple):
    """One active network that carries our metadata.

    `reservations` are pairs of a MAC (or "") and its address; `dynamic` are the first and last address of each DHCP
    range; `hosts` are the host's own addresses in it, `mac` its MAC, `lease` and `lease6` its DHCP server's longest
    lease in seconds, by IP version; `privacy`, `strict` (no address that the guest forms) and `log` are defaults for
    ports, `offload` holds for all of them as in PortReceipt; `made_bridge` says that our hook made the bridge, and
    `overlay` names the VXLAN device or VLAN subinterface that it made for it. On a VLAN-aware bridge `vlan` is the
    access VLAN of its ports (0: none), `vlan_uplink` the bridge's port to the outside, and `service` says that its tags
    are 802.1ad's. `outside` is the device that a routed network's traffic leaves through ("": any), and `nat_outside`
    that of a nat network.

    `libvirt_fdb` says that libvirt itself tells the bridge which MAC address is behind which port.

    `managed` says that the bridge is libvirt's own or ours, so that all its ports are to be guarded; `uplink` is the
    port to the outside that our hook put into it. `required`: its ports are guarded whatever a domain says, and one
    that cannot be is refused. `isolated`: its ports are kept from each other. `announced` are the prefixes of which
    libvirt tells guests to form addresses.
    """

    name: str
    topology: str
    guarded: bool
    bridge: serialiser.MaybeDevice
    subnets: serialiser.Prefixes = ()
    hosts: serialiser.Addresses = ()
    reservations: serialiser.MacAndAddresses = ()
    dynamic: serialiser.AddressPairs = ()
    made_bridge: bool = False
    mac: serialiser.MaybeMac = ""
    lease: int = 0
    lease6: int = 0
    privacy: bool = False
    log: bool = False
    overlay: serialiser.MaybeDevice = ""
    vlan: serialiser.Vlan = 0
    vlan_uplink: serialiser.MaybeDevice = ""
    service: bool = False
    outside: serialiser.MaybeDevice = ""
    managed: bool = False
    uplink: serialiser.MaybeDevice = ""
    nat_outside: serialiser.MaybeDevice = ""
    libvirt_fdb: bool = False
    required: bool = False
    offload: str = ""
    announced: serialiser.Prefixes = ()
    strict: bool = False
    isolated: bool = False


class Bridges(NamedTuple):
    """The managed bridges, each with the network whose defaults hold on it; `settled` once the kernel has it so.

    `cannot` is what the kernel said if it cannot keep unguarded ports silent.
    """

    networks: dict[str, str]
    settled: bool = False
    cannot: str = ""


class Plugging(NamedTuple):
    """A NIC being plugged in: libvirt's port UUID, and the domain, MAC and network it is for. `alone` says that its
    helper has given up waiting for its tap."""

    portid: str
    uuid: str
    mac: str
    domain: str = ""
    network: str = ""
    alone: bool = False


class Owner(NamedTuple):
    """Whose a tap is, by one of its receipts: a domain's of that UUID and name, while the tap has that index."""

    uuid: str = ""
    domain: str = ""
    ifindex: int = 0
