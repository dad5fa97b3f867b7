"""The bridge guard as nft text: on a managed bridge, a port that is not guarded can neither send nor receive.

Pure. There is one rule for each hook, however many ports there are: one set holds the bridges, another the ports that
may pass, by device index. The kernel never gives an index twice, so a device with a reused name inherits nothing.

`meta ibrname` and `obrname` need nft_meta_bridge (CONFIG_NFT_BRIDGE_META): a kernel without it refuses the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterable

from libvirt_guestnet.datapath.run.names import check_device

TABLE = "bridge guestnet"

# Before all other chains, and before ebtables' `broute` at -300, which could take a frame away from the bridge.
_PRIORITY = -400
_DROP = 'counter drop comment "unguarded port"'
_FROM = f"iif != @ports meta ibrname @bridges {_DROP}"
_TO = f"oif != @ports meta obrname @bridges {_DROP}"
_CHAINS = {
    "prerouting": _FROM,
    # Frames to link-local groups (802.1D, 802.1X…) are seen by this hook first.
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
    # nft would take a number for a device's name if there is one of that name. 16 digits are longer than any name.
    listed = ", ".join(f'"{port:016d}"' for port in sorted(set(ports)))
    return [f"{verb} element {TABLE} ports {{ {listed} }}"] if listed else []
