"""The process that moves the checksum guard to tcx, which lets the start go on first."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.box import Box
from support.hooks import repaired
from support.kernel_guests import LAN, MAC, SETUP, TAP, A
from support.kernel_host import Host
from support.killed import LIBRARY

COUNTED = f"""
import sys
sys.path.insert(0, {str(LIBRARY)!r})
from libvirt_guestnet.datapath.port import checksum
from libvirt_guestnet.hook.enforce import checksum_guard as offload
from libvirt_guestnet.state.locked import UnlockedState
print(len(checksum.opened(offload.program_state(UnlockedState()).loaded).drops()))
"""

# The service does it for all ports, again and again.
AGAIN = f"""
import os, sys
sys.path.insert(0, {str(LIBRARY)!r})
from libvirt_guestnet.hook.enforce import checksum_guard as offload
from libvirt_guestnet.state.locked import UnlockedState
for _ in range(5):
    offload.settle_all(UnlockedState())
    print(len(os.listdir("/proc/self/fd")))
"""

# Who takes it off sees it there, and it goes before it can.
MEANWHILE = f"""
import sys
sys.path.insert(0, {str(LIBRARY)!r})
import os, subprocess
from libvirt_guestnet.datapath.netlink.tc import Tc
from libvirt_guestnet.datapath.port import bpf, checksum
from libvirt_guestnet.hook.enforce import checksum_guard as offload
from libvirt_guestnet.state.locked import UnlockedState
tap, how, *meanwhile = sys.argv[1:]
with open(f"/sys/class/net/{{tap}}/ifindex") as file:
    ifindex = int(file.read())
guard = checksum.opened(offload.program_state(UnlockedState()).loaded)
checksum.detach(ifindex, guard.loaded)
bpf.attach_first(ifindex, guard._guard) if how == "tcx" else guard.attach(ifindex)
holder, name = (bpf, "attached") if how == "tcx" else (Tc, "attached")
look = getattr(holder, name)
def looked(*what):
    found = look(*what)
    bpf.detach(ifindex, guard._guard) if how == "tcx" and not meanwhile else subprocess.run(meanwhile, check=True)
    return found
setattr(holder, name, looked)
checksum.detach(ifindex, guard.loaded)
setattr(holder, name, look)
assert not os.path.exists(f"/sys/class/net/{{tap}}") or not checksum.is_attached(ifindex, guard.loaded)
"""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    box = Box()
    box.ok("sh", "-c", SETUP)
    yield Host(box, tmp_path)
    box.close()


def settled(host: Host) -> None:
    host.soon(lambda: host.notes() == [], "it is done")


def test_a_guest_that_ends_before_that_leaves_no_counter(host: Host) -> None:
    """There is room for 65,536 of them; without it no guest starts."""
    assert host.call("qemu", "a", "start", "begin", A) == (0, "")
    host.box.ok("ip", "link", "del", TAP)
    assert host.call("qemu", "a", "release", "end", A) == (0, "")
    settled(host)
    assert host.box.ok(sys.executable, "-IS", "-c", COUNTED) == "0\n"


def test_the_service_keeps_no_descriptors_of_it(host: Host) -> None:
    assert host.call("qemu", "a", "start", "begin", A) == (0, "")
    assert len(set(host.box.ok(sys.executable, "-IS", "-c", AGAIN).split())) == 1


@pytest.mark.parametrize(
    "how",
    [
        f"tc tc filter del dev {TAP} ingress",
        f"tc tc qdisc del dev {TAP} ingress",
        f"tc ip link del {TAP}",
        "tcx",
        f"tcx ip link del {TAP}",
    ],
)
def test_what_goes_while_it_is_taken_off_is_gone(host: Host, how: str) -> None:
    """The process that moves it to tcx does not hold the state's lock, and libvirt and users hold none of ours."""
    assert host.call("qemu", "a", "start", "begin", A) == (0, "")
    settled(host)
    host.box.ok(sys.executable, "-IS", "-c", MEANWHILE, TAP, *how.split())


def test_a_repair_that_fails_does_not_wait_for_that(host: Host) -> None:
    """It guards the port, cannot tell the bridge of it, and puts back what was there."""
    assert host.call("network", "lan", "started", "begin", LAN) == (0, "")
    host.record("a", A)
    host.box.ok("sh", "-c", f"ip link set up0 master br0; bridge fdb replace {MAC} dev up0 master static")
    begun = time.monotonic()
    said = repaired(host, "a")
    assert "guest a is not repaired" in "".join(said)
    assert time.monotonic() - begun < 10
    settled(host)
