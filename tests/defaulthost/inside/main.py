"""Does the steps in order and tells each on ttyS1: {"step", "seconds", "said", "failed"}. The first that fails ends it.

Exit status: 0 all done, 1 a step failed, 75 to be called again after a reboot.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import steps
from debian import DebianHost, last_seen

BEGUN, REBOOTS = Path("/var/lib/lab-job-begun"), Path("/var/lib/lab-job-reboots")
REBOOT = 75
Step = Callable[[DebianHost], str]


def main() -> int:
    second = REBOOTS.exists()
    if BEGUN.exists() and not second:
        tell("boot", 0, "", f"this host has rebooted by itself\n{last_seen()}")
        return 1
    BEGUN.touch()
    host = DebianHost()
    if not all(done(step, host) for step in (steps.AFTER if second else steps.BEFORE)):
        return 1
    REBOOTS.touch()
    return 0 if second else REBOOT


def done(step: Step, host: DebianHost) -> bool:
    """Whether a step went well; tells."""
    began, said, failed = time.monotonic(), "", ""
    try:
        said = step(host)
    except Exception:
        failed = f"{traceback.format_exc()}\n{last_seen()}"
    tell(step.__name__, time.monotonic() - began, said, failed)
    return not failed


def tell(step: str, seconds: float, said: str, failed: str) -> None:
    with Path("/dev/ttyS1").open("w") as port:
        port.write(json.dumps({"step": step, "seconds": round(seconds, 1), "said": said, "failed": failed}) + "\n")


if __name__ == "__main__":
    sys.exit(main())
