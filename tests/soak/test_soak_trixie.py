"""The same on Debian 13's libvirt 11.3. It takes minutes, so it is in a file of its own: files run side by side."""

from __future__ import annotations

from pathlib import Path

import pytest

from .session import soak

pytestmark = pytest.mark.trixie


def test_soak(request: pytest.FixtureRequest, trixie_root: Path) -> None:
    soak(request.config, trixie_root)
