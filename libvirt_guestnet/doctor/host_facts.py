"""Facts about a host, and what is said of them: values that `facts` gathers and `judge` makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from libvirt_guestnet.datapath.firewalls.chains import RefusingChain
from libvirt_guestnet.doctor.ways import WayFacts
from libvirt_guestnet.importing.facts import LeftOut
from libvirt_guestnet.install.apparmor import Confined
from libvirt_guestnet.install.hook_files import OLDEST_LIBVIRT, HookStatus
from libvirt_guestnet.install.network_managers import Claim
from libvirt_guestnet.model.drift import Drift
from libvirt_guestnet.model.held_addresses import Refusal
from libvirt_guestnet.status.unguarded import UnguardedRow

HOST_ROUTED = "host-routed"


@dataclass(frozen=True)
class NetworkFacts:
    """An active network of ours, or the tap of a host-routed guest (then `device` is that, and `vrf` what it is in, if
    anything). `mode` is libvirt's forward mode, "isolated" or "host-routed"; `versions` are those of its subnets;
    `reached`: it has forwards, `untranslated`: among them addresses that its guests have themselves. `isolated` are
    the IP versions of forwards to a port that is isolated from others on its bridge."""

    name: str
    device: str
    mode: str
    versions: frozenset[int] = frozenset({4})
    reached: bool = False
    untranslated: bool = False
    vrf: str = ""
    isolated: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Asleep:
    """A network that is not started at boot, and guests that are; or one of somebody else's that is not active, and
    guests of ours that need it."""

    network: str
    at_boot: tuple[str, ...] = ()
    now: tuple[str, ...] = ()


@dataclass(frozen=True)
class Claimed:
    """What domains' metadata claims and another's definition has, too: whose, and what."""

    domains: str
    found: str


@dataclass(frozen=True)
class HostFacts:
    """What was found on a host; as they stand, nothing is wrong. None stands for what only root can see.

    `kernel` says by feature (see FEATURES) whether it is there, None when that cannot be told; `needed` are the
    features and `labels` (each with the device it is mapped to, "" for none) that a topology asks for, or a network
    that libvirt has; `wanting` names a device that such a network lacks; `devices` are the host's. `unguarded` are
    (port, bridge), `unguardable` NICs that cannot be guarded, `observed` ports of running guests of which nothing is
    dropped; `hostwide` says what is wrong with what the hooks read of host.yaml. `taken`: running guests' addresses
    that became somebody else's. `offload` says why this host cannot have the checksum guard; `wrong` is what the
    kernel has otherwise than it should. `confined` are daemons that may not run the hooks' Python; `claims` what of
    ours a network manager takes, and `unmanaged` our file that tells it not to. `asleep`: networks that guests would
    miss. `left_out`: what `guestnet import` cannot write. `claimed`: what
    domains claim that is another's by its definition. `left_routers` have disks and no domain, each with its topology,
    "" where nothing says which. `ways`: what else of the host networks need.
    """

    libvirt: tuple[int, ...] | None = OLDEST_LIBVIRT
    unreachable: str = ""
    hooks: tuple[HookStatus, ...] = ()
    loose: str = ""
    kernel: Mapping[str, bool | None] = field(default_factory=dict)
    needed: frozenset[str] = frozenset()
    wanting: Mapping[str, str] = field(default_factory=dict)
    networks: tuple[NetworkFacts, ...] = ()
    forwarding: Mapping[int, bool] = field(default_factory=dict)
    bridged: Mapping[int, bool] = field(default_factory=dict)
    chains: tuple[RefusingChain, ...] | None = ()
    legacy: Mapping[str, list[str]] = field(default_factory=dict)
    firewalls: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    devices: frozenset[str] = frozenset()
    stale: tuple[str, ...] = ()
    unguarded: tuple[tuple[str, str], ...] = ()
    unguardable: tuple[UnguardedRow, ...] = ()
    observed: tuple[str, ...] = ()
    hostwide: str = ""
    taken: tuple[Refusal, ...] = ()
    offload: str | None = ""
    wrong: tuple[Drift, ...] = ()
    confined: tuple[Confined, ...] = ()
    claims: tuple[Claim, ...] = ()
    unmanaged: str = ""
    asleep: tuple[Asleep, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    claimed: tuple[Claimed, ...] = ()
    left_routers: Mapping[str, str] = field(default_factory=dict)
    ways: WayFacts = field(default_factory=WayFacts)
