"""Operations by chance on a real daemon: docs/soak.md says what is done, what must be true, and how to try it again."""

from __future__ import annotations

from pathlib import Path

import pytest

from .session import soak

pytestmark = pytest.mark.libvirt


def test_soak(request: pytest.FixtureRequest) -> None:
    soak(request.config, Path("/"))
