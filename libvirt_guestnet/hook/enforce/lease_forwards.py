"""Addresses that guests have by the host's DHCP server, for the forwards that lead to whatever that is.

libvirt writes a bridge's leases down when its server tells of one that came, changed or went, and calls nobody: the
service hears of the file. A hook, and `guestnet hooks sync`, lead to what is written there by then (decision 50).
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
# inotify(7): a file was written and closed, or moved to its name, as libvirt's helper does it.
_CHANGED, _FLAGS = 0x08 | 0x80, os.O_NONBLOCK | os.O_CLOEXEC
_LEASE_SECONDS = 1 << 31  # of a port that learns nothing its server's own time is all there is


def follows(ways: PortForwards) -> bool:
    """Whether a port has forwards to what it has by DHCP."""
    return any(forward.to in LEASES for forward in ways.forwards)


def followed(ways: PortForwards, state: State) -> PortForwards:
    """A port's ways as they lead by now."""
    return with_leases(ways, _addresses(ways, state)) if follows(ways) else ways


def any_of(ways: PortForwards) -> PortForwards:
    """The same with addresses of nobody, where it only matters how they would be written."""
    return with_leases(ways, _PLACEHOLDERS)


def _addresses(ways: PortForwards, state: State) -> dict[int, str]:
    """By family. What another port holds is not this one's, whatever the server wrote; and what this one has learnt is
    its own, even if a neighbour with its identity had the server write it down as his. Nor can one give a lease back:
    only in IPv6, where questions do not say whose they are, is what is written nowhere its own all the same."""
    receipt = state.sound_port(ways.tap)
    if receipt is None or not receipt.dhcp:
        segment = receipt.segment if receipt else ways.bridge
        receipt = PortReceipt(ways.tap, ways.mac, ways.domain, ways.uuid, bridge=ways.bridge, segment=segment)
        receipt = receipt._replace(dhcp=("0.0.0.0/0", "::/0"), lease=_LEASE_SECONDS, lease6=_LEASE_SECONDS)
    learnt, found = address_sets.learnt(receipt), dict[int, str]()
    leases, written = [address for address, _ in address_sets.leases(receipt)], address_sets.written(receipt.bridge)
    mine = [each for each in learnt if each.version == 6 or each in written]
    for address in (*(each for each in leases if each in learnt), *mine, *leases):
        found.setdefault(address.version, str(address))
    return found


class Files:
    """Hears when leases change; of nothing until libvirt has made the folder, which `look` finds."""

    def __init__(self, folder: str = _FOLDER) -> None:
        import ctypes

        self._libc, self._folder, self._watched = ctypes.CDLL(None, use_errno=True), folder.encode(), False
        self._fd = self._libc.inotify_init1(_FLAGS)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")

    def fileno(self) -> int:
        return int(self._fd)

    def look(self) -> None:
        """Begins to hear, if it does not yet."""
        self._watched = self._watched or self._libc.inotify_add_watch(self._fd, self._folder, _CHANGED) >= 0

    def drain(self) -> None:
        """Forgets what was heard: that something was is all that matters."""
        try:
            while os.read(self._fd, 1 << 16):
                pass
        except BlockingIOError:
            return
