"""What every reader of a hook's XML needs: values, checked as they are read, and where to find them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from libvirt_guestnet import parse
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.read import nics
from libvirt_guestnet.hook.read.xmlread import Node
from libvirt_guestnet.model.metadata import NAMESPACE
from libvirt_guestnet.state.receipts import NetworkReceipt

T = TypeVar("T")
NetworkOf = Callable[[str], NetworkReceipt | None]
DOMAIN_PORT = f"metadata|{NAMESPACE} domain|{NAMESPACE} port"


# Of one domain, in all of its ports: each costs everybody's next call time, what is behind a guest the most, since all
# of it may talk to all that is behind others.
MOST_LINES, MOST_BEHIND = 1024, 64


class Policies:
    """What a domain's metadata says of its ports: of which NIC it does tell their MAC addresses and networks.

    Two NICs may have one MAC address, such as a virtual function and the tap that stands in for it while a guest
    migrates (net_failover): of these, what is said without the network of the one that cannot be guarded is said of
    the other.
    """

    def __init__(self, domain: Node) -> None:
        """Raises GuestnetError on a MAC address that no NIC can have, as what is said there would silently not hold,
        and on more lines than a host can carry for one domain."""
        self._ports: dict[str, list[Node]] = {}
        ports = list(domain.all(DOMAIN_PORT, "|"))
        _check_number(ports)
        for port in ports:
            self._ports.setdefault(mac(port, "mac"), []).append(port)
        self._nics = list(domain.all("devices/interface"))
        self._with_tap = {mac_of(nic) for nic in self._nics if has_tap(nic)}

    def of(self, nic: Node) -> Node | None:
        """What is said of a NIC of that domain's, if anything."""
        ports = self._ports.get(mac_of(nic))
        if not ports:
            return None
        named = next((port for port in ports if _is_on(nic, port)), None)
        if named is None and not has_tap(nic) and mac_of(nic) in self._with_tap:
            return None
        return named or ports[-1]

    def pairs(self) -> Iterator[tuple[Node, Node]]:
        """What is said, each with the one NIC that has it."""
        found: dict[int, tuple[Node, Node]] = {}
        for nic in self._nics:
            port = self.of(nic)
            if port is not None and not (id(port) in found and _is_on(found[id(port)][1], port)):
                found[id(port)] = port, nic
        yield from found.values()


def _check_number(ports: list[Node]) -> None:
    behind = sum(1 for port in ports for _ in port.all(f"{NAMESPACE} behind", "|"))
    for count, most, what in (
        (sum(len(port.children) for port in ports), MOST_LINES, "addresses, prefixes, forwards and the like"),
        (behind, MOST_BEHIND, "prefixes behind its ports"),
    ):
        if count > most:
            raise GuestnetError(f"metadata: one domain may have {most} {what} at most, not {count}: leave some out")


def _is_on(nic: Node, port: Node) -> bool:
    network = attribute(nic, "source", "network")
    return bool(network) and port.get("network") == network


def mac_of(nic: Node) -> str:
    """A NIC's MAC address, in lower case."""
    return attribute(nic, "mac", "address").lower()


def has_tap(nic: Node) -> bool:
    """Whether a NIC is of a type that makes a tap."""
    return nics.of(nic.get("type"), attribute(nic, "target", "dev")).guarded == nics.YES


def attribute(node: Node, child: str, attribute: str) -> str:
    """An attribute of the first child at a path, "" where there is none."""
    found = node.one(child)
    return found.get(attribute) if found else ""


def word(node: Node, attribute: str, *known: str) -> str:
    """The one of these words that an attribute is, or "" where there is none. Raises GuestnetError on any other: what
    somebody insists on by a word that nobody knows would silently not hold."""
    text = node.get(attribute)
    if text in ("", *known):
        return text
    raise GuestnetError(f"{_name(node)} {attribute}: {parse.shown(text)} is not {' or '.join(known)}")


def number(node: Node, attribute: str, highest: int) -> int:
    """The number from 1 on that an attribute is. Raises GuestnetError, as all of these do, with its name."""
    return _read(node, attribute, lambda text: parse.number(text, 1, highest))


def span(node: Node, attribute: str, highest: int) -> tuple[int, int]:
    """The numbers from 1 on that an attribute is, first and last."""
    return _read(node, attribute, lambda text: parse.span(text, 1, highest))


def address(node: Node, attribute: str) -> parse.Address:
    """The address that an attribute is."""
    return _read(node, attribute, parse.address)


def prefix(node: Node, attribute: str) -> parse.Prefix:
    """The prefix that an attribute is."""
    return _read(node, attribute, parse.prefix)


def mac(node: Node, attribute: str) -> str:
    """The MAC address that an attribute is, in lower case."""
    return _read(node, attribute, parse.mac)


def device(node: Node, attribute: str) -> str:
    """The name of a device that an attribute is."""
    return _read(node, attribute, parse.device)


def optional_device(node: Node, attribute: str) -> str:
    """The same, "" where there is no such attribute."""
    return device(node, attribute) if node.get(attribute) else ""


def _read(node: Node, attribute: str, read: Callable[[str], T]) -> T:
    try:
        return read(node.get(attribute))
    except parse.TextError as error:
        raise parse.TextError(f"{_name(node)} {attribute}: {error}") from error


def _name(node: Node) -> str:
    space, _, tag = node.tag.rpartition(" ")
    return f"metadata: <guestnet:{tag}>" if space else f"<{tag}>"


def taps(domain: Node) -> set[str]:
    """The taps that a domain's NICs name: those of types that make one. What others name says nothing."""
    return {tap for nic in domain.all("devices/interface") for tap in taps_of(nic)}


def taps_of(nic: Node) -> set[str]:
    """The tap that a NIC names, if it is of a type that makes one."""
    tap = attribute(nic, "target", "dev")
    return {tap} if tap and has_tap(nic) else set()


def tap_of(domain: Node, nic: Node, mac: str) -> str:
    """The tap behind a NIC. Raises GuestnetError where there is none."""
    where = f"domain {domain.text_of('name')!r}: interface {mac}"
    tap = attribute(nic, "target", "dev")
    kind = nics.of(nic.get("type"), tap)
    if kind.guarded != nics.YES:
        raise GuestnetError(f"{where}: type {nic.get('type')!r} has no tap to guard: {nics.because(kind)}")
    if not tap:
        raise GuestnetError(f"{where}: no <target dev> in the live XML, so nothing to guard")
    return tap
