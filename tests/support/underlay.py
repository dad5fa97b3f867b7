"""Run inside a sandbox: watches a device until standard input ends, then prints what VXLAN was on it, as JSON."""

from __future__ import annotations

import json
import select
import socket
import sys

ETH_P_ALL = 0x0003
PORT = 4789


def watch(device: str) -> dict[str, object]:
    """By VNI the longest IP packet, by VNI who sent (MACs), and how many packets were fragments."""
    longest: dict[int, int] = {}
    senders: dict[int, set[str]] = {}
    fragments = 0
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as ear:
        ear.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
        ear.bind((device, 0))
        print("watching", flush=True)
        while True:
            ready, _, _ = select.select([ear, sys.stdin], [], [])
            if ear not in ready:
                return {
                    "longest": longest,
                    "senders": {k: sorted(v) for k, v in senders.items()},
                    "fragments": fragments,
                }
            packet = ear.recv(65536)
            header, fragment, is_udp = _ip(packet)
            fragments += fragment
            if is_udp and int.from_bytes(packet[header + 2 : header + 4], "big") == PORT:
                vni = int.from_bytes(packet[header + 12 : header + 15], "big")
                longest[vni] = max(longest.get(vni, 0), len(packet) - 14)
                senders.setdefault(vni, set()).add(packet[header + 22 : header + 28].hex(":"))


def _ip(packet: bytes) -> tuple[int, bool, bool]:
    """Where the transport header starts, whether the packet is a fragment, and whether it is UDP."""
    if packet[12:14] == b"\x08\x00":
        return 14 + (packet[14] & 15) * 4, int.from_bytes(packet[20:22], "big") & 0x3FFF != 0, packet[23] == 17
    if packet[12:14] == b"\x86\xdd":
        return 54, packet[20] == 44, packet[20] == 17
    return 0, False, False


if __name__ == "__main__":
    print(json.dumps(watch(sys.argv[1])))
