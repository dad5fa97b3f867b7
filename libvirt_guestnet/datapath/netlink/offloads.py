"""What a NIC's driver can do with frames by itself, and does: ethtool's features (linux/ethtool.h)."""

from __future__ import annotations

import array
import fcntl
import socket
import struct

_SIOCETHTOOL = 0x8946
_GSTRINGS, _GSSET_INFO, _GFEATURES = 0x1B, 0x37, 0x3A
_SET_FEATURES, _NAME = 4, 32
_BLOCK = struct.Struct("=IIII")  # available, requested, active, never changed


def could(device: str, feature: str) -> bool:
    """Whether a feature is off, and could be switched on. False for a device of which that cannot be told."""
    try:
        names = _names(device)
        number = names.index(feature)
        available, _, active, never = _blocks(device, len(names))[number // 32]
    except (OSError, ValueError, IndexError):
        return False
    bit = 1 << number % 32
    return bool(available & bit) and not active & bit and not never & bit


def _names(device: str) -> list[str]:
    asked = struct.pack("=IIQI", _GSSET_INFO, 0, 1 << _SET_FEATURES, 0)
    (count,) = struct.unpack_from("=I", _ask(device, asked), 16)
    data = _ask(device, struct.pack("=III", _GSTRINGS, _SET_FEATURES, count) + bytes(_NAME * count))[12:]
    texts = (data[start : start + _NAME] for start in range(0, _NAME * count, _NAME))
    return [text.split(b"\0")[0].decode(errors="replace") for text in texts]


def _blocks(device: str, count: int) -> list[tuple[int, ...]]:
    blocks = (count + 31) // 32
    data = _ask(device, struct.pack("=II", _GFEATURES, blocks) + bytes(_BLOCK.size * blocks))[8:]
    return list(_BLOCK.iter_unpack(data))


def _ask(device: str, request: bytes) -> bytes:
    """The kernel writes its answer over the request. Raises OSError."""
    buffer = array.array("B", request)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        fcntl.ioctl(sock, _SIOCETHTOOL, struct.pack("16sP16x", device.encode()[:15], buffer.buffer_info()[0]))
    return buffer.tobytes()
