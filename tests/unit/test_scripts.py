"""What CI relies on: skips and empty tiers are failures, and every tier has a name everywhere."""

from __future__ import annotations

import configparser
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.guest import image
from libvirt_guestnet.ownfolder import ensure_own_folder

ROOT = Path(__file__).parents[2]

# A test file for another pytest, no tests of ours: what `--no-skips` must turn into failures, and what it must not. The
# known failure in it is there to show that it stays one, and is taken for no skip.
SKIPS = """
import pytest

def test_runs():
    pass

@pytest.mark.xfail(reason="a failure that is known is no skip")
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
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=180)


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
    named = [*tox["tox"]["env_list"].split(", "), *(each[8:] for each in tox.sections() if each.startswith("testenv:"))]
    assert refusal.stderr.split("there are ")[1].split() == named


@pytest.mark.parametrize("name", ["scripts/setup", "scripts/lab", "scripts/quickstart", "scripts/test", ".ci/run"])
def test_scripts_are_shell_that_any_sh_reads(name: str) -> None:
    assert subprocess.run(["sh", "-n", str(ROOT / name)], capture_output=True, timeout=120).stderr == b""
    assert (ROOT / name).stat().st_mode & 0o111 == 0o111


def test_test_files_have_different_names() -> None:
    """pytest collects only one of two modules of one name."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names))


def _take_lock(folder: Path, seconds: int = 0) -> subprocess.CompletedProcess[str]:
    """scripts/setup's lock, in a folder of the test's."""
    functions = (ROOT / "scripts/setup").read_text().replace('\nmain "$@"\n', "\n")
    text = f"{functions}\nlock_folder={folder} lock_seconds={seconds}\ntake_lock\necho taken\n"
    return subprocess.run(["sh", "-c", text, "scripts/setup"], capture_output=True, text=True, timeout=120)


def test_set_ups_lock_is_where_only_root_can_be(tmp_path: Path) -> None:
    text = (ROOT / "scripts/setup").read_text()
    assert "lock_folder=/run/libvirt-guestnet-setup " in text
    assert "/run/lock/" not in text
    for _ in range(2):
        done = _take_lock(tmp_path / "lock")
        assert (done.stdout, done.stderr) == ("taken\n", "")
    assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("obstacle", ["link", "link to a folder", "pipe", "file", "open to all"])
def test_set_up_opens_nothing_that_others_put_there(tmp_path: Path, obstacle: str) -> None:
    folder, victim = tmp_path / "lock", tmp_path / "victim"
    (tmp_path / "elsewhere").mkdir(mode=0o700)

    def open_to_all() -> None:
        folder.mkdir()
        folder.chmod(0o777)

    made: dict[str, Callable[[], object]] = {
        "link": lambda: folder.symlink_to(victim),
        "link to a folder": lambda: folder.symlink_to(tmp_path / "elsewhere"),
        "pipe": lambda: os.mkfifo(folder),
        "file": lambda: folder.write_text("precious"),
        "open to all": open_to_all,
    }
    made[obstacle]()
    done = _take_lock(folder)
    assert done.returncode == 1
    assert f"{folder} is not root's own folder with mode 700: remove it" in done.stderr
    assert not victim.exists()
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert obstacle != "file" or folder.read_text() == "precious"


def test_set_up_says_that_it_waits_and_ends_waiting(tmp_path: Path) -> None:
    assert _take_lock(tmp_path / "lock").returncode == 0
    with (tmp_path / "lock/lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = _take_lock(tmp_path / "lock", seconds=1)
    assert done.returncode == 1
    assert "another scripts/setup is at work: waiting for it, 1 s at most" in done.stderr
    assert "wait for it, or end it" in done.stderr


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
def test_the_image_cache_is_nobody_elses(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(GuestnetError, match="to which nobody else can write"):
        image.ensure_image(folder)
    assert list(folder.iterdir()) == []
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(GuestnetError, match="to which nobody else can write"):
        ensure_own_folder(folder)
    folder.unlink()
    old = os.umask(0)
    try:
        ensure_own_folder(folder)
    finally:
        os.umask(old)
    assert folder.stat().st_mode & 0o777 == 0o755
