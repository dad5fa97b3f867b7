"""What a topology has on each of its hosts, by what libvirt says there; of what the kernel does, each host's own
`guestnet status` tells. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from libvirt_guestnet.libvirtd.nics import interfaces, tap
from libvirt_guestnet.libvirtd.snapshot import DomainState, Snapshot
from libvirt_guestnet.model.host import Host

Row = dict[str, object]
DOWN, HERE, REACHED = "down", "here", "reached"


def host_row(host: Host, state: str, snapshot: Snapshot | None, topology: str, trouble: str = "") -> Row:
    """How a host is; of one that is down, why."""
    networks = [each for each in snapshot.networks if each.topology == topology] if snapshot else []
    guests = [each for each in snapshot.domains if each.topology == topology] if snapshot else []
    return {
        "kind": "host",
        "host": host.name,
        "state": state,
        "underlay": str(host.underlay or ""),
        "chassis": host.chassis,
        "networks": [each.name for each in networks if each.live is not None],
        "inactive": [each.name for each in networks if each.live is None],
        "running": [each.name for each in guests if each.live is not None],
        "trouble": trouble,
    }


def port_rows(host: Host, snapshot: Snapshot, topology: str) -> Iterator[Row]:
    """The ports of the topology's guests there."""
    for state in snapshot.domains:
        if state.topology == topology and not state.is_copy:
            yield from _ports(host, state)


def _ports(host: Host, state: DomainState) -> Iterator[Row]:
    live = interfaces(state.live, state.marked_networks)
    for policy in state.policies:
        nic = live.get(policy.mac)
        yield {
            "kind": "host-port",
            "host": host.name,
            "guest": state.name,
            "port": policy.name,
            "network": policy.network,
            "mac": policy.mac,
            "tap": "" if nic is None else tap(nic) or "",
            "running": state.live is not None,
            "addresses": list(map(str, policy.addresses)),
        }
