"""The topologies of labs and tests, read as editors read them; and a host that they fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from libvirt_guestnet import topology
from libvirt_guestnet.guest.image import TinyImage
from libvirt_guestnet.hostmap import HostMap

ROOT = Path(__file__).parent.parent
GOOD = sorted([*(ROOT.parent / "labs").glob("*.yaml"), *(ROOT / "topologies").glob("*.yaml")])
SCHEMA = topology.json_schema()
_CACHE = Path("/var/cache/libvirt-guestnet/guest")
IMAGE = TinyImage(kernel=_CACHE / "vmlinuz", initrd=_CACHE / "initrd")
HOSTMAP = HostMap(
    {
        "core": "eth0",
        "lan1": "eth1",
        "lan2": "eth2",
        "wan": "eth3",
        "office": "eth4",
        "lan": "br-lan/eth5",
        "provider": "eth6",
        "campus": "eth7",
        "servers": "br-servers",
        "internet": "eth8",
    },
    device_is_bridge=lambda device: device.startswith("br-"),
)


class _Loader(yaml.SafeLoader):
    """YAML 1.2 as editors read it: no base-60 numbers."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:int" or first not in "0123456789"]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", __import__("re").compile("^-?[0-9]+$"), list("-0123456789"))


def read_yaml(path: Path) -> Any:
    return yaml.load(path.read_text(), _Loader)
