"""libvirt: typed, with deadlines, and with failures as GuestnetError in libvirt's words (`calls`)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from lxml import etree

from libvirt_guestnet.datapath.devices import host_devices
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.libvirtd import objects
from libvirt_guestnet.libvirtd.bindings import libvirt
from libvirt_guestnet.libvirtd.calls import LibvirtError, bounded
from libvirt_guestnet.libvirtd.nics import nic_like
from libvirt_guestnet.libvirtd.snapshot import (
    NETWORK_MARK,
    DomainState,
    Element,
    NetworkState,
    Snapshot,
    marked,
    parse_xml,
    to_text,
)
from libvirt_guestnet.metadata.policy import NAMESPACE, PREFIX
from libvirt_guestnet.router.folder import Owner

_EMPTY_METADATA = "\n  <metadata/>"
_ASKED = "is already in the process of unplug"  # QEMU 6.2 to 7.2; later ones forget it after a second
OPEN_SECONDS = 30.0
CALL_SECONDS = 120.0  # starting a guest under TCG on a loaded host is the slowest
SNAPSHOT_SECONDS = 120.0

_T = TypeVar("_T")

SECTIONS = {  # the parts of an active network that libvirt can change
    "dhcp-host": "VIR_NETWORK_SECTION_IP_DHCP_HOST",
    "dhcp-range": "VIR_NETWORK_SECTION_IP_DHCP_RANGE",
    "dns-host": "VIR_NETWORK_SECTION_DNS_HOST",
    "dns-srv": "VIR_NETWORK_SECTION_DNS_SRV",
    "dns-txt": "VIR_NETWORK_SECTION_DNS_TXT",
    "portgroup": "VIR_NETWORK_SECTION_PORTGROUP",
}
COMMANDS = {
    "add": "VIR_NETWORK_UPDATE_COMMAND_ADD_LAST",
    "delete": "VIR_NETWORK_UPDATE_COMMAND_DELETE",
    "modify": "VIR_NETWORK_UPDATE_COMMAND_MODIFY",
}


def connect(uri: str | None = None, seconds: float = OPEN_SECONDS) -> Connection:
    """Connect to `uri`, else as virsh to VIRSH_DEFAULT_CONNECT_URI or LIBVIRT_DEFAULT_URI, else to qemu:///system
    (decision 11).

    Raises GuestnetError when libvirt refuses or does not answer within `seconds`.
    """
    named = (uri, *map(os.environ.get, ("VIRSH_DEFAULT_CONNECT_URI", "LIBVIRT_DEFAULT_URI")))
    wanted = next(filter(None, named), "qemu:///system")
    libvirt.load()
    try:
        return Connection(bounded(f"connecting to {wanted}", seconds, lambda: libvirt.open(wanted)))
    except GuestnetError as error:
        raise GuestnetError(f"{error}\n{_hint(wanted)}") from None


def _hint(uri: str) -> str:
    """What to do about a libvirt that cannot be reached."""
    if uri != "qemu:///system":
        return f"Is libvirtd running? `virsh -c {uri} uri` tries it"
    if os.geteuid() != 0:
        return "Run this as root, or as a member of the group libvirt"
    return (
        "Is libvirtd running? `systemctl start libvirtd` starts it (package libvirt-daemon-system); "
        "`guestnet sandbox start` makes a private one instead, for `guestnet --sandbox default ...`"
    )


class Connection:
    """A libvirt connection. Every method raises GuestnetError: libvirt's own message, or that it did not answer."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it; a connection that is already dead is closed."""
        try:
            bounded("closing the libvirt connection", OPEN_SECONDS, self._raw.close)
        except LibvirtError:
            return

    def uri(self) -> str:
        return str(self._call("asking libvirt for its URI", self._raw.getURI))

    def version(self) -> tuple[int, int, int]:
        """The daemon's libvirt version."""
        number: int = self._call("asking for libvirt's version", self._raw.getLibVersion)
        return number // 1_000_000, number // 1000 % 1000, number % 1000

    def qemu_owner(self) -> Owner:
        """The user and the group that guests' QEMU runs as; root's where libvirt does not say."""
        return objects.owner(self._call("asking for libvirt's capabilities", self._raw.getCapabilities))

    def snapshot(self, devices: Iterable[str] = ()) -> Snapshot:
        """Everything libvirt has, in one go; `devices` are the host's network devices."""
        networks, domains, saved = self._call("listing networks and domains", self._list, SNAPSHOT_SECONDS)
        return Snapshot(
            networks=tuple(NetworkState(**objects.parsed(fields)) for fields in networks),
            domains=tuple(
                DomainState(**objects.parsed(fields), saved=objects.saved_domains(saved.get(fields["uuid"], [])))
                for fields in domains
            ),
            devices=frozenset(devices),
            network_metadata=self.version() >= (9, 7, 0) and hasattr(libvirt.virNetwork, "setMetadata"),
        )

    def _list(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, list[str]]]:
        return (
            objects.gather(
                self._raw.listAllNetworks,
                libvirt.VIR_CONNECT_LIST_NETWORKS_AUTOSTART,
                libvirt.VIR_CONNECT_LIST_NETWORKS_ACTIVE,
                libvirt.VIR_CONNECT_LIST_NETWORKS_PERSISTENT,
                libvirt.VIR_NETWORK_XML_INACTIVE,
            ),
            objects.gather(
                self._raw.listAllDomains,
                libvirt.VIR_CONNECT_LIST_DOMAINS_AUTOSTART,
                libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE,
                libvirt.VIR_CONNECT_LIST_DOMAINS_PERSISTENT,
                libvirt.VIR_DOMAIN_XML_INACTIVE,
            ),
            objects.saved_texts(self._raw),
        )

    def define_network(self, xml: str) -> None:
        self._call("defining a network", lambda: self._raw.networkDefineXML(xml))

    def set_network_mark(self, name: str, old: str | None, new: str | None) -> None:
        """Replace our metadata, <guestnet:network>, in the definition of a network that is somebody else's, and nothing
        else of it. Raises GuestnetError where that is not `old` (None: none) any more, or the network is gone; not if
        it is to go."""

        def define() -> bool:
            found = self._network(name)
            config = parse_xml(found.XMLDesc(libvirt.VIR_NETWORK_XML_INACTIVE))
            if not found.isPersistent() or _plain(config.find(NETWORK_MARK)) != _plain(old):
                return False
            self._raw.networkDefineXML(to_text(marked(config, None if new is None else parse_xml(new))))
            return True

        try:
            if not self._call(f"changing the metadata of network {name!r}", define):
                raise GuestnetError(f"network {name!r} was changed meanwhile: plan again")
        except LibvirtError as error:
            if new is not None or not error.missing:
                raise

    def live_network(self, name: str) -> str | None:
        """The XML of an active network; None when it is not active (any more)."""

        def read() -> str | None:
            found = self._network(name)
            return str(found.XMLDesc(0)) if found.isActive() else None

        try:
            return self._call(f"reading network {name!r}", read)
        except LibvirtError as error:
            if error.missing:
                return None
            raise

    def undefine_network(self, name: str) -> None:
        """Raises nothing when it is already gone."""
        self._tolerant(f"undefining network {name!r}", lambda: self._network(name).undefine())

    def start_network(self, name: str) -> None:
        """Raises nothing when it is active already."""
        self._tolerant(
            f"starting network {name!r}", lambda: None if (n := self._network(name)).isActive() else n.create()
        )

    def stop_network(self, name: str) -> None:
        """Raises nothing when it is inactive or gone."""
        self._tolerant(
            f"stopping network {name!r}", lambda: n.destroy() if (n := self._network(name)).isActive() else None
        )

    def set_network_autostart(self, name: str, on: bool) -> None:
        self._call(f"setting autostart of network {name!r}", lambda: self._network(name).setAutostart(int(on)))

    def update_network(
        self, name: str, command: str, section: str, xml: str, parent: int = -1, *, live: bool = True
    ) -> None:
        """Change one element of an active network and leave its definition alone, or of that alone. `parent` counts its
        <ip> elements."""
        flag = libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE if live else libvirt.VIR_NETWORK_UPDATE_AFFECT_CONFIG
        self._call(
            f"updating network {name!r} ({command} {section} {xml})",
            lambda: self._network(name).update(
                getattr(libvirt, COMMANDS[command]), getattr(libvirt, SECTIONS[section]), parent, xml, flag
            ),
        )

    def set_network_metadata(self, name: str, xml: str) -> None:
        """Replace our metadata in an active network (libvirt 9.7); `xml` without namespace."""
        self._call(
            f"setting the metadata of network {name!r}",
            lambda: self._network(name).setMetadata(
                libvirt.VIR_NETWORK_METADATA_ELEMENT, xml, PREFIX, NAMESPACE, libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE
            ),
        )

    def define_domain(self, xml: str) -> None:
        self._call("defining a domain", lambda: self._raw.defineXML(xml))

    def undefine_domain(self, name: str) -> None:
        """With its saved state, snapshots' metadata and NVRAM. Raises nothing when it is already gone."""
        flags = (
            libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
            | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
            | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
            | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
        )

        def undefine() -> None:
            domain = self._domain(name)
            try:
                domain.undefineFlags(flags)
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_INVALID_ARG:
                    raise
                domain.undefine()  # a driver that has none of these

        self._tolerant(f"undefining domain {name!r}", undefine)

    def start_domain(self, name: str) -> None:
        """Raises nothing when it is running already."""
        self._tolerant(
            f"starting domain {name!r}", lambda: None if (d := self._domain(name)).isActive() else d.create()
        )

    def stop_domain(self, name: str) -> None:
        """Pull its plug. Raises nothing when it is not running or gone."""
        self._tolerant(
            f"stopping domain {name!r}", lambda: d.destroy() if (d := self._domain(name)).isActive() else None
        )

    def set_domain_autostart(self, name: str, on: bool) -> None:
        self._call(f"setting autostart of domain {name!r}", lambda: self._domain(name).setAutostart(int(on)))

    def live_xml(self, name: str) -> str | None:
        """The XML of a running domain; None when it is not running (any more)."""

        def read() -> str | None:
            domain = self._domain(name)
            return str(domain.XMLDesc(0)) if domain.isActive() else None

        try:
            return self._call(f"reading domain {name!r}", read)
        except LibvirtError as error:
            if error.missing:
                return None
            raise

    def attach(self, name: str, xml: str, *, live: bool) -> None:
        """Plug a device in: into the running domain, or into its definition."""
        self._call(f"attaching to domain {name!r}", lambda: self._domain(name).attachDeviceFlags(xml, _affect(live)))

    def detach(self, name: str, xml: str, *, live: bool) -> None:
        """Ask for the unplugging of a device. A running guest does it in its own time: one that was asked before and
        has not done it yet goes on being asked."""
        try:
            doing = f"detaching from domain {name!r}"
            self._call(doing, lambda: self._domain(name).detachDeviceFlags(xml, _affect(live)))
        except LibvirtError as error:
            if _ASKED not in str(error):
                raise

    def update_device(self, name: str, xml: str, *, live: bool) -> None:
        """Change a device in place."""
        self._call(
            f"updating a device of domain {name!r}", lambda: self._domain(name).updateDeviceFlags(xml, _affect(live))
        )

    def redefine_nics(self, name: str, nics: Iterable[tuple[str, str]]) -> None:
        """Put each second <interface> in the place of the first in a domain's definition, all at once. Raises
        GuestnetError where one is not there any more."""

        def define() -> bool:
            domain = self._domain(name)
            flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
            config = parse_xml(domain.XMLDesc(flags))
            devices = config.find("devices")
            found = [(nic_like(config, parse_xml(old)), parse_xml(new)) for old, new in nics]
            for nic, other in found:
                if devices is None or nic is None or not domain.isPersistent():
                    return False
                devices.replace(nic, other)
            self._raw.defineXML(to_text(config))
            return True

        if not self._call(f"changing a NIC in the definition of domain {name!r}", define):
            raise GuestnetError(f"domain {name!r} was changed meanwhile: plan again")

    def set_domain_metadata(self, name: str, xml: str | None, *, live: bool) -> None:
        """Replace our metadata in a domain (None removes it); `xml` without namespace."""
        kind, doing = libvirt.VIR_DOMAIN_METADATA_ELEMENT, f"setting the metadata of domain {name!r}"
        self._call(doing, lambda: self._domain(name).setMetadata(kind, xml, PREFIX, NAMESPACE, _affect(live)))
        if xml is None and not live:
            self._call(doing, lambda: _without_empty_metadata(self._raw, self._domain(name)))

    def _network(self, name: str) -> Any:
        return self._raw.networkLookupByName(name)

    def _domain(self, name: str) -> Any:
        return self._raw.lookupByName(name)

    def _call(self, doing: str, call: Callable[[], _T], seconds: float = CALL_SECONDS) -> _T:
        return bounded(doing, seconds, call)

    def _tolerant(self, doing: str, call: Callable[[], object]) -> None:
        """A call whose aim is reached when the object is missing or in that state already."""
        try:
            self._call(doing, call)
        except LibvirtError as error:
            if not error.missing:
                raise


def _affect(live: bool) -> int:
    return int(libvirt.VIR_DOMAIN_AFFECT_LIVE if live else libvirt.VIR_DOMAIN_AFFECT_CONFIG)


def _plain(xml: Element | str | None) -> str:
    """An element as text in which only what it says counts; "" for none."""
    if xml is None:
        return ""
    text = xml if isinstance(xml, str) else to_text(xml)
    parser = etree.XMLParser(resolve_entities=False, no_network=True, remove_blank_text=True)
    return str(etree.tostring(etree.fromstring(text.encode(), parser), method="c14n", exclusive=True).decode())


def _without_empty_metadata(raw: Any, domain: Any) -> None:
    """libvirt 9.0 leaves an empty element where the last metadata was (11.3 does not). Nothing else may change by that:
    if it would, all stays as it is."""
    flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
    before = domain.XMLDesc(flags)
    after = before.replace(_EMPTY_METADATA, "", 1)
    if after != before and domain.isPersistent():
        with suppress(libvirt.libvirtError):
            raw.defineXML(after)
            if domain.XMLDesc(flags) != after:
                raw.defineXML(before)


def host_snapshot(connection: Connection) -> Snapshot:
    """What libvirt and this host have now. Raises GuestnetError."""
    found = host_devices.read()
    return replace(connection.snapshot(found), links=found)
