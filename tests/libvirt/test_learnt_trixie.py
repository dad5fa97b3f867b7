"""The same with Debian 13's libvirt 11.3 and dnsmasq 2.91."""

import pytest
from test_learnt import *  # noqa: F403  the tests themselves, with another sandbox under them

from libvirt_guestnet.sandbox import Sandbox

pytestmark = pytest.mark.trixie


@pytest.fixture(scope="module")
def sandbox(trixie_sandbox: Sandbox) -> Sandbox:
    return trixie_sandbox
