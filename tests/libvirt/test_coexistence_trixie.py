"""The same on Debian 13's libvirt 11.3: with iptables, its default there, and with nftables."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.own_programs import watching
from test_coexistence import (  # noqa: F401  fixtures and tests, with other sandboxes under them
    BUS,
    libvirts,
    net,
    test_a_flushed_ruleset_comes_back,
    test_docker_before_and_after,
    test_without_the_service_it_stays_lost,
    theirs,
)
from test_forwards_libvirt import Net
from test_forwards_trixie import prepared

from libvirt_guestnet import sandbox as sandboxes
from libvirt_guestnet.sandbox import Sandbox

pytestmark = pytest.mark.trixie


@pytest.fixture(scope="module", params=["iptables", "nftables"])
def sandbox(request: pytest.FixtureRequest, trixie_root: Path) -> Iterator[Sandbox]:
    prepare = [*prepared(trixie_root, request.param), BUS]
    with sandboxes.start(f"beside-{request.param}-{os.getpid()}", root=trixie_root, prepare=prepare) as running:
        yield running


@pytest.mark.parametrize("sandbox", ["nftables"], indirect=True)
def test_libvirt_makes_a_single_rule_anew(net: Net, theirs: list[str]) -> None:  # noqa: F811
    """It may delete such a one itself after a flush, by the handle that another network's rule had."""
    with watching(net.sandbox):
        net.soon(lambda: libvirts(net), theirs)  # so it has, before this test, more often than not
        listed = net.sandbox.run(["nft", "-a", "list", "chain", "ip", "libvirt_network", "guest_nat"]).stdout
        handle = re.findall(r" # handle (\d+)$", listed, re.M)[-1]
        net.sandbox.run(["nft", "delete", "rule", "ip", "libvirt_network", "guest_nat", "handle", handle])
        assert libvirts(net) != theirs
        net.soon(lambda: libvirts(net), theirs)
