"""The same on Debian 13's libvirt 11.3."""

from __future__ import annotations

from pathlib import Path

import pytest

from .test_soak import test_soak

__all__ = ["test_soak"]
pytestmark = pytest.mark.trixie


@pytest.fixture
def root(trixie_root: Path) -> Path:
    return trixie_root
