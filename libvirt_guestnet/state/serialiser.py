"""Receipts as text and back: every field must be what its NamedTuple says, or the receipt is damaged.

A field's annotation names what its text is: `tap: Device`, `owned: Prefixes`; `tuple[Route, ...]` is a list of another
NamedTuple of the same module. A field that this version does not know is ignored, and a missing one has its default;
for a change that this would make wrong, the folder gets a new format. Nothing is imported that a hook does not need
anyway.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from libvirt_guestnet import light_json, parse
from libvirt_guestnet.datapath.run.names import check_segment
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.light_typing import Any, NamedTuple, TypeAlias, TypeVar
from libvirt_guestnet.model import ip_protocols

T = TypeVar("T")
R = TypeVar("R", bound=NamedTuple)

# Kinds of text; MaybeDevice and the like may be "".
Device: TypeAlias = str
MaybeDevice: TypeAlias = str
MaybeLink: TypeAlias = str
Mac: TypeAlias = str
MaybeMac: TypeAlias = str
Address: TypeAlias = str
MaybeAddress: TypeAlias = str
Target: TypeAlias = str  # an address, or one of LEASES
Prefix: TypeAlias = str
Protocol: TypeAlias = str
Devices: TypeAlias = tuple[str, ...]
Macs: TypeAlias = tuple[str, ...]
Addresses: TypeAlias = tuple[str, ...]
Prefixes: TypeAlias = tuple[str, ...]
Texts: TypeAlias = tuple[tuple[str, ...], ...]
AddressPairs: TypeAlias = tuple[tuple[str, str], ...]
MacAndPrefixes: TypeAlias = tuple[tuple[str, str], ...]
MacAndAddresses: TypeAlias = tuple[tuple[str, str], ...]
LinkAndPrefixes: TypeAlias = tuple[tuple[str, str], ...]
# Numbers, and first and last of ranges.
Index: TypeAlias = int
MaybePort: TypeAlias = int  # 0 where a protocol has none
Vlan: TypeAlias = int
Microseconds: TypeAlias = int
Millionths: TypeAlias = int
Kilobits: TypeAlias = int
VlanNumbers: TypeAlias = tuple[int, ...]
Numbers: TypeAlias = tuple[int, ...]
Vlans: TypeAlias = tuple[tuple[int, int], ...]
Counts: TypeAlias = tuple[tuple[int, int], ...]

LEASES = {"lease4": 4, "lease6": 6}
"""Words for the address of a family that the host's DHCP server gives a guest."""

LARGEST_FILE = 16 << 20


class DamagedError(GuestnetError):
    """A receipt that we cannot have written; the message says which one, and what to do."""

    def __init__(self, path: str, why: object) -> None:
        super().__init__(f"{path} is damaged ({why}): remove it and run `guestnet hooks sync`")


Identity: TypeAlias = tuple[int, ...]


def identity(path: str) -> Identity | None:
    """What tells a file from others at its path. None if there is none, empty if that is unknown."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    except OSError:  # `load` says it
        return ()
    return found.st_ino, found.st_mtime_ns, found.st_size


def load(path: str) -> dict[str, Any] | None:
    """What a receipt's file holds; None where there is none. Raises DamagedError."""
    try:
        with open(path, "rb") as file:
            fields = light_json.loads(file.read(LARGEST_FILE))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedError(path, "it cannot be read" if isinstance(error, OSError) else "it is not JSON") from error
    if not isinstance(fields, dict):
        raise DamagedError(path, "it is not a JSON object")
    return fields


def if_sound(read: Callable[[str], T | None], name: str, damaged: T | None = None) -> T | None:
    """What `read` returns for a name; `damaged`, after a report, if its receipt is damaged."""
    try:
        return read(name)
    except DamagedError as error:
        report(error)
        return damaged


_reported: set[str] = set()


def report(error: DamagedError) -> None:
    """Reports it on stderr and in the log, once, as the same receipts are read several times."""
    if str(error) not in _reported:
        from libvirt_guestnet import log

        _reported.add(str(error))
        log.report(str(error))


def text(receipt: NamedTuple, path: str) -> str:
    """A receipt's text. Raises GuestnetError if it would be too long to be read again."""
    found = light_json.dumps(receipt._asdict())
    if len(found) >= LARGEST_FILE:
        raise GuestnetError(f"{path} would be larger than {LARGEST_FILE >> 20} MiB")
    return found


def stored(kind: type[R], path: str) -> R | None:
    """The receipt in a file; None where there is none. Raises DamagedError."""
    fields = load(path)
    return None if fields is None else read(kind, fields, path)


def read(kind: type[R], fields: dict[str, Any], path: str) -> R:
    """A receipt of a kind. Raises DamagedError, which names the field."""
    found = {}
    for name, annotation in kind.__annotations__.items():
        if name not in fields:
            if name not in kind._field_defaults:
                raise DamagedError(path, f"{name} is missing")
            continue
        try:
            found[name] = _reader(annotation, kind)(fields[name])
        except (ValueError, TypeError) as error:
            raise DamagedError(path, f"{name}: {error}") from error
    make: Callable[..., R] = kind
    return make(**found)


def _read_list(kind: type[R], values: Any) -> R:
    """A NamedTuple from the list of its first fields. Raises ValueError."""
    if not isinstance(values, list) or not len(kind._fields) - len(kind._field_defaults) <= len(values) <= len(
        kind._fields
    ):
        raise ValueError(f"{parse.shown(values)} is not a list of {', '.join(kind._fields)}")
    annotations = kind.__annotations__.values()
    make: Callable[..., R] = kind
    return make(*(_reader(each, kind)(value) for each, value in zip(annotations, values, strict=False)))


def _reader(annotation: Any, kind: type[NamedTuple]) -> Callable[[Any], Any]:
    name = getattr(annotation, "__forward_arg__", annotation)  # what typing makes of a text
    inside: Any = vars(sys.modules[kind.__module__]).get(name.removeprefix("tuple[").removesuffix(", ...]"))
    if hasattr(inside, "_fields"):
        return lambda value: tuple(_read_list(inside, each) for each in _list(value))
    return _READERS[name.removeprefix("serialiser.")]


def _text(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(f"{parse.shown(value)} is not text")
    value.encode()  # or a ValueError: JSON can hold halves of characters
    return value


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError(f"{parse.shown(value)} is neither true nor false")


def _count(value: Any) -> int:
    if type(value) is int and 0 <= value < 1 << 32:
        return value
    raise ValueError(f"{parse.shown(value)} is not a number")


def _index(value: Any) -> int:
    """A device's index, for which the kernel has a signed number of 32 bits."""
    return parse.number(str(_count(value)), 0, (1 << 31) - 1)


def _maybe_port(value: Any) -> int:
    return parse.number(str(_count(value)), 0, 65535)


def _vlan(value: Any) -> int:
    return parse.number(str(_count(value)), 0, 4094)


def _millionths(value: Any) -> int:
    return parse.number(str(_count(value)), 0, 10**6)


def _vlans(value: Any) -> tuple[tuple[int, int], ...]:
    spans: tuple[tuple[int, int], ...] = _both(_vlan, _vlan)(value)
    if all(1 <= first <= last for first, last in spans):
        return spans
    raise ValueError(f"{parse.shown(value)} are not ranges of VLANs")


def _list(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    raise ValueError(f"{parse.shown(value)} is not a list")


def _protocol(value: Any) -> str:
    return ip_protocols.read(_text(value))


def _address(value: Any) -> str:
    return parse.address_text(_text(value))


def _target(value: Any) -> str:
    return str(value) if value in LEASES else _address(value)


def _prefix(value: Any) -> str:
    prefix = parse.prefix(_text(value))
    return str(prefix) if "/" in value else str(prefix.network_address)


def _or_nothing(read: Callable[[Any], str]) -> Callable[[Any], str]:
    return lambda value: "" if value == "" else read(value)


def _all(read: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    return lambda value: tuple(map(read, _list(value)))


def _both(one: Callable[[Any], Any], other: Callable[[Any], Any]) -> Callable[[Any], tuple[tuple[Any, Any], ...]]:
    def read(value: Any) -> tuple[Any, Any]:
        first, second = _list(value)
        return one(first), other(second)

    return _all(read)


_MAC, _DEVICE = (
    _or_nothing(lambda value: parse.mac(_text(value))),
    _or_nothing(lambda value: parse.device(_text(value))),
)


def _mac(value: Any) -> str:
    return parse.mac(_text(value))


def _device(value: Any) -> str:
    return parse.device(_text(value))


def _link(value: Any) -> str:
    return check_segment(_text(value))


_READERS: dict[str, Callable[[Any], Any]] = {
    "str": _text,
    "bool": _bool,
    "int": _count,
    "Index": _index,
    "MaybePort": _maybe_port,
    "Vlan": _vlan,
    "Microseconds": _count,
    "Millionths": _millionths,
    "Kilobits": _count,
    "VlanNumbers": _all(_vlan),
    "Numbers": _all(_count),
    "Vlans": _vlans,
    "Counts": _both(_count, _count),
    "Protocol": _protocol,
    "Device": _device,
    "MaybeLink": _or_nothing(_link),
    "MaybeDevice": _or_nothing(_device),
    "Mac": _mac,
    "MaybeMac": _or_nothing(_mac),
    "Address": _address,
    "MaybeAddress": _or_nothing(_address),
    "Target": _target,
    "Prefix": _prefix,
    "Devices": _all(_device),
    "Macs": _all(_mac),
    "Addresses": _all(_address),
    "Prefixes": _all(_prefix),
    "AddressPairs": _both(_address, _address),
    "MacAndAddresses": _both(_or_nothing(_mac), _address),
    "LinkAndPrefixes": _both(_link, _prefix),
    "MacAndPrefixes": _both(_or_nothing(_mac), _prefix),
    "tuple[str, ...]": _all(_text),
    "Texts": _all(_all(_text)),
    "dict[str, str]": lambda value: {_text(key): _text(each) for key, each in dict.items(value)},
}
