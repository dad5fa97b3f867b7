"""The same on Debian 13's libvirt 11.3: with iptables, its default there, and with nftables."""

import pytest
from test_coexistence import (  # noqa: F401  fixtures and tests, with other sandboxes under them
    net,
    test_a_flushed_ruleset_comes_back,
    test_docker_before_and_after,
    test_without_the_service_it_stays_lost,
)
from test_ways_in_trixie import sandbox  # noqa: F401

pytestmark = pytest.mark.trixie
