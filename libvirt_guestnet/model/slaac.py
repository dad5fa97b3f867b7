"""The address that a guest forms from its MAC address. On the hook path: standard library only."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network


def eui64(prefix: IPv6Network, mac: str) -> IPv6Address:
    """The SLAAC address of a well-formed MAC in a /64 (RFC 4291, appendix A)."""
    octets = bytes.fromhex(mac.replace(":", ""))
    identifier = bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:]
    return IPv6Address(int(prefix.network_address) | int.from_bytes(identifier, "big"))
