"""The changes of guests' domains and NICs."""

from __future__ import annotations

import time
from copy import deepcopy
from dataclasses import dataclass

from lxml import etree

from libvirt_guestnet.changes.change import Change, Replacement, Run
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.libvirtd.snapshot import (
    DOMAIN_MARK,
    Element,
    interfaces,
    mac,
    marked,
    parse_xml,
    source_network,
    tap,
    to_text,
)
from libvirt_guestnet.metadata.policy import NAMESPACE

UNPLUG_SECONDS = 20.0


class NicKeptError(GuestnetError):
    """A guest, or libvirt, does not let go of a NIC that is to be unplugged. Nothing was changed."""


@dataclass(frozen=True, kw_only=True)
class DefineDomain(Change):
    """Define a lab guest, or change what its next start uses; `old` is the definition that this replaces."""

    xml: str
    old: str | None = None
    VERB = "define"
    KIND = "guest"

    @property
    def verb(self) -> str:
        return "define" if self.old is None else "redefine"

    def run(self, run: Run) -> None:
        run.libvirt.define_domain(self.xml)
        old = self.old
        if old is None:
            run.done("defined", f"undefine guest {self.name}", lambda: run.libvirt.undefine_domain(self.name))
        else:
            run.done("redefined", f"redefine guest {self.name}", lambda: run.libvirt.define_domain(old))


@dataclass(frozen=True, kw_only=True)
class SetDomainAutostart(Change):
    """Have libvirt start the guest with the host, or not."""

    on: bool
    VERB = "set"
    KIND = "guest autostart"

    def run(self, run: Run) -> None:
        run.libvirt.set_domain_autostart(self.name, self.on)
        back = f"set the autostart of guest {self.name} back"
        run.done("set", back, lambda: run.libvirt.set_domain_autostart(self.name, not self.on))


@dataclass(frozen=True, kw_only=True)
class SetDomainMetadata(Change):
    """Change our metadata in a domain, running and/or defined, and guard its ports accordingly. `live` is of one that
    runs, with the same twice where only its definition says something else.

    Its ports are guarded by what it is to say before it says so: else nobody would see that a killed change left them
    as they were. And again after that, as a hook may have gone by the metadata of before meanwhile.
    """

    live: Replacement | None = None
    config: Replacement | None = None
    VERB = "set"
    KIND = "guest metadata"

    def run(self, run: Run) -> None:
        if self.config is not None:
            config = self.config
            run.libvirt.set_domain_metadata(self.name, config.new, live=False)
            back = f"set the defined metadata of {self.name} back"
            run.done("defined", back, lambda: run.libvirt.set_domain_metadata(self.name, config.old, live=False))
        if self.live is not None:
            live = self.live
            run.undo(f"set the metadata of {self.name} back", lambda: self._set_live(run, live.reverse()))
            self._set_live(run, live)
            run.step("set")

    def _set_live(self, run: Run, metadata: Replacement) -> None:
        if (xml := run.libvirt.live_xml(self.name)) is not None:
            run.effects.guard(told(xml, metadata.new).encode())  # without any, a NIC that stays is not ours to guard
        if metadata.new != metadata.old:
            run.libvirt.set_domain_metadata(self.name, metadata.new, live=True)
            run.guard(self.name)


@dataclass(frozen=True, kw_only=True)
class AttachInterface(Change):
    """Plug a NIC in: into the running guest and/or its definition.

    The running guest gets it with the link down, up only once port security holds: not one frame passes unguarded.
    """

    mac: str
    xml: str
    live: bool
    config: bool
    VERB = "attach"
    KIND = "NIC"

    def run(self, run: Run) -> None:
        if self.config:
            run.libvirt.attach(self.name, self.xml, live=False)
            back = f"remove NIC {self.mac} from the definition of {self.name}"
            run.done("defined", back, lambda: run.libvirt.detach(self.name, self.xml, live=False))
        if self.live:
            plug(run, self.name, self.xml)


@dataclass(frozen=True, kw_only=True)
class DetachInterface(Change):
    """Unplug a NIC from the running guest (`live`, its live XML) and/or from its definition. Raises NicKeptError."""

    mac: str
    live: str | None = None
    config: str | None = None
    VERB = "detach"
    KIND = "NIC"

    def run(self, run: Run) -> None:
        if self.live is not None:
            live = self.live
            try:
                unplug(run, self.name, live)
            except GuestnetError as error:
                raise NicKeptError(str(error)) from error
            run.done("unplugged", f"plug NIC {self.mac} of {self.name} in again", lambda: plug(run, self.name, live))
        if self.config is not None:
            config = self.config
            run.libvirt.detach(self.name, config, live=False)
            back = f"define NIC {self.mac} of {self.name} again"
            run.done("undefined", back, lambda: run.libvirt.attach(self.name, config, live=False))


@dataclass(frozen=True, kw_only=True)
class UpdateInterface(Change):
    """Change a NIC in place: link, bandwidth, isolation, or the network it is on. `others` are NICs that are defined
    otherwise in the same step, as each takes a PCI slot or boot order that another leaves."""

    mac: str
    live: Replacement | None = None
    config: Replacement | None = None
    others: tuple[Replacement, ...] = ()
    VERB = "update"
    KIND = "NIC"

    def run(self, run: Run) -> None:
        if self.config is not None:
            both = (self.config, *self.others)
            self._define(run, both)
            back = tuple(each.reverse() for each in both)
            run.done("defined", f"define NIC {self.mac} back", lambda: self._define(run, back))
        if self.live is not None:
            live = self.live
            self._set(run, live.new)
            run.done("updated", f"update NIC {self.mac} back", lambda: self._set(run, live.old))

    def _define(self, run: Run, nics: tuple[Replacement, ...]) -> None:
        """libvirt finds the NIC that it is to update by these, so it cannot change them itself."""
        old, new = parse_xml(str(nics[0].old)), parse_xml(str(nics[0].new))
        if self.others or any(_attributes(old.find(tag)) != _attributes(new.find(tag)) for tag in ("alias", "address")):
            run.libvirt.redefine_nics(self.name, [(str(each.old), str(each.new)) for each in nics])
        else:
            run.libvirt.update_device(self.name, str(nics[0].new), live=False)

    def _set(self, run: Run, xml: str | None) -> None:
        run.guard(self.name)  # before, since the update may bring the link up
        run.libvirt.update_device(self.name, str(xml), live=True)
        run.guard(self.name)  # it may be on another network


@dataclass(frozen=True)
class RestorePorts(Change):
    """Put back what somebody else took from a running guest's taps in the kernel: bridges, VLANs, rules, routes."""

    VERB = "put back"
    KIND = "guest ports"

    def run(self, run: Run) -> None:
        run.guard(self.name)
        run.step("put back")


@dataclass(frozen=True, kw_only=True)
class RemoveDomain(Change):
    """Stop and undefine a lab guest that the topology no longer has."""

    xml: str
    running: bool
    autostart: bool
    VERB = "remove"
    KIND = "guest"

    def run(self, run: Run) -> None:
        self._stop(run)
        self._undefine(run)

    def _stop(self, run: Run) -> None:
        if self.running:
            run.libvirt.stop_domain(self.name)
            run.done("stopped", f"start guest {self.name} afresh", lambda: run.libvirt.start_domain(self.name))

    def _undefine(self, run: Run) -> None:
        run.libvirt.undefine_domain(self.name)
        run.done("undefined", f"define guest {self.name} again", lambda: self._define(run))

    def _define(self, run: Run) -> None:
        run.libvirt.define_domain(self.xml)
        if self.autostart:
            run.libvirt.set_domain_autostart(self.name, True)


def _attributes(element: Element | None) -> dict[str, str]:
    return {} if element is None else {str(name): str(value) for name, value in element.items()}


def told(domain: str, metadata: str | None) -> str:
    """A <domain> with that metadata of ours, as libvirt's API takes it."""
    mark = None if metadata is None else parse_xml(metadata)
    for each in () if mark is None else mark.iter(etree.Element):
        each.tag = f"{{{NAMESPACE}}}{each.tag}"
    return to_text(marked(parse_xml(domain), mark, DOMAIN_MARK))


def plug(run: Run, domain: str, xml: str) -> None:
    """Hot-plug a NIC: link down, guard, link as wanted."""
    wanted = parse_xml(xml)
    run.libvirt.attach(domain, to_text(linked(wanted, "down")), live=True)
    run.done("plugged, link down", f"unplug the NIC of {domain} again", lambda: unplug(run, domain, xml))
    run.guard(domain)
    run.step("guarded")
    link = wanted.find("link")
    if link is None or link.get("state") != "down":
        _, live = _live_interface(run, domain, wanted)
        run.libvirt.update_device(domain, to_text(linked(live, "up")), live=True)
        run.step("link up")


def unplug(run: Run, domain: str, xml: str) -> None:
    """Hot-unplug a NIC and wait until it is gone: the guest does it in its own time, or never."""
    wanted = parse_xml(xml)
    uuid, live = _live_interface(run, domain, wanted)
    run.libvirt.detach(domain, to_text(live), live=True)
    address = mac(wanted)
    deadline = time.monotonic() + UNPLUG_SECONDS
    while _is_present(run, domain, live):
        if time.monotonic() > deadline:
            raise GuestnetError(
                f"guest {domain!r} has not let go of NIC {address} within {UNPLUG_SECONDS:.0f} s: "
                f"{_why_not(run.libvirt.live_xml(domain))}"
            )
        time.sleep(0.1)
    device = tap(live)
    if device is not None:
        run.effects.release(uuid, device)


def _why_not(domain: str | None) -> str:
    """The reason why a guest does not release a NIC: a PC without ACPI cannot ask it to."""
    if domain is not None and _lacks_acpi(parse_xml(domain)):
        return "it has no ACPI, without which it cannot: shut it down, and add <acpi/> to its <features>"
    return "is an operating system running in it? Shut the guest down, or try again"


def _lacks_acpi(domain: Element) -> bool:
    kind = domain.find("os/type")
    return kind is not None and kind.get("arch") in ("x86_64", "i686") and domain.find("features/acpi") is None


def linked(interface: Element, state: str) -> Element:
    """A copy of an <interface> with that link state."""
    result = deepcopy(interface)
    for link in result.findall("link"):
        result.remove(link)
    result.append(etree.Element("link", state=state))
    return result


def _is_present(run: Run, domain: str, live: Element) -> bool:
    """Whether a running domain still has this NIC: another one may have its MAC address."""
    text = run.libvirt.live_xml(domain)
    nics = () if text is None else parse_xml(text).iterfind("devices/interface")
    return any((mac(nic), _alias(nic)) == (mac(live), _alias(live)) for nic in nics)


def _alias(nic: Element) -> str | None:
    alias = nic.find("alias")
    return None if alias is None else alias.get("name")


def _live_interface(run: Run, domain: str, wanted: Element) -> tuple[str, Element]:
    """The running domain's UUID, and its NIC with that MAC address."""
    text = run.libvirt.live_xml(domain)
    xml = None if text is None else parse_xml(text)
    found = interfaces(xml, {mac(wanted): source_network(wanted)}).get(mac(wanted))
    if xml is None or found is None:
        raise GuestnetError(f"guest {domain!r} has no NIC {mac(wanted)} any more: it was changed meanwhile; plan again")
    return xml.findtext("uuid", ""), found
