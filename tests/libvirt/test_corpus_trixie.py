"""The same corpus on Debian 13's libvirt 11.3."""

import pytest
from test_corpus import (  # noqa: F401  fixtures and tests, with another sandbox under them
    bare,
    ours,
    stage,
    test_attacks_arrive_nowhere,
    test_honest_frames_arrive_wherever_they_do_without_a_filter,
    test_without_a_filter_every_frame_arrives_somewhere,
)

from libvirt_guestnet.sandbox import Sandbox

pytestmark = pytest.mark.trixie


@pytest.fixture(scope="module")
def sandbox(trixie_sandbox: Sandbox) -> Sandbox:
    return trixie_sandbox
