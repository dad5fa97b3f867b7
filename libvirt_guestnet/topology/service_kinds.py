"""The scalar values of what a network's DHCP and DNS server says. `kinds` says how they are read."""

from __future__ import annotations

import re

from libvirt_guestnet.model import dhcp_options
from libvirt_guestnet.model.hostnames import is_none

from .kinds import Kind, integer
from .report import shown, unknown

_HOST_NAME = r"[A-Za-z]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
_BYTES = r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2})+"
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SHORTEST, _LONGEST = 120, 10 * 365 * 86400  # libvirt's, as dnsmasq's; and what nobody tells from for ever
_MOST_BYTES = 130  # RFC 8415, 11.1; RFC 2132, 9.14 allows 255
FOREVER = "infinite"


def _read_lease(text: str) -> int:
    if text == FOREVER:
        return 0
    if not re.fullmatch("[0-9]{1,9}[smhd]", text):
        raise ValueError(f"{shown(text)} is not a time such as 3600s, 45m, 12h or 7d, nor {FOREVER}")
    seconds = int(text[:-1]) * _SECONDS[text[-1]]
    if not _SHORTEST <= seconds <= _LONGEST:
        raise ValueError(f"a lease of {text} is outside 2m–3650d; for ever is {FOREVER}")
    return seconds


def _read_bytes(text: str) -> str:
    if not re.fullmatch(_BYTES, text) or len(text) > 3 * _MOST_BYTES:
        raise ValueError(f"{shown(text)} is not 2 to {_MOST_BYTES} bytes such as 00:03:00:01:52:54:00:12:34:56")
    return text.lower()


def _read_host_name(text: str) -> str:
    if len(text) > 253 or not re.fullmatch(_HOST_NAME, text):
        raise ValueError(f"{shown(text)} is not a host name: letters, digits and '-' between dots, a letter first")
    if is_none(text):
        raise ValueError(f"{text} is no host name for dnsmasq, which takes it for something else in a reservation")
    return text


def _option(version: int) -> Kind:
    def read(text: str) -> str:
        try:
            return dhcp_options.option_name(version, text)
        except dhcp_options.OptionError as error:
            near = unknown("DHCP option", text, dhcp_options.names(version))
            raise ValueError(near if near.endswith("?") else str(error)) from None

    return Kind(read, {"pattern": "^([0-9]{1,5}|[a-z][a-z0-9-]*)$"})


def _read_text(text: str) -> str:
    return dhcp_options.text_value(text)


def _read_file(text: str) -> str:
    if not re.fullmatch("[A-Za-z0-9/][A-Za-z0-9/._+-]{0,126}", text):  # BOOTP has 128 bytes
        raise ValueError(f"{shown(text)} is not a file such as pxelinux.0: letters, digits, '/', '.', '_', '+' and '-'")
    return text


def _read_folder(text: str) -> str:
    if not re.fullmatch("(/[A-Za-z0-9_+-][A-Za-z0-9._+-]*)+", text) or len(text) > 1000:
        raise ValueError(
            f"{shown(text)} is not a folder such as /srv/tftp, of letters, digits, '/', '.', '_', '+', '-'"
        )
    return text


def _read_url(text: str) -> str:
    if not re.fullmatch(r"https?://[!-~]+", text):
        raise ValueError(f"{shown(text)} is not a URL such as http://192.0.2.1/boot.efi")
    return dhcp_options.text_value(text)


def _word(pattern: str, what: str) -> Kind:
    def read(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"{shown(text)} is not {what}")
        return text

    return Kind(read, {"type": "string", "pattern": f"^{pattern}$"})


LEASE = Kind(_read_lease, {"type": "string", "pattern": f"^([0-9]{{1,9}}[smhd]|{FOREVER})$"})
BYTES = Kind(_read_bytes, {"type": "string", "pattern": f"^{_BYTES}$"})
HOST_NAME = Kind(_read_host_name, {"type": "string", "pattern": f"^{_HOST_NAME}$", "maxLength": 253})
OPTION4, OPTION6 = _option(4), _option(6)
OPTION_VALUE = Kind(lambda text: text, {"type": ["string", "integer", "boolean"]})  # its option knows more
DNS_TEXT = Kind(_read_text, {"type": "string", "pattern": '^[^",\\\\#]+$', "maxLength": 240})
BOOT_FILE = Kind(_read_file, {"type": "string", "pattern": "^[A-Za-z0-9/][A-Za-z0-9/._+-]{0,126}$"})
FOLDER = Kind(_read_folder, {"type": "string", "pattern": "^(/[A-Za-z0-9_+-][A-Za-z0-9._+-]*)+$"})
URL = Kind(_read_url, {"type": "string", "pattern": "^https?://[!-~]+$"})
SERVICE = _word("[A-Za-z0-9]([A-Za-z0-9-]{0,13}[A-Za-z0-9])?", "a service such as ldap, without underscore")
PROTOCOL = _word("(tcp|udp)", "a protocol: tcp or udp")
SRV_NUMBER = integer(0, 65535, "number")
