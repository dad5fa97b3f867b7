"""How the two routers of a pair tell each other their connections: conntrackd's configuration. Pure.

The one that waits puts them into its kernel as they come, so that nothing has to be done when it takes over.
"""

from __future__ import annotations

from collections.abc import Iterator

from libvirt_guestnet.model.router import RouterConfig

PORT = 3780
"""UDP port, conntrackd's default."""


def lines(config: RouterConfig) -> Iterator[str]:
    """Nothing for a router that is alone."""
    sync = config.sync
    if sync is None:
        return
    yield "Sync {"
    yield "Mode FTFW {"
    yield "DisableExternalCache yes"
    yield "StartupResync yes"
    yield "}"
    yield "UDP {"
    yield f"IPv4_address {sync.address.ip}"
    yield f"IPv4_Destination_Address {sync.peer}"
    yield f"Port {PORT}"
    yield f"Interface {sync.name}"
    yield "Checksum on"
    yield "}"
    yield "}"
    yield "General {"
    yield "HashSize 8192"
    yield "HashLimit 65536"
    yield "LockFile /run/router/conntrackd.lock"
    yield "UNIX {"
    yield "Path /run/router/conntrackd.socket"
    yield "}"
    yield "NetlinkBufferSize 1048576"
    yield "NetlinkBufferSizeMaxGrowth 4194304"
    yield "Filter From Kernelspace {"
    yield "Protocol Accept {"
    yield from ("TCP", "UDP", "SCTP", "ICMP", "IPv6-ICMP")
    yield "}"
    yield "Address Ignore {"
    yield from ("IPv4_address 127.0.0.1", "IPv6_address ::1")
    yield f"IPv4_address {config.control.address.ip}"
    yield f"IPv4_address {sync.address.ip}"
    yield "}"
    yield "}"
    yield "}"
