"""The changes of networks."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

from lxml import etree

from libvirt_guestnet.changes.change import Change, Replacement, Run
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.libvirtd.snapshot import marked, parse_xml, to_text


@dataclass(frozen=True)
class Plugged:
    """A running guest's tap on a network. `other`: what the guest asks for is not what the topology says, and may be
    impossible."""

    domain: str
    tap: str
    isolated: bool = False
    other: bool = False


@dataclass(frozen=True)
class LeftNic:
    """A NIC of a running domain, whose network goes."""

    domain: str
    uuid: str
    tap: str


@dataclass(frozen=True)
class NetworkBackup:
    """A network as it was: enough to bring it back. `live` is None when it was inactive, `bridge` its device."""

    name: str
    config: str
    live: str | None
    autostart: bool
    bridge: str | None
    taps: tuple[Plugged, ...] = ()

    def restore(self, run: Run) -> None:
        """Bring it back, whatever state it is in now."""
        run.libvirt.stop_network(self.name)
        if self.live is not None:
            run.libvirt.define_network(self.live)
            run.libvirt.start_network(self.name)
            plug_taps(run, self.taps, self.bridge)
        run.libvirt.define_network(self.config)
        run.libvirt.set_network_autostart(self.name, self.autostart)


def plug_taps(run: Run, taps: tuple[Plugged, ...], bridge: str | None) -> None:
    """Put the taps of running guests on the new bridge, as libvirt does not at net-start (9.0, 11.3)."""
    for plugged in taps:
        xml = run.libvirt.live_xml(plugged.domain)
        if xml is not None and bridge is not None:
            run.effects.enslave(plugged.tap, bridge, plugged.isolated)
            try:
                run.effects.guard(xml.encode())
            except GuestnetError as error:
                if not plugged.other and plugged.domain not in run.stuck:
                    raise
                run.note(left_as_it_is(plugged.domain, error))


def left_as_it_is(guest: str, error: GuestnetError) -> str:
    """What is told of a guest that holds up nobody else."""
    return f"guest {guest}: {error}: it stays as it is, guarded or not; the others go on"


@dataclass(frozen=True, kw_only=True)
class DefineNetwork(Change):
    """Define a network, or the configuration of its next start; `old` is the definition that this replaces."""

    xml: str
    old: str | None = None
    VERB = "define"
    KIND = "network"

    @property
    def verb(self) -> str:
        return "define" if self.old is None else "redefine"

    def run(self, run: Run) -> None:
        run.libvirt.define_network(self.xml)
        old = self.old
        if old is None:
            run.done("defined", f"undefine network {self.name}", lambda: run.libvirt.undefine_network(self.name))
        else:
            run.done("redefined", f"redefine network {self.name}", lambda: run.libvirt.define_network(old))


@dataclass(frozen=True, kw_only=True)
class StartNetwork(Change):
    """Start a network; `taps` are of guests that were running without it."""

    bridge: str | None = None
    taps: tuple[Plugged, ...] = ()
    VERB = "start"
    KIND = "network"

    def run(self, run: Run) -> None:
        run.libvirt.start_network(self.name)
        run.done("started", f"stop network {self.name}", lambda: run.libvirt.stop_network(self.name))
        plug_taps(run, self.taps, self.bridge)


@dataclass(frozen=True, kw_only=True)
class RestartNetwork(Change):
    """Stop, redefine and start a network whose change libvirt cannot make live, and give it its taps back."""

    xml: str
    bridge: str | None
    taps: tuple[Plugged, ...]
    backup: NetworkBackup
    VERB = "restart"
    KIND = "network"

    def run(self, run: Run) -> None:
        run.libvirt.stop_network(self.name)
        run.done("stopped", f"bring network {self.name} back", lambda: self.backup.restore(run))
        run.libvirt.define_network(self.xml)
        run.step("redefined")
        run.libvirt.start_network(self.name)
        run.step("started")
        plug_taps(run, self.taps, self.bridge)
        run.step("taps plugged")


@dataclass(frozen=True)
class SectionUpdate:
    """One element of an active network: `new` is None to delete it, `old` is None to add it."""

    section: str
    parent: int
    new: str | None
    old: str | None

    def reverse(self) -> SectionUpdate:
        return SectionUpdate(self.section, self.parent, self.old, self.new)


@dataclass(frozen=True, kw_only=True)
class UpdateNetwork(Change):
    """Change DHCP, DNS or portgroup entries of an active network without a restart, or with `live` false of its
    definition alone; `bridge` where it has firewall rules of libvirt's, which a change of DHCP takes away and puts
    back."""

    update: SectionUpdate
    bridge: str | None = None
    live: bool = True
    VERB = "update"
    KIND = "network"

    def run(self, run: Run) -> None:
        self._make(run, self.update)
        run.done("updated", f"update network {self.name} back", lambda: self._make(run, self.update.reverse()))

    def _make(self, run: Run, update: SectionUpdate) -> None:
        xml = update.old if update.new is None else update.new
        command = "delete" if update.new is None else "add" if update.old is None else "modify"
        if (command, update.section) == ("delete", "dns-host"):
            xml = _only_address(str(xml))
        reloads = self.bridge is not None and update.section.startswith("dhcp")
        with run.effects.kept_open(self.bridge or "") if reloads else nullcontext():
            run.libvirt.update_network(self.name, command, update.section, str(xml), update.parent, live=self.live)


def _only_address(dns_host: str) -> str:
    """The entry by its address alone: libvirt 9.0 refuses to delete one by a name that another entry has as well."""
    return to_text(etree.Element("host", ip=parse_xml(dns_host).get("ip", "")))


@dataclass(frozen=True, kw_only=True)
class SetNetworkMetadata(Change):
    """Change our metadata in an active network."""

    xml: str
    old: str
    VERB = "set"
    KIND = "network metadata"

    def run(self, run: Run) -> None:
        run.libvirt.set_network_metadata(self.name, self.xml)
        back = f"set the metadata of network {self.name} back"
        run.done("set", back, lambda: run.libvirt.set_network_metadata(self.name, self.old))


@dataclass(frozen=True, kw_only=True)
class AdoptNetwork(Change):
    """Put our metadata into the definition of a network that is somebody else's, change it there or take it out, and
    have the hooks know while the network runs: in that no libvirt before 9.7 can change it. `ports` are running guests
    whose ports follow. A mark that stays only has the hooks know it again. What those among the `others` ask for
    themselves may be impossible: then they stay as they are, with a note, and it fails for nobody else.

    The definition is the first to say that the network is adopted, and the last: by it, what is killed in between is
    found, and finished or taken back.
    """

    mark: Replacement
    ports: tuple[str, ...] = ()
    others: frozenset[str] = frozenset()
    VERB = "adopt"
    KIND = "network"

    @property
    def verb(self) -> str:
        return "release" if self.mark.new is None else self.VERB

    def run(self, run: Run) -> None:
        if self.mark.new is not None:
            self._define(run)
        failures = self._have_told(run)
        if self.mark.new is None:
            self._define(run)  # a guest that cannot be guarded by its own metadata does not keep the network ours
        _raise(failures)

    def _define(self, run: Run) -> None:
        if self.mark.old != self.mark.new:
            self._set(run, self.mark)
            back = self.mark.reverse()
            run.done("defined", f"define network {self.name} as it was", lambda: self._set(run, back))

    def _have_told(self, run: Run) -> list[str]:
        what = f"have the hooks know network {self.name} as before"
        run.undo(what, lambda: _raise(self._tell(run, self.mark.old)))
        failures = self._tell(run, self.mark.new)
        run.step("told")
        return failures

    def _set(self, run: Run, mark: Replacement) -> None:
        run.libvirt.set_network_mark(self.name, mark.old, mark.new)

    def _tell(self, run: Run, mark: str | None) -> list[str]:
        """Has all guests follow, past those that cannot, which it returns: no other is left without its guard."""
        live = run.libvirt.live_network(self.name)
        if live is not None:
            told = marked(parse_xml(live), None if mark is None else parse_xml(mark))
            run.effects.adopt_network(to_text(told).encode())
        return _have_follow(run, self.ports, self.others)


@dataclass(frozen=True, kw_only=True)
class TakeOverNetwork(AdoptNetwork):
    """The same for a network of libvirt's that is guestnet's own from then on."""

    VERB = "take over"


def _have_follow(run: Run, guests: tuple[str, ...], others: frozenset[str] = frozenset()) -> list[str]:
    failures = []
    for guest in guests:
        try:
            run.guard(guest, settle=guest == guests[-1])
        except GuestnetError as error:
            if guest in others | run.stuck:
                run.note(left_as_it_is(guest, error))
            else:
                failures.append(f"guest {guest}: {error}")
    return failures


def _raise(failures: list[str]) -> None:
    if failures:
        raise GuestnetError("\n".join(failures))


@dataclass(frozen=True, kw_only=True)
class SetNetworkAutostart(Change):
    """Have libvirt start the network with the host, or not."""

    on: bool
    VERB = "set"
    KIND = "network autostart"

    def run(self, run: Run) -> None:
        run.libvirt.set_network_autostart(self.name, self.on)
        back = f"set the autostart of network {self.name} back"
        run.done("set", back, lambda: run.libvirt.set_network_autostart(self.name, not self.on))


@dataclass(frozen=True, kw_only=True)
class RemoveNetwork(Change):
    """Stop and undefine a network. `after` names the guests that other changes make let go of it before, `left` NICs of
    those that run on without it: they lose the guard that its policy asked for, and keep it where it only stops.
    `others` as in AdoptNetwork."""

    backup: NetworkBackup
    after: frozenset[str] = frozenset()
    left: tuple[LeftNic, ...] = ()
    others: frozenset[str] = frozenset()
    VERB = "remove"
    KIND = "network"

    def run(self, run: Run) -> None:
        run.libvirt.stop_network(self.name)
        run.done("stopped", f"bring network {self.name} back", lambda: self.backup.restore(run))
        run.libvirt.undefine_network(self.name)
        run.step("undefined")
        for nic in self.left:
            run.effects.release(nic.uuid, nic.tap)
        _raise(_have_follow(run, tuple(sorted({nic.domain for nic in self.left})), self.others))
