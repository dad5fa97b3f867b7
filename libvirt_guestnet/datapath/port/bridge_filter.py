"""The bridge guard as nft text: on a bridge of ours a port that nobody put under guard passes nothing.

Pure. One rule for each way a frame takes, whatever the number of ports: a set holds the bridges, another the ports
that may pass, by their index in the kernel, which no later device is given; so a reused name inherits nothing.

`meta ibrname` and `obrname` need nft_meta_bridge (CONFIG_NFT_BRIDGE_META): a kernel without it refuses the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterable

from libvirt_guestnet.datapath.run.names import check_device

TABLE = "bridge guestnet"

# Before everybody's chains, and before a `broute` at -300 could take a frame away from the bridge.
_PRIORITY = -400
_DROP = 'counter drop comment "unguarded port"'
_FROM = f"iif != @ports meta ibrname @bridges {_DROP}"
_TO = f"oif != @ports meta obrname @bridges {_DROP}"
_CHAINS = {
    "prerouting": _FROM,
    # Frames for link-local groups (802.1D, 802.1X…) are not seen before this.
    "input": f"ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 {_FROM}",
    "forward": _TO,
    "output": _TO,
}


CHAINS = tuple(_CHAINS)


def guard(bridges: Iterable[str], ports: Iterable[int]) -> str:
    """The nft batch that makes our table exactly this, whatever was there before; ports are kernel indexes."""
    lines = [
        f"add table {TABLE}",
        f"add set {TABLE} bridges {{ type ifname; }}",
        f"add set {TABLE} ports {{ type iface_index; }}",
        f"flush set {TABLE} bridges",
        f"flush set {TABLE} ports",
        *(f'add element {TABLE} bridges {{ "{check_device(bridge)}" }}' for bridge in sorted(set(bridges))),
        *_elements("add", ports),
    ]
    for hook, rule in _CHAINS.items():
        lines += [
            f"add chain {TABLE} {hook} {{ type filter hook {hook} priority {_PRIORITY}; policy accept; }}",
            f"flush chain {TABLE} {hook}",
            f"add rule {TABLE} {hook} {rule}",
        ]
    return "\n".join(lines) + "\n"


def change(admitted: Iterable[int], gone: Iterable[int]) -> str:
    """The nft batch that admits ports and shuts others out. The kernel refuses it where our table is not there."""
    admitted, gone = set(admitted), set(gone)
    # `add` makes `delete` tolerant of what is not there.
    lines = [*_elements("add", admitted | gone), *_elements("delete", gone - admitted)]
    return "".join(f"{line}\n" for line in lines)


def remove() -> str:
    """The nft batch that removes our table."""
    return f"add table {TABLE}\ndelete table {TABLE}\n"


def _elements(verb: str, ports: Iterable[int]) -> list[str]:
    # nft takes what may be a device's name for one, and names may be numbers: 16 digits are longer than a name can be.
    listed = ", ".join(f'"{port:016d}"' for port in sorted(set(ports)))
    return [f"{verb} element {TABLE} ports {{ {listed} }}"] if listed else []
