"""The keys of a topology file, and of its checks; those of networks, guests, routers and services are in the modules
beside this one. They are the one source for the reader, the key checks and the JSON Schema."""

# ruff: noqa: RUF009 (key() declares a field, as dataclasses.field does)

from __future__ import annotations

from dataclasses import dataclass

from libvirt_guestnet.model.network import IPAddress
from libvirt_guestnet.model.topology import FORGERIES, Family
from libvirt_guestnet.model.traffic import Service

from . import kinds
from .guest_keys import GuestDecl
from .host_keys import FabricDecl, HostDecl
from .network_keys import NetworkDecl, PhysicalDecl
from .router_keys import VirtualRouterDecl
from .spec import At, Decl, ListOf, MapOf, RecordKind, key


@dataclass(frozen=True, kw_only=True)
class ExpectDecl(Decl):
    """One thing `verify` checks. An endpoint is a guest, GUEST.PORT, a label or host."""

    source: At[str] = key(kinds.OBJECT_NAME, "Endpoint that sends.", required=True, name="from")
    destination: At[str] | None = key(kinds.OBJECT_NAME, "Endpoint it sends to; none with forge alone.", name="to")
    can: tuple[At[Service | str], ...] | None = key(ListOf(kinds.PROBE), "Services that work; also layer2.")
    cannot: tuple[At[Service | str], ...] | None = key(ListOf(kinds.PROBE), "Services that do not; also layer2.")
    via: tuple[At[str], ...] | None = key(
        ListOf(kinds.OBJECT_NAME), "The hops in between that a trace shows, in order: guests or host."
    )
    address: At[IPAddress] | None = key(
        kinds.IP, "Ask for this address, which forwards or floating translate to the guest's, not its own.", name="at"
    )
    seen_as: At[str] | None = key(kinds.OBJECT_NAME, "Endpoint whose address the destination sees as source.")
    answered_by: At[str] | None = key(
        kinds.OBJECT_NAME, "Endpoint whose MAC address answers ARP and ND for the destination on the link."
    )
    gateways: tuple[At[IPAddress], ...] | None = key(
        ListOf(kinds.IP), "The source's default gateways, one for each family checked."
    )
    tables: tuple[At[str], ...] | None = key(
        ListOf(kinds.HOST_TABLE),
        "What the host's tables hold for each address of the destination: route (to a port), published (the "
        "host answers ARP or ND for it: flags MP in `arp -n`); [] when nothing.",
    )
    forge: tuple[At[str], ...] | None = key(
        ListOf(kinds.FORGERY, all_word="all", all_items=FORGERIES),
        "Kinds of forged frame that must arrive nowhere, or all.",
    )
    families: tuple[At[Family], ...] | None = key(
        ListOf(kinds.FAMILY), "Check only these. Left out: those that both ends have."
    )
    without_forwarding: At[str] | None = key(
        kinds.OBJECT_NAME, "Router guest that has forwarding switched off while this is checked."
    )


@dataclass(frozen=True, kw_only=True)
class TopologyDecl(Decl):
    """Guest networks of one host or several, and what must and must not be reachable in them."""

    name: At[str] = key(
        kinds.WORD, "Name of the topology: it marks everything guestnet makes for it.", required=True, default="unnamed"
    )
    description: At[str] | None = key(kinds.TEXT, "One sentence for people.")
    zones: tuple[At[str], ...] | None = key(
        ListOf(kinds.WORD),
        "Guests of one zone reach those of another by public addresses only. Every network is in one, or public.",
    )
    physical_networks: tuple[tuple[At[str], PhysicalDecl | None], ...] | None = key(
        MapOf(RecordKind(PhysicalDecl), kinds.WORD), "Labels for the networks outside the host."
    )
    hosts: tuple[tuple[At[str], HostDecl | None], ...] | None = key(
        MapOf(RecordKind(HostDecl), kinds.WORD),
        "The libvirt hosts that the networks are on. Left out: the one that reads the file.",
    )
    fabric: FabricDecl | None = key(RecordKind(FabricDecl), "What joins the hosts. Left out: of kind bridge.")
    networks: tuple[tuple[At[str], NetworkDecl | None], ...] | None = key(
        MapOf(RecordKind(NetworkDecl)), "The guest networks."
    )
    guests: tuple[tuple[At[str], GuestDecl | None], ...] | None = key(
        MapOf(RecordKind(GuestDecl)), "The guests and their ports."
    )
    routers: tuple[tuple[At[str], VirtualRouterDecl | None], ...] | None = key(
        MapOf(RecordKind(VirtualRouterDecl), kinds.WORD), "Virtual routers that guestnet makes and runs itself."
    )
    expect: tuple[ExpectDecl, ...] | None = key(ListOf(RecordKind(ExpectDecl)), "What `verify` checks.")
