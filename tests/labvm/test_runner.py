"""What the lab VM's runner says when things go wrong in there."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import pytest
import runner
from runner import VM, BootError, LabVMError

pytestmark = pytest.mark.labvm


@pytest.mark.parametrize(
    ("job", "seconds", "message"),
    [
        ("exec false 2>&1", 300, None),
        ("echo so far; exit 7", 300, r"pytest ended with status 7(.|\n)*so far"),
        ("echo c >/proc/sysrq-trigger", 300, r"ended before its job did(.|\n)*Kernel panic - not syncing: sysrq"),
        ("echo asleep; exec sleep 600", 75, r"not done at its deadline, after (7[5-9]|8.) s(.|\n)*asleep"),
    ],
)
def test_an_end_that_is_none_is_told_apart(job: str, seconds: float, message: str | None) -> None:
    with VM("trixie", [], seconds, f"#!/bin/sh\n{job}\n") as vm:
        if message is None:
            assert list(vm.stream()) == []
        else:
            with pytest.raises(LabVMError, match=message):
                list(vm.stream())
    assert vm.qemu.returncode is not None
    assert not vm.work.exists()


@pytest.mark.parametrize("deaths", [1, 3])
def test_a_kernel_that_dies_at_boot_is_booted_again_twice_at_most(monkeypatch: pytest.MonkeyPatch, deaths: int) -> None:
    boot, left = runner.subprocess.Popen, [*range(deaths)]

    def popen(argv: list[Any], **more: Any) -> subprocess.Popen[bytes]:
        if "qemu-system-x86_64" in argv and left:
            left.pop()
            argv = [str(arg).replace("init=/lab-init", "init=/none") for arg in argv]
        return boot(argv, **more)

    monkeypatch.setattr(runner.subprocess, "Popen", popen)
    with VM("trixie", [], 300, "#!/bin/sh\nexec false\n") as vm:
        if deaths == 1:
            assert list(vm.stream()) == []
        else:
            with pytest.raises(BootError, match="died before the job began"):
                list(vm.stream())
    assert len(vm.died) == deaths
    assert "Requested init /none failed" in vm.died[0]


def test_what_a_killed_run_left_is_taken_away_and_what_is_in_use_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_PREFIX", "guestnet-labvm-test-")
    monkeypatch.setattr(runner, "_UNHELD_SECONDS", 0)
    (killed, first), (used, second) = runner._work_folder(), runner._work_folder()
    os.close(first)
    new, third = runner._work_folder()
    try:
        assert not killed.exists()
        assert used.exists()
    finally:
        for folder, held in ((used, second), (new, third)):
            folder.rmdir()
            os.close(held)
