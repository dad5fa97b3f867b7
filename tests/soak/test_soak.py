"""Operations by chance on a real daemon: docs/soak.md says what is done, what must be true, and how to try it again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from libvirt_guestnet import sandbox as sandboxes

from .run import Soak
from .setting import hooks

pytestmark = pytest.mark.libvirt


@pytest.fixture
def root() -> Path:
    return Path("/")


def test_soak(request: pytest.FixtureRequest, root: Path) -> None:
    option = request.config.getoption
    only = frozenset(filter(None, str(option("--soak-only")).split(",")))
    with sandboxes.start(f"soak-{os.getpid()}", root=root, prepare=hooks(root)) as sandbox:
        with Soak(sandbox, str(option("--soak-seed")), only) as soak:
            try:
                soak.last(float(option("--soak")))
            finally:
                print(f"seed {soak.seed}: {soak.report}")
        assert not soak.report.violations, f"see the report of seed {soak.seed}"
