"""What version 0.2.0 left under /run of two guests that run: the first form of the state's folder.

`tests/kernel/test_upgrade.py` made it with that version's own code, and says how.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from libvirt_guestnet.state import serialiser
from libvirt_guestnet.state.receipts import HostRoutes, PortForwards

DATA = Path(__file__).parents[1] / "data/state/1"


def placed(root: Path, indexes: Mapping[str, int] | None = None) -> None:
    """Puts the folder there; its taps have these indexes in the kernel by now."""
    shutil.copytree(DATA / "run", root)
    for path in root.rglob("*.json"):
        fields = json.loads(path.read_text())
        for receipt in (fields, *(fields.get("is") or {}).get("ways", ())):
            if receipt.get("ifindex") and indexes:
                receipt["ifindex"] = indexes[receipt["tap"]]
        path.write_text(json.dumps(fields))


def _read(folder: str) -> list[Path]:
    return sorted((DATA / "run" / folder).glob("*.json"))


ROUTES = [serialiser.read(HostRoutes, json.loads(each.read_text()), str(each)) for each in _read("reach")]
FORWARDS = [serialiser.read(PortForwards, json.loads(each.read_text()), str(each)) for each in _read("ways")]
