"""What labs of one host and of several need before they start."""

from __future__ import annotations

import hashlib
import re
import sys

from libvirt_guestnet import terminal
from libvirt_guestnet.guest import image
from libvirt_guestnet.lab.run import Progress
from libvirt_guestnet.model.topology import Topology
from libvirt_guestnet.router.image import ensure_router_image


def sandbox_name(found: Topology) -> str:
    """The sandbox a topology's lab lives in: a sandbox's name takes less than a topology's."""
    plain = re.sub(r"[^a-z0-9]+", "-", found.name.lower())[:20].strip("-")
    if plain == found.name:
        return f"lab-{plain}"
    return f"lab-{plain}-{hashlib.sha256(found.name.encode()).hexdigest()[:6]}"


def ensure_images(found: Topology, tell: Progress) -> None:
    """The images of a lab's guests and routers. Raises GuestnetError."""
    kinds = {guest.image for guest in found.guests} - {None}
    if kinds:
        with terminal.Progress(sys.stderr) as progress:
            if "tiny" in kinds:
                image.ensure_image(tell=progress)
            if "router" in kinds:
                pairs = {guest.virtual_router.pair is not None for guest in found.guests if guest.virtual_router}
                for of_pair in pairs:
                    ensure_router_image(tell=progress, of_pair=of_pair)
        tell("guests' image: ready")
