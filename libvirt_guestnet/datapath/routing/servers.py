"""The resolvers and DHCP servers that this host uses, as its files name them: no guest may have their addresses, as it
would get the host's requests.

The files are resolv.conf, with the ones of systemd-resolved and NetworkManager behind it, and the leases of
systemd-networkd, dhclient, NetworkManager and dhcpcd. No program is asked: a hook has no time to wait for one. A file
that cannot be read, or makes no sense, is ignored; of each file, the last 64 KiB are read.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator

from libvirt_guestnet import parse
from libvirt_guestnet.light_typing import NamedTuple
from libvirt_guestnet.parse import Address

RESOLVER, DHCP = "resolver", "DHCP server"
_RESOLVERS = ("etc/resolv.conf", "run/systemd/resolve/resolv.conf", "run/NetworkManager/no-stub-resolv.conf")
_TEXT = ("run/systemd/netif/leases", "var/lib/NetworkManager")
_LOGS = ("var/lib/dhcp", "var/lib/dhclient", "var/lib/NetworkManager")
_PACKETS = ("var/lib/dhcpcd",)
_LARGEST, _MOST_FILES, _MOST_WORDS = 64 << 10, 64, 4096
_KEYS = {"SERVER_ADDRESS": DHCP, "DNS": RESOLVER}
_OPTIONS = {"dhcp-server-identifier": DHCP, "domain-name-servers": RESOLVER}
_COOKIE, _CODES = bytes.fromhex("63825363"), {6: RESOLVER, 54: DHCP}


class HostsServer(NamedTuple):
    """A server's address, whether it is a resolver or a DHCP server, and the file that names it."""

    address: Address
    what: str
    path: str


def servers(root: str = "/") -> list[HostsServer]:
    """All servers; for an address that several files name, the first."""
    found: dict[Address, HostsServer] = {}
    for path in _RESOLVERS:
        _note(found, f"{root}{path}", _resolv_conf(_read(f"{root}{path}")))
    for folders, read in ((_TEXT, _networkd), (_LOGS, _dhclient), (_PACKETS, _dhcpcd)):
        for path in (path for folder in folders for path in _files(f"{root}{folder}")):
            _note(found, path, read(_read(path)))
    return list(found.values())


def _note(found: dict[Address, HostsServer], path: str, said: Iterator[tuple[str, str]]) -> None:
    for text, what in said:
        try:
            address = parse.address(text.partition("%")[0])
        except parse.TextError:
            continue
        if not (address.is_loopback or address.is_unspecified or address.is_link_local or address.is_multicast):
            found.setdefault(address, HostsServer(address, what, path))


def _files(folder: str) -> list[str]:
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    return [f"{folder}/{name}" for name in sorted(names)[:_MOST_FILES]]


def _read(path: str) -> bytes:
    """The end of a regular file; nothing of anything else: a pipe in its place must not block a hook."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return b""
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            return b""
        return os.pread(file, _LARGEST, max(0, found.st_size - _LARGEST))
    except OSError:
        return b""
    finally:
        os.close(file)


def _resolv_conf(data: bytes) -> Iterator[tuple[str, str]]:
    for line in data.decode(errors="replace").splitlines():
        words = line.split(maxsplit=2)
        if len(words) > 1 and words[0] == "nameserver":
            yield words[1], RESOLVER


def _networkd(data: bytes) -> Iterator[tuple[str, str]]:
    for line in data.decode(errors="replace").splitlines():
        key, _, value = line.partition("=")
        if key in _KEYS:
            yield from ((text, _KEYS[key]) for text in value.split(maxsplit=_MOST_WORDS)[:_MOST_WORDS])


def _dhclient(data: bytes) -> Iterator[tuple[str, str]]:
    """The servers in dhclient's leases. It adds new leases at the end; those that have expired are left out."""
    for block in data.decode(errors="replace").split("}"):
        said = [line.strip().rstrip(";").removeprefix("option ").split(maxsplit=1) for line in block.splitlines()]
        lines = [(words[0], words[1]) for words in said if len(words) == 2]
        if not any(key == "expire" and _is_over(value) for key, value in lines):
            for key, value in lines:
                if key in _OPTIONS:
                    texts = value.split(",", _MOST_WORDS)[:_MOST_WORDS]
                    yield from ((text.strip(), _OPTIONS[key]) for text in texts)


def _is_over(expire: str) -> bool:
    """Whether a lease has expired: `6 2026/11/28 15:15:37`, in UTC, or `epoch 1795878937; # …`, or `never`."""
    kind, _, value = expire.partition(" ")
    if kind == "epoch":
        seconds = value.partition(";")[0]
        return seconds.isascii() and seconds.isdigit() and len(seconds) < 15 and int(seconds) < time.time()
    return kind.isdigit() and value < time.strftime("%Y/%m/%d %H:%M:%S", time.gmtime())


def _dhcpcd(data: bytes) -> Iterator[tuple[str, str]]:
    """The servers in a lease of dhcpcd, which is the DHCPv4 message itself (RFC 2131, 2)."""
    if data[236:240] != _COOKIE:
        return
    options = data[240:]
    while len(options) > 1 and options[0] != 255:
        if not options[0]:
            options = options[1:]
            continue
        code, length = options[0], options[1]
        value, options = options[2 : 2 + length], options[2 + length :]
        if code in _CODES:
            yield from ((".".join(map(str, value[i : i + 4])), _CODES[code]) for i in range(0, len(value), 4))
