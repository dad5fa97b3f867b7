"""Netlink's notifications of changes that may have removed something of ours.

Any change of nftables' rules (iptables' among them), tc filters or devices is worth a look. Routes, neighbours, bridge
entries and addresses come and go all the time on some hosts, so only those that may be ours count.
"""

from __future__ import annotations

import socket
import struct

from libvirt_guestnet.datapath.netlink import codec
from libvirt_guestnet.datapath.netlink.rtnl import PROTOCOL

_NETFILTER, _NFTABLES = 12, 7
# NETLINK_ROUTE's groups: links, tc; neighbours, addresses and routes of IPv4 and IPv6.
_ALL, _SOME = (1, 4), (3, 5, 9, 7, 11)
_SOL_NETLINK, _ADD_MEMBERSHIP, _SO_RCVBUFFORCE = 270, 1, 33
_NEIGHBOUR = struct.Struct("=BxxxiHB")
_DELADDR, _DELROUTE, _NEWNEIGH, _DELNEIGH = 21, 25, 28, 29
_BRIDGE, _PROXY, _FIXED = 7, 8, 0x40 | 0x80  # AF_BRIDGE, NTF_PROXY, NUD_NOARP and NUD_PERMANENT


class Changes:
    """Sockets that receive every notification from the moment this is made."""

    def __init__(self) -> None:
        self._some = _socket(0, _SOME)
        self.sockets = [_socket(_NETFILTER, (_NFTABLES,)), _socket(0, _ALL), self._some]

    def matters(self, sock: socket.socket) -> bool:
        """Reads all that a socket has received: whether any of it may have removed something of ours."""
        found = False
        try:
            while data := sock.recv(1 << 16):
                found = found or sock is not self._some or any(map(_may_be_ours, codec.messages(data)))
        except BlockingIOError:
            return found
        except OSError:  # ENOBUFS: notifications were lost, so something may be gone
            return True
        return found


def _socket(protocol: int, groups: tuple[int, ...]) -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol)
    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 4 << 20)
    sock.bind((0, 0))
    for group in groups:
        sock.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
    return sock


def _may_be_ours(message: codec.Message) -> bool:
    kind, _, body = message
    if kind == _DELROUTE:
        return body[5:6] == bytes([PROTOCOL])
    if kind in (_NEWNEIGH, _DELNEIGH):
        family, _, state, flags = _NEIGHBOUR.unpack_from(body)
        return bool(flags & _PROXY) or (family == _BRIDGE and bool(state & _FIXED))
    return kind == _DELADDR
