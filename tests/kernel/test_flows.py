"""Rules that keep established connections open while libvirt works: there meanwhile, gone afterwards, even old ones."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support.box import Box

import libvirt_guestnet

pytestmark = pytest.mark.kernel

LIBRARY = str(Path(libvirt_guestnet.__file__).parents[1])
KEPT_OPEN = """
import subprocess, sys
from libvirt_guestnet.datapath.firewalls.flows import kept_open
with kept_open("gn-x"):
    subprocess.run(["iptables-save", "-t", "filter"])
    subprocess.run(["ip6tables-save", "-t", "filter"])
    if "die" in sys.argv:
        import os
        sys.stdout.flush(); os.kill(os.getpid(), 9)
"""


def rules(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("-A FORWARD")]


def test_only_established_connections_of_the_bridge_and_only_meanwhile() -> None:
    box = Box()
    try:
        run = ["env", f"PYTHONPATH={LIBRARY}", "PYTHONDONTWRITEBYTECODE=1", sys.executable, "-c", KEPT_OPEN]
        killed = box.run(*run, "die").stdout.decode()
        assert len(rules(killed)) == 6
        for line in rules(killed):
            assert " gn-x -m comment " in line
            assert " -i gn-x -o gn-x " in line or line.endswith(" --ctstate RELATED,ESTABLISHED -j ACCEPT")
        assert len(rules(box.ok(*run))) == 12
        assert rules(box.ok("iptables-save") + box.ok("ip6tables-save")) == []
    finally:
        box.close()
