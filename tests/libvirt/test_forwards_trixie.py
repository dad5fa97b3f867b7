"""The same on Debian 13's libvirt 11.3: with iptables, its default there, and with nftables."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.sandboxes import install_hooks
from test_forwards_libvirt import (  # noqa: F401  fixtures and tests, with other sandboxes under them
    net,
    test_a_nic_that_is_plugged_in_brings_its_ways_and_takes_them_along,
    test_a_port_of_the_hosts_own_refuses_the_start,
    test_an_untranslated_floating_address_is_the_guests_own,
    test_metadata_that_changes_live,
    test_rules_that_come_later_stand_behind_ours,
    test_while_the_guest_runs_and_no_longer,
)

from libvirt_guestnet import sandbox as sandboxes
from libvirt_guestnet.sandbox import Sandbox

pytestmark = pytest.mark.trixie


def prepared(root: Path, backend: str) -> list[list[str]]:
    """What a sandbox runs before libvirtd, whose rules are that backend's."""
    chosen = ["sh", "-c", f"echo 'firewall_backend = \"{backend}\"' >> /etc/libvirt/network.conf"]
    # It wants to correct DHCP checksums, for which not every machine's kernel has what it takes (act_csum).
    no_tc = ["sh", "-c", "printf '#!/bin/sh\\n' > /usr/sbin/tc"]
    return [*install_hooks(root), chosen, no_tc]


@pytest.fixture(scope="module", params=["iptables", "nftables"])
def sandbox(request: pytest.FixtureRequest, trixie_root: Path) -> Iterator[Sandbox]:
    prepare = prepared(trixie_root, request.param)
    with sandboxes.start(f"forwards-{request.param}-{os.getpid()}", root=trixie_root, prepare=prepare) as running:
        yield running
