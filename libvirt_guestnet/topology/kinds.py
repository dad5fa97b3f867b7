"""The scalar values of a topology file: how each is read, and how an editor checks it.

A reader gets the text and whether it was written without quotes; it raises ValueError with the complaint.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar
from uuid import UUID

from libvirt_guestnet.metadata.policy import OBSERVE, REQUIRED, STRICT
from libvirt_guestnet.model.balancing import Method
from libvirt_guestnet.model.disk_image import Seed
from libvirt_guestnet.model.network import Mode, Offload, Traffic
from libvirt_guestnet.model.topology import FORGERIES, TABLES, TINY, Family, PortKind, Role
from libvirt_guestnet.model.traffic import Verdict

from .. import parse
from .report import shown, unknown

_E = TypeVar("_E", bound=StrEnum)
_WORD = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
IFNAME_BYTES = 15  # IFNAMSIZ less the terminating NUL
NOTE_CHARACTERS = 200
OBJECT_NAME_BYTES = 128  # it becomes part of file names, with prefixes and suffixes of libvirt's
PATH_CHARACTERS = 900  # a qcow2's header has room for 1023 bytes
_PATH_PART = "[A-Za-z0-9._+~@=,-]+"
USER_DATA_BYTES = 16 << 10
DOMAIN_XML_BYTES = 64 << 10
SSH_KEY_CHARACTERS = 2000
MOST_DISK = 16 << 40
_TAP_PREFIXES = ("vnet", "vif", "macvtap", "macvlan")  # libvirt erases such names and chooses its own


@dataclass(frozen=True)
class Kind:
    """One kind of scalar: its reader and the JSON Schema of what the reader accepts."""

    read: Callable[[str], Any]
    schema: Mapping[str, Any]


def pattern(text: str) -> dict[str, str]:
    return {"type": "string", "pattern": f"^{text}$"}


def _read_text(text: str) -> str:
    return text


def _read_note(text: str) -> str:
    if 0 < len(text) <= NOTE_CHARACTERS and text.isprintable():
        return text
    raise ValueError(f"{shown(text)} is not one line of 1 to {NOTE_CHARACTERS} printable characters")


def _read_bool(text: str, what: str = "neither true nor false") -> bool:
    if text in ("true", "false"):
        return text == "true"
    meant = {"yes": "true", "on": "true", "no": "false", "off": "false"}.get(text.lower(), text.lower())
    hint = f"; did you mean {meant}?" if meant in ("true", "false") else ""
    raise ValueError(f"{shown(text)} is {what}{hint}")


def _read_guarded(text: str) -> bool | str:
    if text in (OBSERVE, REQUIRED):
        return text
    return _read_bool(text, f"neither true, false, {OBSERVE} nor {REQUIRED}")


def _read_port_guarded(text: str) -> bool | str:
    return text if text == OBSERVE else _read_bool(text, f"neither true, false nor {OBSERVE}")


def _read_privacy(text: str) -> bool | str:
    return text if text == STRICT else _read_bool(text, f"neither true, false nor {STRICT}")


def integer(low: int, high: int, what: str) -> Kind:
    """A whole number between `low` and `high`."""

    def read(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,12}", text):
            raise ValueError(f"{what} must be a whole number from {low} to {high}, not {shown(text)}")
        if not low <= int(text) <= high:
            raise ValueError(f"{what} {int(text)} is outside {low}–{high}")
        return int(text)

    return Kind(read, {"type": "integer", "minimum": low, "maximum": high})


def choice(kind: type[_E], what: str, without: Collection[_E] = ()) -> Kind:
    """One word of an enumeration."""
    words = [member for member in kind if member not in without]

    def read(text: str) -> _E:
        if text not in words:
            raise ValueError(unknown(what, text, words))
        return kind(text)

    return Kind(read, {"enum": [str(member) for member in words]})


def _read_word(text: str) -> str:
    if not re.fullmatch(_WORD, text) or len(text) > 64:
        raise ValueError(f"{shown(text)} is not a usable name: letters, digits, '.', '_', '-', at most 64 characters")
    return text


def _read_object_name(text: str) -> str:
    if "/" in text or not text.isprintable():
        bad = next(c for c in text if c == "/" or not c.isprintable())
        raise ValueError(f"libvirt refuses the name {shown(text)}: it contains {bad!r}")
    if not text.strip() or text != text.strip() or text.startswith("-") or text in (".", ".."):
        raise ValueError(f"{shown(text)} is not a usable name for a libvirt object")
    if len(text.encode()) > OBJECT_NAME_BYTES:
        raise ValueError(f"the name {shown(text)} is longer than {OBJECT_NAME_BYTES} bytes")
    return text


def _read_ifname(text: str) -> str:
    if len(text.encode()) > IFNAME_BYTES:
        raise ValueError(f"interface name {shown(text)} is longer than {IFNAME_BYTES} characters, the kernel's limit")
    if not re.fullmatch(_WORD, text):
        raise ValueError(f"{shown(text)} is not a usable interface name: letters, digits, '.', '_' and '-' only")
    if text in ("all", "default", "lo"):  # all and default are directories of /proc/sys/net/ipv4/conf
        raise ValueError(f"the kernel keeps the interface name {shown(text)} for itself")
    return text


def _read_tap(text: str) -> str:
    prefix = next((p for p in _TAP_PREFIXES if text.startswith(p)), None)
    if prefix:
        raise ValueError(f"libvirt keeps tap names that start with '{prefix}' for itself; choose another")
    return _read_ifname(text)


def _read_forgery(text: str) -> str:
    if text not in FORGERIES:
        raise ValueError(unknown("kind of forgery", text, [*FORGERIES, "all"]))
    return text


def _read_host_table(text: str) -> str:
    if text not in TABLES:
        raise ValueError(unknown("table", text, TABLES))
    return text


def _read_vlan_range(text: str) -> tuple[int, int]:
    if not re.fullmatch("[0-9]{1,4}(-[0-9]{1,4})?", text):
        raise ValueError(f"{shown(text)} is neither a VLAN nor a range such as 100-110")
    low, _, high = text.partition("-")
    first, last = int(low), int(high or low)
    if not 1 <= first <= last <= 4094:
        raise ValueError(f"VLANs {text}: they go from 1 to 4094, the lower one first")
    return first, last


def _read_vni_range(text: str) -> tuple[int, int]:
    if not re.fullmatch("[0-9]{1,8}(-[0-9]{1,8})?", text):
        raise ValueError(f"{shown(text)} is neither a VNI nor a range such as 10000-19999")
    low, _, high = text.partition("-")
    first, last = int(low), int(high or low)
    if not 1 <= first <= last < 1 << 24:
        raise ValueError(f"VNIs {text}: they go from 1 to {(1 << 24) - 1}, the lower one first")
    return first, last


def _or_auto(kind: Kind) -> Kind:
    """The same, or the word auto, read as AUTO."""

    def read(text: str) -> int:
        return AUTO if text == "auto" else int(kind.read(text))

    return Kind(read, {"anyOf": [{"const": "auto"}, kind.schema]})


def _read_dns_name(text: str) -> str:
    label = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
    if len(text) > 253 or not re.fullmatch(rf"{label}(\.{label})*", text):
        raise ValueError(f"{shown(text)} is not a DNS name")
    return text


def _quantity(read: Callable[[str], int], units: str) -> Kind:
    return Kind(read, pattern(rf"[0-9]{{1,9}}(\.[0-9]{{1,6}})?({units})"))


def _read_uuid(text: str) -> str:
    if not re.fullmatch(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}", text):
        raise ValueError(f"{shown(text)} is not a UUID such as 6ba7b810-9dad-41d1-80b4-00c04fd430c8")
    if len(set(text.replace("-", ""))) == 1:  # virUUIDIsValid
        raise ValueError(f"libvirt refuses the UUID {text}: all its digits are the same")
    return str(UUID(text))


def _read_image(text: str) -> str:
    if text == TINY or text.startswith("/"):
        return text if text == TINY else _read_image_file(text)
    hint = "or the whole path of a file that ends in .qcow2 or .raw; leave the key out for a domain of your own"
    raise ValueError(f"{unknown('image', text, [TINY])} ({hint})")


def _read_image_file(text: str) -> str:
    path = _read_path(text)
    if not path.endswith((".qcow2", ".raw")):
        raise ValueError(
            f"{shown(text)}: the name of an image ends in .qcow2 or .raw, which says what it is: rename it"
        )
    return path


def _read_path(text: str) -> str:
    parts = text.split("/")[1:]
    plain = text.startswith("/") and len(text) <= PATH_CHARACTERS and all(re.fullmatch(_PATH_PART, p) for p in parts)
    if not plain or {".", ".."} & set(parts):
        raise ValueError(
            f"{shown(text)} is not the whole path of a file, of letters, digits and ._+~@=,- between slashes"
        )
    return text


def _read_user_data(text: str) -> str:
    if text.startswith("/"):
        return _read_path(text)
    if (size := len(text.encode(errors="replace"))) > USER_DATA_BYTES:
        raise ValueError(f"a user-data of {size} bytes: at most {USER_DATA_BYTES} are handed on, as EC2 does")
    return text


def _read_domain_xml(text: str) -> str:
    if text.startswith("/"):
        return _read_path(text)
    if len(text) > DOMAIN_XML_BYTES:
        raise ValueError(f"a domain-xml of {len(text)} characters is longer than {DOMAIN_XML_BYTES}")
    if not text.lstrip().startswith("<"):
        raise ValueError(f"{shown(text)} is neither XML nor the whole path of a file")
    return text


def _read_ssh_key(text: str) -> str:
    key = r"(ssh-(ed25519|rsa)|ecdsa-sha2-nistp(256|384|521)|sk-(ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com)"
    line = text.strip()
    if len(line) > SSH_KEY_CHARACTERS or not re.fullmatch(rf"{key} [A-Za-z0-9+/]+={{0,2}}( [ -~]*)?", line):
        raise ValueError(f"{shown(text)} is not a public SSH key such as ssh-ed25519 AAAA… name, without options")
    return line


def _read_size(text: str) -> int:
    found = re.fullmatch("([0-9]{1,6})([MGT])", text)
    size = int(found[1]) << {"M": 20, "G": 30, "T": 40}[found[2]] if found else 0
    if not 1 << 20 <= size <= MOST_DISK:
        raise ValueError(f"{shown(text)} is not a disk's size such as 512M, 10G or 1T, at most {MOST_DISK >> 40}T")
    return size


AUTO = 0  # neither a VLAN nor a VNI: one is to be drawn from the label's pool
TEXT = Kind(_read_text, {"type": "string"})
NOTE = Kind(_read_note, {"type": "string", "minLength": 1, "maxLength": NOTE_CHARACTERS})
BOOL = Kind(_read_bool, {"type": "boolean"})
PRIVACY = Kind(_read_privacy, {"enum": [True, False, STRICT]})
GUARDED = Kind(_read_guarded, {"enum": [True, False, OBSERVE, REQUIRED]})
PORT_GUARDED = Kind(_read_port_guarded, {"enum": [True, False, OBSERVE]})
WORD = Kind(_read_word, pattern(_WORD) | {"maxLength": 64})
OBJECT_NAME = Kind(_read_object_name, pattern(r"[^/\s-]([^/]*[^/\s])?") | {"maxLength": OBJECT_NAME_BYTES})
IFNAME = Kind(_read_ifname, pattern(_WORD) | {"maxLength": IFNAME_BYTES})
TAP = Kind(_read_tap, pattern(rf"(?!{'|'.join(_TAP_PREFIXES)}){_WORD}") | {"maxLength": IFNAME_BYTES})
FORGERY = Kind(_read_forgery, {"enum": list(FORGERIES)})
HOST_TABLE = Kind(_read_host_table, {"enum": list(TABLES)})
DNS_NAME = Kind(_read_dns_name, pattern("[A-Za-z0-9_.-]+") | {"maxLength": 253})
UUID_TEXT = Kind(_read_uuid, {"type": "string", "format": "uuid"})
MODE = choice(Mode, "mode", without=[Mode.EXTERNAL])
PORT_KIND = choice(PortKind, "kind of port")
ROLE = choice(Role, "role")
FAMILY = choice(Family, "family")
IMAGE = Kind(_read_image, {"anyOf": [{"const": TINY}, pattern(rf"(/{_PATH_PART})+\.(qcow2|raw)")]})
SIZE = Kind(_read_size, pattern("[0-9]{1,6}[MGT]"))
VCPUS = integer(1, 255, "vcpus")
SSH_KEY = Kind(_read_ssh_key, {"type": "string", "maxLength": SSH_KEY_CHARACTERS})
USER_DATA = Kind(_read_user_data, {"type": "string", "maxLength": USER_DATA_BYTES})
DOMAIN_XML = Kind(_read_domain_xml, {"type": "string", "maxLength": DOMAIN_XML_BYTES})
SEED = choice(Seed, "seed")
TRAFFIC = choice(Traffic, "kind of traffic")
OFFLOAD = choice(Offload, "answer")
VERDICT = choice(Verdict, "policy")
MTU = integer(576, 9216, "MTU")
VLAN = integer(1, 4094, "VLAN")
VLAN_RANGE = Kind(
    _read_vlan_range,
    {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 4094}, pattern("[0-9]{1,4}(-[0-9]{1,4})?")]},
)
VNI = integer(1, (1 << 24) - 1, "VNI")
VNI_RANGE = Kind(
    _read_vni_range,
    {"anyOf": [{"type": "integer", "minimum": 1, "maximum": (1 << 24) - 1}, pattern("[0-9]{1,8}(-[0-9]{1,8})?")]},
)
DRAWN_VLAN, DRAWN_VNI = _or_auto(VLAN), _or_auto(VNI)
UDP_PORT = integer(1, 65535, "port")
TABLE = integer(1, (1 << 32) - 1, "table")
METRIC = integer(1, (1 << 32) - 1, "metric")
MEMORY = integer(64, 1 << 20, "memory")
BALANCING = choice(Method, "method")
CHECK_SECONDS, CHECK_TIMES = integer(1, 3600, "interval"), integer(1, 100, "number of checks")
ROUTER_MEMORY = integer(96, 4096, "memory")  # docs/virtual-router.md has what was measured
RATE = integer(1, 1 << 31, "rate")
DURATION, SHARE = _quantity(parse.duration, "us|ms|s"), _quantity(parse.share, "%")
BIT_RATE = _quantity(parse.bit_rate, "kbit|mbit|gbit")
