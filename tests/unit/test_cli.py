"""What the command line says when something is wrong: exactly, in one breath, and never with a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import IO

import pytest

from libvirt_guestnet.cli import main as cli
from libvirt_guestnet.cli import sandboxes

LAB = Path(__file__).parents[2] / "labs/archnetwork.yaml"
NOBODY = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    status = cli.main(argv)
    out, err = capsys.readouterr()
    return status, out, err


def test_a_missing_topology(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    missing = str(tmp_path / "net.yaml")
    for verb in ("validate", "plan", "apply", "destroy", "render", "graph"):
        expected = f"guestnet: cannot read the topology file {missing}: No such file or directory\n"
        assert said(capsys, verb, missing) == (1, "", expected)


def test_a_folder_for_a_topology(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    expected = f"guestnet: cannot read the topology file {tmp_path}: Is a directory\n"
    assert said(capsys, "validate", str(tmp_path)) == (1, "", expected)


def test_a_wrong_topology(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "net.yaml"
    file.write_text("nme: x\n")
    status, out, err = said(capsys, "validate", str(file))
    assert (status, out) == (2, "")
    assert err == f"{file}:1:1: unknown key 'nme'; did you mean 'name'?\n"
    status, out, again = said(capsys, "validate", str(file), "--json")
    assert (status, again) == (2, err)
    rows = json.loads(out)
    assert [f"{row['where']}: {row['message']}" for row in rows] == err.splitlines()


def test_standard_input_is_read_like_a_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def given(text: bytes) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(text)))
        return said(capsys, "validate", "-")

    whole = b"name: t\n#" + b" " * 3_000_000
    assert given(whole) == (0, "-: topology 't' is valid: 0 networks, 0 guests\n", "")
    status, _, err = given(whole + b"\nnonsense: 1\n")
    assert (status, err.partition(";")[0]) == (2, "-:3:1: unknown key 'nonsense'")
    assert given(b"name: caf\xe9\n") == (2, "", "-:1:1: the file is not UTF-8 text\n")
    assert given(whole * 2) == (2, "", "-:1:1: the file is larger than 4 MiB\n")


def test_other_errors_are_rows_too(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = said(capsys, "plan", str(LAB), "--map", "lan1", "--json")
    message = "cannot map 'lan1': write LABEL=DEVICE, for example lan1=eth1"
    assert (status, err) == (1, f"guestnet: {message}\n")
    assert json.loads(out) == [{"where": "", "message": message}]


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("lan1", "cannot map 'lan1': write LABEL=DEVICE, for example lan1=eth1"),
        ("=eth1", "cannot map '=eth1': write LABEL=DEVICE, for example lan1=eth1"),
        (
            "lan1=a-name-that-is-too-long",
            "--map lan1=a-name-that-is-too-long: 'a-name-that-is-too-long' is not a device name: write a NIC, a "
            "bridge, BRIDGE/NIC or ovs:BRIDGE, names of 1 to 15 letters, digits, '_', '.' and '-'",
        ),
        (
            "lan1=nic:eth1",
            "network 'vlan1' needs physical network 'lan2', and this host maps no device to it: add \"lan2: DEVICE\" "
            "under physical-networks: in /etc/libvirt-guestnet/host.yaml, or pass --map lan2=DEVICE (a NIC or a bridge "
            "of this host)",
        ),
    ],
)
def test_a_bad_map(capsys: pytest.CaptureFixture[str], pair: str, message: str) -> None:
    assert said(capsys, "render", str(LAB), "--map", pair) == (1, "", f"guestnet: {message}\n")


@pytest.mark.parametrize("verb", [("plan",), ("apply",), ("render",), ("doctor",), ("lab", "up"), ("lab", "run")])
def test_a_label_that_the_topology_has_not_is_not_mapped(
    capsys: pytest.CaptureFixture[str], verb: tuple[str, ...]
) -> None:
    message = "--map lan3=nic:eth1: topology 'archnetwork' has no physical network 'lan3'; it has lan1, lan2"
    assert said(capsys, *verb, str(LAB), "--map", "lan3=nic:eth1") == (1, "", f"guestnet: {message}\n")


def test_a_format_that_is_not_known_is_not_written_as_another(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "net.pdf"
    expected = f"guestnet: {out}: what format is 'pdf'? Known are svg, png, dot, mermaid: say which with --format\n"
    assert said(capsys, "graph", str(LAB), "-o", str(out)) == (1, "", expected)
    assert not out.exists()


def test_a_file_that_cannot_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    expected = "guestnet: /nowhere/x.dot: No such file or directory\n"
    assert said(capsys, "graph", str(LAB), "-o", "/nowhere/x.dot") == (1, "", expected)


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(FileNotFoundError):
        cli.main(["--debug", "graph", str(LAB), "-o", "/nowhere/x.dot"])


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device", "/run/x"), "/run/x: No space left on device"),
        (OSError(28, "No space left on device"), "No space left on device (--debug shows where)"),
        (
            subprocess.TimeoutExpired(["nft", "-f", "-"], 10),
            "Command '['nft', '-f', '-']' timed out after 10 seconds (--debug shows where)",
        ),
    ],
)
def test_what_the_system_refuses(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def fail(_args: Namespace) -> int:
        raise error

    monkeypatch.setattr(cli, "_function", lambda _name: fail)
    assert said(capsys, "schema") == (1, "", f"guestnet: {message}\n")


@pytest.mark.parametrize(
    ("argv", "rest"),
    [
        (["--sandbox", "x", "status"], ["status"]),
        (["--sandbox=x", "status", "--json"], ["status", "--json"]),
        (["-c", "test:///default", "--sandbox=x", "status"], ["-c", "test:///default", "status"]),
    ],
)
def test_the_command_goes_into_the_sandbox_without_its_name(argv: list[str], rest: list[str]) -> None:
    assert cli._without_sandbox(argv) == rest


def test_lab_without_expectations(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "net.yaml"
    file.write_text("name: x\nnetworks:\n  one: {mode: isolated, subnets: [10.0.0.0/24]}\n")
    expected = f"guestnet: {file}: no `expect:` lines, nothing to verify; `guestnet lab up` needs none\n"
    assert said(capsys, "lab", "run", str(file)) == (1, "", expected)
    assert said(capsys, "lab", "verify", str(file)) == (1, "", expected)


def as_nobody(tmp_path: Path, *argv: str) -> tuple[int, str]:
    """As somebody who is not root; from a copy of the library, which root may have put where nobody else can look."""
    library = tmp_path / "library"
    if not library.exists():
        library.mkdir()
        subprocess.run(["cp", "-r", Path(cli.__file__).parents[1], library], check=True)
    # pytest's own folders are root's alone, and there are more of them where files are tested side by side.
    for folder in (tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & 0o001:
            folder.chmod(0o755)
    become = [*NOBODY, "--"] if os.geteuid() == 0 else []
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(library), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [*become, sys.executable, "-m", "libvirt_guestnet.cli", *argv]
    done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["hooks", "install"], "hooks install: only root may do that: run it with sudo"),
        (["hooks", "uninstall"], "hooks uninstall: only root may do that: run it with sudo"),
        (["sandbox", "list"], "sandboxes are made and entered by root: run this with sudo"),
        (["sandbox", "start"], "sandboxes are made and entered by root: run this with sudo"),
    ],
)
def test_not_root(tmp_path: Path, argv: list[str], message: str) -> None:
    assert as_nobody(tmp_path, *argv) == (1, f"guestnet: {message}\n")


def test_an_import_in_a_sandbox_leaves_its_file_where_validate_reads_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def inside(name: str, argv: list[str], stdin: object = None, stdout: IO[bytes] | None = None) -> int:
        asked.append((name, argv))
        assert stdout is not None
        stdout.write(b"name: imported\n")
        return 0

    monkeypatch.setattr(sandboxes, "call_inside", inside)
    file = tmp_path / "net.yaml"
    assert cli.main(["--sandbox", "box", "import", "-o", str(file)]) == 0
    assert file.read_text() == "name: imported\n"
    assert asked == [("box", ["import", "-o", str(file), "--output", "-"])], "the last one counts"
    assert cli.main(["--sandbox", "box", "import", "-o", str(file)]) == 1, "over no file"
