"""Open vSwitch with the kernel's datapath, without an init system: its two daemons, wherever `run` runs programs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

RUN = "/run/openvswitch"
_DATABASE = f"{RUN}/conf.db"
# Younger than this, the machine gets a vswitchd without threads that handle packets (2.17 and 3.5).
_SETTLED_SECONDS = 12.0


def start(run: Callable[[Sequence[str]], object]) -> None:
    """Starts both daemons, with an empty database."""
    while (left := _SETTLED_SECONDS - float(Path("/proc/uptime").read_text().split()[0])) > 0:
        time.sleep(left)
    run(["mkdir", "-p", RUN])
    run(["ovsdb-tool", "create", _DATABASE, "/usr/share/openvswitch/vswitch.ovsschema"])
    daemon = ["--detach", "--no-chdir", "--pidfile", "-vconsole:off", "-vsyslog:off"]
    run(["ovsdb-server", _DATABASE, f"--remote=punix:{RUN}/db.sock", f"--log-file={RUN}/db.log", *daemon])
    run(["ovs-vsctl", "--no-wait", "init"])
    run(["ovs-vswitchd", f"--log-file={RUN}/vswitchd.log", *daemon])


def stop(run: Callable[[Sequence[str]], object]) -> None:
    """Ends both daemons, and the kernel's datapath with them."""
    run(["ovs-appctl", "exit", "--cleanup"])
    run(["ovs-appctl", "-t", "ovsdb-server", "exit"])
    run(["rm", "-rf", RUN])
