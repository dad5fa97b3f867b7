"""Whether single chains, sets and elements of sets are in the kernel, asked for one by one over netlink.

The kernel finds each by its name: a thousand chains take 7 ms. The program nft cannot do that: to list one chain it
reads all rules, which takes 480 ms with a thousand guarded ports.
"""

from __future__ import annotations

import _socket
import errno
import os
import struct
from collections.abc import Sequence

from libvirt_guestnet.datapath.netlink import codec
from libvirt_guestnet.datapath.netlink.codec import NESTED, encode
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.light_typing import NamedTuple, TypeVar

# Netlink, nfnetlink and nf_tables (linux/netfilter/nf_tables.h).
_NETFILTER, _NFTABLES = 12, 10 << 8
_GETCHAIN, _GETSET, _GETELEMENT = _NFTABLES | 4, _NFTABLES | 10, _NFTABLES | 13
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_POLICY, _CHAIN_USE = 1, 3, 5, 6
_SET_TABLE, _SET_NAME = 1, 2
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS = 1, 2, 3
_ELEMENT, _KEY, _VALUE = 1, 1, 1
_FAMILIES = {"inet": 1, "ip": 2, "arp": 3, "netdev": 5, "bridge": 7, "ip6": 10}
_OF_FAMILY, _DROP = struct.Struct("=BBH"), bytes(4)
_SECONDS, _TOGETHER = 5, 128


class ChainKey(NamedTuple):
    """A chain that must have rules and, if it `drops`, the policy drop. `table` is "FAMILY NAME"."""

    table: str
    name: str
    drops: bool = False


class ElementKey(NamedTuple):
    """An element of a set. A device's index is four octets in the machine's order, a device's name sixteen."""

    table: str
    set: str
    key: bytes


class SetKey(NamedTuple):
    """A set, whatever is in it."""

    table: str
    name: str


Key = ChainKey | ElementKey | SetKey
_What = TypeVar("_What", ChainKey, ElementKey, SetKey, ChainKey | ElementKey, Key)


def missing(wanted: Sequence[_What]) -> list[_What]:
    """Those that are not in the kernel, in their order. Raises GuestnetError when it does not answer."""
    sock = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, _NETFILTER)
    try:
        sock.settimeout(_SECONDS)
        sock.bind((0, 0))
        found = set()
        for first in range(0, len(wanted), _TOGETHER):
            found |= _found(sock, wanted, range(first, min(first + _TOGETHER, len(wanted))))
    except TimeoutError as error:
        raise GuestnetError(f"the kernel did not say within {_SECONDS} s what rules there are") from error
    finally:
        sock.close()
    return [each for number, each in enumerate(wanted) if number not in found]


def name_key(device: str) -> bytes:
    """The key of a set of device names."""
    return device.encode().ljust(16, b"\0")


def index_key(index: int) -> bytes:
    """The key of a set of device indexes."""
    return struct.pack("=I", index)


def _found(sock: _socket.socket, wanted: Sequence[Key], numbers: range) -> set[int]:
    sock.send(b"".join(_request(number, wanted[number]) for number in numbers))
    left, found = len(numbers), set()
    while left:
        for kind, number, body in codec.messages(sock.recv(1 << 18)):
            left -= 1
            if kind == codec.ERROR:
                _check_absent(body)
            elif _is_whole(wanted[number], body):
                found.add(number)
    return found


def _request(number: int, what: Key) -> bytes:
    family, name = what.table.split()
    if isinstance(what, ChainKey):
        kind, fields = _GETCHAIN, [_text(_CHAIN_TABLE, name), _text(_CHAIN_NAME, what.name)]
    elif isinstance(what, SetKey):
        kind, fields = _GETSET, [_text(_SET_TABLE, name), _text(_SET_NAME, what.name)]
    else:
        key = encode([(_KEY | NESTED, encode([(_VALUE, what.key)]))])
        elements = encode([(_ELEMENT | NESTED, key)])
        kind, fields = _GETELEMENT, [_text(_LIST_TABLE, name), _text(_LIST_SET, what.set)]
        fields.append((_LIST_ELEMENTS | NESTED, elements))
    body = _OF_FAMILY.pack(_FAMILIES[family], 0, 0) + encode(fields)
    return codec.request(kind, codec.REQUEST, body, number)


def _text(kind: int, text: str) -> tuple[int, bytes]:
    return kind, text.encode() + b"\0"


def _check_absent(body: bytes) -> None:
    code = codec.refusal(body)
    if code != errno.ENOENT:
        raise GuestnetError(f"the kernel does not say what rules there are: {os.strerror(code)}")


def _is_whole(what: Key, body: bytes) -> bool:
    if not isinstance(what, ChainKey):
        return True
    fields = codec.attributes(body[_OF_FAMILY.size :])
    drops = fields.get(_CHAIN_POLICY) == _DROP
    return any(fields.get(_CHAIN_USE, b"")) and (drops or not what.drops)
