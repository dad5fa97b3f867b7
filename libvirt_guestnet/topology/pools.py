"""`auto`: VLANs and VNIs drawn from the pool that a physical network declares.

What is drawn follows from the file alone, so that every host that carries a VXLAN comes to the same VNI, and `render`
to what `apply` makes. Names are hashed; where two lead to the same number, the first network in the file has it. So a
network added at the end moves nobody, and one taken away moves at most a later one that had wanted the same number
(decision 24).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

from . import addressing
from .keys import TopologyDecl
from .kinds import AUTO
from .network_keys import NetworkDecl, PhysicalDecl, VxlanDecl
from .report import Report
from .spec import At, values

Pool = tuple[tuple[int, int], ...]


def draw(decl: TopologyDecl, report: Report) -> tuple[TopologyDecl, frozenset[str]]:
    """The file with numbers in the place of every `auto`, and the networks that have one.

    A network for which there is none is reported, and loses its VLAN, so that the rest is still checked.
    """
    pools = _Pools(decl, report)
    networks = tuple((name, each and pools.filled(name, each)) for name, each in decl.networks or ())
    return (replace(decl, networks=networks) if decl.networks else decl), frozenset(pools.drawn)


class _Pools:
    """Who has which number. VLANs belong to their label; a VNI names a device, so it is the whole host's."""

    def __init__(self, decl: TopologyDecl, report: Report) -> None:
        self.topology, self.report = decl.name.value, report
        self.physicals = {name.value: each for name, each in decl.physical_networks or ()}
        for each in self.physicals.values():
            self._check(each)
        self.taken: dict[tuple[str, str], set[int]] = {}
        for kind, label, number in _explicit(decl):
            self._of(kind, label).add(number)
        self.drawn: list[str] = []

    def _check(self, physical: PhysicalDecl | None) -> None:
        for pool in (physical.vlans, physical.vnis) if physical else ():
            ordered = sorted(pool or (), key=lambda at: at.value)
            for before, at in pairwise(ordered):
                if at.value[0] <= before.value[1]:
                    self.report.add(max(at.where, before.where), f"{_shown(at.value)} overlaps {_shown(before.value)}")

    def _of(self, kind: str, label: str) -> set[int]:
        return self.taken.setdefault((kind, label if kind == "vlans" else ""), set())

    def filled(self, name: At[str], decl: NetworkDecl) -> NetworkDecl:
        label = decl.physical_network
        vlan = self._number("vlans", name, decl.vlan, label)
        service = self._number("vlans", name, decl.service_vlan, label)
        return replace(decl, vlan=vlan, service_vlan=service, vxlan=decl.vxlan and self._vxlan(name, decl.vxlan))

    def _vxlan(self, name: At[str], decl: VxlanDecl) -> VxlanDecl:
        if "vni" in decl.bad or decl.vni.where == decl.at:  # nonsense, or left out: reported already
            return decl
        return replace(decl, vni=self._number("vnis", name, decl.vni, decl.underlay) or decl.vni)

    def _number(self, kind: str, name: At[str], given: At[int] | None, label: At[str] | None) -> At[int] | None:
        """What stands for the value of a key: itself, the number drawn, or None where there is none to draw."""
        if given is None or given.value != AUTO:
            return given
        if label is None:
            self.report.add(given.where, "auto draws from the pool of a physical-network, and this network has none")
            return None
        number = self._draw(kind, name.value, given, label.value)
        return None if number is None else At(number, given.where)

    def _draw(self, kind: str, name: str, given: At[int], label: str) -> int | None:
        physical = self.physicals.get(label)
        if physical is None:
            return None  # unknown or unreadable: reported where the label is
        declared = physical.vlans if kind == "vlans" else physical.vnis
        if declared is None:
            if kind not in physical.bad:
                self.report.add(given.where, f"physical network '{label}' has no pool: give it {kind}: [FIRST-LAST]")
            return None
        pool, taken = tuple(sorted(values(declared))), self._of(kind, label)
        number = addressing.draw(pool, taken, kind, self.topology, name)
        if number is None:
            self.report.add(
                given.where, f"the pool of physical network '{label}' has run out: {_description(pool, kind)}"
            )
            return None
        taken.add(number)
        self.drawn.append(name)
        return number


def _explicit(decl: TopologyDecl) -> Iterator[tuple[str, str, int]]:
    """What the file gives out itself: pool, label, number. A trunk shares VLANs with their networks, so has none."""
    labels = {}
    for name, network in decl.networks or ():
        if network is None:
            continue
        label = labels[name.value] = network.physical_network.value if network.physical_network else ""
        yield from (("vlans", label, at.value) for at in (network.vlan, network.service_vlan) if at)
        if network.vxlan:
            yield "vnis", "", network.vxlan.vni.value
    for _, guest in decl.guests or ():
        for port in guest.ports if guest else ():
            own = (at.value for at in (port.vlan, port.native_vlan) if at)
            yield from (("vlans", labels.get(port.network.value, ""), number) for number in own)


def _description(pool: Pool, kind: str) -> str:
    size = sum(last - first + 1 for first, last in pool)
    what = kind[:-1].upper() + ("s" if size > 1 else "")
    return f"it has {size} {what} ({', '.join(map(_shown, pool))}), all taken in this file"


def _shown(span: tuple[int, int]) -> str:
    first, last = span
    return str(first) if first == last else f"{first}-{last}"
