"""Next hops: the host's routes by way of a domain's ports on bridges, as its XML asks for. Pure reading."""

from __future__ import annotations

from libvirt_guestnet import parse
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.read.domain import Domain, Nic
from libvirt_guestnet.metadata.policy import PortPolicy
from libvirt_guestnet.state.receipts import HostRoutes, Route


def host_routes(domain: Domain) -> list[HostRoutes]:
    """The host's routes to the prefixes behind each port, by way of the port's address.

    Raises GuestnetError on anything that cannot be carried out.
    """
    return [_host_routes(domain, policy, nic) for policy, nic in domain.policies() if policy.behind]


def _host_routes(domain: Domain, policy: PortPolicy, nic: Nic) -> HostRoutes:
    if not nic.bridge:
        raise GuestnetError(f"interface {policy.mac}: it is on no bridge that the host could route through")
    bridge = parse.device(nic.bridge)
    return HostRoutes(
        tap=parse.device(nic.checked_tap()),
        uuid=domain.uuid,
        domain=domain.name,
        routes=tuple(Route(str(prefix), bridge, _via(policy, prefix)) for prefix in policy.behind),
        behind=tuple(map(str, policy.behind)),
    )


def _via(policy: PortPolicy, prefix: parse.Prefix) -> str:
    for address in policy.addresses:
        if address.version == prefix.version:
            return str(address)
    raise GuestnetError(f"interface {policy.mac}: it has no address that {prefix} could be routed to")
