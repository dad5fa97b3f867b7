"""The same on Debian 13's libvirt 11.3: with iptables, its default there, and with nftables."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_coexistence import (  # noqa: F401  fixtures and tests, with other sandboxes under them
    BUS,
    net,
    test_a_flushed_ruleset_comes_back,
    test_docker_before_and_after,
    test_without_the_service_it_stays_lost,
)
from test_ways_in_trixie import prepared

from libvirt_guestnet import sandbox as sandboxes
from libvirt_guestnet.sandbox import Sandbox

pytestmark = pytest.mark.trixie


@pytest.fixture(scope="module", params=["iptables", "nftables"])
def sandbox(request: pytest.FixtureRequest, trixie_root: Path) -> Iterator[Sandbox]:
    prepare = [*prepared(trixie_root, request.param), BUS]
    with sandboxes.start(f"beside-{request.param}-{os.getpid()}", root=trixie_root, prepare=prepare) as running:
        yield running
