"""How often a virtual router's agent looks for its host, where nobody is at the other end of its port."""

from __future__ import annotations

import subprocess
from importlib.resources import files

import pytest

pytestmark = pytest.mark.system

AGENT = files("libvirt_guestnet.router").joinpath("data/agent")
# A port that is closed is always ready. The clock goes on by a millisecond with each look, by a tenth with each wait.
TURNS = """
require $ARGV[0];
no warnings qw(redefine once);
my ($clock, $looks) = (0, 0);
*main::open_port = *main::open_button = *main::boot = sub { return };
*Identities::open_queue = *main::look_dnsmasq = *main::look_conntrackd = sub { return };
*main::look_metadata = *main::keep_leases = sub { return };
*main::now = sub { return $clock };
*main::turn = sub {
    if ($_[0]) { $looks++; $clock += 0.001 } else { $clock += 0.1 }
    die "done\\n" if $clock > 60;
    return 0;
};
eval { serve() };
die $@ unless $@ eq "done\\n";
print $looks;
"""


def test_a_port_that_nobody_is_at_is_tried_ten_times_a_second() -> None:
    done = subprocess.run(["perl", "-e", TURNS, str(AGENT)], stdout=subprocess.PIPE, text=True, check=True, timeout=240)
    assert 60 < int(done.stdout) <= 600
