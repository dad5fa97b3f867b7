"""What stands in for <vlan> until the hooks tag ports."""

from __future__ import annotations

from libvirt_guestnet.errors import GuestnetError


def no_vlans_yet(where: str, vlan: int) -> GuestnetError:
    """libvirt 9.0 refuses <vlan> on Linux bridges; to leave it out silently would join what was meant to be apart."""
    return GuestnetError(
        f"{where}: vlan: {vlan} can be checked, but this version does not tag ports yet; "
        f"remove it and use one network per VLAN"
    )
