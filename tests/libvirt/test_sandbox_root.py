"""A sandbox over a Debian 13 root: libvirt 11.3 on whatever the machine itself runs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import libvirt
import pytest

from libvirt_guestnet.sandbox import Sandbox, bytecode

pytestmark = pytest.mark.trixie
# Where a hook's code is, and which of the files that it imports would have to be compiled.
COMPILED = """
import sys
from importlib.util import cache_from_source
from pathlib import Path
from libvirt_guestnet.hook import dispatch
ours = [each.__file__ for name, each in sys.modules.items() if name.startswith("libvirt_guestnet.")]
print(dispatch.dispatch.__code__.co_filename, [each for each in ours if not Path(cache_from_source(each)).exists()])
"""
NETWORK = (
    "<network><name>n0</name><forward mode='nat'/><bridge name='n0'/><ip address='192.0.2.1' prefix='24'/></network>"
)


def test_its_libvirt_answers(trixie_sandbox: Sandbox, newest: bool) -> None:
    connection = libvirt.open(trixie_sandbox.uri)
    version = connection.getLibVersion() // 1000
    assert version > 11003 if newest else version == 11003
    assert connection.listAllNetworks() == []
    connection.close()


def test_its_own_python_runs_this_package(trixie_sandbox: Sandbox, newest: bool) -> None:
    code = (
        "import sys, libvirt, lxml, yaml, pyroute2, libvirt_guestnet.libvirtd.connection; print(*sys.version_info[:2])"
    )
    done = subprocess.run(trixie_sandbox.python(["-c", code]), capture_output=True, text=True, timeout=240)
    assert done.stderr == ""
    version = tuple(map(int, done.stdout.split()))
    assert version > (3, 13) if newest else version == (3, 13)


def test_hooks_are_installed(trixie_sandbox: Sandbox) -> None:
    code = "from libvirt_guestnet.install.hook_files import status; print([s.current for s in status()])"
    done = subprocess.run(trixie_sandbox.python(["-c", code]), capture_output=True, text=True, timeout=240)
    assert done.stdout.strip() == "[True, True]", done.stderr


def test_its_own_python_compiles_nothing_again(trixie_sandbox: Sandbox, trixie_root: Path) -> None:
    hook = bytecode.LIBRARY / "libvirt_guestnet/hook"

    def seen() -> str:
        return subprocess.run(
            trixie_sandbox.python(["-c", COMPILED]), capture_output=True, text=True, timeout=240
        ).stdout

    version = trixie_sandbox.run(["python3", "-c", "import sys; print(sys.implementation.cache_tag)"]).stdout.strip()
    (hook / f"__pycache__/dispatch.{version}.pyc").unlink()
    assert seen() == f"{hook}/dispatch.py ['{hook}/dispatch.py']\n"
    bytecode.compile_for(trixie_root)
    assert seen() == f"{hook}/dispatch.py []\n"


def test_a_nat_network_and_a_guest_start(trixie_sandbox: Sandbox) -> None:
    trixie_sandbox.run(["virsh", "net-create", "/dev/stdin"], stdin=NETWORK)
    guest = (
        "<domain type='qemu'><name>g</name><memory unit='MiB'>8</memory><os><type arch='x86_64' machine='pc'>hvm</type>"
        "</os><devices><interface type='network'><source network='n0'/><model type='rtl8139'/></interface></devices>"
        "</domain>"
    )
    trixie_sandbox.run(["virsh", "create", "/dev/stdin"], stdin=guest)
    assert "master n0" in trixie_sandbox.run(["ip", "link", "show", "type", "tun"]).stdout
    trixie_sandbox.run(["virsh", "destroy", "g"])


def test_the_cached_root_stays_as_it_was_built(trixie_sandbox: Sandbox, trixie_root: Path) -> None:
    trixie_sandbox.run(["touch", "/usr/left-behind", "/etc/left-behind"])
    assert not (trixie_root / "usr/left-behind").exists()
    assert not (trixie_root / "etc/left-behind").exists()
    assert not (trixie_root / ".machine").exists()
    assert list((trixie_root / "etc/libvirt/hooks").glob("*.d/*")) == []
