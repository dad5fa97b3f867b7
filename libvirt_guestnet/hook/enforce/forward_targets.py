"""Where forwards and floating addresses may lead: to what their own port may use, whatever a guest's metadata says.

To a neighbour's address they would open that guest, have what it sends come from another address, or end its flows.
"""

from __future__ import annotations

from collections.abc import Iterator

from libvirt_guestnet import parse
from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.state.folder import State
from libvirt_guestnet.state.receipts import Floating, ForwardRule, PortForwards, PortReceipt
from libvirt_guestnet.state.serialiser import LEASES


class Targets:
    """Judges by ports' receipts. Those of all are read only for an address that is not plainly the port's own: there
    may be a thousand, and a start waits."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._holders: dict[tuple[str, str], list[PortReceipt]] | None = None

    def refused(self, port: PortForwards) -> list[str]:
        """The addresses to which nothing is forwarded for a port."""
        ways: list[ForwardRule | Floating] = [*port.forwards, *port.floating]
        to_all = dict.fromkeys(each.to for each in ways if not _is_free(each))
        return [to for to in to_all if not self._is_own(port, to)]

    def kept(self, port: PortForwards) -> PortForwards:
        """A port's forwards and floating addresses without those."""
        if not (refused := self.refused(port)):
            return port
        return port._replace(
            forwards=tuple(each for each in port.forwards if each.to not in refused),
            floating=tuple(each for each in port.floating if _is_free(each) or each.to not in refused),
        )

    def _is_own(self, port: PortForwards, to: str) -> bool:
        own = self._state.sound_port(port.tap)
        if own is not None and to in _singles(own):
            return True
        if own is not None and not (own.trusted or own.observed or _may_use(own, to)):
            return False
        link = own.segment if own is not None and own.segment else port.bridge
        return not any(each.tap != port.tap and _lives(each) for each in self._holding(link, to))

    def _holding(self, link: str, to: str) -> list[PortReceipt]:
        if self._holders is None:
            self._holders = {}
            for receipt in self._state.ports():
                for address in _singles(receipt):
                    self._holders.setdefault((receipt.segment, address), []).append(receipt)
        return self._holders.get((link, to), [])


def _lives(receipt: PortReceipt) -> bool:
    return links.exists(receipt.tap, receipt.ifindex)


def _is_free(each: ForwardRule | Floating) -> bool:
    """A lease is followed only while it is the port's own; an untranslated address is only routed."""
    return each.to in LEASES or (isinstance(each, Floating) and bool(each.via))


def _singles(receipt: PortReceipt) -> Iterator[str]:
    """Addresses that the receipt names one by one."""
    for text in (*receipt.owned, *(text for _, text in receipt.pairs)):
        address, _, length = text.partition("/")
        if length in ("", "128" if ":" in address else "32"):
            yield address


def _may_use(receipt: PortReceipt, to: str) -> bool:
    """Whether the port may ever send from an address: else no client would get an answer."""
    pairs = (text for _, text in receipt.pairs)
    address = parse.address(to)
    return any(
        address in parse.prefix(text)
        for text in (*receipt.owned, *pairs, *receipt.routed, *receipt.dynamic, *receipt.claims)
    )
