"""Running domains as hooks see them: each NIC joined with the network that counts for it, and its policy.

What should be guarded is then what the hooks would guard.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.read.domain import Domain
from libvirt_guestnet.hook.read.hostwide import DECLARED
from libvirt_guestnet.hook.read.network_receipts import network_receipt
from libvirt_guestnet.libvirtd.snapshot import Element, NetworkState
from libvirt_guestnet.metadata.elements import node_of
from libvirt_guestnet.state.receipts import NetworkReceipt


class Joining:
    """`networks` are those that the hooks know, `managed` the bridges that they close, each with the network whose
    defaults hold on it (`Bridges.networks`), `default` what this host says of NICs of which nobody else does."""

    def __init__(
        self, networks: Mapping[str, NetworkReceipt], managed: Mapping[str, str], default: str = DECLARED
    ) -> None:
        self.networks, self._managed, self._default = networks, managed, default
        self._insisting = {each.bridge: each.name for each in networks.values() if each.required and each.bridge}

    def domain(self, live: Element) -> Domain:
        """A running domain, by its live XML."""
        return Domain(node_of(live), self.networks.get, self._name_of, self._default)

    def _name_of(self, bridge: str, named: str) -> str:
        # As `bridge_guard.joined`, which asks the state under /run for each.
        name = self._managed.get(bridge, "") or ("" if named or not bridge else self._insisting.get(bridge, ""))
        if not name and bridge and not named and self._default != DECLARED:
            return next((each.name for each in self.networks.values() if each.bridge == bridge and each.hosts), "")
        declared = self.networks.get(named) if named else None
        return name if name and (declared is None or declared.undeclared) else named


def with_declared(
    networks: Mapping[str, NetworkReceipt], active: tuple[NetworkState, ...]
) -> dict[str, NetworkReceipt]:
    """The networks that the hooks know, and those of ours that started without them."""
    found = dict(networks)
    for network in active:
        if network.name not in found and network.told is not None:
            with suppress(GuestnetError):  # what hooks would refuse says nothing of its ports
                if receipt := network_receipt(node_of(network.told)):
                    found[network.name] = receipt
    return found
