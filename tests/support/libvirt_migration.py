"""Two libvirt hosts joined by a cable, between which guests move."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping

from support.libvirt_host import Host

ADDRESSES = {"left": "192.0.2.1", "right": "192.0.2.2"}


def join(hosts: Mapping[str, Host]) -> None:
    """Lays the cable between the two, and has each know the other's name."""
    left, right = (str(host.sandbox.first.pid) for host in hosts.values())
    # Made right inside the two: nothing of it is ever in the machine's own namespace.
    ends = ["name", "cable", "netns", left, "type", "veth", "peer", "name", "cable", "netns", right]
    subprocess.run(["ip", "link", "add", *ends], check=True, timeout=120)
    names = "".join(f"{address} {hosts[name].sandbox.name}\n" for name, address in ADDRESSES.items())
    for name, host in hosts.items():
        host.sandbox.run(["ip", "address", "add", f"{ADDRESSES[name]}/24", "dev", "cable"])
        host.sandbox.run(["ip", "link", "set", "cable", "up"])
        host.sandbox.run(["tee", "-a", "/etc/hosts"], stdin=names)
        host.networks()


def migration(guest: str, source: Host, target: Host, address: str, *options: str) -> list[str]:
    """The command that moves it."""
    to = ["--live", "--undefinesource", "--persistent", guest, target.sandbox.uri, f"tcp://{address}:49152"]
    return ["virsh", "-q", "-c", source.sandbox.uri, "migrate", *options, *to]


def migrate(guest: str, source: Host, target: Host, address: str) -> str:
    """What virsh says of the migration: "" when it went well."""
    argv = migration(guest, source, target, address)
    return subprocess.run(argv, capture_output=True, text=True, timeout=240).stderr
