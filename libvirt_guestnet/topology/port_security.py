"""What a network's declaration says of the guard of its ports, whoever made the network."""

from __future__ import annotations

from libvirt_guestnet.metadata.policy import OBSERVE, REQUIRED, STRICT
from libvirt_guestnet.model.network import Mode, Network

from .network_keys import NetworkDecl
from .spec import At


def with_port_security(at: At[str], decl: NetworkDecl, mode: Mode, bridge: str) -> Network:
    """A network of which nothing else is known yet."""
    return Network(
        name=at.value,
        mode=mode,
        bridge=bridge,
        guarded=bool(decl.guarded.value),
        guard_required=decl.guarded.value == REQUIRED,
        observed=decl.guarded.value == OBSERVE,
        privacy_addresses=decl.privacy_addresses.value is True,
        strict_addresses=decl.privacy_addresses.value == STRICT,
        log_drops=decl.log_drops.value,
        offload=decl.offload.value,
    )
