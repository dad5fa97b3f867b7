"""What an administrator does on a default Debian host, from `hooks install` to `hooks uninstall`, reboot included.

::

    VM(disk of scripts/make-labvm --default-host) ─► systemd ─► lab-job.service ─► inside/main.py
                                                        ▲                             │ one event per step
                                                        └──────── reboots once ◄──────┘
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from runner import VM, Machine

pytestmark = pytest.mark.defaulthost

HOST = Machine(("--default-host",), "systemd.wants=lab-job.service systemd.show_status=no", reboots=True)
JOB = """#!/bin/sh
cd /job/checkout && PYTHONPATH=$PWD:$PWD/tests exec /usr/bin/python3 tests/defaulthost/inside/main.py
"""
SECONDS = 5400  # some 800 on a processor that nobody else uses


@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_an_administrators_day(suite: str, record_property: Callable[[str, object], None]) -> None:
    done = []
    with VM(suite, [], SECONDS, JOB, HOST) as vm:
        for event in vm.stream():
            record_property(event["step"], event["seconds"])
            print(f"{event['seconds']:7.1f} s  {event['step']}: {event['said']}", flush=True)
            assert not event["failed"], f"{event['step']}: {event['failed']}"
            done.append(event["step"])
    assert done[-1:] == ["no_denials"], done
