"""Making a host a chassis of OVN, by Debian's own programs; and the databases on it, where they are to be there."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from libvirt_guestnet.datapath.run import program
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.model.host import Fabric
from libvirt_guestnet.ovn.chassis import NORTHBOUND_PORT, SOUTHBOUND_PORT, Setting
from libvirt_guestnet.ovn.names import BRIDGE

_SECONDS = 60.0
_CONTROL = "/usr/share/ovn/scripts/ovn-ctl"
_SYSTEMD = "/run/systemd/system"
_SWITCH, _CHASSIS, _CENTRAL = "openvswitch-switch", "ovn-host", "ovn-central"
_PROGRAMS = {"ovs-vsctl": _SWITCH, "ovn-controller": _CHASSIS}
_PAIR = re.compile(r'([A-Za-z0-9_.-]+)=("(?:[^"\\]|\\.)*"|[^,}\s]+)')
Tell = Callable[[str], None]


def check_installed(*, central: bool) -> None:
    """Raises GuestnetError, with what to install, where Debian's packages are not there."""
    needed = {**_PROGRAMS, **({"ovn-northd": _CENTRAL} if central else {})}
    missing = sorted({package for name, package in needed.items() if not _is_there(name)})
    if missing:
        raise GuestnetError(f"not installed on this host: apt-get install {' '.join(missing)}")


def _is_there(name: str) -> bool:
    return any(os.access(f"{folder}/{name}", os.X_OK) for folder in ("/usr/bin", "/usr/sbin", "/bin", "/sbin"))


def settings() -> dict[str, str]:
    """Open vSwitch's `external_ids` of this host. Raises GuestnetError where it does not run."""
    text = _vsctl("get", "open_vswitch", ".", "external_ids")
    return {name: value.strip('"') for name, value in _PAIR.findall(text)}


def has_bridge(name: str) -> bool:
    """Whether Open vSwitch has such a bridge."""
    return name in _vsctl("list-br").split()


def set_up(wanted: Iterable[Setting], tell: Tell) -> None:
    """Sets what is missing, and has ovn-controller run. Raises GuestnetError, also where that does not come up."""
    for each in wanted:
        tell(f"set {each.name} of Open vSwitch: {each.value}")
        _vsctl("set", "open_vswitch", ".", f"external_ids:{each.name}={_quoted(each.value)}")
    if not _answers("ovn-controller"):
        tell("start ovn-controller")
        _start(_CHASSIS, "start_controller")
    _await(lambda: has_bridge(BRIDGE), f"ovn-controller has not made {BRIDGE}: see its log under /var/log/ovn")


def central(fabric: Fabric, address: str, tell: Tell) -> None:
    """Has the databases and northd run here, and hear others at this host's address. Raises GuestnetError."""
    if fabric.tls is not None:
        raise GuestnetError(
            "guestnet ovn up --central makes databases without TLS only, for which a server's own key and certificate "
            f"are needed: apt-get install {_CENTRAL}, then ovn-nbctl set-ssl, ovn-nbctl set-connection "
            f"pssl:{NORTHBOUND_PORT}, and the same with ovn-sbctl and {SOUTHBOUND_PORT}"
        )
    if not _answers("ovn-northd"):
        tell("start OVN's databases and ovn-northd")
        _start(_CENTRAL, "start_northd")
    host = f"[{address}]" if ":" in address else address
    for tool, port in (("ovn-nbctl", NORTHBOUND_PORT), ("ovn-sbctl", SOUTHBOUND_PORT)):
        wanted = f"ptcp:{port}:{host}"
        if wanted not in _said([tool, "get-connection"]).split():
            tell(f"have {tool.removesuffix('ctl')} hear {wanted}")
            _said([tool, "--", "--id=@c", "create", "connection", f'target="{wanted}"', *_added(tool)])


def _added(tool: str) -> list[str]:
    """Beside those that are there."""
    table = "nb_global" if tool == "ovn-nbctl" else "sb_global"
    return ["--", "add", table, ".", "connections", "@c"]


def _start(unit: str, verb: str) -> None:
    if Path(_SYSTEMD).is_dir():
        _said(["systemctl", "enable", "--now", unit])
    else:
        _said([_CONTROL, verb])


def _answers(daemon: str) -> bool:
    return program.run(["ovn-appctl", "-t", daemon, "version"], "", _CHASSIS).status == 0


def _await(true: Callable[[], bool], failure: str) -> None:
    deadline = time.monotonic() + _SECONDS
    while not true():
        if time.monotonic() > deadline:
            raise GuestnetError(f"not within {_SECONDS:.0f} s: {failure}")
        time.sleep(0.1)


def _vsctl(*words: str) -> str:
    return _said(["ovs-vsctl", "--timeout=10", *words])


def _said(argv: list[str]) -> str:
    return program.said(argv, _SWITCH)


def _quoted(value: str) -> str:
    return f'"{value}"'
