"""The same with Debian 13's libvirt 11.3, and with our hooks installed."""

import pytest
from test_nic_of_a_user import *  # noqa: F403  the tests themselves, with another sandbox under them

from libvirt_guestnet.sandbox import Sandbox

pytestmark = pytest.mark.trixie


@pytest.fixture(scope="module")
def sandbox(trixie_sandbox: Sandbox) -> Sandbox:
    return trixie_sandbox
