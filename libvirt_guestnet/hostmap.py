"""Which device of this host stands behind each physical-network label of a topology.

A label is mapped to a NIC or a Linux bridge by its name; `BRIDGE/NIC` also says which port of a VLAN-aware bridge leads
outside, and `ovs:BRIDGE` is a bridge of Open vSwitch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.model_network import Mode, Network

HOST_FILE = Path("/etc/libvirt-guestnet/host.yaml")
_KEY = "physical-networks"
_OVS = "ovs:"
_LARGEST_FILE = 64 * 1024
_DEVICE = re.compile(r"[A-Za-z0-9_.:@-]{1,15}")  # the kernel's IFNAMSIZ, and what libvirt's schema lets through


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
        return self._entry(label, wanted_by).partition("/")[0].removeprefix(_OVS)

    def _entry(self, label: str, wanted_by: str = "the topology") -> str:
        try:
            return self.devices[label]
        except KeyError:
            raise GuestnetError(
                f"{wanted_by} needs physical network {label!r}, and this host maps no device to it: "
                f'add "{label}: DEVICE" under {_KEY}: in {HOST_FILE}, or pass --map {label}=DEVICE '
                f"(a NIC or a bridge of this host)"
            ) from None

    def vlan_uplink(self, label: str) -> str | None:
        """The port of the mapped bridge that leads outside, where the map says so (BRIDGE/NIC)."""
        return self._entry(label).partition("/")[2] or None

    def is_ovs(self, label: str) -> bool:
        """Whether an Open vSwitch bridge stands behind the label (ovs:BRIDGE)."""
        return self._entry(label).startswith(_OVS)

    def is_bridge(self, label: str) -> bool:
        """Whether an existing bridge stands behind the label. Raises GuestnetError when the label is not mapped."""
        return self.is_ovs(label) or self.device_is_bridge(self.device(label))

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
        entry = self.devices[network.physical_network or ""]
        said = "/" in entry or entry.startswith(_OVS)
        return said or device == network.bridge or self.device_is_bridge(device)


def _uplink_of(hostmap: HostMap, network: Network) -> str | None:
    if network.mode is not Mode.BRIDGE or network.physical_network is None:
        return None
    return hostmap.device(network.physical_network, f"network {network.name!r}")


def load_hostmap(file: Path = HOST_FILE, pairs: Sequence[str] = ()) -> HostMap:
    """The host's file (a missing one maps nothing), overridden by `label=device` pairs.

    Raises GuestnetError when the file or a pair cannot be understood.
    """
    return HostMap({**_read(file), **dict(_parse_pair(pair) for pair in pairs)})


def _parse_pair(pair: str) -> tuple[str, str]:
    label, equals, device = pair.partition("=")
    if not (label and equals):
        raise GuestnetError(f"cannot map {pair!r}: write LABEL=DEVICE, for example lan1=eth1")
    return label, _checked(device, f"the pair {pair!r}")


def _read(file: Path) -> dict[str, str]:
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


def _parse_file(file: Path, text: bytes) -> dict[str, str]:
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise GuestnetError(f"{file}: not YAML: {error}") from error
    if document is None:
        return {}
    entries = document.get(_KEY) if isinstance(document, dict) and set(document) == {_KEY} else None
    if not isinstance(entries, dict):
        raise GuestnetError(f'{file}: must hold one key, "{_KEY}:", with lines "LABEL: DEVICE" under it')
    return {str(label): _checked(device, f"{file}: {_KEY}: {label}") for label, device in entries.items()}


def _checked(device: object, where: str) -> str:
    names = device.removeprefix(_OVS).split("/") if isinstance(device, str) else []
    if not isinstance(device, str) or not 1 <= len(names) <= 2 or not all(map(_is_device, names)):
        raise GuestnetError(f"{where}: {device!r} is not a device name (1 to 15 letters, digits and _ . : @ -)")
    return device


def _is_device(name: str) -> bool:
    return _DEVICE.fullmatch(name) is not None and name not in {".", ".."}
