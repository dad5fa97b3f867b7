"""What the lab VM's runner says when things go wrong in there."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import pytest
import runner
from runner import LAB, VM, BootError, LabVMError

pytestmark = pytest.mark.labvm


SECONDS = 900  # a boot takes some seconds on a machine that nobody else uses


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ("echo so far; exit 7", r"pytest ended with status 7(.|\n)*so far"),
        ("echo c >/proc/sysrq-trigger", r"ended before its job did(.|\n)*Kernel panic - not syncing: sysrq"),
        ("echo asleep; echo {} >/dev/ttyS1; exec sleep 600", r"not done at its deadline, after \d+ s(.|\n)*asleep"),
    ],
)
def test_an_end_that_is_none_is_told_apart(job: str, message: str) -> None:
    with VM("trixie", [], SECONDS, f"#!/bin/sh\n{job}\n") as vm, pytest.raises(LabVMError, match=message):
        for _ in vm.stream():
            vm.deadline = 0.0  # it is too late from the first event on
    assert vm.qemu.returncode is not None
    assert not vm.work.exists()


@pytest.mark.parametrize("deaths", [1, 3])
def test_a_kernel_that_dies_at_boot_is_booted_again_twice_at_most(monkeypatch: pytest.MonkeyPatch, deaths: int) -> None:
    boot, left = subprocess.Popen, [*range(deaths)]
    mine = LAB._replace(init=f"{LAB.init} mortal")  # others boot beside this one

    def popen(argv: list[Any], **more: Any) -> subprocess.Popen[bytes]:
        if any(mine.init in str(arg) for arg in argv) and left:
            left.pop()
            argv = [str(arg).replace(mine.init, "init=/none") for arg in argv]
        return boot(argv, **more)

    monkeypatch.setattr(runner.subprocess, "Popen", popen)
    with VM("trixie", [], SECONDS, "#!/bin/sh\nexec false\n", mine) as vm:
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
