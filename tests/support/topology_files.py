"""The topologies of labs and tests, read as editors read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from libvirt_guestnet import topology

ROOT = Path(__file__).parent.parent
GOOD = sorted([*(ROOT.parent / "labs").glob("*.yaml"), *(ROOT / "topologies").glob("*.yaml")])
SCHEMA = topology.json_schema()


class _Loader(yaml.SafeLoader):
    """YAML 1.2 as editors read it: no base-60 numbers."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:int" or first not in "0123456789"]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", __import__("re").compile("^-?[0-9]+$"), list("-0123456789"))


def read_yaml(path: Path) -> Any:
    return yaml.load(path.read_text(), _Loader)
