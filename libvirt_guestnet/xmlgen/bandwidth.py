"""<bandwidth>: the same element for a network and for an interface."""

from __future__ import annotations

from libvirt_guestnet.model.network import Bandwidth, Rate
from libvirt_guestnet.xmlgen.element import Element, maybe, node


def bandwidth(limits: Bandwidth | None) -> Element | None:
    """The limits as libvirt writes them, or None when there are none."""
    if limits is None:
        return None
    return maybe(
        limits.inbound or limits.outbound,
        "bandwidth",
        _direction("inbound", limits.inbound),
        _direction("outbound", limits.outbound),
    )


def _direction(tag: str, rate: Rate | None) -> Element | None:
    if rate is None:
        return None
    return node(tag, average=rate.average, peak=rate.peak, burst=rate.burst)
