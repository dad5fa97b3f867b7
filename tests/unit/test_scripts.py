"""What CI relies on: skips and empty tiers are failures, and every tier has a name everywhere."""

from __future__ import annotations

import configparser
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# A test file for another pytest: what `--no-skips` must turn into failures, and what it must not.
SKIPS = """
import pytest

def test_runs():
    pass

@pytest.mark.xfail
def test_is_known_to_fail():
    assert False

def test_skips():
    pytest.skip("no such thing in this kernel")
"""


def pytest_in(folder: Path, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs one test file under this suite's conftest.py, in a process of its own."""
    (folder / "conftest.py").write_text((ROOT / "tests/conftest.py").read_text())
    (folder / "test_it.py").write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = kernel\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", "pytest.ini", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


def script(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(ROOT / argv[0]), *argv[1:]], capture_output=True, text=True, timeout=60)


def test_a_skip_is_a_failure_where_none_may_be(tmp_path: Path) -> None:
    assert "1 passed, 1 skipped, 1 xfailed" in pytest_in(tmp_path, SKIPS).stdout
    strict = pytest_in(tmp_path, SKIPS, "--no-skips")
    assert strict.returncode == 1
    assert "1 failed, 1 passed, 1 xfailed" in strict.stdout
    assert "no such thing in this kernel" in strict.stdout


def test_a_module_that_skips_itself_is_a_failure_too(tmp_path: Path) -> None:
    text = "import pytest\npytest.skip('not here', allow_module_level=True)\n"
    assert pytest_in(tmp_path, text, "--no-skips").returncode == 2


def test_a_tier_without_tests_is_a_failure(tmp_path: Path) -> None:
    both = pytest_in(tmp_path, SKIPS, "--tiers", "unit,kernel")
    assert both.returncode == 4
    assert "no tests in tier kernel" in both.stderr


def test_a_tier_is_its_own_tests_only(tmp_path: Path) -> None:
    text = "import pytest\n@pytest.mark.kernel\ndef test_a(): pass\ndef test_b(): pass\ndef test_c(): pass\n"
    assert "1 passed, 2 deselected" in pytest_in(tmp_path, text, "--tiers", "kernel").stdout
    assert "2 passed, 1 deselected" in pytest_in(tmp_path, text, "--tiers", "unit").stdout
    assert "3 passed" in pytest_in(tmp_path, text, "--tiers", "unit,kernel").stdout


def test_tox_has_an_environment_for_every_tier() -> None:
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini")
    refusal = script("scripts/test", "nonsense")
    assert refusal.returncode == 2
    assert refusal.stderr.split("there are ")[1].split() == tox["tox"]["env_list"].split(", ")


@pytest.mark.parametrize("name", ["scripts/setup", "scripts/lab", "scripts/quickstart", "scripts/test", ".ci/run"])
def test_scripts_are_shell_that_any_sh_reads(name: str) -> None:
    assert subprocess.run(["sh", "-n", str(ROOT / name)], capture_output=True, timeout=10).stderr == b""
    assert (ROOT / name).stat().st_mode & 0o111 == 0o111


def test_test_files_have_different_names() -> None:
    """pytest collects only one of two modules of one name."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names))
