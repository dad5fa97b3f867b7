"""What an import goes by, and what the file is to say of it: values alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from libvirt_guestnet.importing.values import Value
from libvirt_guestnet.libvirtd.snapshot import Snapshot
from libvirt_guestnet.metadata.policy import PortPolicy
from libvirt_guestnet.model.network import IPAddress

Leases = Mapping[str, frozenset[str]]
"""By MAC address, the addresses that a network's DHCP server gave."""


@dataclass(frozen=True)
class Request:
    """What the user asked for. `names` are domains, networks and bridges; none: everything there is. Without `observe`
    the ports are guarded at once. `own`: networks of libvirt's are taken over, each with all guests on it."""

    topology: str
    observe: bool = True
    names: frozenset[str] = frozenset()
    own: bool = False

    def concerns(self, *names: str) -> bool:
        """Whether one of these was asked for."""
        return not self.names or not self.names.isdisjoint(names)


@dataclass(frozen=True)
class Seen:
    """The host. `leases` are by bridge; so are `neighbours`, the kernel's, each an address and a MAC address, and
    `hosts`, the host's own addresses there."""

    snapshot: Snapshot
    leases: Mapping[str, Leases] = field(default_factory=dict)
    neighbours: Mapping[str, tuple[tuple[IPAddress, str], ...]] = field(default_factory=dict)
    hosts: Mapping[str, frozenset[IPAddress]] = field(default_factory=dict)


@dataclass(frozen=True)
class Listed:
    """An address that the file says, and where it comes from."""

    ip: IPAddress
    source: str


@dataclass(frozen=True)
class Addresses:
    """What is known of a port's addresses: its own, those that it may use beside what DHCP tells it, why it says
    `privacy-addresses: true`, and remarks on those that the file does not say."""

    own: tuple[Listed, ...] = ()
    pairs: tuple[Listed, ...] = ()
    privacy: str = ""
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImportedPort:
    """A NIC. `name` is "" for the network's own; `observed` is why the port itself says so, "" if it does not. `said`
    is what was set for it without a file: then nothing else counts. `word` stands for addresses where the file lists
    none, "" if it then says nothing."""

    network: str
    mac: str
    addresses: Addresses
    name: str = ""
    observed: str = ""
    said: PortPolicy | None = None
    word: str = ""


@dataclass(frozen=True)
class ImportedGuest:
    name: str
    ports: tuple[ImportedPort, ...]


@dataclass(frozen=True)
class ImportedNetwork:
    """A network of libvirt's, or with `bridge` a bridge of the host's. `what` says for people what it is, `guarded` how
    the ports on it are guarded ("": only those in the file), `keys` all that the file says of one that is to be
    guestnet's."""

    name: str
    what: str
    bridge: str = ""
    guarded: str = ""
    keys: Mapping[str, Value] | None = None


@dataclass(frozen=True)
class LeftOut:
    """Something that the file cannot say, and why. `managed`: another file says it."""

    what: str
    why: str
    managed: bool = False


@dataclass(frozen=True)
class Imported:
    """All that the file says."""

    request: Request
    networks: tuple[ImportedNetwork, ...] = ()
    guests: tuple[ImportedGuest, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
