"""Programs that tests and scripts hand to sandboxes and VMs as text name only what exists."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.programs import missing, programs, python_files, shell_files

ROOT = Path(__file__).parents[2]
GONE = "libvirt_guestnet.hook.main.gone"
# Of these some are wrong on purpose, and some are run by the code of the version before.
_OF_ITSELF = {"test_programs_in_strings.py", "test_architecture.py", "test_upgrade.py"}


def test_they_name_only_what_exists() -> None:
    found, wrong = 0, []
    for path in python_files(ROOT):
        for line, text in programs(path.read_text()) if path.name not in _OF_ITSELF else ():
            found += 1
            wrong += [f"{path.relative_to(ROOT)}:{line}: {name}" for name in missing(text)]
    assert wrong == [], wrong
    assert found >= 40


def test_so_do_those_in_shell_scripts() -> None:
    wrong = {str(path): names for path in shell_files(ROOT) if (names := missing(path.read_text()))}
    assert wrong == {}


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("x = 'from libvirt_guestnet.hook import main; main.run()'", []),
        ("x = 'from libvirt_guestnet.hook import gone'", ["libvirt_guestnet.hook.gone"]),
        ("x = 'from libvirt_guestnet.gone import main'", ["libvirt_guestnet.gone"]),
        ("x = 'from libvirt_guestnet.hook import main; main.gone()'", [GONE]),
        ("x = 'from libvirt_guestnet.hook import main as m; m.gone = 1'", [GONE]),
        ("x = 'import libvirt_guestnet.gone'", ["libvirt_guestnet.gone"]),
        ("x = 'import libvirt_guestnet.hook.main as m; m.gone'", [GONE]),
        ("x = 'import libvirt_guestnet.hook; libvirt_guestnet.hook.gone'", ["libvirt_guestnet.hook.gone"]),
        ("x = 'from support.programs import gone'", ["support.programs.gone"]),
        ("x = 'from tests.support.programs import missing, gone'", ["tests.support.programs.gone"]),
        ("def f(y): return f'from libvirt_guestnet.hook import main; main.gone({y})'", [GONE]),
        ("A = 'from libvirt_guestnet.hook import main; '\nx = f'{A}main.gone'", [GONE]),
        ("A = 'from libvirt_guestnet.hook import main; '\nx = A + 'main.gone'", [GONE]),
        ("x = 'from libvirt_guestnet.hook import main\\nd = {{}}; main.gone({0}, {what})'", [GONE]),
        ("x = \"python3 -c 'from libvirt_guestnet.hook import main, gone'\"", ["libvirt_guestnet.hook.gone"]),
        ("x = \"cd /; python3 -c 'import libvirt_guestnet.hook.main as m; m.gone()' | cat\"", [GONE]),
        ("x = 'a word of libvirt_guestnet.gone imports nothing'", []),
    ],
)  # fmt: skip
def test_a_name_that_is_gone_is_found(source: str, names: list[str]) -> None:
    assert sorted({name for _, text in programs(source) for name in missing(text)}) == names
