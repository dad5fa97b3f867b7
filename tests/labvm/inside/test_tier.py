"""The lab VM is what it should be: Debian's own kernel, with all that the machine outside may lack."""

from __future__ import annotations

import platform
import subprocess

import pytest

MODULES = "8021q openvswitch nft_meta_bridge nf_conntrack_bridge sch_sfq sch_netem vrf vxlan geneve dummy"


@pytest.mark.only("bookworm")
def test_debian_12_has_its_kernel() -> None:
    assert platform.release().startswith("6.1.")


@pytest.mark.only("trixie")
def test_debian_13_has_its_kernel() -> None:
    assert platform.release().startswith("6.12.")


def test_the_kernel_has_what_the_machine_outside_may_lack() -> None:
    done = subprocess.run(["modprobe", "-a", *MODULES.split()], capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stderr) == (0, "")
