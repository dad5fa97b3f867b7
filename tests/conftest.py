"""Options of the whole suite."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("support")

TIERS = ("defaulthost", "labvm", "trixie", "guest", "libvirt", "kernel", "system")
"""Markers; a test belongs to the first that it carries, else to the tier `unit`."""
FOLDERS = {"unit": {"unit"}, "system": {"unit"}, "labvm": {"labvm", "kernel"}}
"""Where all tests of a tier are. What is beside that takes long to import, and may need what only Debian has."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regenerate", action="store_true", help="rewrite expected files; review them with git diff")
    parser.addoption("--tiers", metavar="TIER,...", help="only these tiers, and fail if one of them has no test")
    parser.addoption("--newest", action="store_true", help="run the tier trixie on a Debian testing root")
    parser.addoption("--no-skips", action="store_true", help="a skipped test is a failure")
    parser.addoption(
        "--fuzz", metavar="SECONDS", type=float, default=20.0, help="of a processor, for each test by chance"
    )
    parser.addoption("--fuzz-seed", metavar="NAME", default="1", help="where its random numbers begin")
    parser.addoption("--soak", metavar="SECONDS", type=float, default=150.0, help="how long each soak goes on")
    parser.addoption("--soak-seed", metavar="NAME", default="1", help="where its random numbers begin")
    parser.addoption("--soak-only", metavar="NUMBER,...", default="", help="only these of a soak's operations")


def pytest_configure() -> None:
    # A shell's background jobs ignore Ctrl-C, as does all that they start; programs under test must end by it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def regenerate(request: pytest.FixtureRequest) -> bool:
    """Whether expected files are to be rewritten, not compared."""
    return bool(request.config.getoption("--regenerate"))


@pytest.fixture(scope="session")
def newest(request: pytest.FixtureRequest) -> bool:
    """Whether the tier `trixie` runs on Debian testing, of which nobody knows the versions beforehand."""
    return bool(request.config.getoption("--newest"))


@pytest.fixture(scope="session")
def trixie_root(newest: bool) -> Path:
    """The cached Debian 13 root, or with --newest Debian testing's; `scripts/make-root SUITE` builds it."""
    suite = "testing" if newest else "trixie"
    script = Path(__file__).parents[1] / "scripts/make-root"
    done = subprocess.run([script, "--path", suite], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        pytest.skip(f"no Debian root with a newer libvirt: run scripts/make-root {suite}")
    return Path(done.stdout.strip())


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves out the folders in which none of the wanted tiers can be."""
    tiers = (config.getoption("--tiers") or "").split(",")
    if not set(tiers) <= set(FOLDERS):
        return None
    wanted = set[str]().union(*(FOLDERS[each] for each in tiers))
    beside = collection_path.is_dir() and collection_path.parent == Path(__file__).parent
    return True if beside and collection_path.name not in wanted else None


def tier(item: pytest.Item) -> str:
    """The tier a test belongs to."""
    return next((name for name in TIERS if item.get_closest_marker(name)), "unit")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Applies --tiers, once the folders' own conftest.py have set their markers."""
    if not (option := config.getoption("--tiers")):
        return
    wanted = option.split(",")
    found = {item: tier(item) for item in items}
    if empty := set(wanted) - set(found.values()):
        raise pytest.UsageError(f"no tests in tier {', '.join(sorted(empty))}")
    config.hook.pytest_deselected(items=[item for item in items if found[item] not in wanted])
    # A soak is long, and the last one would have the machine to itself.
    items[:] = sorted((i for i in items if found[i] in wanted), key=lambda i: not i.nodeid.startswith("tests/soak/"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turns skipped tests into failures where --no-skips asks for it."""
    report = yield
    if item.config.getoption("--no-skips") and not hasattr(report, "wasxfail"):
        _forbid_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for modules that skip themselves as a whole."""
    report = yield
    if collector.config.getoption("--no-skips"):
        _forbid_skip(report)
    return report


def _forbid_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped:
        report.longrepr = f"skipped, where nothing may be: {report.longrepr}"
        report.outcome = "failed"
