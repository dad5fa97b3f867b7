"""The scalar values of what a topology says of hosts and of what joins them. `kinds` says how they are read."""

from __future__ import annotations

import re

from libvirt_guestnet.model.host import Encapsulation, FabricKind
from libvirt_guestnet.model.labelled import is_entry

from .. import parse
from .kinds import Kind, choice, pattern
from .report import shown

_TRANSPORTS = "ssh|libssh|libssh2|tls|tcp"
_SERVER = r"([A-Za-z0-9_][A-Za-z0-9_.-]*@)?([A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?"
_PARAMETER = r"[a-z_]+=[A-Za-z0-9_.,%/~+-]*"  # names as they are: libvirt would decode them
_PARAMETERS = rf"(\?{_PARAMETER}(&{_PARAMETER})*)?"
_URI = rf"qemu\+({_TRANSPORTS})://{_SERVER}/system{_PARAMETERS}"
URI_CHARACTERS = PATH_CHARACTERS = 255
_PROGRAMS = ("command", "netcat")  # libvirt runs them, here or over there
_PATH = r"/[A-Za-z0-9_./@+-]+"
_DATABASE = rf"((tcp|ssl):([0-9.]+|\[[0-9A-Fa-f:.]+\]):[0-9]{{1,5}}|unix:{_PATH})"


def _read_uri(text: str) -> str:
    if re.fullmatch(r"qemu(\+[a-z0-9]+)?:///[^\n]*", text):
        raise ValueError(f"{shown(text)} is whatever host reads it: write {_uri_example()}, so that all mean the same")
    if not re.fullmatch(_URI, text) or len(text) > URI_CHARACTERS:
        raise ValueError(f"{shown(text)} is not the URI of a host's libvirt such as {_uri_example()}")
    for name in (each.partition("=")[0] for each in text.partition("?")[2].split("&")):
        if name in _PROGRAMS:
            message = f"{shown(text)}: no topology says what program is run ({name}=): uri_aliases in libvirt.conf can"
            raise ValueError(message)
    return text


def _uri_example() -> str:
    return "qemu+ssh://root@SERVER/system"


def _read_device(text: str) -> str:
    if not is_entry(text):
        raise ValueError(
            f"{shown(text)} is not a device: write a NIC, a bridge, BRIDGE/NIC or ovs:BRIDGE, names of 1 to 15 "
            f"letters, digits, '_', '.' and '-'"
        )
    return text


def _read_database(text: str) -> str:
    wrong = f"{shown(text)} is not an address of a database such as ssl:192.0.2.1:6641 or ssl:[2001:db8::1]:6641"
    if not re.fullmatch(_DATABASE, text) or len(text) > PATH_CHARACTERS:
        raise ValueError(wrong)
    kind, _, rest = text.partition(":")
    if kind != "unix":
        server, _, port = rest.rpartition(":")
        try:
            parse.address(server.removeprefix("[").removesuffix("]"))
            parse.number(port, 1, 65535)
        except ValueError:
            raise ValueError(wrong) from None
    return text


def _read_path(text: str) -> str:
    if not re.fullmatch(_PATH, text) or len(text) > PATH_CHARACTERS or ".." in text.split("/"):
        raise ValueError(f"{shown(text)} is not the path of a file from / on, of letters, digits and '_./@+-'")
    return text


URI = Kind(_read_uri, pattern(_URI) | {"maxLength": URI_CHARACTERS})
DEVICE = Kind(_read_device, pattern(r"[A-Za-z0-9_.:/-]+"))
DATABASE = Kind(_read_database, pattern(_DATABASE) | {"maxLength": PATH_CHARACTERS})
PATH = Kind(_read_path, pattern(_PATH) | {"maxLength": PATH_CHARACTERS})
FABRIC = choice(FabricKind, "fabric")
ENCAPSULATION = choice(Encapsulation, "encapsulation")
