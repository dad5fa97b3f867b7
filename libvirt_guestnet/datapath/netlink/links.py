"""Network devices as the kernel announces them, over a bare rtnetlink socket: pyroute2 would cost a hook 100 ms."""

from __future__ import annotations

import _socket  # the socket module's own core: `socket` would cost a hook 3 ms
import os
import select
import struct
import time
from collections.abc import Callable, Iterator

from libvirt_guestnet.datapath.netlink import codec

_NETLINK_ROUTE, _RTMGRP_LINK = 0, 1
_RTM_NEWLINK = 16
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MASTER = 1, 3, 10
_SO_RCVBUFFORCE = 33
_IFINFO = struct.Struct("=BxHiII")
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


def index_of(name: str) -> int:
    """The index of a device in this network namespace, 0 where there is none. No two devices ever share one."""
    try:
        return _socket.if_nametoindex(name)
    except OSError:
        return 0


def exists(name: str, index: int) -> bool:
    """Whether a device of that name exists and has that index (0, in a receipt of an old version: any)."""
    found = index_of(name)
    return found != 0 and index in (0, found)


def name_of(index: int) -> str:
    """The opposite of `index_of`; "" where there is no such device."""
    try:
        return _socket.if_indextoname(index)
    except OSError:
        return ""


def names() -> set[str]:
    """Every device of this network namespace."""
    return {name for _, name in _socket.if_nameindex()}


def missing(names: set[str]) -> set[str]:
    """Those of these names that no device has. The kernel lists a thousand devices in 1 ms here, by netlink in 15. What
    is not listed is asked for by its name, as /sys may be another namespace's."""
    try:
        listed = set(os.listdir("/sys/class/net"))
    except OSError:
        listed = set()
    return {name for name in names - listed if not index_of(name)}


def master_of(name: str) -> str:
    """The bridge (or OVS datapath) that a device is in, or ""."""
    try:
        return os.path.basename(os.readlink(f"/sys/class/net/{name}/master"))
    except OSError:
        return ""


def is_on(name: str, bridge: str) -> bool:
    """Whether a device is in a bridge; for one of Open vSwitch, whether it is in Open vSwitch at all."""
    return _is_in(index_of(master_of(name)), bridge)


def is_bridge(name: str) -> bool:
    """Whether a device is a Linux bridge."""
    return os.path.isdir(f"/sys/class/net/{name}/bridge")


def is_user_space(name: str) -> bool:
    """Whether a device is a bridge of Open vSwitch's user-space datapath, whose own port is a tap."""
    return os.path.exists(f"/sys/class/net/{name}/tun_flags")


def is_vlan_aware(name: str) -> bool:
    """Whether a device is a Linux bridge that filters by VLAN."""
    try:
        with open(f"/sys/class/net/{name}/bridge/vlan_filtering") as file:
            return file.read(2).strip() == "1"
    except OSError:
        return False


def is_isolated(name: str) -> bool:
    """Whether a port of a Linux bridge is kept from the other isolated ones."""
    try:
        with open(f"/sys/class/net/{name}/brport/isolated") as file:
            return file.read(2) == "1\n"
    except OSError:
        return False


def is_up(name: str) -> bool:
    """Whether a device is there and was set up, carrier or not."""
    try:
        with open(f"/sys/class/net/{name}/flags") as file:
            return bool(int(file.read(20), 16) & _IFF_UP)
    except OSError:
        return False


def is_without_ipv6(name: str) -> bool:
    """Whether IPv6 is switched off on a device, or the kernel has none."""
    try:
        with open(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6") as file:
            return file.read(2).strip() == "1"
    except OSError:
        return True


def is_macvtap(name: str) -> bool:
    """Whether a device is a macvtap device: its guest's frames never pass the device's ingress."""
    return os.path.isdir(f"/sys/class/net/{name}/macvtap")


def over(name: str) -> set[str]:
    """Devices on top of one, such as those of its VLANs."""
    try:
        return {entry.removeprefix("upper_") for entry in os.listdir(f"/sys/class/net/{name}") if entry[:6] == "upper_"}
    except OSError:
        return set()


def ports_of(bridge: str) -> set[str]:
    """The ports of a Linux bridge; none where there is no such bridge."""
    try:
        return set(os.listdir(f"/sys/class/net/{bridge}/brif"))
    except OSError:
        return set()


def port_setting(name: str, setting: str) -> bool:
    """Whether a setting of a bridge port is on; False for a device that is no bridge port."""
    try:
        with open(f"/sys/class/net/{name}/brport/{setting}") as file:
            return file.read(2).strip() == "1"
    except OSError:
        return False


def groups_forwarded(name: str) -> int:
    """A bridge port's group_fwd_mask (`Rtnl.forward_groups`); 0 for a device that is no bridge port."""
    try:
        with open(f"/sys/class/net/{name}/brport/group_fwd_mask") as file:
            return int(file.read(8), 16)
    except OSError:
        return 0


def runs_spanning_tree(bridge: str) -> bool:
    """Whether a Linux bridge takes part in the spanning tree protocol, by itself or by a daemon."""
    try:
        with open(f"/sys/class/net/{bridge}/bridge/stp_state") as file:
            return file.read(2).strip() != "0"
    except OSError:
        return False


def tap_mac(guest_mac: str) -> str:
    """The MAC libvirt gives the tap of a NIC: the guest's, starting with fe."""
    return f"fe{guest_mac[2:]}"


def set_down(name: str) -> None:
    """Takes a device down. Raises OSError."""
    _set_flags(name, up=False)


def set_up(name: str) -> None:
    """Brings a device up. Raises OSError."""
    _set_flags(name, up=True)


def _set_flags(name: str, *, up: bool) -> None:
    import fcntl

    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        request = struct.pack("16sh14x", name.encode(), 0)
        (flags,) = struct.unpack_from("=h", fcntl.ioctl(sock.fileno(), _SIOCGIFFLAGS, request), 16)
        wanted = flags | _IFF_UP if up else flags & ~_IFF_UP
        fcntl.ioctl(sock.fileno(), _SIOCSIFFLAGS, struct.pack("16sh14x", name.encode(), wanted))
    finally:
        sock.close()


class Watch:
    """Receives the kernel's notification of every new device from the moment it is made, so that none is missed."""

    def __init__(self) -> None:
        kind = _socket.SOCK_RAW | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK
        self._socket = _socket.socket(_socket.AF_NETLINK, kind, _NETLINK_ROUTE)
        self._socket.setsockopt(_socket.SOL_SOCKET, _SO_RCVBUFFORCE, 4 << 20)
        self._socket.bind((0, _RTMGRP_LINK))

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def tap(self, guest_mac: str, bridge: str, seconds: float, fits: Callable[[str], bool] = lambda _tap: True) -> str:
        """Waits for the tap of a guest's NIC to join a bridge; returns its name, or "" when it does not in time.

        Another guest's tap may have that MAC address, too: `fits` says by the name whether it is the right one.
        """
        deadline = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self, select.POLLIN)
        while (left := deadline - time.monotonic()) > 0:
            if not poll.poll(left * 1000):
                break
            for name, mac, master in self._heard():
                if mac == tap_mac(guest_mac) and _is_in(master, bridge) and fits(name):
                    return name
        return ""

    def drain(self) -> None:
        """Reads and discards notifications: it only matters that there was one."""
        for _ in self._heard():
            pass

    def _heard(self) -> Iterator[tuple[str, str, int]]:
        try:
            return links(self._socket.recv(1 << 16))
        except BlockingIOError:
            return iter(())
        except OSError:  # ENOBUFS: events were lost, so look at everything
            return all_links()


def _is_in(master: int, bridge: str) -> bool:
    # A tap on Open vSwitch has the datapath as its master, whatever its bridge is called.
    return master != 0 and (master == index_of(bridge) or not is_bridge(bridge))


def links(data: bytes) -> Iterator[tuple[str, str, int]]:
    """(name, MAC, index of the master or 0) of every RTM_NEWLINK in a datagram; a malformed rest is left out."""
    for kind, _, body in codec.messages(data):
        if kind == _RTM_NEWLINK and len(body) >= _IFINFO.size:
            found = codec.attributes(body[_IFINFO.size :])
            name = found.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace")
            yield name, found.get(_IFLA_ADDRESS, b"").hex(":"), int.from_bytes(found.get(_IFLA_MASTER, b""), "little")


def all_links() -> Iterator[tuple[str, str, int]]:
    """The same of every device that is there now."""
    for name in sorted(names()):
        try:
            with open(f"/sys/class/net/{name}/address") as file:
                mac = file.read(100).strip()
        except OSError:
            continue
        yield name, mac, index_of(master_of(name))
