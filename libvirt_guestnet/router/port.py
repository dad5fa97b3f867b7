"""A port of the host's own on a router's guest network, for as long as the router's health is tried from there.

It is a pair of veths. One end is a port of the network's bridge, and guarded as a guest's would be: nothing leaves it
but what the played guest may send. The other end is in a network namespace that only a thread of this process has: when
the process ends, however it does, the kernel removes both ends. What the hooks noted of the port is then of a tap that
is gone, which each of their next calls removes (decision 88).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import socket
import struct
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from libvirt_guestnet import parse
from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.datapath.netlink.kernel import enslave, netlink, no_ipv6
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.calls import domain
from libvirt_guestnet.metadata import elements, writer
from libvirt_guestnet.metadata.policy import NAMESPACE, STRICT, DomainPolicy, PortPolicy
from libvirt_guestnet.router import health
from libvirt_guestnet.router.health_guest import HealthGuest
from libvirt_guestnet.sandbox.mounts import CLONE_NEWNET, unshare
from libvirt_guestnet.state.locked import UnlockedState
from libvirt_guestnet.xmlread import Node

_INSIDE = "health0"
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


def tried(router: str, network: str, bridge: str, guest: HealthGuest, timeout: float) -> tuple[health.Check, ...]:
    """Tries a router as a guest of one of its networks, each thing within `timeout` seconds. Raises GuestnetError where
    that cannot be done, such as beside another process that does it."""
    wanted = health.Wanted(guest.mac, guest.address, guest.gateway, guest.dns_name, guest.target)
    with _namespace() as (thread, namespace), _port(router, network, bridge, guest, namespace):
        thread.submit(_set_up).result()
        return thread.submit(health.check, _INSIDE, wanted, timeout).result()


@contextmanager
def _namespace() -> Iterator[tuple[ThreadPoolExecutor, int]]:
    """A thread in a network namespace of its own, and the descriptor of that."""
    with ThreadPoolExecutor(1) as thread:
        entered: Future[int] = thread.submit(_enter)
        try:
            namespace = entered.result()
        except OSError as error:
            raise GuestnetError(f"a router's health cannot be tried here: {error.strerror}") from error
        try:
            yield thread, namespace
        finally:
            os.close(namespace)


def _enter() -> int:
    unshare(CLONE_NEWNET)
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _set_up() -> None:
    """The end inside: without IPv6 addresses, which nobody gave it."""
    no_ipv6(_INSIDE)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        asked = struct.pack("16sH14x", _INSIDE.encode(), 0)
        (flags,) = struct.unpack_from("H", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, asked), 16)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", _INSIDE.encode(), flags | _IFF_UP))


@contextmanager
def _port(router: str, network: str, bridge: str, guest: HealthGuest, namespace: int) -> Iterator[None]:
    device = parse.device(f"ghp{hashlib.sha256(f'{router}/{guest.nic}'.encode()).hexdigest()[:8]}")
    if links.index_of(device):
        raise GuestnetError(f"router {router}: its health is just being tried (device {device}): try again")
    played, state = _played(router, network, bridge, guest, device), UnlockedState()
    with netlink() as ipr:
        inside = {"ifname": _INSIDE, "net_ns_fd": namespace, "address": guest.mac}
        ipr.link("add", ifname=device, kind="veth", address=links.tap_mac(guest.mac), peer=inside)
        try:
            no_ipv6(device)
            enslave(device, bridge)
            domain.guard(played, state)
            yield
        finally:
            if index := links.index_of(device):
                ipr.link("del", index=index)
            domain.release(played, state)


def _played(router: str, network: str, bridge: str, guest: HealthGuest, device: str) -> Node:
    """The guest as hooks know guests: as a domain with a policy for its one port."""
    name, number = f"{router}.health", uuid.uuid5(uuid.NAMESPACE_URL, f"{NAMESPACE}/health/{router}/{guest.nic}")
    port = PortPolicy(guest.mac, "health", network, privacy=STRICT, addresses=(guest.address,))
    mark = elements.node_of(writer.domain_element(DomainPolicy("", name, "", (port,))))
    nic = _node("interface", type="network")
    nic.children = [
        _node("mac", address=guest.mac),
        _node("source", network=network, bridge=bridge),
        _node("target", dev=device),
    ]
    metadata, devices, made = _node("metadata"), _node("devices"), _node("domain")
    metadata.children, devices.children = [mark], [nic]
    made.children = [_text("name", name), _text("uuid", str(number)), metadata, devices]
    return made


def _node(tag: str, **attributes: str) -> Node:
    return Node(tag, attributes)


def _text(tag: str, text: str) -> Node:
    made = Node(tag, {})
    made.text = text
    return made
