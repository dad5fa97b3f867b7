"""Who may import what, so that the rooms stay what they are.

After every rule comes a test that a tree that breaks it is found.
"""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from support import architecture
from support.architecture import Size

PACKAGE = Path(__file__).parents[2] / "libvirt_guestnet"
TREE = architecture.sources(PACKAGE)
TESTS = architecture.sources(Path(__file__).parents[1])

# The rooms that may import what reaches out of Python, or costs a hook time. Shorten these lists when you can.
ALLOWED = {
    "libvirt": {"libvirtd"},
    "ovs": {"ovn"},
    "ovsdbapp": {"ovn"},
    "pyroute2": {"datapath.devices", "datapath.netlink"},
    "lxml": {"apply", "changes", "libvirtd", "metadata", "plan", "xmlgen"},
    "rich": {"terminal"},
    "yaml": {"hostmap", "topology"},
    "subprocess": {"cli", "draw", "guest", "install", "lab", "sandbox"},
    "socket": {"datapath.netlink", "doctor", "guest", "hook.services", "isolation", "lab", "router", "sandbox"},
    "_socket": {"datapath.forwards", "datapath.netlink", "hook.processes"},
    "ctypes": {"datapath.port", "guest", "hook.enforce", "sandbox"},
}

# A hook's call has to be as fast as it is: importing these takes 10 to 100 ms.
SLOW = (
    "asyncio",
    "dataclasses",
    "inspect",
    "libvirt",
    "lxml",
    "pathlib",
    "pyroute2",
    "rich",
    "socket",
    "subprocess",
    "yaml",
)
# What a start does without, at 1 to 4 ms each: `light_typing` and `light_json` say how, decision 75 why.
DISPENSABLE = ("enum", "json", "re", "signal", "typing")
# What every call that concerns us loads, and that with all that its functions may import later. Raise these knowingly.
MOST_AT_ONCE, MOST_AT_ALL = Size(90, 10_750), Size(172, 18_850)

LOADED = """
import sys
sys.path.insert(0, sys.argv[1])
from importlib import import_module
for name in sys.argv[2:]:
    import_module(name)
print(*sys.modules)
"""


@cache
def _loaded(*names: str) -> set[str]:
    """All modules that are there when the hook's Python has imported some."""
    argv = [sys.executable, "-IS", "-c", LOADED, str(PACKAGE.parent), *names]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def _at_once() -> set[str]:
    """What a guest's start loads before it does anything: the functions of its table stand in their modules."""
    return _loaded(*(f"libvirt_guestnet.hook.{name}" for name in ("main", "dispatch", "lifecycle_qemu")))


def _at_all() -> set[str]:
    return _loaded(*sorted(architecture.closure(TREE, "libvirt_guestnet.hook.main")))


@pytest.mark.parametrize("library", ALLOWED)
def test_only_some_rooms_import(library: str) -> None:
    assert architecture.outside(TREE, library, ALLOWED[library]) == []


@pytest.mark.parametrize("library", ALLOWED)
def test_no_room_may_import_what_it_does_not_need(library: str) -> None:
    """A room is on a list for as long as it imports the library, and no longer."""
    assert architecture.unused(TREE, library, ALLOWED[library]) == []


@pytest.mark.parametrize(
    "source",
    [
        "import libvirt",
        "import os, libvirt as virt",
        "from libvirt import virConnect",
        "import libvirt.sub",
        "def late() -> None:\n    from libvirt import open",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import libvirt",
    ],
)
def test_an_import_that_is_not_allowed_is_found(source: str) -> None:
    tree = {"g": "", "g.plan": "", "g.plan.order": source, "g.libvirtd": "import libvirt", "g.libvirtd.x": ""}
    assert architecture.outside(tree, "libvirt", {"libvirtd"}) == ["g.plan.order"]
    assert architecture.outside(tree, "libvirt", {"libvirtd", "plan"}) == []
    assert architecture.unused(tree, "libvirt", {"libvirtd", "plan", "cli"}) == ["cli"]


def test_what_only_sounds_alike_is_no_import() -> None:
    tree = {"g": "", "g.plan": "import libvirt_other\nfrom g.libvirt import x\n'import libvirt'", "g.libvirt": "x = 1"}
    assert architecture.outside(tree, "libvirt", ()) == []


def test_dependencies_between_modules_point_one_way() -> None:
    assert architecture.circle(architecture.module_arrows(TREE)) == ""


def test_dependencies_between_rooms_point_one_way() -> None:
    arrows = architecture.room_arrows(TREE)
    print(f"{len(arrows)} rooms, {sum(map(len, arrows.values()))} arrows")
    assert architecture.circle(arrows) == ""


@pytest.mark.parametrize(
    "back",
    [
        "import g.model.a",
        "from g.model import a",
        "from g.model.a import word",
        "from ..model import a",
        "from ..model.a import word",
        "def late() -> None:\n    import g.model.a",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from g.model import a",
    ],
)
def test_a_circle_is_found(back: str) -> None:
    tree = {"g": "", "g.model": "", "g.model.a": "from g.plan import b", "g.plan": "", "g.plan.b": ""}
    assert architecture.circle(architecture.module_arrows(tree)) == ""
    assert architecture.circle(architecture.room_arrows(tree)) == ""
    tree["g.plan.b"] = back
    for arrows, (one, other) in (
        (architecture.module_arrows(tree), ("g.model.a", "g.plan.b")),
        (architecture.room_arrows(tree), ("model", "plan")),
    ):
        assert architecture.circle(arrows) in (f"{one} -> {other} -> {one}", f"{other} -> {one} -> {other}")


def test_a_circle_of_rooms_without_one_of_modules_is_found() -> None:
    tree = {"g": "", "g.model": "", "g.model.a": "", "g.model.c": "import g.plan.b", "g.plan": ""}
    tree["g.plan.b"] = "import g.model.a"
    assert architecture.circle(architecture.module_arrows(tree)) == ""
    assert architecture.circle(architecture.room_arrows(tree)) in ("model -> plan -> model", "plan -> model -> plan")


def test_nothing_imports_the_command_line() -> None:
    assert architecture.importers(TREE, "cli") == []


def test_who_imports_the_command_line_is_found() -> None:
    tree = {"g": "", "g.cli": "", "g.cli.main": "from g.cli import verbs", "g.cli.verbs": "", "g.plan": ""}
    assert architecture.importers(tree, "cli") == []
    for source in ("from g.cli import main", "from g import cli", "def late() -> None:\n    import g.cli.main"):
        assert architecture.importers({**tree, "g.plan": source}, "cli") == ["g.plan"]


def test_nothing_imports_a_test() -> None:
    """What several tests share is in tests/support, and fixtures in their folder's conftest.py."""
    assert architecture.importing_tests(TESTS) == []


@pytest.mark.parametrize(
    "source",
    [
        "import test_a",
        "import test_a as a",
        "from test_a import word",
        "from test_a import test_it",
        "from t.kernel.test_a import word",
        "from t.kernel import test_a",
        "from kernel import test_a",
        "from kernel.test_a import word",
        "from . import test_a",
        "from .test_a import word",
        "def test_it() -> None:\n    from test_a import word",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from test_a import Word",
    ],
)
@pytest.mark.parametrize("importer", ["t.kernel.test_b", "t.kernel.conftest", "t.kernel.words"])
def test_who_imports_a_test_is_found(importer: str, source: str) -> None:
    tree = {
        "t": "",
        "t.kernel": "",
        "t.kernel.test_a": "word = 1",
        importer: source,
        "t.support": "",
        "t.support.a": "",
    }
    (found,) = architecture.importing_tests(tree)
    assert found.startswith(f"{importer}: ") and found.endswith("test_a")


def test_a_module_that_is_only_called_like_a_test_is_none() -> None:
    tree = {"t": "", "t.test_a": "", "t.support": "", "t.support.a": "def test_it() -> None: ...", "t.a": ""}
    tree["t.test_b"] = "from support.a import test_it\nfrom g import test_a\nimport g.test_a, a"
    assert architecture.importing_tests(tree) == []


def test_no_test_takes_what_another_module_keeps_to_itself() -> None:
    assert architecture.private(TESTS) == []


@pytest.mark.parametrize(
    "source",
    [
        "from test_a import _word",
        "from test_a import word, _word as word_of_a",
        "from t.kernel.test_a import _word",
        "from .test_a import _word",
        "import test_a\ntest_a._word()",
        "import test_a as a\nx = a._word",
        "from t.kernel import test_a\ndef test_it() -> None:\n    test_a._word()",
        "def test_it() -> None:\n    from test_a import _word",
        "from support.a import _word",
    ],
)
def test_what_is_taken_of_another_test_is_found(source: str) -> None:
    tree = {"t": "", "t.kernel": "", "t.kernel.test_a": "_word = word = 1", "t.kernel.test_b": source, "t.support": ""}
    (found,) = architecture.private({**tree, "t.support.a": "_word = 1"})
    assert found.startswith("t.kernel.test_b: ") and found.endswith("a._word")


def test_a_test_may_look_into_what_it_tests() -> None:
    tree = {"t": "", "t.test_a": "", "t.test_b": "from test_a import A, word\nA._b()\nword.__doc__\nimport g.x\n"}
    tree |= {"t.runner": "", "t.test_runner": "import runner\nrunner._b()"}
    tree["t.test_b"] += "from g.test import _c\nfrom g import test_a\ntest_a._d"
    assert architecture.private(tree) == []


def test_a_hook_loads_nothing_slow() -> None:
    assert architecture.there(_at_once(), [*SLOW, *DISPENSABLE]) == []


def test_what_a_hooks_functions_import_later_loads_nothing_slow() -> None:
    """But for the service, which is a process of its own: nobody waits for it."""
    names = architecture.closure(TREE, "libvirt_guestnet.hook.dispatch")
    assert architecture.there(_loaded(*sorted(names)), SLOW) == []


def test_something_slow_is_found() -> None:
    assert architecture.there({"os", "lxml.etree", "pathlib", "pathlike"}, SLOW) == ["lxml", "pathlib"]
    assert "dataclasses" in architecture.there(_loaded("libvirt_guestnet.model.topology"), SLOW)


def test_what_functions_import_belongs_to_what_a_hook_can_load() -> None:
    tree = {"g": "", "g.a": "def late() -> None:\n    from g import b", "g.b": "import g.c", "g.c": "", "g.d": ""}
    assert architecture.closure(tree, "g.a") == {"g.a", "g.b", "g.c"}


def test_a_hook_loads_no_more_than_it_may() -> None:
    at_once, at_all = architecture.size(TREE, _at_once()), architecture.size(TREE, _at_all())
    print(f"at once {at_once} of {len(_at_once())} modules; at all {at_all} of {len(_at_all())}")
    assert at_once.within(MOST_AT_ONCE), f"{at_once} is more than {MOST_AT_ONCE}"
    assert at_all.within(MOST_AT_ALL), f"{at_all} is more than {MOST_AT_ALL}"


def test_too_much_is_found() -> None:
    tree = {"g": "", "g.a": "a = 1\nb = 2\n", "g.b": "c = 3\n"}
    loaded = architecture.size(tree, {"g.a", "g.b", "os"})
    assert loaded == Size(2, 3)
    assert loaded.within(Size(2, 3))
    assert not loaded.within(Size(1, 3))
    assert not loaded.within(Size(2, 2))
