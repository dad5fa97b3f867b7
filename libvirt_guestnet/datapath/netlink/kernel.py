"""What is changed in the kernel without nft: bridges and devices, over netlink.

pyroute2 takes 100 ms to import: only making, filling and removing bridges needs it, nothing for single ports.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import IPv4Address, IPv6Address

from libvirt_guestnet import parse
from libvirt_guestnet.datapath.run.names import LINK_KINDS, NOTE_KINDS
from libvirt_guestnet.datapath.run.nft import in_set, items
from libvirt_guestnet.datapath.run.nft import nft as nft  # noqa: PLC0414  as kernel.nft it is known
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.light_typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pyroute2 import IPRoute

ALIAS = "libvirt-guestnet"


def dropped_frames() -> dict[str, int]:
    """By guarded tap, the frames its port security has dropped. Raises GuestnetError when nft does not answer."""
    return {tap: sum(reasons.values()) for tap, reasons in drops_by_reason().items()}


def drops_by_reason() -> dict[str, dict[str, int]]:
    """By guarded tap and reason, the frames its port security has dropped. Raises GuestnetError when nft does not
    answer."""
    return {tap: found.drops for tap, found in guarded_ports().items()}


class Guarded(NamedTuple):
    """What the kernel knows of a guarded port: frames dropped by reason, or of an observed one let through though they
    would have been, and addresses that it has learnt and claimed."""

    drops: dict[str, int]
    learnt: list[IPv4Address | IPv6Address]
    claimed: tuple[IPv6Address, ...] = ()


def guarded_ports() -> dict[str, Guarded]:
    """Every guarded port, by tap: not for the hook path. Raises GuestnetError when nft does not answer."""
    listed = list(items("table", "netdev", "guestnet"))
    names = [item["name"].partition("-") for kind, item in listed if kind == "chain"]
    found = {tap: Guarded({}, []) for kind, _, tap in names if kind == "tap"}
    for rule in (item for kind, item in listed if kind == "rule"):
        packets = sum(e["counter"]["packets"] for e in rule["expr"] if "counter" in e)
        # An observed port counts with the reason what it accepts. No other rule that accepts counts.
        if packets and ({"drop": None} in rule["expr"] or {"accept": None} in rule["expr"]):
            reasons = found[rule["chain"].partition("-")[2]].drops
            reason = rule.get("comment", "other")
            reasons[reason] = reasons.get(reason, 0) + packets
    for each in (item for kind, item in listed if kind == "set"):
        kind, _, tap = each["name"].partition("-")
        if kind in ("learnt4", "learnt6") and tap in found:
            address = IPv4Address if kind == "learnt4" else IPv6Address
            found[tap].learnt.extend(map(address, sorted(in_set(each))))
        elif kind == "claimed6" and tap in found:
            found[tap] = found[tap]._replace(claimed=tuple(map(IPv6Address, sorted(in_set(each)))))
    return found


def forward_elements() -> frozenset[tuple[str, str, str]]:
    """What is in the maps of our table of forwards: (map, key, value as text), as `forwards.table.elements` gives it.
    Raises GuestnetError as above."""
    maps = [item for kind, item in items("table", "inet", "guestnet") if kind in ("map", "set")]
    return frozenset((each["name"], *_named_by_number(each, elem)) for each in maps for elem in each.get("elem", ()))


def _named_by_number(of: dict[str, Any], elem: Any) -> tuple[str, str]:
    """The key's last part as a number, if it is a protocol: nft prints the name that /etc/protocols has."""
    key, value = _key_and_value(elem)
    before, between, last = key.rpartition(" . ")
    if of["type"][-1:] == ["inet_proto"] and not last.isdigit():
        import socket  # hooks do not look at elements

        with suppress(OSError):
            key = f"{before}{between}{socket.getprotobyname(last)}"
    return key, value


def _key_and_value(elem: Any) -> tuple[str, str]:
    key, value = elem if isinstance(elem, list) else (elem, "")
    return _element_text(key), _element_text(value)


def _element_text(value: Any) -> str:
    if isinstance(value, dict):
        if "prefix" in value:
            return f"{value['prefix']['addr']}/{value['prefix']['len']}"
        for kind, between in (("concat", " . "), ("range", "-")):
            if kind in value:
                return between.join(map(_element_text, value[kind]))
    return str(value)


def guarded_taps() -> set[str]:
    """Every tap that has a chain of ours. Raises GuestnetError when nft does not answer."""
    chains = [item for kind, item in items("chains", "netdev") if kind == "chain"]
    names = (chain["name"].partition("-") for chain in chains if chain["table"] == "guestnet")
    return {tap for _, _, tap in names if tap}


def noted_taps() -> set[str]:
    """Every tap of which something may be noted, as of one that is observed. Raises GuestnetError as above."""
    sets = [item for kind, item in items("sets", "netdev") if kind == "set" and item["table"] == "guestnet"]
    names = (each["name"].partition("-") for each in sets)
    return {tap for kind, _, tap in names if kind in NOTE_KINDS}


def segments() -> set[str]:
    """Every link that has a set of addresses which its ports hold. Raises GuestnetError as above."""
    sets = [item for kind, item in items("sets", "netdev") if kind == "set"]
    names = (listed["name"].partition("-") for listed in sets if listed["table"] == "guestnet")
    return {link for kind, _, link in names if kind in LINK_KINDS}


def bridge_guard() -> tuple[set[str], set[str]]:
    """The bridges under the bridge guard, and the ports that it lets through. Raises GuestnetError when nft does not
    answer."""
    sets = (item for kind, item in items("table", "bridge", "guestnet") if kind == "set")
    found = {each["name"]: set(map(str, each.get("elem", ()))) for each in sets}
    return found.get("bridges", set()), found.get("ports", set())


def ensure_uplink_bridge(bridge: str, device: str, network: str) -> None:
    """A bridge of ours with `device` in it, both up. Raises GuestnetError, and changes nothing, if the bridge is
    somebody else's, or the device is missing, in another bridge, or carries addresses (the host would lose them)."""
    with netlink() as ipr, ExitStack() as undo:
        uplink = link(ipr, device)
        if uplink is None:
            raise GuestnetError(f"network {network!r}: device {device} does not exist on this host; map another one")
        _check_free(ipr, uplink, our_link(ipr, bridge, network), network)
        master = ensure_bridge(ipr, bridge, network, undo)
        ipr.link("set", index=uplink["index"], master=master, state="up")
        undo.pop_all()


def our_link(ipr: IPRoute, name: str, network: str) -> Any:
    """The device of that name, or None where there is none. Raises GuestnetError if it is somebody else's."""
    existing = link(ipr, name)
    if existing is not None and existing.get_attr("IFLA_IFALIAS") != ALIAS:
        raise GuestnetError(
            f"network {network!r}: device {name} exists and is not ours; use another name for the network's, or "
            f"remove it with `ip link delete {name}` if nobody needs it"
        )
    return existing


def ensure_bridge(ipr: IPRoute, bridge: str, network: str, undo: ExitStack) -> int:
    """The index of a bridge of ours, up, on which the host has no address. Raises GuestnetError if it is not ours."""
    existing = our_link(ipr, bridge, network)
    if existing is None:
        ipr.link("add", ifname=bridge, kind="bridge", br_stp_state=0, br_forward_delay=0)
        existing = link(ipr, bridge)
        undo.callback(ipr.link, "del", index=existing["index"])
    no_ipv6(bridge)
    ipr.link("set", index=existing["index"], ifalias=ALIAS, state="up")
    return int(existing["index"])


def no_ipv6(device: str) -> None:
    """Keeps the host from giving itself IPv6 addresses on a device that only carries guests' frames."""
    # The file is not there when the kernel runs without IPv6: then nothing has to be done.
    with suppress(FileNotFoundError), open(f"/proc/sys/net/ipv6/conf/{parse.device(device)}/disable_ipv6", "w") as file:
        file.write("1")


def remove_bridge(bridge: str) -> None:
    """Removes a bridge that `ensure_uplink_bridge` made; one that is gone, or not ours, is left as it is."""
    with netlink() as ipr:
        delete_ours(ipr, bridge)


def delete_ours(ipr: IPRoute, name: str) -> None:
    """Removes a device of ours; one that is gone, or not ours, is left as it is."""
    found = link(ipr, name)
    if found is not None and found.get_attr("IFLA_IFALIAS") == ALIAS:
        ipr.link("del", index=found["index"])


def enslave(tap: str, bridge: str, isolated: bool = False) -> None:
    """Puts a tap into a bridge, isolated from other isolated ports or not, and sets it up.

    Raises GuestnetError if either does not exist.
    """
    with netlink() as ipr:
        port, master = link(ipr, tap), link(ipr, bridge)
        if port is None or master is None:
            raise GuestnetError(f"cannot put {tap} into {bridge}: no device {bridge if port else tap}")
        ipr.link("set", index=port["index"], master=master["index"])
        ipr.brport("set", index=port["index"], isolated=int(isolated))  # joining a bridge resets it
        ipr.link("set", index=port["index"], state="up")


def _check_free(ipr: IPRoute, uplink: Any, bridge: Any, network: str) -> None:
    name, master = uplink.get_attr("IFLA_IFNAME"), uplink.get_attr("IFLA_MASTER")
    if master and (bridge is None or master != bridge["index"]):
        raise GuestnetError(f"network {network!r}: device {name} is already in another bridge or bond; free it first")
    kept = [a.get_attr("IFA_ADDRESS") for a in ipr.get_addr(index=uplink["index"]) if a["scope"] == 0]
    if kept:
        raise GuestnetError(
            f"network {network!r}: device {name} carries {', '.join(kept)}, which the host would lose; make a bridge "
            f"with those addresses yourself and map the label to it"
        )


def link(ipr: IPRoute, name: str) -> Any:
    """The kernel's description of a device, or None."""
    from pyroute2 import NetlinkError

    try:
        return next(iter(ipr.link("get", ifname=name)), None)
    except NetlinkError as error:
        if error.code == errno.ENODEV:
            return None
        raise


@contextmanager
def netlink() -> Iterator[IPRoute]:
    """A netlink socket; a refused request becomes a GuestnetError with its errno's name."""
    activate_site_packages()
    from pyroute2 import IPRoute, NetlinkError

    try:
        with IPRoute() as ipr:
            yield ipr
    except NetlinkError as error:
        name = errno.errorcode.get(error.code, str(error.code))
        raise GuestnetError(f"the kernel refused a network change: {name} ({os.strerror(error.code)})") from error


def activate_site_packages() -> None:
    """Makes pyroute2 importable where the interpreter was started without site-packages."""
    # Hooks run with `python3 -S`, which saves 5 ms where only the standard library is needed.
    import site
    import sys

    if sys.flags.no_site:
        site.main()
