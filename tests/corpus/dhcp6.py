"""DHCPv6 as guests speak it, and their identifiers (RFC 8415)."""

from __future__ import annotations

import itertools
from typing import Any

from make import ME, MY_LL
from scapy.all import (  # type: ignore[attr-defined]
    DUID_EN,
    DUID_LL,
    DUID_LLT,
    DUID_UUID,
    UDP,
    DHCP6OptClientId,
    DHCP6OptElapsedTime,
    DHCP6OptIA_NA,
    DHCP6OptIAAddress,
    DHCP6OptServerId,
    Ether,
    IPv6,
)

DUIDS = {
    "link-layer": DUID_LL(lladdr=ME),
    "link-layer and time": DUID_LLT(timeval=7, lladdr=ME),
    "vendor (systemd)": DUID_EN(enterprisenum=43793, id=b"\1\2\3\4\5\6\7\x08"),
    "UUID (RFC 6355)": DUID_UUID(uuid="62000000-0000-4000-8000-000000000001"),
}
_numbers = itertools.count(1)


def question(message: Any, *options: Any, client: Any, mac: str = ME, source: str = MY_LL) -> bytes:
    """A message to all servers, as a frame; no two are alike, and `message` is given its number."""
    message.trid = next(_numbers)
    packet = message
    for option in (DHCP6OptClientId(duid=client), DHCP6OptElapsedTime(), *options):
        packet = packet / option
    header = Ether(src=mac, dst="33:33:00:01:00:02") / IPv6(src=source, dst="ff02::1:2") / UDP(sport=546, dport=547)
    return bytes(header / packet)


def answers(frame: bytes, message: Any) -> bool:
    """Whether a frame is the server's answer to this message."""
    packet = Ether(frame)
    return bool(UDP in packet and packet[UDP].sport == 547 and packet[UDP].payload.trid == message.trid)


def association(*addresses: str, valid: int = 0, iaid: int = 1) -> Any:
    """An IA_NA with these addresses."""
    inside = [DHCP6OptIAAddress(addr=address, preflft=valid, validlft=valid) for address in addresses]
    return DHCP6OptIA_NA(iaid=iaid, T1=valid // 2, T2=valid // 4 * 3, ianaopts=inside)


def server_of(answer: Any) -> Any:
    """The option that names the server, to send back."""
    return DHCP6OptServerId(duid=answer[DHCP6OptServerId].duid)


def address_of(answer: Any) -> str:
    """The first address that the server gives."""
    return str(answer[DHCP6OptIA_NA].ianaopts[0].addr)
