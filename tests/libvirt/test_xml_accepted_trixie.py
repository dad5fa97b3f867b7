"""The same reference XML on Debian 13's libvirt 11.3."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_xml_accepted import *  # noqa: F403  the tests themselves, with another sandbox under them

from libvirt_guestnet import sandbox as sandboxes
from libvirt_guestnet.sandbox import Sandbox

pytestmark = pytest.mark.trixie


@pytest.fixture(scope="module")
def sandbox(trixie_root: Path) -> Iterator[Sandbox]:
    """Without our hooks, as on 9.0: the reference names NICs that no sandbox has, and they would say so."""
    with sandboxes.start(f"xml-trixie-{os.getpid()}", root=trixie_root) as running:
        yield running
