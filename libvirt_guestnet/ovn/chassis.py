"""What a host needs to be a chassis of OVN for a topology: settings in its Open vSwitch, beside what is there. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.model import labelled
from libvirt_guestnet.model.host import Fabric, Host

NORTHBOUND_PORT, SOUTHBOUND_PORT = "6641", "6642"
_MAPPINGS, _TYPES = "ovn-bridge-mappings", "ovn-encap-type"


class ChassisError(GuestnetError):
    """The host is a chassis already, and of another kind than the topology says; or the topology says too little."""


@dataclass(frozen=True)
class Setting:
    """One of Open vSwitch's `external_ids`."""

    name: str
    value: str


def southbound(fabric: Fabric) -> tuple[str, ...]:
    """The southbound database beside a northbound one: on the same hosts, at its usual port. Raises ChassisError."""
    found = [address for address in fabric.northbound if address.endswith(f":{NORTHBOUND_PORT}")]
    if len(found) != len(fabric.northbound) or not found:
        raise ChassisError(
            f"where the southbound database is cannot be told of northbound: {', '.join(fabric.northbound)}, as its "
            f"port is not {NORTHBOUND_PORT}: say --southbound ADDRESS, such as ssl:192.0.2.1:{SOUTHBOUND_PORT}"
        )
    return tuple(f"{address.removesuffix(NORTHBOUND_PORT)}{SOUTHBOUND_PORT}" for address in found)


def plan_chassis(host: Host, fabric: Fabric, remote: tuple[str, ...], there: Mapping[str, str]) -> list[Setting]:
    """The settings that are missing. What is there stays: where the topology says otherwise, it or the host is wrong.
    Raises ChassisError."""
    wanted = {
        "system-id": host.chassis,
        "ovn-remote": ",".join(remote),
        _TYPES: str(fabric.encapsulation),
        "ovn-encap-ip": str(host.underlay or ""),
        _MAPPINGS: ",".join(f"{label}:{bridge}" for label, bridge in bridges(host).items()),
    }
    if problems := [text for name, value in wanted.items() for text in _otherwise(host, name, value, there)]:
        raise ChassisError("\n".join(problems))
    return [Setting(name, made) for name, value in wanted.items() if (made := _made(name, value, there)) is not None]


def bridges(host: Host) -> dict[str, str]:
    """The bridge of Open vSwitch behind each label. Raises ChassisError for one that is anything else."""
    for label, device in host.labels:
        if not device.startswith(labelled.OVS):
            raise ChassisError(
                f"host {host.name}: {label} is {device}, and OVN reaches a physical network by a bridge of Open "
                f"vSwitch: make one (ovs-vsctl add-br br-{label} -- add-port br-{label} NIC; the NIC's addresses go to "
                f"the bridge), and say {label}: ovs:br-{label}"
            )
    return {label: labelled.bare(device) for label, device in host.labels}


def _otherwise(host: Host, name: str, value: str, there: Mapping[str, str]) -> Iterator[str]:
    old = there.get(name, "")
    if name == _MAPPINGS:
        known = _mapped(old)
        wrong = {k: v for k, v in _mapped(value).items() if known.get(k, v) != v}
        yield from (
            f"host {host.name} is a chassis that has bridge {known[k]} for {k}, and the topology says {wrong[k]}"
            for k in wrong
        )
    elif old and value and not _fits(name, value, old):
        yield (
            f"host {host.name} is a chassis already, whose {name} is {old}, and the topology says {value}: correct the "
            f"file, or the host by `ovs-vsctl set open_vswitch . external_ids:{name}={value}`"
        )


def _fits(name: str, value: str, old: str) -> bool:
    return value in old.split(",") if name == _TYPES else set(value.split(",")) == set(old.split(","))


def _made(name: str, value: str, there: Mapping[str, str]) -> str | None:
    """What to set; None where all is there."""
    old = there.get(name, "")
    if name != _MAPPINGS:
        return value if value and not old else None
    whole = _mapped(old) | _mapped(value)
    return ",".join(f"{k}:{v}" for k, v in whole.items()) if whole != _mapped(old) else None


def _mapped(text: str) -> dict[str, str]:
    return {k: v for k, _, v in (each.partition(":") for each in text.split(",") if each)}
