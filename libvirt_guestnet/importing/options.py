"""A network's <dnsmasq:options> as a topology file says them. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from libvirt_guestnet.importing.values import Unsaid, Value
from libvirt_guestnet.libvirtd.snapshot import Element
from libvirt_guestnet.model import dhcp_options
from libvirt_guestnet.parse import shown

_OPTION = (
    "{http://libvirt.org/schemas/network/dnsmasq/1.0}options/{http://libvirt.org/schemas/network/dnsmasq/1.0}option"
)
_ITEM = re.compile(r'"([^"\\]|\\n)*"|[^,"]*')
_UEFI = {"7": ("uefi", "x86-64"), "9": ("uefi", "x86-64"), "11": ("uefi", "arm64")}
_ARCH = {**_UEFI, "16": ("http", "x86-64"), "19": ("http", "arm64")}
_CLASS = re.compile("(?:PXE|HTTP)Client:Arch:([0-9]{5})")
_SILENT = ("dhcp-ignore-clid",)
_NOTHING = '"\\n"'
_EUI = "00:03:00:01:"


def listed(where: dict[str, Value], key: str) -> list[Value]:
    """The list that is there under a key, or a new one."""
    found = where.setdefault(key, [])
    assert isinstance(found, list)
    return found


def _within(where: dict[str, Value], key: str) -> dict[str, Value]:
    found = where.setdefault(key, {})
    assert isinstance(found, dict)
    return found


def add(said: dict[str, Value], network: Element, hosts: Sequence[str]) -> None:
    """What they say joins what is said of the network already. Raises Unsaid."""
    reader = _Options(said, hosts)
    lines = [each.get("value", "") for each in network.iterfind(_OPTION)]
    for line in sorted(lines, key=_order):
        reader.line(line)
    if not said.get("dhcp6"):
        said.pop("dhcp6", None)


def _order(line: str) -> bool:
    """What gives a tag comes before what needs it."""
    return not line.startswith(("dhcp-mac=", "dhcp-match=", "dhcp-vendorclass=", "dhcp-host="))


class _Options:
    def __init__(self, said: dict[str, Value], hosts: Sequence[str]) -> None:
        self._said, self._hosts = said, hosts
        self._macs: dict[str, str] = {}
        self._archs: dict[str, tuple[str, str]] = {}

    def line(self, line: str) -> None:
        directive, _, rest = line.partition("=")
        readers = {
            "dhcp-option": self._option,
            "dhcp-option-force": self._forced,
            "dhcp-mac": self._mac,
            "dhcp-match": self._match,
            "dhcp-vendorclass": self._match,
            "dhcp-boot": self._boot,
            "dhcp-host": self._host,
            "local": self._name,
            "address": self._name,
            "server": self._server,
        }
        if line in _SILENT:
            return
        if directive not in readers or not readers[directive](rest, _items(rest)):
            raise Unsaid(f"dnsmasq's option {shown(line)} is none that a key says")

    def _server_of(self, version: int) -> dict[str, Value]:
        key = "dhcp6" if version == 6 else "dhcp"
        if key not in self._said:
            raise Unsaid(f"it has options of DHCPv{version}, and no DHCP server of libvirt's for it")
        return _within(self._said, key)

    def _option(self, rest: str, items: list[str]) -> bool:
        tag = items.pop(0)[4:] if items and items[0].startswith("tag:") else ""
        if not items or (tag and tag not in self._macs):
            return False
        version = 6 if items[0].startswith("option6:") else 4
        name, values = items[0].partition(":")[2] or items[0], items[1:]
        if version == 4 and name in ("router", "3"):
            return not tag and self._router(values)
        try:
            found = dhcp_options.option(version, name, map(_plain, values))
        except dhcp_options.OptionError as error:
            raise Unsaid(str(error)) from None
        if any(_is_text(given) and not _is_text(read) for given, read in zip(values, found.values, strict=True)):
            raise Unsaid(f"DHCP option {found.name} is a text that a topology file would take for something else")
        said = [_plain(each) for each in found.values]
        where = self._machine(self._macs[tag]) if tag else self._server_of(version)
        _within(where, "options")[found.name] = said[0] if len(said) == 1 else list(said)
        return True

    def _router(self, values: list[str]) -> bool:
        """Without a value, nobody is the gateway."""
        if not values:
            self._said["gateway"] = "none"
        return not values or values[0] in self._hosts

    def _forced(self, rest: str, items: list[str]) -> bool:
        """HTTP boot's: the server calls itself HTTPClient."""
        return len(items) == 3 and items[0][4:] in self._archs and _plain(items[2]) == "HTTPClient"

    def _machine(self, mac: str) -> dict[str, Value]:
        for each in listed(self._server_of(4), "reservations"):
            if isinstance(each, dict) and str(each.get("mac", "")).lower() == mac:
                return each
        raise Unsaid(f"{mac} has options of its own, and no reservation")

    def _mac(self, rest: str, items: list[str]) -> bool:
        if len(items) == 2 and items[0].startswith("set:"):
            self._macs[items[0][4:]] = items[1].lower()
            return True
        return False

    def _match(self, rest: str, items: list[str]) -> bool:
        if len(items) < 2 or not items[0].startswith("set:"):
            return False
        of_class = _CLASS.match(_plain(items[-1]))
        number = str(int(of_class[1])) if of_class else items[-1] if items[1] in ("option:client-arch", "93") else ""
        if number in _ARCH:
            self._archs[items[0][4:]] = _ARCH[number]
        return number in _ARCH

    def _boot(self, rest: str, items: list[str]) -> bool:
        boot = _within(self._server_of(4), "boot")
        if items and items[0].startswith("tag:"):
            if len(items) < 2 or items[0][4:] not in self._archs:
                return False
            way, arch = self._archs[items[0][4:]]
            _within(boot, way)[arch] = _plain(items[1])
            items = items[1:]
        else:
            boot["file"] = _plain(items[0])
        if len(items) > 2:
            boot["server"] = items[2]
        return len(items) in (1, 3)

    def _host(self, rest: str, items: list[str]) -> bool:
        if len(items) == 3 and items[0] == "id:":
            return False
        if items[0].startswith("id:") and len(items) in (2, 3):
            found: dict[str, Value] = {"client-id": items[0][3:], "address": items[1]}
            listed(self._server_of(4), "reservations").append(found | ({"hostname": items[2]} if items[2:] else {}))
            return True
        if len(items) == 2 and items[1].startswith("["):
            self._by_mac6(items[0].lower(), items[1].strip("[]"))
            return True
        return False

    def _by_mac6(self, mac: str, address: str) -> None:
        """libvirt's own element for it goes by the DUID that is made of the MAC address."""
        for each in listed(self._server_of(6), "reservations"):
            if isinstance(each, dict) and each.get("duid") == _EUI + mac and each.get("address") == address:
                del each["duid"]
                each["mac"] = mac
                return
        listed(self._server_of(6), "reservations").append({"mac": mac, "address": address})

    def _name(self, rest: str, items: list[str]) -> bool:
        found = re.fullmatch(r"/\.?([^/]+)/([^/,]*)", rest)
        if not found:
            return False
        if found[2]:
            listed(_within(self._said, "dns-wildcards"), found[1]).append(found[2])
        elif found[1] != self._said.get("domain"):
            listed(self._said, "dns-local").append(found[1])
        else:
            self._said.pop("domain-local", None)
        return True

    def _server(self, rest: str, items: list[str]) -> bool:
        found = re.fullmatch(r"(?:/([^/]+)/)?([0-9a-fA-F:.]+)", rest)
        if found:
            domain = {"domain": found[1]} if found[1] else {}
            listed(self._said, "dns-forwarders").append({"address": found[2], **domain})
        return bool(found)


def _items(text: str) -> list[str]:
    """What is between the commas; in quotes there is none."""
    items, at = [], 0
    while (found := _ITEM.match(text, at)) is not None:
        items.append(found[0])
        if found.end() == len(text):
            return items
        if text[found.end()] != ",":
            break
        at = found.end() + 1
    return []


def _is_text(item: str) -> bool:
    """What is in quotes dnsmasq takes for an address, number or bytes in no case."""
    return item.startswith('"') and item != _NOTHING


def _plain(item: str) -> str:
    """A value as a topology file has it. A line break, which says that there is nothing, is a byte there."""
    if item == _NOTHING:
        return "10b"
    return item.strip('"') if item.startswith('"') else item.strip("[]")
