"""The keys of hosts, and of what joins them."""

# ruff: noqa: RUF009 (key() declares a field, as dataclasses.field does)

from __future__ import annotations

from dataclasses import dataclass

from libvirt_guestnet.model.host import Encapsulation, FabricKind
from libvirt_guestnet.model.network import IPAddress

from . import address_kinds, host_kinds, kinds
from .spec import At, Decl, ListOf, MapOf, RecordKind, key


@dataclass(frozen=True, kw_only=True)
class HostDecl(Decl):
    """A libvirt host that the topology is on."""

    uri: At[str] = key(
        host_kinds.URI,
        "How its libvirt is reached from all others, such as qemu+ssh://root@SERVER/system. On the host itself, which "
        "is known by its underlay, the local one is taken.",
        required=True,
        default="",
    )
    underlay: At[IPAddress] | None = key(
        address_kinds.IP,
        "Its address among the hosts, where its end of every tunnel is: each other host of a vxlan has it as remote. "
        "Required unless fabric is bridge.",
    )
    chassis: At[str] | None = key(kinds.WORD, "Its name in OVN (system-id). Left out: the host's name here.")
    labels: tuple[tuple[At[str], At[str] | None], ...] | None = key(
        MapOf(host_kinds.DEVICE, kinds.WORD),
        "Physical networks with the device behind each there: a NIC, a bridge, BRIDGE/NIC or ovs:BRIDGE. A bare name "
        "is that of a NIC: bridge:NAME is a bridge. A host has the networks whose label it has, and those without one.",
    )


@dataclass(frozen=True, kw_only=True)
class TlsDecl(Decl):
    """The files for connections to OVN's databases, on the host that applies the topology."""

    private_key: At[str] = key(host_kinds.PATH, "Path of the private key.", required=True, default="/", name="key")
    certificate: At[str] = key(host_kinds.PATH, "Path of its certificate.", required=True, default="/")
    ca: At[str] = key(
        host_kinds.PATH,
        "Path of the authority's certificate, by which the database is known.",
        required=True,
        default="/",
    )


@dataclass(frozen=True, kw_only=True)
class FabricDecl(Decl):
    """What carries guests' frames between hosts."""

    kind: At[FabricKind] = key(
        host_kinds.FABRIC,
        "bridge: networks reach other hosts by physical networks alone; vxlan: a network's vxlan without group and "
        "remotes is between all hosts that have its underlay; ovn: networks are OVN's.",
        required=True,
        default=FabricKind.BRIDGE,
    )
    northbound: tuple[At[str], ...] | None = key(
        ListOf(host_kinds.DATABASE, one=True),
        "Kind ovn: addresses of OVN's northbound database, such as ssl:192.0.2.1:6641; of a cluster all of them.",
    )
    tls: TlsDecl | None = key(RecordKind(TlsDecl), "Kind ovn: the files for ssl: addresses.")
    encapsulation: At[Encapsulation] | None = key(
        host_kinds.ENCAPSULATION, "Kind ovn: how hosts send each other frames. Left out: geneve."
    )
