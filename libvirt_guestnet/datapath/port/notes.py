"""What is noted of ports that are only observed: whom they spoke for where their guard would have dropped it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Any, NamedTuple

from libvirt_guestnet.datapath.port import observing
from libvirt_guestnet.datapath.run.names import NOTE_KINDS
from libvirt_guestnet.datapath.run.nft import items

Address = IPv4Address | IPv6Address


class Noted(NamedTuple):
    """Of one port: pairs of the Ethernet source and the address that was used or claimed, VLANs of tags that are not
    its own, and whether it announced itself as router; `roles`: those that would have let something pass. `full`: there
    was more than there is room for."""

    addresses: tuple[tuple[str, Address], ...] = ()
    vlans: tuple[int, ...] = ()
    announces: bool = False
    roles: tuple[str, ...] = ()
    full: bool = False


def read() -> dict[str, Noted]:
    """By tap, of every port that is observed. Lists every port: not for the hook path. Raises GuestnetError when nft
    does not answer."""
    found: dict[str, Noted] = {}
    listed = list(items("table", "netdev", "guestnet"))
    for each in (item for kind, item in listed if kind == "set"):
        kind, _, tap = each["name"].partition("-")
        if kind in NOTE_KINDS:
            found[tap] = _with_set(found.get(tap, Noted()), kind, _values(each))
    for rule in (item for kind, item in listed if kind == "rule" and "comment" in item):
        tap = rule["chain"].partition("-")[2]
        if tap in found and sum(e["counter"]["packets"] for e in rule["expr"] if "counter" in e):
            found[tap] = _with_rule(found[tap], rule["comment"])
    return found


def _with_rule(noted: Noted, comment: str) -> Noted:
    if comment.startswith(observing.TOLD):
        return noted._replace(roles=tuple(dict.fromkeys((*noted.roles, comment.removeprefix(observing.TOLD)))))
    return noted._replace(announces=noted.announces or comment == observing.ANNOUNCES)


def _with_set(noted: Noted, kind: str, values: list[Any]) -> Noted:
    noted = noted._replace(full=noted.full or len(values) >= observing.MOST)
    if kind == "seentags":
        return noted._replace(vlans=tuple(sorted(map(int, values))))
    address = IPv4Address if kind == "seen4" else IPv6Address
    pairs = sorted((_mac(mac), address(_number(ip))) for mac, ip in (each["concat"] for each in values))
    return noted._replace(addresses=(*noted.addresses, *pairs))


def _values(listed: dict[str, Any]) -> list[Any]:
    return [each["elem"]["val"] for each in listed.get("elem", ())]


def _number(value: int | str) -> int:
    """A number of more than 64 bits is text."""
    return int(value, 16) if isinstance(value, str) else int(value)


def _mac(value: int | str) -> str:
    """As text, whatever the guest wrote there: a group's address, too."""
    return _number(value).to_bytes(6, "big").hex(":")
