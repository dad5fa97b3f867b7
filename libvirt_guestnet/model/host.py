"""The hosts of a topology and what joins them, as facts."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from libvirt_guestnet.errors import Where
from libvirt_guestnet.model.network import IPAddress


class FabricKind(StrEnum):
    """What carries guests' frames between hosts."""

    BRIDGE = "bridge"
    VXLAN = "vxlan"
    OVN = "ovn"


class Encapsulation(StrEnum):
    """How OVN's chassis send frames to each other."""

    GENEVE = "geneve"
    VXLAN = "vxlan"


@dataclass(frozen=True)
class Tls:
    """The files with which whoever applies the topology proves to OVN's databases who it is, and knows them."""

    key: str
    certificate: str
    ca: str


@dataclass(frozen=True)
class Fabric:
    """What joins the hosts. All but `kind` is OVN's: `northbound` are the addresses of the northbound database, as
    ovn-nbctl takes them, any of which will do."""

    kind: FabricKind = FabricKind.BRIDGE
    northbound: tuple[str, ...] = ()
    tls: Tls | None = None
    encapsulation: Encapsulation = Encapsulation.GENEVE
    where: Where | None = field(default=None, compare=False)


BRIDGED = Fabric()


@dataclass(frozen=True)
class Host:
    """A libvirt host of a topology: by what `uri` others reach its libvirt, and at what address (`underlay`) its end
    of every tunnel is. `labels` are physical networks with the device that is behind each there, as host.yaml has
    them. `chassis` is its name in OVN. `where` is its place in the file."""

    name: str
    uri: str
    underlay: IPAddress | None = None
    chassis: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    where: Where | None = field(default=None, compare=False)

    def maps(self, label: str) -> bool:
        """Whether it has a device behind that label."""
        return any(label == known for known, _ in self.labels)
