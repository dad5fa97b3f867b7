"""A sandbox answers, changes nothing on the machine, stands beside others and comes back after its libvirtd died."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import libvirt
import pytest

from libvirt_guestnet import sandbox as sandboxes
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.sandbox import Sandbox, registry

NETWORK = "<network><name>{0}</name><bridge name='{0}'/><ip address='192.0.2.1' prefix='24'/></network>"
MakeSandbox = Callable[..., Sandbox]


def define_network(sandbox: Sandbox, name: str) -> None:
    connection = libvirt.open(sandbox.uri)
    try:
        connection.networkDefineXML(NETWORK.format(name)).create()
    finally:
        connection.close()


def networks(sandbox: Sandbox) -> list[str]:
    return sandbox.run(["virsh", "net-list", "--all", "--name"]).stdout.split()


def test_it_answers_from_inside_and_from_outside(sandbox: Sandbox) -> None:
    assert sandbox.run(["virsh", "uri"]).stdout.strip() == "qemu:///system"
    connection = libvirt.open(sandbox.uri)
    assert connection.getHostname() == sandbox.name
    connection.close()


def test_it_starts_without_networks_domains_or_hooks_of_the_machine(sandbox: Sandbox) -> None:
    assert networks(sandbox) == []
    assert sandbox.run(["virsh", "list", "--all", "--name"]).stdout.split() == []
    assert sandbox.run(["find", "/etc/libvirt/hooks", "-type", "f"], check=False).stdout == ""


def test_nothing_done_inside_is_seen_on_the_machine(new_sandbox: MakeSandbox) -> None:
    before = (socket.gethostname(), sorted(p.name for p in Path("/sys/class/net").iterdir()))
    box = new_sandbox("quiet")
    box.run(["touch", "/usr/left-behind", "/etc/left-behind", "/run/left-behind"])
    # Not passwd: libvirt 11 looks its clients up there.
    box.run(["rm", "/etc/debian_version"])
    define_network(box, "inside0")
    assert box.run(["cat", "/sys/class/net/inside0/bridge/stp_state"]).stdout.strip() in "01"
    after = (socket.gethostname(), sorted(p.name for p in Path("/sys/class/net").iterdir()))
    assert after == before
    assert not [d for d in ("/usr", "/etc", "/run") if Path(d, "left-behind").exists()]
    assert Path("/etc/debian_version").exists()
    assert box.name not in Path("/proc/self/mountinfo").read_text()


def test_the_checkout_is_there_current_and_read_only(sandbox: Sandbox) -> None:
    code = "import libvirt_guestnet as package; print(package.__file__)"
    done = subprocess.run(sandbox.python(["-c", code]), capture_output=True, text=True, timeout=120)
    library = Path(sandboxes.__file__).parents[1]
    assert done.stdout.strip() == str(library / "__init__.py")
    touched = sandbox.run(["touch", str(library / "new")], check=False)
    assert "Read-only file system" in touched.stderr


def test_a_bound_folder_shows_what_is_written_later(new_sandbox: MakeSandbox, tmp_path: Path) -> None:
    box = new_sandbox("bound", binds=[tmp_path])
    (tmp_path / "late").write_text("first")
    assert box.run(["cat", str(tmp_path / "late")]).stdout == "first"
    (tmp_path / "new").write_text("second")
    (tmp_path / "new").rename(tmp_path / "late")
    assert box.run(["cat", str(tmp_path / "late")]).stdout == "second"


OWN_MOUNTS = """
import subprocess, sys
from libvirt_guestnet import sandbox
for argv in (["mount", "-t", "tmpfs", "x", "/srv"], ["mount", "--bind", "/etc/passwd", "/etc/issue"],
             ["mount", "-t", "tmpfs", "hidden", "/opt"]):
    subprocess.run(argv, check=True)
open("/srv/file", "w").write("of the machine")
with sandbox.start(sys.argv[1]) as box:
    print(box.run(["cat", "/srv/file"]).stdout)
    print(box.run(["head", "-c4", "/etc/issue"]).stdout)
    box.run(["sh", "-c", "echo changed > /srv/file; touch /opt/new"])
    print(open("/srv/file").read())
"""


def test_file_systems_mounted_on_the_machine_are_seen_but_not_written() -> None:
    argv = ["unshare", "--mount", "--", sys.executable, "-c", OWN_MOUNTS, f"mounts-{os.getpid()}"]
    library = str(Path(sandboxes.__file__).parents[2])
    done = subprocess.run(argv, capture_output=True, text=True, timeout=240, env={**os.environ, "PYTHONPATH": library})
    assert done.stdout.split("\n") == ["of the machine", "root", "of the machine", ""], done.stderr
    assert not Path("/opt/new").exists()


def test_without_the_right_to_make_namespaces_it_says_so() -> None:
    code = "from libvirt_guestnet import sandbox; sandbox.start('powerless')"
    argv = ["setpriv", "--bounding-set=-sys_admin", "--", sys.executable, "-c", code]
    library = str(Path(sandboxes.__file__).parents[2])
    done = subprocess.run(argv, capture_output=True, text=True, timeout=240, env={**os.environ, "PYTHONPATH": library})
    assert "make namespaces: Operation not permitted: it needs root with CAP_SYS_ADMIN" in done.stderr
    assert not (registry.ROOT / "powerless").exists()


def test_a_sandbox_in_a_sandbox(sandbox: Sandbox) -> None:
    code = "from libvirt_guestnet import sandbox; print(sandbox.start('inner').run(['hostname']).stdout)"
    done = subprocess.run(sandbox.python(["-c", code]), capture_output=True, text=True, timeout=240)
    assert done.stdout.strip() == "inner", done.stderr


def test_two_side_by_side_know_nothing_of_each_other(new_sandbox: MakeSandbox) -> None:
    left, right = new_sandbox("left"), new_sandbox("right")
    define_network(left, "same0")
    assert networks(right) == []
    define_network(right, "same0")
    assert {left.name, right.name} <= {s.name for s in sandboxes.running()}
    hosts = {s.run(["virsh", "-q", "capabilities"]).stdout.split("<uuid>")[1][:36] for s in (left, right)}
    assert len(hosts) == 2


def test_who_sees_other_processes_takes_it_for_no_dead_one(new_sandbox: MakeSandbox) -> None:
    """In another PID namespace with the same /run each of its processes looks as if it had ended."""
    running = new_sandbox("seen")
    listed = "from libvirt_guestnet import sandbox; print([each.name for each in sandbox.running()])"
    apart = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-c", listed]
    assert subprocess.run(apart, capture_output=True, text=True, timeout=120, check=True).stdout == "[]\n"
    assert running.name in {each.name for each in sandboxes.running()}


def test_a_name_is_taken_while_it_runs_and_free_afterwards(new_sandbox: MakeSandbox) -> None:
    first = new_sandbox("again")
    with pytest.raises(GuestnetError, match="is already running: stop it"):
        sandboxes.start(first.name)
    assert sandboxes.find(first.name) == first
    sandboxes.stop(first.name)
    with pytest.raises(GuestnetError, match="no sandbox 'again-"):
        sandboxes.find(first.name)
    with sandboxes.start(first.name) as second:
        assert second.first != first.first


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_libvirtd_comes_back_with_its_networks(new_sandbox: MakeSandbox, how: signal.Signals) -> None:
    box = new_sandbox("phoenix")
    define_network(box, "stay0")
    before = box.libvirtd()
    box.restart_libvirtd(how)
    assert box.libvirtd() != before
    assert box.run(["virsh", "net-list", "--name"]).stdout.split() == ["stay0"]


def test_libvirtd_that_is_stopped_stays_away(new_sandbox: MakeSandbox) -> None:
    box = new_sandbox("paused")
    box.stop_libvirtd()
    assert box.run(["virsh", "uri"], check=False).returncode != 0
    box.start_libvirtd()
    assert box.run(["virsh", "uri"]).returncode == 0


def test_prepare_runs_before_libvirtd_looks_for_hooks(new_sandbox: MakeSandbox) -> None:
    hook = '#!/bin/sh\necho "$2" >> /run/hook-calls\n'
    prepare = [
        ["mkdir", "-p", "/etc/libvirt/hooks"],
        ["sh", "-c", f"printf '%s' '{hook}' > /etc/libvirt/hooks/network && chmod 755 /etc/libvirt/hooks/network"],
    ]
    box = new_sandbox("hooked", prepare=prepare)
    define_network(box, "hook0")
    assert box.run(["cat", "/run/hook-calls"]).stdout.split() == ["start", "started"]


def test_a_prepare_that_fails_is_reported_and_leaves_nothing() -> None:
    with pytest.raises(
        GuestnetError, match=r"sandbox 'broken' did not start: sh -c .* ended with status 3: no such luck"
    ):
        sandboxes.start("broken", prepare=[["sh", "-c", "echo no such luck >&2; exit 3"]])
    assert "broken" not in [s.name for s in sandboxes.running()]


def test_a_program_that_takes_too_long_is_ended_inside(sandbox: Sandbox) -> None:
    with pytest.raises(GuestnetError, match="took more than"):
        sandbox.run(["sleep", "4711"], timeout=0.2)
    assert sandbox.run(["pgrep", "-f", "^sleep 4711"], check=False).stdout == ""


@pytest.mark.parametrize("name", ["", "../up", "a/b", "Upper", "-a", "a-", "x" * 33, "a\n", "a,b"])
def test_names_that_would_be_paths_or_options_are_refused(name: str) -> None:
    with pytest.raises(GuestnetError, match="cannot be a sandbox's name"):
        sandboxes.start(name)
