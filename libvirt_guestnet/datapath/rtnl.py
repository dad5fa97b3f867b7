"""Routes, published neighbours and addresses over a bare rtnetlink socket, for the hooks.

pyroute2 would cost a hook 100 ms, and `ip -batch` tells refusals apart by their English text only; here each has its
errno. Every request is synchronous: a killed hook leaves no process behind that changes the kernel later.
"""

from __future__ import annotations

import _socket  # the socket module's own core: `socket` would cost a hook 3 ms
import errno
import os
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NamedTuple

from libvirt_guestnet.errors import GuestnetError

Address = IPv4Address | IPv6Address
Prefix = IPv4Network | IPv6Network

PROTOCOL = 71
"""Whose our routes and published neighbours are (`ip route show proto 71`). Nobody in iproute2's rt_protos has it."""
MAIN_TABLE = 254

_SECONDS = 5
_SOL_NETLINK, _STRICT = 270, 12  # NETLINK_GET_STRICT_CHK: the kernel filters dumps (4.20)
_ERROR, _DONE = 2, 3
_NEWLINK, _GETLINK = 16, 18
_NEWADDR, _GETADDR = 20, 22
_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26
_NEWNEIGH, _DELNEIGH, _GETNEIGH = 28, 29, 30
_REQUEST, _ACK, _EXCL, _REPLACE, _CREATE, _DUMP = 1, 4, 0x200, 0x100, 0x400, 0x300
_UNICAST, _ONLINK, _GLOBAL, _LINK_SCOPE, _ANY_SCOPE, _NODAD = 1, 4, 0, 253, 255, 2
_FIB_MATCH = 0x2000  # RTM_F_FIB_MATCH: the route itself, not what it comes to (4.13)
_LOOKUP_TABLE = {4: 0x1000, 6: 0}  # RTM_F_LOOKUP_TABLE: the table that it is in, which IPv6 always says
_PROXY, _PERMANENT = 8, 0x80  # NTF_PROXY, NUD_PERMANENT
_DST, _OIF, _GATEWAY, _TABLE = 1, 4, 5, 15  # RTA_*
_NDA_DST, _NDA_PROTOCOL = 1, 12
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFLA_MASTER, _IFLA_LINKINFO = 10, 18
_INFO_KIND, _INFO_DATA, _VRF_TABLE = 1, 2, 1
_HEADER, _ATTRIBUTE, _U32 = struct.Struct("=IHHII"), struct.Struct("=HH"), struct.Struct("=I")
_ROUTE, _NEIGHBOUR, _ADDRESS = struct.Struct("=8BI"), struct.Struct("=BxxxiHBB"), struct.Struct("=4Bi")
_LINK = struct.Struct("=BxHiII")
_FAMILY = {4: _socket.AF_INET, 6: _socket.AF_INET6}


class RefusedError(GuestnetError):
    """The kernel refused a request; `code` is its errno."""

    def __init__(self, what: str, code: int) -> None:
        self.code = code
        super().__init__(f"the kernel refused {what}: {errno.errorcode.get(code, code)} ({os.strerror(code)})")


class KernelRoute(NamedTuple):
    """A route to `prefix` through the device of that index, by way of `via` or to whoever is on the link."""

    prefix: Prefix
    ifindex: int
    via: Address | None = None
    table: int = MAIN_TABLE


class HostAddress(NamedTuple):
    """An address of the host with its subnet, on the device of that index."""

    ifindex: int
    address: Address
    subnet: Prefix


class Rtnl:
    """A netlink socket, closed at the end of a `with`. Every method raises RefusedError, or GuestnetError for a kernel
    that does not answer."""

    def __enter__(self) -> Rtnl:
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
        """Adds a route of ours. EEXIST: there is one to that prefix in that table, whosever it is."""
        self._change(_NEWROUTE, _CREATE | _EXCL, _route(route), f"the route to {route.prefix}")

    def delete_route(self, route: KernelRoute) -> None:
        """Deletes a route of ours, and nobody else's. ESRCH: there is none."""
        self._change(_DELROUTE, 0, _route(route, _ANY_SCOPE), f"to delete the route to {route.prefix}")

    def routes(self, version: int) -> list[KernelRoute]:
        """Every route of ours, of every table."""
        request = _ROUTE.pack(_FAMILY[version], 0, 0, 0, 0, PROTOCOL, 0, 0, 0)
        found = (_parse_route(version, body) for body in self._dump(_GETROUTE, request))
        return [route for route in found if route]

    def is_taken(self, address: Address, ifindex: int, vrf: int = 0) -> bool:
        """Whether somebody else has a route to this one address, or the host itself has it; in the VRF of the index
        `vrf`, where one is given."""
        length, table = address.max_prefixlen, self.vrf_table(vrf) if vrf else 0
        flags = _FIB_MATCH | _LOOKUP_TABLE[address.version]
        body = _ROUTE.pack(_FAMILY[address.version], length, 0, 0, 0, 0, 0, 0, flags)
        where = [(_OIF, _U32.pack(vrf))] if vrf else []
        self._send(_GETROUTE, _REQUEST, body + _encode([(_DST, address.packed), *where]))
        kind, data = next(self._answers())
        if kind == _ERROR:  # unreachable: no route at all
            return False
        found = _attributes(data[_ROUTE.size :])
        ours = (data[5], found.get(_OIF)) == (PROTOCOL, _U32.pack(ifindex))
        # What the VRF's own table does not have is looked for in the host's other ones.
        there = not table or _number(found[_TABLE]) == table
        return data[1] == length and there and not ours

    def publish(self, address: Address, index: int) -> None:
        """Has the device of that index answer ARP or ND for an address. Twice is once."""
        self._change(_NEWNEIGH, _CREATE | _REPLACE, _neighbour(address, index), f"to publish {address}")

    def unpublish(self, address: Address, index: int) -> None:
        """The opposite. ENOENT: it was not published there."""
        self._change(_DELNEIGH, 0, _neighbour(address, index), f"to withdraw {address}")

    def published(self, version: int) -> list[tuple[Address, int]]:
        """Every published address with the index of its device, whosever it is."""
        request = _NEIGHBOUR.pack(_FAMILY[version], 0, 0, _PROXY, 0)
        found = []
        for body in self._dump(_GETNEIGH, request):
            _, index, _, flags, _ = _NEIGHBOUR.unpack_from(body)
            address = _attributes(body[_NEIGHBOUR.size :]).get(_NDA_DST)
            if flags & _PROXY and address:
                found.append((_address(version, address), index))
        return found

    def add_address(self, address: Address, length: int, index: int) -> None:
        """Gives a device an address of scope link, at once and without duplicate address detection. Twice is once."""
        raw = address.packed
        flags = [(_IFA_FLAGS, _U32.pack(_NODAD))] if address.version == 6 else []
        body = _ADDRESS.pack(_FAMILY[address.version], length, 0, _LINK_SCOPE, index)
        body += _encode([(_IFA_LOCAL, raw), (_IFA_ADDRESS, raw), *flags])
        self._change(_NEWADDR, _CREATE | _REPLACE, body, f"the address {address}")

    def addresses(self) -> list[HostAddress]:
        """The host's addresses of scope global."""
        found = []
        for version, family in _FAMILY.items():
            for body in self._dump(_GETADDR, _ADDRESS.pack(family, 0, 0, 0, 0)):
                _, length, _, scope, index = _ADDRESS.unpack_from(body)
                attributes = _attributes(body[_ADDRESS.size :])
                own, peer = attributes.get(_IFA_LOCAL), attributes.get(_IFA_ADDRESS)
                if scope == 0 and peer:
                    found.append(_host_address(version, own or peer, peer, length, index))
        return found

    def vrf_table(self, index: int) -> int:
        """The routing table of a VRF; 0 for a device that is none, or not there."""
        self._send(_GETLINK, _REQUEST, _LINK.pack(0, 0, index, 0, 0))
        kind, data = next(self._answers())
        if kind == _ERROR:
            return 0
        info = _attributes(_attributes(data[_LINK.size :]).get(_IFLA_LINKINFO, b""))
        if info.get(_INFO_KIND, b"").rstrip(b"\0") != b"vrf":
            return 0
        return _number(_attributes(info[_INFO_DATA])[_VRF_TABLE])

    def set_master(self, index: int, master: int) -> None:
        """Puts a device into another, such as a VRF; 0: into none."""
        body = _LINK.pack(0, 0, index, 0, 0) + _encode([(_IFLA_MASTER, _U32.pack(master))])
        self._change(_NEWLINK, 0, body, "a device's master")

    def _change(self, kind: int, flags: int, body: bytes, what: str) -> None:
        self._send(kind, _REQUEST | _ACK | flags, body)
        for answer, data in self._answers():
            if answer == _ERROR:
                code = -struct.unpack_from("=i", data)[0]
                if code:
                    raise RefusedError(what, code)
                return

    def _dump(self, kind: int, body: bytes) -> Iterator[bytes]:
        self._send(kind, _REQUEST | _DUMP, body)
        for answer, data in self._answers():
            if answer == _DONE:
                return
            if answer == _ERROR:
                raise RefusedError("to list", -struct.unpack_from("=i", data)[0])
            yield data

    def _send(self, kind: int, flags: int, body: bytes) -> None:
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body)

    def _answers(self) -> Iterator[tuple[int, bytes]]:
        while True:
            try:
                data = self._socket.recv(1 << 18)
            except TimeoutError as error:
                raise GuestnetError(f"the kernel did not answer over netlink within {_SECONDS} s") from error
            while len(data) >= _HEADER.size:
                length, kind, *_ = _HEADER.unpack_from(data)
                yield kind, data[_HEADER.size : length]
                data = data[max(length, _HEADER.size) + 3 & ~3 :]


def _route(route: KernelRoute, scope: int = _GLOBAL) -> bytes:
    # Scope global, unlike iproute2's default for a route to a link: what the host itself sends to the guest, ICMP
    # errors among it, then never comes from the gateway address, whose scope is link.
    prefix, via = route.prefix, route.via
    header = (_FAMILY[prefix.version], prefix.prefixlen, 0, 0, 0, PROTOCOL, scope, _UNICAST, _ONLINK if via else 0)
    attributes = [
        (_DST, prefix.network_address.packed),
        (_OIF, _U32.pack(route.ifindex)),
        (_TABLE, _U32.pack(route.table)),
        *([(_GATEWAY, via.packed)] if via else []),
    ]
    return _ROUTE.pack(*header) + _encode(attributes)


def _parse_route(version: int, body: bytes) -> KernelRoute | None:
    _, length, _, _, _, protocol, *_ = _ROUTE.unpack_from(body)
    found = _attributes(body[_ROUTE.size :])
    if protocol != PROTOCOL or _OIF not in found:
        return None
    network = _prefix(version, found.get(_DST, bytes(4 if version == 4 else 16)), length)
    via = _address(version, found[_GATEWAY]) if _GATEWAY in found else None
    return KernelRoute(network, _number(found[_OIF]), via, _number(found[_TABLE]))


def _neighbour(address: Address, index: int) -> bytes:
    header = _NEIGHBOUR.pack(_FAMILY[address.version], index, _PERMANENT, _PROXY, 0)
    return header + _encode([(_NDA_DST, address.packed), (_NDA_PROTOCOL, bytes([PROTOCOL]))])


def _host_address(version: int, own: bytes, peer: bytes, length: int, index: int) -> HostAddress:
    subnet = _prefix(version, peer, length)
    return HostAddress(index, _address(version, own), subnet)


def _prefix(version: int, data: bytes, length: int) -> Prefix:
    return IPv4Network((data, length), strict=False) if version == 4 else IPv6Network((data, length), strict=False)


def _address(version: int, data: bytes) -> Address:
    return IPv4Address(data) if version == 4 else IPv6Address(data)


def _number(data: bytes) -> int:
    return int(_U32.unpack(data)[0])


def _encode(attributes: list[tuple[int, bytes]]) -> bytes:
    padded = ((kind, data, -len(data) % 4) for kind, data in attributes)
    return b"".join(
        _ATTRIBUTE.pack(_ATTRIBUTE.size + len(data), kind) + data + bytes(pad) for kind, data, pad in padded
    )


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if not _ATTRIBUTE.size <= length <= len(data):
            break
        found[kind & 0x3FFF] = data[_ATTRIBUTE.size : length]
        data = data[length + 3 & ~3 :]
    return found
