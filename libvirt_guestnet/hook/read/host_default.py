"""What a port may send for whose guard nobody asks but this host's default (`guard` in host.yaml): pure reading.

Its guest has worked without a guard, and nobody has listed its addresses. So it is kept to those that the host's own
DHCP server tells. Where nobody on the host tells any, the guest may have configured whatever is right on its LAN: there
it may use each address that is neither the host's nor another guest's (decision 64).
"""

from __future__ import annotations

from libvirt_guestnet.hook.read import savi_prefixes
from libvirt_guestnet.state.receipts import NetworkReceipt, PortReceipt


def unknown(bridge: str) -> NetworkReceipt:
    """A bridge that no network of libvirt's says anything of."""
    return NetworkReceipt("", "", False, bridge, external=True, undeclared=True)


def opened(receipt: PortReceipt, network: NetworkReceipt) -> PortReceipt:
    """A port's receipt, with any address of each IP version of which none can be known."""
    known = [not receipt.trunk and any(":" not in text for text in (*receipt.owned, *receipt.dhcp))]
    known.append(not receipt.trunk and _tells_six(network))
    wide = (text for text, is_known in zip(("0.0.0.0/0", "::/0"), known, strict=True) if not is_known)
    return receipt._replace(owned=(*receipt.owned, *wide))


def _tells_six(network: NetworkReceipt) -> bool:
    """Whether guests on it have only IPv6 addresses that DHCP tells, or that they claim: so too where the host has none
    itself, on a link of its own."""
    served = any(":" in host for host in network.hosts)
    return bool(savi_prefixes.claimable(network)) if served else bool(network.hosts)
