"""What is left out of a topology file, derived from names: the same on every run and every host.

Each value comes from SHA-256 over the names of what it belongs to. Nothing depends on the order of the file or on what
else is in it, so adding a guest changes no other guest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from itertools import chain
from uuid import UUID

from libvirt_guestnet.model.network import DhcpRange, DhcpRange6, IPAddress, IPNetwork

_TRIES = 64
_IFNAME_BYTES = 15


def mac(*names: str) -> str:
    """A MAC address with QEMU's prefix, 52:54:00."""
    return ":".join(["52", "54", "00", *(f"{byte:02x}" for byte in _digest("mac", *names)[:3])])


def tap(*names: str) -> str:
    """A tap device name: `vme` and 8 hex digits."""
    return "vme" + _digest("tap", *names).hex()[:8]


def guest_uuid(*names: str) -> str:
    """A UUID of version 8 (RFC 9562: custom, here from SHA-256)."""
    raw = bytearray(_digest("uuid", *names)[:16])
    raw[6] = raw[6] & 0x0F | 0x80
    raw[8] = raw[8] & 0x3F | 0x80
    return str(UUID(bytes=bytes(raw)))


def bridge(name: str) -> str:
    """The bridge device of a network: `gn-` and its name, cut and completed by a hash when it does not fit."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name)
    if plain == name and len(plain) + 3 <= _IFNAME_BYTES:
        return f"gn-{plain}"
    return f"gn-{plain[:6]}-{_digest('bridge', name).hex()[:5]}"


def is_of_two(prefix: IPNetwork) -> bool:
    """Whether a subnet has two addresses, one for each end of a link, and no other (RFC 3021, RFC 6164). The host's is
    the upper one: libvirt gives a bridge the subnet's last address as broadcast address, which nobody else can have."""
    return prefix.prefixlen == prefix.max_prefixlen - 1


class Pool:
    """The addresses of one subnet to derive from: not its first or (IPv4) last, unless it has no others, not in the
    DHCP range, not taken."""

    def __init__(
        self, prefix: IPNetwork, taken: Iterable[IPAddress] = (), dhcp: DhcpRange | DhcpRange6 | None = None
    ) -> None:
        self._make = IPv6Address if isinstance(prefix, IPv6Network) else IPv4Address
        both = is_of_two(prefix)
        self._first = int(prefix.network_address) + (not both)
        self._last = int(prefix.broadcast_address) - (prefix.version == 4 and not both)
        self._taken = {int(address) for address in taken}
        self._dhcp = (int(dhcp.start), int(dhcp.end)) if dhcp else (self._last + 1, self._last)
        self._derived: set[int] = set()
        self._cursor = self._first

    def derive(self, *names: str) -> IPAddress | None:
        """The address derived from these names, even if it was derived before; None when all are taken."""
        size = self._last - self._first + 1
        number = 0
        for attempt in range(_TRIES):
            number = int.from_bytes(_digest("address", *names, str(attempt)), "big")
            if self._usable(candidate := self._first + number % size):
                break
        else:
            candidate = self._search(number)
        self._derived.add(candidate)
        return self._make(candidate) if candidate else None

    def _search(self, number: int) -> int:
        """The first usable address from a hashed start; 0 for none. For subnets where few are left."""
        low, high = self._dhcp
        size = self._last - self._first - (high - low)
        for step in range(min(size, len(self._taken) + 1)):
            candidate = self._first + (number + step) % size
            candidate += high - low + 1 if low <= candidate else 0
            if self._usable(candidate):
                return candidate
        return 0

    def free(self) -> IPAddress | None:
        """The lowest address that is neither taken nor derived so far; None when there is none."""
        while not self._usable(self._cursor) or self._cursor in self._derived:
            low, high = self._dhcp
            self._cursor = high + 1 if low <= self._cursor <= high else self._cursor + 1
            if self._cursor > self._last:
                return None
        return self._make(self._cursor)

    def take(self, address: IPAddress) -> None:
        """Marks this address as taken."""
        self._taken.add(int(address))

    def _usable(self, number: int) -> bool:
        low, high = self._dhcp
        return self._first <= number <= self._last and number not in self._taken and not low <= number <= high


def draw(pool: Sequence[tuple[int, int]], taken: Collection[int], *names: str) -> int | None:
    """The number derived from these names in the pool's ranges (first and last each), except those taken; None if all
    are."""
    size = sum(last - first + 1 for first, last in pool)
    tries = (int.from_bytes(_digest("draw", *names, str(attempt)), "big") % size for attempt in range(_TRIES))
    candidates = (_nth(pool, index % size) for index in chain(tries, range(len(taken) + 1))) if size else ()
    return next((number for number in candidates if number not in taken), None)


def _nth(pool: Sequence[tuple[int, int]], index: int) -> int:
    for first, last in pool:
        if index <= last - first:
            return first + index
        index -= last - first + 1
    raise IndexError(index)


def _digest(*names: str) -> bytes:
    return sha256("\0".join(names).encode()).digest()
