"""Routes, published neighbours, addresses and bridges' MAC addresses over a bare rtnetlink socket, for the hooks.

pyroute2 would cost a hook 100 ms, and `ip -batch` reports a refusal as English text only, where netlink gives an errno.
Every request is synchronous: a killed hook leaves no process behind that changes the kernel later.
"""

from __future__ import annotations

import _socket  # the socket module's own core: `socket` would cost a hook 3 ms
import errno
import os
import struct
import sys
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from libvirt_guestnet.datapath.netlink import codec
from libvirt_guestnet.datapath.netlink.codec import (
    ACK,
    CREATE,
    DUMP,
    EXCL,
    NESTED,
    REPLACE,
    REQUEST,
    attributes,
    encode,
    number,
    u32,
)
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.light_typing import NamedTuple, Self

Address = IPv4Address | IPv6Address
Prefix = IPv4Network | IPv6Network

PROTOCOL = 71
"""The protocol number of our routes and published neighbours (`ip route show proto 71`); iproute2 names no 71."""
MAIN_TABLE = 254

_SECONDS = 15  # of the 20 that a hook has: the kernel's lock for all of rtnetlink may be taken for long
_SOL_NETLINK, _STRICT = 270, 12  # NETLINK_GET_STRICT_CHK: the kernel filters dumps (4.20)
_NEWLINK, _GETLINK, _SETLINK = 16, 18, 19
_NEWADDR, _GETADDR = 20, 22
_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26
_NEWNEIGH, _DELNEIGH, _GETNEIGH = 28, 29, 30
_GETNEXTHOP = 106
_UNICAST, _ONLINK, _GLOBAL, _LINK_SCOPE, _ANY_SCOPE, _NODAD = 1, 4, 0, 253, 255, 2
_FIB_MATCH = 0x2000  # RTM_F_FIB_MATCH: the answer is the route itself, not the result of the lookup (4.13)
_LOOKUP_TABLE = {4: 0x1000, 6: 0}  # RTM_F_LOOKUP_TABLE: the answer has the route's table, as it always has for IPv6
_PROXY, _PERMANENT = 8, 0x80  # NTF_PROXY, NUD_PERMANENT
_BRIDGE, _MASTER, _STICKY, _STATIC = 7, 4, 0x40, 0x40  # AF_BRIDGE, NTF_MASTER, NTF_STICKY, NUD_NOARP
_EXT_LEARNED = 0x10  # NTF_EXT_LEARNED: an entry of a controller, such as EVPN's, which moves it itself
_DST, _OIF, _GATEWAY, _MULTIPATH, _TABLE, _VIA = 1, 4, 5, 9, 15, 18  # RTA_*
_NHA_OIF, _NHA_GATEWAY = 5, 6
_NDA_DST, _NDA_LLADDR, _NDA_VLAN, _NDA_IFINDEX, _NDA_PROTOCOL = 1, 2, 5, 8, 12
_KNOWN = 0x9E  # NUD_REACHABLE, NUD_STALE, NUD_DELAY, NUD_PROBE, NUD_PERMANENT: not failed, nor still asked for
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFLA_MASTER, _IFLA_PROTINFO, _IFLA_LINKINFO = 10, 12, 18
_BRPORT_LEARNING, _BRPORT_FLOOD, _BRPORT_FLUSH, _BRPORT_GROUP_FWD_MASK, _BRPORT_ISOLATED = 8, 9, 24, 31, 33
_INFO_KIND, _INFO_DATA, _VRF_TABLE = 1, 2, 1
_ROUTE, _NEIGHBOUR, _ADDRESS = struct.Struct("=8BI"), struct.Struct("=BxxxiHBB"), struct.Struct("=4Bi")
_LINK, _HOP, _NEXTHOP = struct.Struct("=BxHiII"), struct.Struct("=HBBi"), struct.Struct("=BBBxI")
_FAMILY = {4: _socket.AF_INET, 6: _socket.AF_INET6}


class RefusedError(GuestnetError):
    """The kernel refused a request; `code` is its errno."""

    def __init__(self, what: str, code: int) -> None:
        self.code = code
        super().__init__(f"the kernel refused {what}: {errno.errorcode.get(code, code)} ({os.strerror(code)})")


class KernelRoute(NamedTuple):
    """A route to `prefix` through the device of that index: by way of `via` or, without one, on the link."""

    prefix: Prefix
    ifindex: int
    via: Address | None = None
    table: int = MAIN_TABLE


class HostAddress(NamedTuple):
    """An address of the host with its subnet, on the device of that index."""

    ifindex: int
    address: Address
    subnet: Prefix


class NextHop(NamedTuple):
    """A router of the host's, on the device of that index."""

    address: Address
    ifindex: int


class Rtnl:
    """A netlink socket, closed at the end of a `with`. Every method raises RefusedError, or GuestnetError for a kernel
    that does not answer."""

    def __enter__(self) -> Self:
        self._socket = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, 0)
        try:
            self._socket.settimeout(_SECONDS)
            self._socket.setsockopt(_SOL_NETLINK, _STRICT, 1)
            self._socket.bind((0, 0))
        except BaseException:
            self._socket.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def add_route(self, route: KernelRoute) -> None:
        """Adds a route of ours. EEXIST: that table has a route to that prefix, ours or another."""
        self._change(_NEWROUTE, CREATE | EXCL, _route(route), f"the route to {route.prefix}")

    def delete_route(self, route: KernelRoute) -> None:
        """Deletes a route of ours, and nobody else's. ESRCH: there is none."""
        self._change(_DELROUTE, 0, _route(route, _ANY_SCOPE), f"to delete the route to {route.prefix}")

    def routes(self, version: int) -> list[KernelRoute]:
        """Every route of ours, of every table."""
        request = _ROUTE.pack(_FAMILY[version], 0, 0, 0, 0, PROTOCOL, 0, 0, 0)
        found = (_parse_route(version, body) for body in self._dump(_GETROUTE, request))
        return [route for route in found if route]

    def is_taken(self, address: Address, ifindex: int, vrf: int = 0) -> bool:
        """Whether this single address has a route that is not ours, or is the host's own; in the VRF of the index `vrf`
        if one is given."""
        length, table = address.max_prefixlen, self.vrf_table(vrf) if vrf else 0
        flags = _FIB_MATCH | _LOOKUP_TABLE[address.version]
        body = _ROUTE.pack(_FAMILY[address.version], length, 0, 0, 0, 0, 0, 0, flags)
        where = [(_OIF, u32(vrf))] if vrf else []
        self._send(_GETROUTE, REQUEST, body + encode([(_DST, address.packed), *where]))
        kind, data = next(self._answers())
        if kind == codec.ERROR:  # unreachable: there is no route
            return False
        found = attributes(data[_ROUTE.size :])
        ours = (data[5], found.get(_OIF)) == (PROTOCOL, u32(ifindex))
        # If the VRF's own table has no route, the kernel looks in the host's other tables.
        in_table = not table or number(found[_TABLE]) == table
        return data[1] == length and in_table and not ours

    def publish(self, address: Address, index: int) -> None:
        """Makes the host answer ARP or ND for an address on the device of that index. Idempotent."""
        self._change(_NEWNEIGH, CREATE | REPLACE, _neighbour(address, index), f"to publish {address}")

    def unpublish(self, address: Address, index: int) -> None:
        """Undoes `publish`. ENOENT: the address was not published there."""
        self._change(_DELNEIGH, 0, _neighbour(address, index), f"to withdraw {address}")

    def published(self, version: int) -> list[tuple[Address, int]]:
        """Every published address, ours or another, with the index of its device."""
        request = _NEIGHBOUR.pack(_FAMILY[version], 0, 0, _PROXY, 0)
        found = []
        for body in self._dump(_GETNEIGH, request):
            _, index, _, flags, _ = _NEIGHBOUR.unpack_from(body)
            address = attributes(body[_NEIGHBOUR.size :]).get(_NDA_DST)
            if flags & _PROXY and address:
                found.append((_address(version, address), index))
        return found

    def neighbours(self, index: int) -> list[tuple[Address, str]]:
        """Who has which address on the device of that index, as far as the host knows: the address and the MAC."""
        found = []
        for version, family in _FAMILY.items():
            request = _NEIGHBOUR.pack(family, 0, 0, 0, 0) + encode([(_NDA_IFINDEX, u32(index))])
            for body in self._dump(_GETNEIGH, request):
                _, device, state, _, _ = _NEIGHBOUR.unpack_from(body)
                each = attributes(body[_NEIGHBOUR.size :])
                if device == index and state & _KNOWN and _NDA_DST in each and len(each.get(_NDA_LLADDR, b"")) == 6:
                    found.append((_address(version, each[_NDA_DST]), each[_NDA_LLADDR].hex(":")))
        return found

    def ensure_static(self, mac: str, port: int, vlan: int) -> int:
        """Makes a static entry for a MAC address at the port of that index, in a VLAN (0: the bridge has no filtering),
        unless another port has one. Returns the index of the port that has it now: 0 if that one is just gone."""
        try:
            self._change(_NEWNEIGH, CREATE | EXCL, _fdb(mac, port, vlan, _STATIC), f"the static entry of {mac}")
        except RefusedError as error:
            if error.code != errno.EEXIST:
                raise
            if holder := self.holder(mac, port, vlan):
                return holder
            # The entry was learnt from some other port: replace it.
            self._change(_NEWNEIGH, CREATE | REPLACE, _fdb(mac, port, vlan, _STATIC), f"the static entry of {mac}")
        return port

    def holder(self, mac: str, port: int, vlan: int) -> int:
        """The index of the port, or of the bridge itself, with an entry for this address that was not learnt: ours, the
        administrator's, or a device's own address. 0 without one, and if it is this port's but not sticky yet."""
        self._send(_GETNEIGH, REQUEST, _fdb(mac, port, vlan, 0))
        kind, data = next(self._answers())
        if kind == codec.ERROR:
            return 0
        _, index, state, flags, _ = _NEIGHBOUR.unpack_from(data)
        fixed = state in (_STATIC, _PERMANENT) and not flags & _EXT_LEARNED and (index != port or flags & _STICKY)
        return int(index) if fixed else 0

    def release_mac(self, mac: str, port: int) -> bool:
        """Deletes what `ensure_static` made, in every VLAN. Returns whether there was anything."""
        try:
            self._change(_DELNEIGH, 0, _fdb(mac, port, 0, 0), f"to forget {mac}")
        except RefusedError as error:
            if error.code not in (errno.ENOENT, errno.EINVAL, errno.EOPNOTSUPP):  # the last two: no bridge port
                raise
            return False
        return True

    def add_address(self, address: Address, length: int, index: int) -> None:
        """Gives a device an address of scope link, usable at once, without duplicate address detection. Idempotent."""
        raw = address.packed
        flags = [(_IFA_FLAGS, u32(_NODAD))] if address.version == 6 else []
        body = _ADDRESS.pack(_FAMILY[address.version], length, 0, _LINK_SCOPE, index)
        body += encode([(_IFA_LOCAL, raw), (_IFA_ADDRESS, raw), *flags])
        self._change(_NEWADDR, CREATE | REPLACE, body, f"the address {address}")

    def next_hops(self, wanted: Iterable[Prefix]) -> set[NextHop]:
        """The routers in `wanted` that the host uses, by routes in any table that are not ours. If there are very many
        routes, only those that can name such an address are read."""
        parts = {prefix.network_address.packed[: prefix.prefixlen // 8] for prefix in wanted}
        hops: set[NextHop] = set()
        for version, family in _FAMILY.items():
            for body in self._dump(_GETROUTE, _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)):
                if any(part in body for part in parts):
                    hops.update(_next_hops(version, body))
        return {hop for hop in hops | self._nexthop_objects() if any(hop.address in prefix for prefix in wanted)}

    def _nexthop_objects(self) -> set[NextHop]:
        """The routers in nexthop objects: a route by one need not show its address (net.ipv4.nexthop_compat_mode)."""
        try:
            bodies = list(self._dump(_GETNEXTHOP, _NEXTHOP.pack(0, 0, 0, 0)))
        except RefusedError as error:
            if error.code == errno.EOPNOTSUPP:  # before 5.3
                return set()
            raise
        found = ((body[0], attributes(body[_NEXTHOP.size :])) for body in bodies)
        return {
            NextHop(_address(6 if family == _FAMILY[6] else 4, each[_NHA_GATEWAY]), number(each[_NHA_OIF]))
            for family, each in found
            if _NHA_GATEWAY in each and _NHA_OIF in each
        }

    def addresses(self, *, all_scopes: bool = False) -> list[HostAddress]:
        """The host's addresses of scope global, or of all scopes."""
        found = []
        for version, family in _FAMILY.items():
            for body in self._dump(_GETADDR, _ADDRESS.pack(family, 0, 0, 0, 0)):
                _, length, _, scope, index = _ADDRESS.unpack_from(body)
                each = attributes(body[_ADDRESS.size :])
                own, peer = each.get(_IFA_LOCAL), each.get(_IFA_ADDRESS)
                if (all_scopes or scope == 0) and peer:
                    found.append(_host_address(version, own or peer, peer, length, index))
        return found

    def vrf_table(self, index: int) -> int:
        """The routing table of a VRF; 0 if there is no such device, or it is no VRF."""
        self._send(_GETLINK, REQUEST, _LINK.pack(0, 0, index, 0, 0))
        kind, data = next(self._answers())
        if kind == codec.ERROR:
            return 0
        info = attributes(attributes(data[_LINK.size :]).get(_IFLA_LINKINFO, b""))
        if info.get(_INFO_KIND, b"").rstrip(b"\0") != b"vrf":
            return 0
        return number(attributes(info[_INFO_DATA])[_VRF_TABLE])

    def set_master(self, index: int, master: int) -> None:
        """Puts a device into another, such as a VRF; 0: into none."""
        body = _LINK.pack(0, 0, index, 0, 0) + encode([(_IFLA_MASTER, u32(master))])
        self._change(_NEWLINK, 0, body, "a device's master")

    def set_port(self, index: int, learning: bool, flood: bool) -> None:
        """Switches learning and unicast flooding on or off at the bridge port of that index. Without learning, what the
        bridge has learnt there is forgotten."""
        settings = [(_BRPORT_LEARNING, bytes([learning])), (_BRPORT_FLOOD, bytes([flood]))]
        settings += [] if learning else [(_BRPORT_FLUSH, b"")]
        self._set_port(index, settings, "a bridge port's learning and flooding")

    def isolate_port(self, index: int, *, isolated: bool) -> None:
        """Isolates the bridge port of that index from other isolated ports, or ends that."""
        self._set_port(index, [(_BRPORT_ISOLATED, bytes([isolated]))], "a bridge port's isolation")

    def forward_groups(self, index: int, mask: int) -> None:
        """Which frames from the bridge port of that index to 01:80:c2:00:00:0X the bridge forwards, a bit for each X;
        the bridge's own such setting holds besides."""
        settings = [(_BRPORT_GROUP_FWD_MASK, struct.pack("=H", mask))]
        self._set_port(index, settings, "which groups a bridge port forwards")

    def _set_port(self, index: int, settings: list[tuple[int, bytes]], what: str) -> None:
        body = _LINK.pack(_BRIDGE, 0, index, 0, 0) + encode([(_IFLA_PROTINFO | NESTED, encode(settings))])
        self._change(_SETLINK, 0, body, what)

    def _change(self, kind: int, flags: int, body: bytes, what: str) -> None:
        self._send(kind, REQUEST | ACK | flags, body)
        for answer, data in self._answers():
            if answer == codec.ERROR:
                code = codec.refusal(data)
                if code:
                    raise RefusedError(what, code)
                return

    def _dump(self, kind: int, body: bytes) -> Iterator[bytes]:
        self._send(kind, REQUEST | DUMP, body)
        for answer, data in self._answers():
            if answer == codec.DONE:
                return
            if answer == codec.ERROR:
                raise RefusedError("to list", codec.refusal(data))
            yield data

    def _send(self, kind: int, flags: int, body: bytes) -> None:
        self._socket.send(codec.request(kind, flags, body))

    def _answers(self) -> Iterator[tuple[int, bytes]]:
        while True:
            try:
                data = self._socket.recv(1 << 18)
            except TimeoutError as error:
                raise GuestnetError(f"the kernel did not answer over netlink within {_SECONDS} s") from error
            for message in codec.messages(data):
                yield message.kind, message.body


def _route(route: KernelRoute, scope: int = _GLOBAL) -> bytes:
    # Scope global, unlike iproute2's default for a route on a link. So the source of what the host itself sends to the
    # guest, such as ICMP errors, is never the gateway address, whose scope is link.
    prefix, via = route.prefix, route.via
    header = (_FAMILY[prefix.version], prefix.prefixlen, 0, 0, 0, PROTOCOL, scope, _UNICAST, _ONLINK if via else 0)
    fields = [
        (_DST, prefix.network_address.packed),
        (_OIF, u32(route.ifindex)),
        (_TABLE, u32(route.table)),
        *([(_GATEWAY, via.packed)] if via else []),
    ]
    return _ROUTE.pack(*header) + encode(fields)


def _parse_route(version: int, body: bytes) -> KernelRoute | None:
    _, length, _, _, _, protocol, *_ = _ROUTE.unpack_from(body)
    found = attributes(body[_ROUTE.size :])
    if protocol != PROTOCOL or _OIF not in found:
        return None
    network = _prefix(version, found.get(_DST, bytes(4 if version == 4 else 16)), length)
    via = _address(version, found[_GATEWAY]) if _GATEWAY in found else None
    return KernelRoute(network, number(found[_OIF]), via, number(found[_TABLE]))


def _next_hops(version: int, body: bytes) -> Iterator[NextHop]:
    if body[5] == PROTOCOL:
        return
    found = attributes(body[_ROUTE.size :])
    yield from _hop(version, found, number(found.get(_OIF, bytes(4))))
    paths = found.get(_MULTIPATH, b"")
    while len(paths) >= _HOP.size:
        length, _, _, index = _HOP.unpack_from(paths)
        if not _HOP.size <= length <= len(paths):
            return
        yield from _hop(version, attributes(paths[_HOP.size : length]), index)
        paths = paths[length + 3 & ~3 :]


def _hop(version: int, found: dict[int, bytes], index: int) -> Iterator[NextHop]:
    if _GATEWAY in found:
        yield NextHop(_address(version, found[_GATEWAY]), index)
    via = found.get(_VIA, b"")[2:]  # a router of the other family: an IPv4 route by way of IPv6
    if len(via) in (4, 16):
        yield NextHop(_address(4 if len(via) == 4 else 6, via), index)


def _neighbour(address: Address, index: int) -> bytes:
    header = _NEIGHBOUR.pack(_FAMILY[address.version], index, _PERMANENT, _PROXY, 0)
    return header + encode([(_NDA_DST, address.packed), (_NDA_PROTOCOL, bytes([PROTOCOL]))])


def _fdb(mac: str, port: int, vlan: int, state: int) -> bytes:
    header = _NEIGHBOUR.pack(_BRIDGE, port, state, _MASTER | (_STICKY if state else 0), 0)
    within = [(_NDA_VLAN, vlan.to_bytes(2, sys.byteorder))] if vlan else []
    return header + encode([(_NDA_LLADDR, bytes.fromhex(mac.replace(":", ""))), *within])


def _host_address(version: int, own: bytes, peer: bytes, length: int, index: int) -> HostAddress:
    subnet = _prefix(version, peer, length)
    return HostAddress(index, _address(version, own), subnet)


def _prefix(version: int, data: bytes, length: int) -> Prefix:
    return IPv4Network((data, length), strict=False) if version == 4 else IPv6Network((data, length), strict=False)


def _address(version: int, data: bytes) -> Address:
    return IPv4Address(data) if version == 4 else IPv6Address(data)
