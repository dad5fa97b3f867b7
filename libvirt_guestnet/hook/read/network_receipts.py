"""What a network's XML on a hook's stdin says about its ports and requires of the host: pure reading, no effects."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from libvirt_guestnet import parse
from libvirt_guestnet.datapath.devices.subinterface import VlanDevice
from libvirt_guestnet.datapath.devices.vxlan_device import Overlay
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.read import hostwide, nics
from libvirt_guestnet.light_typing import NamedTuple, TypeVar
from libvirt_guestnet.metadata import policy, reader
from libvirt_guestnet.metadata.attributes import address, device, of_child, optional_device
from libvirt_guestnet.metadata.policy import OBSERVE, REQUIRED, STRICT, NetworkPolicy
from libvirt_guestnet.state.receipts import ISOLATED, NetworkReceipt
from libvirt_guestnet.xmlread import Node

T = TypeVar("T")


class AwareBridge(NamedTuple):
    """A bridge that must filter VLANs; `existing` is false for libvirt's own, on which our hook switches filtering on.

    `tag` is the network's access VLAN (0: none), `uplink` the port that connects to other hosts ("": none known).
    """

    bridge: str
    existing: bool
    tag: int
    service: bool
    uplink: str


class UplinkBridge(NamedTuple):
    """Mode bridge: the bridge our hook makes and the NIC it puts behind it."""

    bridge: str
    device: str


def network_in(hook_data: Node) -> Node:
    """The network that a call is about. Raises GuestnetError."""
    network = hook_data.one("network")
    if network is None:
        raise GuestnetError("no <network> on stdin: was this hook called by libvirt?")
    return network


@lru_cache(1)  # a call is about one network, and asks for several parts of this
def network_policy(network: Node) -> NetworkPolicy | None:
    """What our metadata in a <network> says, or None when it carries none. Raises GuestnetError on bad values."""
    mark = reader.network_mark(network)
    return reader.read_network(mark) if mark is not None else None


def network_receipt(network: Node) -> NetworkReceipt | None:
    """What a <network> element says, or None when it carries nothing of ours. Raises GuestnetError on bad values."""
    said = network_policy(network)
    if said is None:
        return None
    check_kind(network)
    receipt = NetworkReceipt(
        name=network.text_of("name"),
        topology=said.topology,
        guarded=said.guarded != "no",
        bridge="",
        subnets=tuple(str(subnet.prefix) for subnet in said.subnets),
        privacy=said.privacy == "yes",
        strict=said.privacy == STRICT,
        log=said.log is True,
        offload=said.offload,
        required=said.guarded == REQUIRED,
        observed=said.guarded == OBSERVE,
        external=said.external,
        zone=said.zone,
        link=said.link,
    )
    return external_receipt(receipt, network) if said.external else _with_facts(receipt, network)


def undeclared_receipt(network: Node, default: str) -> NetworkReceipt | None:
    """What an active network has that nobody has said anything of to us: what this host's `default` needs, if that
    covers guests on it. Raises GuestnetError on bad values."""
    if default == hostwide.DECLARED or nics.of_network(network).guarded != nics.YES:
        return None
    receipt = NetworkReceipt(network.text_of("name"), "", False, "", external=True, undeclared=True)
    # Nor does another firewall have to accept its traffic, or anybody to isolate its ports, for our sake.
    return external_receipt(receipt, network)._replace(outside="", nat_outside="", isolated=False, translates=())


def refreshed(before: NetworkReceipt, network: Node) -> NetworkReceipt:
    """What a network that was adopted or taken over while it runs has by now. How its ports are guarded stays as it is.
    Raises GuestnetError on bad values."""
    return external_receipt(before, network) if before.external else _with_facts(before, network)


def external_receipt(before: NetworkReceipt, network: Node) -> NetworkReceipt:
    """What an external network has by now, whose own XML says nothing of us while it runs: libvirt before 9.7 cannot
    change that. How its ports are guarded stays as it is. Raises GuestnetError on bad values."""
    return _with_facts(before._replace(subnets=tuple(map(subnet_of, network.all("ip")))), network)


def _with_facts(receipt: NetworkReceipt, network: Node) -> NetworkReceipt:
    """With what libvirt's own elements say."""
    bridge = network.one("bridge")
    found = receipt._replace(
        bridge=optional_device(bridge, "name") if bridge else "",
        hosts=tuple(str(address(ip, "address")) for ip in network.all("ip")),
        reservations=tuple(reservations(network)),
        dynamic=tuple(map(_range, network.all("ip/dhcp/range"))),
        mac=parse.mac(own) if (own := of_child(network, "mac", "address")) else "",
        lease=_longest_lease(network, 4),
        lease6=_longest_lease(network, 6),
        outside=_outside(network, "route"),
        nat_outside=_outside(network, "nat"),
        mode=(forward.get("mode") or "nat") if (forward := network.one("forward")) else ISOLATED,
        translates=_translates(network),
        isolated=any(port.get("isolated") == "yes" for port in network.all("port")),
        libvirt_fdb=bridge is not None and bridge.get("macTableManager") == "libvirt",
        announced=tuple(_announced(network)),
    )
    said = network_policy(network)
    return _with_router(found, said.dhcp) if said and said.dhcp else found


def _with_router(receipt: NetworkReceipt, dhcp: policy.RouterDhcp) -> NetworkReceipt:
    """Of a network that a virtual router serves in the place of the host. Which addresses it gives, it knows itself."""
    leases = {4: dhcp.lease, 6: dhcp.lease6}
    seconds = {version: min(lease or _FOREVER, _FOREVER) for version, lease in leases.items() if lease is not None}
    given = [each for each in map(parse.prefix, receipt.subnets) if each.version in seconds]
    return receipt._replace(
        dhcp_hosts=tuple(map(str, dhcp.addresses)),
        dhcp_mac=dhcp.mac,
        dhcp_routers=dhcp.routers,
        dynamic=tuple((str(each[1]), str(each[-2])) for each in given if each.num_addresses > 3),
        lease=seconds.get(4, 0),
        lease6=seconds.get(6, 0),
    )


def subnet_of(ip: Node) -> str:
    """The prefix of a network's <ip>."""
    return str(parse.enclosing(f"{address(ip, 'address')}/{_prefix_length(ip)}"))


def _prefix_length(ip: Node) -> int:
    """Without any, libvirt assumes the address's class, or 64."""
    if ip.get("netmask"):
        return parse.netmask(ip.get("netmask"))
    if ip.get("prefix"):
        return parse.number(ip.get("prefix"), 0, 128)
    host = address(ip, "address")
    first = int(host) >> 24
    return 64 if host.version == 6 else 8 if first < 128 else 16 if first < 192 else 24


def check_kind(network: Node) -> None:
    """Raises GuestnetError for a network that requires guarded ports, but whose NICs cannot be guarded."""
    said, kind = network_policy(network), nics.of_network(network)
    if said is not None and said.guarded == REQUIRED and kind.guarded != nics.YES:
        name = network.text_of("name")
        raise GuestnetError(f"network {name!r} insists on guarded ports, and gives none: {nics.because(kind)}")


def _outside(network: Node, mode: str) -> str:
    forward = network.one("forward")
    return optional_device(forward, "dev") if forward and (forward.get("mode") or "nat") == mode else ""


def _translates(network: Node) -> tuple[int, ...]:
    """The IP versions in which libvirt masquerades what leaves the network."""
    forward = network.one("forward")
    if forward is None or (forward.get("mode") or "nat") != "nat":
        return ()
    nat = forward.one("nat")
    return (4, 6) if nat and nat.get("ipv6") == "yes" else (4,)


def _announced(network: Node) -> Iterator[str]:
    """The prefixes in which libvirt's router advertisements tell guests to form addresses; none if it serves DHCPv6."""
    six = [ip for ip in network.all("ip") if ip.get("family") == "ipv6"]
    if not any(ip.one("dhcp/range") or ip.one("dhcp/host") for ip in six):
        for ip in six:
            if ip.get("prefix") == "64":
                yield str(parse.enclosing(f"{address(ip, 'address')}/64"))


def _range(dhcp_range: Node) -> tuple[str, str]:
    start, end = address(dhcp_range, "start"), address(dhcp_range, "end")
    if start.version != end.version or int(start) > int(end):
        raise GuestnetError(f"<range>: from {start} to {end} there is no address")
    return str(start), str(end)


_UNITS = {"seconds": 1, "minutes": 60, "hours": 3600}
_DNSMASQ_LEASE = {4: 3600, 6: 86400}
_MOST_EXPIRY = (1 << 32) - 1
_FOREVER = 10 * 365 * 86400  # <lease expiry='0'/>


def _longest_lease(network: Node, version: int) -> int:
    """The longest lease in seconds; 0 without a range of that IP version."""
    listed = network.all("ip/dhcp/range")
    return max((_lease(r, version) for r in listed if (":" in r.get("start")) == (version == 6)), default=0)


def _lease(dhcp_range: Node, version: int) -> int:
    """A range's lease in seconds; libvirt's <lease expiry= unit=> is in minutes by default."""
    lease = dhcp_range.one("lease")
    if lease is None or not lease.get("expiry"):
        return _DNSMASQ_LEASE[version]
    expiry = parse.number(lease.get("expiry"), 0, _MOST_EXPIRY)
    return min(expiry * _UNITS.get(lease.get("unit") or "minutes", 60) or _FOREVER, _FOREVER)


def reservations(network: Node) -> Iterator[tuple[str, str]]:
    """The MAC address and address of each reservation; "" if it is for a name or a DUID, which anybody can claim."""
    for host in network.all("ip/dhcp/host"):
        if host.get("ip"):
            yield _mac(host.get("mac") or mac_of_duid(host.get("id"))), str(address(host, "ip"))


def _mac(text: str) -> str:
    try:
        return parse.mac(text)
    except parse.TextError:
        return ""


def mac_of_duid(duid: str) -> str:
    """The MAC in a DUID that is made of an Ethernet address, alone or with a time (RFC 8415, 11.2 and 11.4)."""
    octets = [pair.zfill(2) for pair in duid.lower().split(":")]
    made_of_mac = {10: ["00", "03", "00", "01"], 14: ["00", "01", "00", "01"]}.get(len(octets))
    return ":".join(octets[-6:]) if octets[:4] == made_of_mac else ""


def _carrier(network: Node, kind: type[T]) -> tuple[str, T] | None:
    """The network's bridge, and what the hook puts under it, if that is of this kind."""
    said, bridge = network_policy(network), network.one("bridge")
    if said is None or bridge is None or not isinstance(said.carrier, kind):
        return None
    return device(bridge, "name"), said.carrier


def uplink(network: Node) -> UplinkBridge | None:
    """The bridge to make for a network of mode bridge whose label is mapped to a NIC, else None."""
    found = _carrier(network, policy.Uplink)
    return UplinkBridge(found[0], found[1].device) if found and not found[1].vlan else None


def subinterface(network: Node) -> VlanDevice | None:
    """The bridge and the VLAN of a NIC to make for a network, else None. Raises GuestnetError on bad values."""
    found = _carrier(network, policy.Uplink)
    if found is None or not found[1].vlan:
        return None
    bridge, said = found
    return VlanDevice(bridge, said.device, said.vlan, said.service)


def is_libvirts_bridge(network: Node) -> bool:
    """Whether libvirt makes and removes the network's bridge: in every mode except those that use an existing one."""
    forward = network.one("forward")
    return network.one("bridge") is not None and (forward is None or forward.get("mode") in _LIBVIRTS_BRIDGE)


def forwards_ipv6(network: Node) -> bool:
    """Whether libvirt switches IPv6 forwarding on when this network, which is ours, starts."""
    ours, forward = reader.network_mark(network), network.one("forward")
    routed = forward is not None and (forward.get("mode") or "nat") in ("nat", "route", "open")
    return (
        ours is not None
        and ours.get("external") != "yes"
        and routed
        and any(":" in ip.get("address") for ip in network.all("ip"))
    )


_LIBVIRTS_BRIDGE = ("", "nat", "route", "open")


def aware_bridge(network: Node) -> AwareBridge | None:
    """The VLAN-aware bridge of a network, else None. Raises GuestnetError on bad values."""
    found = _carrier(network, policy.VlanBridge)
    if found is None:
        return None
    bridge, said = found
    return AwareBridge(bridge, bool(said.label), said.tag, said.service, said.uplink)


def overlay(network: Node) -> Overlay | None:
    """The bridge and the VXLAN device to make for a network, else None. Raises GuestnetError on bad values."""
    found = _carrier(network, policy.Vxlan)
    if found is None:
        return None
    bridge, said = found
    ends = (*((said.group,) if said.group else ()), *said.remotes)
    return Overlay(bridge, said.device, said.vni, said.port, said.mtu, ends)
