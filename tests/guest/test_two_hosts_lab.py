"""labs/two-hosts.yaml as anybody runs it: a sandbox for each host, real guests on both, and nothing left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from support.lab import LABS

from libvirt_guestnet import sandbox as sandboxes


def test_every_line_is_as_expected_and_nothing_is_left(tmp_path: Path) -> None:
    file = tmp_path / "two-hosts.yaml"
    name = f"two-{os.getpid()}"
    file.write_text((LABS / "two-hosts.yaml").read_text().replace("name: two-hosts", f"name: {name}"))
    argv = [sys.executable, "-m", "libvirt_guestnet.cli", "lab", "run", "--json", str(file)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=900, check=False)
    print(done.stderr)
    rows = json.loads(done.stdout[done.stdout.index("[\n") :])
    assert [row for row in rows if row["result"] != "ok"] == []
    assert {(row["from"], row["to"]) for row in rows} >= {("red1.red", "red2.red"), ("red2.red", "blue2")}
    assert done.returncode == 0, done.stderr
    assert not [each.name for each in sandboxes.running() if name in each.name]
