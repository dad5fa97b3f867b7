"""The ends that tunnels of this host's own have: a forward of their protocol there would cut them off."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from libvirt_guestnet import light_json, parse
from libvirt_guestnet.datapath.run import program
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.light_typing import Any
from libvirt_guestnet.model.claims import ANYWHERE, Claim

_GRE = ("gre", "gretap", "erspan", "ip6gre", "ip6gretap", "ip6erspan")
# What a device of a kind sends, by what it carries.
_KINDS = {**dict.fromkeys(_GRE, ("gre",)), "ipip": ("ipip",), "sit": ("6in4", "ipip"), "ip6tnl": ("6in4", "ipip")}


def ends(wanted: Iterable[Claim]) -> Iterator[Claim]:
    """Each end of a tunnel device that is up, and the IPsec associations that end where ESP is wanted; with the owner
    for messages. Raises GuestnetError if that cannot be found out."""
    for device in light_json.loads(_said("-details", "-json", "link", "show", "up") or "[]"):
        yield from _of_device(device)
    for address in sorted({claim.at for claim in wanted if claim.protocol == "esp"}):
        if _said("xfrm", "state", "list", "dst", address, "proto", "esp"):
            yield Claim(address, "esp", 0, 0, "an IPsec security association")


def _of_device(device: dict[str, Any]) -> Iterator[Claim]:
    info = device.get("linkinfo", {})
    kind, data = info.get("info_kind", ""), info.get("info_data", {})
    for protocol in _KINDS.get(kind, ()):
        yield Claim(_local(data, kind), protocol, 0, 0, f"tunnel {device['ifname']}")


def _local(data: dict[str, Any], kind: str) -> str:
    """Its own address, or that it has none in particular."""
    try:
        return str(parse.address(str(data.get("local"))))
    except parse.TextError:
        return ANYWHERE[6 if kind.startswith("ip6") else 4]


def _said(*arguments: str) -> str:
    """What `ip` prints; nothing where the kernel has no such things."""
    output = program.run(["ip", *arguments], "", "iproute2")
    if output.status and "link" in arguments:
        raise GuestnetError(f"ip {' '.join(arguments)}: {output.complaint}")
    return output.stdout.strip() if output.status == 0 else ""
