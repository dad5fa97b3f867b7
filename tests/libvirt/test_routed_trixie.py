"""The same on Debian 13's libvirt 11.3: with iptables, its default there, and with nftables."""

import pytest
from test_forwards_trixie import sandbox  # noqa: F401
from test_routed import (  # noqa: F401  fixtures and tests, with other sandboxes under them
    site,
    test_a_crash_leaves_nothing,
    test_restarts_of_the_daemon_and_of_a_network_in_between,
    test_routed_networks_of_one_device_reach_each_other_and_the_lan,
    test_what_is_behind_a_guest_is_reached_while_it_runs,
)

pytestmark = pytest.mark.trixie
