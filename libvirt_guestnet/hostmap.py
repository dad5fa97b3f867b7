"""The host's own file: which device is behind each physical-network label of a topology, and what holds on the host
for every domain.

A label is mapped to a NIC or a Linux bridge by its name; `BRIDGE/NIC` also names the port of a VLAN-aware bridge that
connects to other hosts, and `ovs:BRIDGE` is a bridge of Open vSwitch. Whether a name is a NIC or a bridge is looked up
on this host; for another host, write `nic:NAME` or `bridge:NAME`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.read.hostwide import ALLOW, DECLARED, GUARDS, REFUSE, HostWide
from libvirt_guestnet.model import labelled
from libvirt_guestnet.model.host import Host
from libvirt_guestnet.model.network import Mode, Network
from libvirt_guestnet.topology import yamlwords

HOST_FILE = Path("/etc/libvirt-guestnet/host.yaml")
MAPPED_BY = f"(--map, or {HOST_FILE})"
"""Where a label is mapped to another device, in messages."""
_KEYS = _KEY, _UNGUARDABLE, _GUARD = "physical-networks", "unguardable", "guard"
_LARGEST_FILE = 64 * 1024
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # whose words yamlwords knows


def is_bridge(device: str) -> bool:
    """Whether the device exists on this host and is a Linux bridge."""
    return Path("/sys/class/net", device, "bridge").is_dir()


@dataclass(frozen=True)
class HostMap:
    """Label -> host NIC or bridge. `device_is_bridge` says which of the two a device is."""

    devices: Mapping[str, str] = field(default_factory=dict)
    device_is_bridge: Callable[[str], bool] = field(default=is_bridge, compare=False)

    def device(self, label: str, wanted_by: str = "the topology") -> str:
        """The device behind a label. Raises GuestnetError, saying how to map it, when there is none."""
        return labelled.bare(self._entry(label, f"{wanted_by} needs")).partition("/")[0]

    def check_mapped(self, networks: Iterable[Network]) -> None:
        """Raises GuestnetError, with a line for each label that networks need and this host maps to no device."""
        wanted: dict[str, list[str]] = {}
        for network in networks:
            for label in network.labels:
                wanted.setdefault(label, []).append(repr(network.name))
        missing = []
        for label, names in wanted.items():
            try:
                one = len(names) == 1
                self._entry(label, f"network {names[0]} needs" if one else f"networks {', '.join(names)} need")
            except GuestnetError as error:
                missing.append(str(error))
        if missing:
            raise GuestnetError("\n".join(missing))

    def check_kinds(self, networks: Iterable[Network], exists: Callable[[str], bool]) -> None:
        """Raises GuestnetError if a bridge network depends on whether a device is a NIC or a bridge, and that is
        unknown."""
        for network in networks:
            device = _uplink_of(self, network)
            entry = self.devices.get(network.physical_network or "", "")
            if device and entry == device and not exists(device) and device != network.bridge:
                label = network.physical_network
                raise GuestnetError(
                    f"network {network.name!r}: whether {device} is a NIC or a bridge cannot be told, as this host has "
                    f"no such device: write {label}=nic:{device} or {label}=bridge:{device}"
                )

    def _entry(self, label: str, needed: str = "the topology needs") -> str:
        try:
            return self.devices[label]
        except KeyError:
            near = difflib.get_close_matches(label, self.devices, n=1, cutoff=0.8)
            but = f" (but one to {near[0]!r})" if near else ""
            raise GuestnetError(
                f"{needed} physical network {label!r}, and this host maps no device to it{but}: "
                f'add "{label}: DEVICE" under {_KEY}: in {HOST_FILE}, or pass --map {label}=DEVICE '
                f"(a NIC or a bridge of this host)"
            ) from None

    def vlan_uplink(self, label: str) -> str | None:
        """The mapped bridge's port to other hosts, if the map names it (BRIDGE/NIC)."""
        return self._entry(label).partition("/")[2] or None

    def is_ovs(self, label: str) -> bool:
        """Whether an Open vSwitch bridge stands behind the label (ovs:BRIDGE)."""
        return self._entry(label).startswith(labelled.OVS)

    def is_bridge(self, label: str) -> bool:
        """Whether an existing bridge stands behind the label. Raises GuestnetError when the label is not mapped."""
        said = labelled.is_bridge(self._entry(label))
        return self.device_is_bridge(self.device(label)) if said is None else said

    def bridge(self, network: Network) -> str:
        """The bridge a network's ports are on.

        In mode bridge that is the mapped bridge, or `network.bridge` with the mapped NIC under it; in every other
        mode libvirt makes `network.bridge`. Raises GuestnetError when the label is not mapped.
        """
        device = _uplink_of(self, network)
        return device if device is not None and self._is_bridge_of(network, device) else network.bridge

    def uplink(self, network: Network) -> str | None:
        """The NIC that the network hook puts under the network's bridge; None when there is nothing to put there.

        Raises GuestnetError when the label is not mapped.
        """
        device = _uplink_of(self, network)
        return None if device is None or self._is_bridge_of(network, device) else device

    def _is_bridge_of(self, network: Network, device: str) -> bool:
        # A bridge of our own name is the one the hook makes: a NIC cannot be under itself.
        said = labelled.is_bridge(self.devices[network.physical_network or ""])
        return device == network.bridge or (self.device_is_bridge(device) if said is None else said)


def _uplink_of(hostmap: HostMap, network: Network) -> str | None:
    if network.mode is not Mode.BRIDGE or network.physical_network is None:
        return None
    return hostmap.device(network.physical_network, f"network {network.name!r}")


def of_host(host: Host) -> HostMap:
    """The devices of one of a topology's hosts by the file alone, so that all come to the same result: a bare name is a
    NIC's (decision 120)."""
    return HostMap({label: labelled.with_kind(entry) for label, entry in host.labels}, lambda _device: False)


def load_hostmap(file: Path = HOST_FILE, pairs: Sequence[str] = ()) -> HostMap:
    """The host's file (a missing one maps nothing), overridden by `label=device` pairs.

    Raises GuestnetError when the file or a pair cannot be understood.
    """
    return HostMap({**_parse_devices(file, _read(file)), **dict(_parse_pair(pair) for pair in pairs)})


def load_hostwide(file: Path = HOST_FILE) -> HostWide:
    """What the host's file says of every domain. Raises GuestnetError when it cannot be understood."""
    document = _read(file)
    _parse_devices(file, document)
    wanted, guard = document.get(_UNGUARDABLE, ALLOW), document.get(_GUARD, DECLARED)
    if wanted not in (ALLOW, REFUSE):
        raise GuestnetError(f"{file}: {_UNGUARDABLE}: {wanted!r} is neither {ALLOW} nor {REFUSE}")
    if guard not in GUARDS:
        raise GuestnetError(f"{file}: {_GUARD}: {guard!r} is none of {', '.join(GUARDS)}")
    return HostWide(str(wanted), str(guard))


def _parse_pair(pair: str) -> tuple[str, str]:
    label, equals, device = pair.partition("=")
    if not (label and equals):
        raise GuestnetError(f"cannot map {pair!r}: write LABEL=DEVICE, for example lan1=eth1")
    return label, _checked(device, f"--map {pair}")


def _read(file: Path) -> dict[str, object]:
    try:
        with file.open("rb") as stream:
            text = stream.read(_LARGEST_FILE + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise GuestnetError(f"{file}: cannot be read: {error.strerror}") from error
    if len(text) > _LARGEST_FILE:
        raise GuestnetError(f"{file}: larger than {_LARGEST_FILE} bytes, so not a map of labels to devices")
    return _parse_file(file, text)


def _parse_file(file: Path, text: bytes) -> dict[str, object]:
    readable = text.decode("utf-8-sig", "replace")
    try:
        document = yaml.load(readable, _Loader)  # noqa: S506
    except yaml.YAMLError as error:
        line, column, words = yamlwords.explain(error, readable)
        raise GuestnetError(f"{file}:{line}:{column}: {words}") from error
    if document is None:
        return {}
    if not isinstance(document, dict) or not set(document) <= set(_KEYS):
        keys = document if isinstance(document, dict) else ()
        unknown = [str(key) for key in keys if key not in _KEYS]
        raise GuestnetError(
            f"{file}: {f'unknown key {unknown[0]!r}: the file ' if unknown else ''}"
            f'must hold "{_KEY}:", with lines "LABEL: DEVICE" under it, "{_UNGUARDABLE}: {REFUSE}", '
            f'"{_GUARD}: {" or ".join(GUARDS[1:])}", or several of them'
        )
    return document


def _parse_devices(file: Path, document: dict[str, object]) -> dict[str, str]:
    entries = document.get(_KEY, {})
    if not isinstance(entries, dict):
        raise GuestnetError(f'{file}: under "{_KEY}:" there must be lines "LABEL: DEVICE"')
    return {str(label): _checked(device, f"{file}: {_KEY}: {label}") for label, device in entries.items()}


def _checked(device: object, where: str) -> str:
    if not isinstance(device, str) or not labelled.is_entry(device):
        raise GuestnetError(
            f"{where}: {device!r} is not a device name: write a NIC, a bridge, BRIDGE/NIC or ovs:BRIDGE, names of 1 to "
            f"15 letters, digits, '_', '.' and '-'"
        )
    return device
