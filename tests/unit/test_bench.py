"""What the benches count as a start: none that fails, and none that is not what it should be."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from libvirt_guestnet.errors import GuestnetError

sys.path.append(str(Path(__file__).parents[2] / "scripts/bench"))
import starts

TOOLS = {
    "virsh": """case "$2" in
start) exit $START ;;
domstate) echo $STATE ;;
domiflist) echo "vnet7 network net rtl8139 52:54:00:00:00:01" ;;
destroy) echo destroyed >>$CALLS ;;
esac""",
    "nft": '[ "$*" = "list chain netdev guestnet tap-vnet7" ] && exit $GUARD',
    "ebtables-save": """echo "-A PREROUTING -i vnet7 -j libvirt-I-vnet7"
[ $FILTER = 1 ] || echo "-A libvirt-I-vnet7 -j DROP\"""",
}
WELL = {"START": "0", "STATE": "running", "GUARD": "0", "FILTER": "0"}


class Box:
    """A sandbox whose programs say what they are told to."""

    def __init__(self, folder: Path, **says: str) -> None:
        self.folder = folder
        self.calls = folder / "calls"
        self.environment = WELL | says | {"CALLS": str(self.calls), "PATH": f"{folder}:{os.environ['PATH']}"}
        for name, script in TOOLS.items():
            (folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name).chmod(0o755)

    def run(self, argv: Sequence[str], check: bool = True, **_: Any) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(argv, env=self.environment, capture_output=True, text=True, check=False)
        if check and done.returncode != 0:
            raise GuestnetError(f"status {done.returncode}: {done.stderr.strip()}")
        return done


def start(box: Box, proof: str) -> float:
    with starts.started(box, "guest") as wall:  # type: ignore[arg-type]
        starts.prove(box, "guest", proof)  # type: ignore[arg-type]
        return wall


@pytest.mark.parametrize("proof", [starts.GUARDED, starts.NWFILTER])
def test_a_start_that_is_as_it_should_be_has_a_time(tmp_path: Path, proof: str) -> None:
    assert 0 < start(Box(tmp_path), proof) < 10_000


def test_an_unguarded_start_has_one_too(tmp_path: Path) -> None:
    assert start(Box(tmp_path, GUARD="1"), starts.UNGUARDED) > 0


@pytest.mark.parametrize(
    ("says", "proof", "why"),
    [
        ({"START": "1"}, starts.GUARDED, "status 1"),
        ({"STATE": "shut off"}, starts.GUARDED, "guest does not run"),
        ({"GUARD": "1"}, starts.GUARDED, "status 1"),
        ({}, starts.UNGUARDED, "status 1"),
        ({"FILTER": "1"}, starts.NWFILTER, "status 1"),
    ],
    ids=["it fails", "its guest has ended", "no guard", "a guard that should not be there", "no nwfilter"],
)
def test_any_other_fails_the_bench(tmp_path: Path, says: dict[str, str], proof: str, why: str) -> None:
    box = Box(tmp_path, **says)
    with pytest.raises(GuestnetError, match=why):
        start(box, proof)
    assert box.calls.read_text() == "destroyed\n"
