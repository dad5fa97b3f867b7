"""What libvirt has, and what a topology wants it to have: plain facts, read by `plan`, made by `connection` and
`xmlgen`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property

from lxml import etree

from libvirt_guestnet.datapath.devices.host_devices import Device
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.guest import files
from libvirt_guestnet.guest.config import FWCFG
from libvirt_guestnet.guest.files import GuestFiles
from libvirt_guestnet.libvirtd.nics import networks_of, source_network
from libvirt_guestnet.metadata.elements import port_policies
from libvirt_guestnet.metadata.policy import NAMESPACE, PortPolicy
from libvirt_guestnet.model.disk_image import DiskImage
from libvirt_guestnet.model.drift import Drift
from libvirt_guestnet.model.topology import DIRECT
from libvirt_guestnet.router import disks, folder
from libvirt_guestnet.router.client import CHANNEL

Element = etree._Element

NETWORK_MARK = f"metadata/{{{NAMESPACE}}}network"
DOMAIN_MARK = f"metadata/{{{NAMESPACE}}}domain"
PORT_MARK = f"{{{NAMESPACE}}}port"
_CONFIGURATION = f"sysinfo[@type='fwcfg']/entry[@name='{FWCFG}']"


def parse_xml(text: str) -> Element:
    """libvirt's XML as an element; entities are never expanded. Raises GuestnetError when it is not XML."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, remove_blank_text=False)
    try:
        return etree.fromstring(text.encode(), parser)
    except etree.XMLSyntaxError as error:
        raise GuestnetError(f"libvirt's XML cannot be read: {error}") from error


def to_text(element: Element) -> str:
    """An element as libvirt's API takes it."""
    return etree.tostring(element, encoding="unicode", with_tail=False)


@dataclass(frozen=True)
class NetworkState:
    """A libvirt network. `config` is what its next start uses; `live` is None while it is inactive."""

    name: str
    uuid: str
    config: Element
    live: Element | None = None
    autostart: bool = False
    persistent: bool = True

    @property
    def current(self) -> Element:
        """The XML that counts now: the live one when active."""
        return self.config if self.live is None else self.live

    @property
    def mark(self) -> Element | None:
        """Our metadata in it (config first: that is what we define), or None. An external network has it in its
        definition alone: what it says while it runs may have been taken back since it started."""
        mark, live = self.config.find(NETWORK_MARK), self.current.find(NETWORK_MARK)
        return live if mark is None and not _is_external(live) else mark

    @property
    def topology(self) -> str | None:
        """The topology it belongs to; None when it carries no mark of ours."""
        return None if self.mark is None else self.mark.get("topology")

    @property
    def is_external(self) -> bool:
        """Whether our metadata says that it is somebody else's."""
        return _is_external(self.mark)

    @property
    def told(self) -> Element | None:
        """The live XML with our metadata, be it that only the definition has that, of an external network or one that
        was taken over while it ran."""
        if self.live is None or not (self.is_apart or self.is_external or _is_external(self.live.find(NETWORK_MARK))):
            return self.live
        return marked(self.live, self.config.find(NETWORK_MARK))

    @property
    def is_apart(self) -> bool:
        """Whether it is ours by its definition, and runs since before that: no libvirt before 9.7 could tell it so."""
        if self.live is None or self.config.find(NETWORK_MARK) is None or self.is_external:
            return False
        return self.live.find(NETWORK_MARK) is None

    @property
    def bridge(self) -> str | None:
        """The name of its bridge device, when it has one."""
        bridge = self.current.find("bridge")
        return None if bridge is None else bridge.get("name")


def _is_external(mark: Element | None) -> bool:
    return mark is not None and mark.get("external") == "yes"


def marked(root: Element, mark: Element | None, path: str = NETWORK_MARK) -> Element:
    """A copy of a <network> with that metadata of ours in the place of what it has; None: with none. By DOMAIN_MARK of
    a <domain>."""
    result = deepcopy(root)
    metadata = result.find("metadata")
    if metadata is None:
        metadata = etree.SubElement(result, "metadata")
    for old in result.findall(path):
        metadata.remove(old)
    if mark is not None:
        metadata.append(deepcopy(mark))
    elif len(metadata) == 0:
        result.remove(metadata)
    return result


@dataclass(frozen=True)
class DomainState:
    """A libvirt domain. `config` is what its next start uses; `live` is None while it is not running. `saved` are the
    domains that its managed save and its current snapshot would bring back."""

    name: str
    uuid: str
    config: Element
    live: Element | None = None
    autostart: bool = False
    persistent: bool = True
    saved: tuple[Element, ...] = ()

    @property
    def mark(self) -> Element | None:
        """Our metadata in it (config first, then live), or None."""
        mark = self.config.find(DOMAIN_MARK)
        if mark is None and self.live is not None:
            mark = self.live.find(DOMAIN_MARK)
        return mark

    @property
    def current(self) -> Element:
        """The XML that counts now: the live one while it runs."""
        return self.config if self.live is None else self.live

    @property
    def policies(self) -> list[PortPolicy]:
        """What our metadata says of its ports now."""
        return port_policies(self.current.find(DOMAIN_MARK))

    @property
    def topology(self) -> str | None:
        """The topology it belongs to; None when it carries no mark of ours."""
        return None if self.mark is None else self.mark.get("topology")

    @property
    def ours(self) -> bool:
        """Whether guestnet itself defined it (a lab guest), as against a user's domain whose NICs we manage. Its
        definition shows that: a guest that is ours is stopped and undefined, and metadata can be anybody's."""
        if self.mark is None or self.mark.get("image") is None or self.is_copy:
            return False
        return self.config.find(_CONFIGURATION) is not None or self.is_router or self.has_own_disk

    @property
    def has_own_disk(self) -> bool:
        """Whether it has a disk in the folder that guestnet keeps for a guest of its name."""
        if not folder.is_name(self.name):
            return False
        own = str(files.place(self.name).disk)
        return any(source.get("file") == own for source in self.config.iterfind("devices/disk/source"))

    @property
    def is_router(self) -> bool:
        """Whether it is a virtual router of ours, with the disk of that name. Anybody can write such a definition, but
        not have a folder of any name."""
        said = self.mark is not None and self.mark.get("image") == "router" and not self.is_copy
        if not said or not folder.is_name(self.name):
            return False
        sources = (source.get("file") for source in self.config.iterfind("devices/disk/source"))
        return str(folder.ROUTERS / self.name / disks.CONFIG) in sources

    @property
    def channel(self) -> str:
        """The socket on this host that leads to a running router; "" where there is none."""
        return "" if self.live is None else channel(self.live)

    @property
    def is_copy(self) -> bool:
        """Whether our metadata speaks of another domain, of which this one was cloned."""
        return self.mark is not None and self.mark.get("guest") not in (None, self.name)

    @property
    def marked_macs(self) -> frozenset[str]:
        """The MAC addresses that our metadata lists, live or defined."""
        return frozenset(self.marked_networks)

    @property
    def plugged_macs(self) -> frozenset[str]:
        """Those of NICs that may be there for a topology's sake: without a file nobody plugs any."""
        return frozenset() if self.topology == DIRECT else self.marked_macs

    @property
    def marked_networks(self) -> dict[str, str | None]:
        """The network of each of them."""
        roots = [self.config] if self.live is None else [self.live, self.config]
        ports = (port for root in roots for port in root.iterfind(f"{DOMAIN_MARK}/{PORT_MARK}"))
        return {port.get("mac", "").lower(): port.get("network") for port in ports}

    @property
    def needed(self) -> frozenset[str]:
        """The networks without which it cannot run, start or be brought back."""
        roots = [self.config, *self.saved, *([] if self.live is None else [self.live])]
        return frozenset().union(*map(networks_of, roots))


def channel(domain: Element, name: str = CHANNEL) -> str:
    """The socket on this host behind a running <domain>'s virtio-serial port of that name, or ""."""
    for each in domain.iterfind("devices/channel"):
        target, source = each.find("target"), each.find("source")
        if target is not None and source is not None and target.get("name") == name:
            return str(source.get("path", ""))
    return ""


@dataclass(frozen=True)
class RouterSeen:
    """What a virtual router has been told: the document on its disk (None: none), and the digest of the one in force,
    as the router says, None where it does not run or has not answered: `silent` says why."""

    on_disk: bytes | None = None
    in_force: str | None = None
    silent: str = ""


@dataclass(frozen=True)
class Snapshot:
    """Everything `plan` needs to know about a host.

    `devices` are the host's network devices. `taken` says which of the wanted addresses are somebody's already, in a
    line each. `wrong` is what the kernel has otherwise than it should, `links` the devices with what
    they are ({}: unknown). `network_metadata` says whether libvirt can
    change the metadata of an active network (virNetworkSetMetadata, libvirt 9.7). `leased` are the addresses that the
    DHCP servers of external networks gave, by MAC address. `adopted` are the external networks that the hooks know,
    each with its topology, and `overdue` those that they should know otherwise. `routers` are what virtual routers do,
    by their names; `left_routers` have disks and no domain, each with its topology. `files` are those of guests with an
    image file.
    """

    networks: tuple[NetworkState, ...] = ()
    domains: tuple[DomainState, ...] = ()
    devices: frozenset[str] = field(default=frozenset())
    network_metadata: bool = False
    taken: tuple[str, ...] = ()
    wrong: tuple[Drift, ...] = ()
    links: Mapping[str, Device] = field(default_factory=dict)
    leased: Mapping[str, frozenset[str]] = field(default_factory=dict)
    routers: Mapping[str, RouterSeen] = field(default_factory=dict)
    left_routers: Mapping[str, str] = field(default_factory=dict)
    adopted: Mapping[str, str] = field(default_factory=dict)
    overdue: frozenset[str] = frozenset()
    files: Mapping[str, GuestFiles] = field(default_factory=dict)

    @cached_property
    def network(self) -> dict[str, NetworkState]:
        """Networks by name."""
        return {state.name: state for state in self.networks}

    @cached_property
    def domain(self) -> dict[str, DomainState]:
        """Domains by name."""
        return {state.name: state for state in self.domains}

    @cached_property
    def plugged(self) -> dict[str, tuple[tuple[str, Element], ...]]:
        """By network name: (domain, live interface) of every running guest's NIC on it."""
        found: dict[str, list[tuple[str, Element]]] = {}
        for domain, interface in self._live_interfaces():
            network = source_network(interface)
            if network is not None:
                found.setdefault(network, []).append((domain, interface))
        return {network: tuple(users) for network, users in found.items()}

    @cached_property
    def kept(self) -> dict[str, frozenset[str]]:
        """By network name: the domains that a managed save or a current snapshot could not bring back without it."""
        pairs = {(name, d.name) for d in self.domains for saved in d.saved for name in networks_of(saved)}
        return {name: frozenset(domain for other, domain in pairs if other == name) for name, _ in pairs}

    def _live_interfaces(self) -> Iterator[tuple[str, Element]]:
        for domain in self.domains:
            for interface in () if domain.live is None else domain.live.iterfind("devices/interface"):
                yield domain.name, interface


@dataclass(frozen=True)
class WantedNetwork:
    """A network as the topology wants it: `xmlgen.network`'s element. `drawn`: its VLAN or VNI comes from a pool.
    `takes_over`: it may be libvirt's already, and nobody's of ours; `meaning` says then what a topology file would say
    of a <network>, None if that cannot say it."""

    name: str
    element: Element
    autostart: bool = True
    drawn: bool = False
    takes_over: bool = False
    meaning: Callable[[Element], object] = field(default=lambda _network: None, compare=False)


@dataclass(frozen=True)
class WantedExternal:
    """An external network, with the metadata that the topology wants in it, which lists all that it is to have more."""

    name: str
    mark: Element


@dataclass(frozen=True)
class WantedGuest:
    """A guest as the topology wants it.

    `definition` is the whole <domain> of a lab guest, None for a user's own domain, whose `interfaces` have a model
    only where the file says it. `kept` are the MAC addresses of ports on external networks and on those taken over: a
    NIC that the domain has there already is left where it is, as it is. `mtus` are those of ports that have an MTU of
    their own. `disk` is what the disk of a guest with an image file begins as, `seed` its seed, if it has one, `plain`
    its definition without XML of the user's.
    """

    name: str
    interfaces: tuple[Element, ...]
    metadata: Element
    definition: Element | None = None
    autostart: bool = False
    kept: frozenset[str] = frozenset()
    mtus: frozenset[str] = frozenset()
    document: bytes | None = None
    disk: DiskImage | None = None
    seed: bytes | None = None
    plain: Element | None = None


@dataclass(frozen=True)
class Wanted:
    """Everything a topology wants libvirt to have. `leaving` are "domain" or "network" and the name of what goes;
    None: all of the topology that is not wanted, but for domains that are `left_alone`."""

    topology: str
    networks: tuple[WantedNetwork, ...] = ()
    guests: tuple[WantedGuest, ...] = ()
    externals: tuple[WantedExternal, ...] = ()
    leaving: frozenset[tuple[str, str]] | None = None
    left_alone: frozenset[str] = frozenset()
