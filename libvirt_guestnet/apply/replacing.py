"""`guestnet router replace`: a router restarts as it is defined, with the newest appliance. Its leases, its document
and its MAC addresses stay (decision 89)."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy

from libvirt_guestnet.apply import apply as applying
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.guest.image import TinyImage
from libvirt_guestnet.libvirtd.connection import Connection, connect
from libvirt_guestnet.libvirtd.snapshot import DomainState, Element, channel, parse_xml, to_text
from libvirt_guestnet.parse import shown
from libvirt_guestnet.router import control, pairing
from libvirt_guestnet.router.image import ensure_router_image

Tell = Callable[[str], None]


def replace(uri: str | None, name: str, tell: Tell) -> float:
    """Replaces a router; the seconds from its stop until it serves again. Where the new one does not serve, the old one
    is back before GuestnetError is raised."""
    image = ensure_router_image(tell=tell, of_pair=pairing.pair_of(name) is not None)
    with applying.locked(), connect(uri) as connection:
        old = connection.snapshot().domain.get(name)
        if old is None or not old.is_router:
            raise GuestnetError(f"libvirt has no virtual router {shown(name)} of guestnet's")
        try:
            return _restarted(connection, name, to_text(_with_image(old.config, image)), tell)
        except GuestnetError as error:
            _go_back(connection, old, error)
            raise GuestnetError(f"router {name} was not replaced, and runs as before: {error}") from error


def _with_image(definition: Element, image: TinyImage) -> Element:
    made = deepcopy(definition)
    for tag, path in (("kernel", image.kernel), ("initrd", image.initrd)):
        element = made.find(f"os/{tag}")
        if element is None:
            raise GuestnetError(f"its definition has no <{tag}> any more: define it anew with `guestnet apply`")
        element.text = str(path)
    return made


def _restarted(connection: Connection, name: str, definition: str, tell: Tell) -> float:
    connection.define_domain(definition)
    tell(f"router {name} stops")
    began = time.monotonic()
    connection.stop_domain(name)
    connection.start_domain(name)
    live = connection.live_xml(name)
    if trouble := control.await_serving(name, "" if live is None else channel(parse_xml(live))):
        raise GuestnetError(f"it does not serve: {trouble}")
    return time.monotonic() - began


def _go_back(connection: Connection, old: DomainState, why: GuestnetError) -> None:
    """Raises GuestnetError with both reasons where that fails, too."""
    try:
        connection.define_domain(to_text(old.config))
        if old.live is not None:
            connection.stop_domain(old.name)
            connection.start_domain(old.name)
    except GuestnetError as error:
        raise GuestnetError(f"router {old.name} was not replaced: {why}; and it is not back: {error}") from why
