"""Where a frame may be seen: all that is not expected is a leak. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from libvirt_guestnet.isolation.frames import ORDINARY, Frame
from libvirt_guestnet.isolation.link import GUARDED, Link, Sighting


def is_expected(link: Link, way: str, frame: Frame, seen: Sighting, links: Iterable[Link]) -> bool:
    """Whether a frame that a port of `link` sent may be seen there. What a guarded port must not send may be seen
    nowhere; what one that is not guarded sends with tags stays on its own link, and in no VLAN of another one."""
    if frame.kind == ORDINARY:
        return _is_on(link, seen)
    if way == GUARDED:
        return False
    here = seen.device == link.bridge or seen.device in link.ports or (seen.vni is not None and seen.vni == link.vni)
    return here or (seen.device in link.exits and not any(_is_on(other, seen) for other in links if other is not link))


def _is_on(link: Link, seen: Sighting) -> bool:
    if seen.vni is not None:
        return seen.vni == link.vni
    if seen.wrapped:
        return link.open_vswitch  # which has tunnels of its own
    if seen.device == link.bridge:
        return seen.tags in ((), link.tag)
    return seen.tags in {**link.exits, **link.ports}.get(seen.device, frozenset())


def whose(seen: Sighting, links: Collection[Link]) -> str:
    """The networks on whose link that was, for a reader; "" for none of them."""
    found = [link for link in links if _is_on(link, seen)] or [
        link for link in links if seen.device in (link.bridge, *link.ports, *link.exits)
    ]
    return ", ".join(dict.fromkeys(name for link in found for name in link.networks))
