"""Changes by chance of XML, JSON and plain bytes; the same for the same random numbers everywhere."""

from __future__ import annotations

import json
from copy import deepcopy
from random import Random
from typing import Any

from lxml import etree
from world import CANARY

OURS = "{https://libvirt-guestnet.org/xmlns/1}"
# In no field of anything is one of these right.
BREAKS = (
    "\n",
    "\t",
    "\r",
    " ",
    "'",
    '"',
    "%",
    ";",
    "#",
    "{",
    "}",
    "\\",
    "`",
    "$(",
    "\u0660",
    "\u2028",
    "/../",
    "-j ",
    "*",
)
_SAID = ["", *"""0 1 -1 65535 65536 4294967296 10.0.0.1 0.0.0.0 0.0.0.0/0 :: ::/0 ::ffff:10.0.0.1 fe80::1 fd00::1/129
10.0.1.9/33 255.255.255.255 127.0.0.1 224.0.0.1 ff02::1 yes no tap0 tap1 br0 lo all default vnet0 nat safe quiet
52:54:00:00:00:01 ff:ff:ff:ff:ff:ff 01:00:5e:00:00:01 tcp udp bridge network ethernet user direct openvswitch 1-4094
1-1,2-2 100 none any bystander required refuse""".split()]  # noqa: SIM905  # fmt: skip


def hostile(chance: Random) -> str:
    """A text that is right nowhere, recognisable wherever it turns up."""
    kind = chance.randrange(6)
    if kind == 0:
        return f"fd00::1%{CANARY}{chance.choice(BREAKS)}"
    if kind == 1:
        return f"10.0.0.1{chance.choice(BREAKS)}-I INPUT 1 -j {CANARY}"
    if kind == 2:
        return CANARY * chance.choice((3, 4, 2000))  # once, it can be the name of a device
    if kind == 3:
        return f"-{CANARY}"
    if kind == 4:
        return f"{chance.choice(BREAKS)}{CANARY}{chance.choice(BREAKS)}"
    return f"tap1{chance.choice(BREAKS)} drop {CANARY}"


def value(chance: Random) -> str:
    """A hostile text, or one that is right somewhere."""
    return hostile(chance) if chance.random() < 0.4 else chance.choice(_SAID)


def xml(text: bytes, chance: Random, ours_only: bool = False, times: int = 0) -> bytes:
    """Some changes of a document's elements."""
    root = etree.fromstring(text)
    for _ in range(times or chance.choice((1, 1, 1, 2, 3, 6))):
        found = [each for each in root.iter(etree.Element) if not ours_only or each.tag.startswith(OURS)]
        if found:
            _change_element(chance.choice(found), found, chance)
    return etree.tostring(root)


def _change_element(element: Any, found: list[Any], chance: Random) -> None:
    kind = chance.randrange(10)
    if kind < 5 and element.attrib:
        _set(element, chance.choice(sorted(element.attrib)), value(chance))
    elif kind == 5 and element.attrib:
        del element.attrib[chance.choice(sorted(element.attrib))]
    elif kind == 6 and element.getparent() is not None:
        element.addnext(deepcopy(element))
    elif kind == 7 and element.getparent() is not None:
        element.getparent().remove(element)
    elif kind == 8:
        _append(element, deepcopy(chance.choice(found)))
    elif element.text and element.text.strip():
        _text(element, value(chance))


def _append(element: Any, other: Any) -> None:
    if len(etree.tostring(element.getroottree())) < 60_000:
        element.append(other)


def _set(element: Any, name: str, text: str) -> None:
    element.set(name, _for_xml(text))


def _text(element: Any, text: str) -> None:
    element.text = _for_xml(text)


def _for_xml(text: str) -> str:
    return "".join(character for character in text if character in "\t\n\r" or character >= " ")


def octets(text: bytes, chance: Random) -> bytes:
    """Some changes of bytes: another one, one more, some less, a piece twice."""
    data = bytearray(text)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.randrange(len(data) + 1)
        kind = chance.randrange(5)
        if kind == 0 and data:
            data[min(at, len(data) - 1)] = chance.randrange(256)
        elif kind == 1:
            data[at:at] = chance.choice(
                (b"\0", b"&#0;", b"<!DOCTYPE x [<!ENTITY a 'b'>]>", b"&a;", b"<", b"]]>", b"<a>" * 300, b"\xff")
            )
        elif kind == 2:
            del data[at : at + chance.randrange(1, 60)]
        elif kind == 3:
            data[at:at] = data[at : at + chance.randrange(1, 200)]
        else:
            del data[at:]
    return bytes(data)


def plain(text: bytes, chance: Random) -> bytes:
    """Some changes of a JSON document: its values, or its bytes."""
    try:
        document = json.loads(text)
    except ValueError:
        return octets(text, chance)
    if chance.random() < 0.2:
        return octets(text, chance)
    return json.dumps(_changed(document, chance)).encode()


def _changed(document: Any, chance: Random) -> Any:
    if isinstance(document, dict) and document and chance.random() < 0.9:
        key = chance.choice(sorted(document))
        if chance.random() < 0.1:
            return {k: v for k, v in document.items() if k != key}
        return {**document, key: _changed(document[key], chance)}
    if isinstance(document, list) and document and chance.random() < 0.8:
        at = chance.randrange(len(document))
        return [*document[:at], _changed(document[at], chance), *document[at + 1 :]]
    other: tuple[object, ...] = (None, True, 0, -1, 1 << 40, 1.5, [], {}, [[]], ["a", 1], {"a": []}, "", [[1, 2, 3]])
    return value(chance) if chance.random() < 0.5 else chance.choice(other)
