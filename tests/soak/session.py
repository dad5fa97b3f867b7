"""One soak as the options of pytest want it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from libvirt_guestnet import sandbox as sandboxes

from .run import Soak
from .setting import hooks


def soak(config: pytest.Config, root: Path) -> None:
    """On the libvirt of a root."""
    only = frozenset(filter(None, str(config.getoption("--soak-only")).split(",")))
    with sandboxes.start(f"soak-{os.getpid()}", root=root, prepare=hooks(root)) as sandbox:
        with Soak(sandbox, str(config.getoption("--soak-seed")), only) as soak:
            try:
                soak.last(float(config.getoption("--soak")))
            finally:
                print(f"seed {soak.seed}: {soak.report}")
        assert not soak.report.violations, f"see the report of seed {soak.seed}"
