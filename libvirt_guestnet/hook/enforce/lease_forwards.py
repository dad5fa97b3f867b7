"""Forwards to the address that the host's DHCP server gave a guest: they follow the lease.

When its DHCP server gives, changes or ends a lease, libvirt writes that into a file, but calls no hook. So the service
watches the file; a hook, and `guestnet hooks sync`, read it when they run (decision 50).
"""

from __future__ import annotations

import os

from libvirt_guestnet.datapath.forwards.table import with_leases
from libvirt_guestnet.hook.enforce import address_sets
from libvirt_guestnet.state.folder import State
from libvirt_guestnet.state.receipts import PortForwards, PortReceipt
from libvirt_guestnet.state.serialiser import LEASES

_PLACEHOLDERS = {4: "192.0.2.1", 6: "2001:db8::1"}
_FOLDER = "/var/lib/libvirt/dnsmasq"
# inotify(7): a file was written and closed, or renamed to its name, as libvirt's helper does.
_CHANGED, _FLAGS = 0x08 | 0x80, os.O_NONBLOCK | os.O_CLOEXEC
_LEASE_SECONDS = 1 << 31  # for a port that learns nothing, only the lease file limits the time


def follows(port: PortForwards) -> bool:
    """Whether a port has forwards to its leased address."""
    return any(forward.to in LEASES for forward in port.forwards)


def followed(port: PortForwards, state: State) -> PortForwards:
    """A port's forwards, to the addresses that are leased now."""
    return with_leases(port, _addresses(port, state)) if follows(port) else port


def any_of(port: PortForwards) -> PortForwards:
    """The same to example addresses, to check whether the forwards could be written."""
    return with_leases(port, _PLACEHOLDERS)


def _addresses(port: PortForwards, state: State) -> dict[int, str]:
    """A port's leased addresses by IP version. An address that another port holds is not this port's, whatever the
    lease file says; one that this port has learnt is, even if a neighbour had it leased to himself or, with IPv6,
    released it."""
    receipt = state.sound_port(port.tap)
    if receipt is None or not receipt.dhcp:
        segment = receipt.segment if receipt else port.bridge
        receipt = PortReceipt(port.tap, port.mac, port.domain, port.uuid, bridge=port.bridge, segment=segment)
        receipt = receipt._replace(dhcp=("0.0.0.0/0", "::/0"), lease=_LEASE_SECONDS, lease6=_LEASE_SECONDS)
    learnt, found = address_sets.learnt(receipt), dict[int, str]()
    leases, written = [address for address, _ in address_sets.leases(receipt)], address_sets.written(receipt.bridge)
    own = [each for each in learnt if each.version == 6 or each in written]
    for address in (*(each for each in leases if each in learnt), *own, *leases):
        found.setdefault(address.version, str(address))
    return found


class Files:
    """Watches for changes of lease files. libvirt makes their folder late: `look` must be called until it exists."""

    def __init__(self, folder: str = _FOLDER) -> None:
        import ctypes

        self._libc, self._folder, self._watched = ctypes.CDLL(None, use_errno=True), folder.encode(), False
        self._fd = self._libc.inotify_init1(_FLAGS)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")

    def fileno(self) -> int:
        return int(self._fd)

    def look(self) -> None:
        """Begins to watch the folder, if it exists and is not watched yet."""
        self._watched = self._watched or self._libc.inotify_add_watch(self._fd, self._folder, _CHANGED) >= 0

    def drain(self) -> None:
        """Reads and discards events: it only matters that there was one."""
        try:
            while os.read(self._fd, 1 << 16):
                pass
        except BlockingIOError:
            return
