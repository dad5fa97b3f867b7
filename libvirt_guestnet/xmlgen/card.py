"""What an <interface> says of the NIC that its guest sees, as far as the file does."""

from __future__ import annotations

from collections.abc import Iterator

from libvirt_guestnet.model.card import Card
from libvirt_guestnet.xmlgen.element import Element, node


def elements(card: Card) -> Iterator[Element]:
    """All but the model and the MTU, which a port also has without a word of the file."""
    if card.teaming:
        yield node("teaming", type=card.teaming)
    if card.driver:
        yield node("driver", **dict(card.driver))
    if card.boot_order:
        yield node("boot", order=card.boot_order)
    if card.alias:
        yield node("alias", name=card.alias)
    if card.pci_slot:
        yield _address(card.pci_slot)


def _address(slot: str) -> Element:
    bus, _, rest = slot.partition(":")
    number, _, function = rest.partition(".")
    said = {"domain": "0x0000", "bus": f"0x{bus}", "slot": f"0x{number}", "function": f"0x{function}"}
    return node("address", type="pci", **said)
