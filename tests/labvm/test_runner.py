"""What the lab VM's runner says when things go wrong in there."""

from __future__ import annotations

import pytest
from runner import VM, LabVMError

pytestmark = pytest.mark.labvm


@pytest.mark.parametrize(
    ("job", "seconds", "message"),
    [
        ("exec false 2>&1", 60, None),
        ("echo so far; exit 7", 60, r"pytest ended with status 7(.|\n)*so far"),
        ("echo c >/proc/sysrq-trigger", 60, r"ended before its job did(.|\n)*Kernel panic - not syncing: sysrq"),
        ("echo asleep; exec sleep 100", 12, r"not done at its deadline, after 1[23] s(.|\n)*asleep"),
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
