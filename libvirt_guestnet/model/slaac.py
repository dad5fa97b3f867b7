"""The address that a guest forms from its MAC address, and back; MAC addresses that several have. On the hook path:
standard library only."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network

VIRTUAL_ROUTERS = ("00:00:5e:00:01:", "00:00:5e:00:02:")
"""What VRRP's and CARP's begin with; they end in the number of their virtual router (RFC 9568)."""


def eui64(prefix: IPv6Network, mac: str) -> IPv6Address:
    """The SLAAC address of a well-formed MAC in a /64 (RFC 4291, appendix A)."""
    octets = bytes.fromhex(mac.replace(":", ""))
    identifier = bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:]
    return IPv6Address(int(prefix.network_address) | int.from_bytes(identifier, "big"))


def mac_of(address: IPv4Address | IPv6Address) -> str:
    """The MAC from which a guest forms this address; "" if there is none."""
    octets = address.packed[8:]
    if octets[3:5] != b"\xff\xfe":
        return ""
    return ":".join(f"{each:02x}" for each in (octets[0] ^ 2, *octets[1:3], *octets[5:]))
