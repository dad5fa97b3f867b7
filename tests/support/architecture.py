"""Rules of who may import what, judged on source text alone: {module's dotted name: its source}.

A *room* is a package folder; a module that lies loose at the top is a room by itself. Imports count wherever they
stand: inside functions and under TYPE_CHECKING too.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

Sources = Mapping[str, str]
Arrows = dict[str, set[str]]


def sources(package: Path) -> dict[str, str]:
    """Every Python module below a package's folder."""
    found = {}
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file.read_text()
    return found


def imported(tree: Sources, module: str, *, typing: bool = True) -> set[str]:
    """The names that a module imports: of modules in the tree where these are modules, else as written. Without
    `typing`, not those that only a type checker sees."""
    found = set()
    for node in _imports(tree[module], typing):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        else:
            origin = _origin(tree, module, node)
            names = {f"{origin}.{name.name}" for name in node.names}
            found |= {name if name in tree else origin for name in names}
    return found - {module}


@cache
def _imports(source: str, typing: bool) -> list[ast.Import | ast.ImportFrom]:
    tree = ast.parse(source)
    checked = [node for node in ast.walk(tree) if isinstance(node, ast.If) and _is_for_typing(node.test)]
    left_out = set() if typing else {id(inner) for node in checked for line in node.body for inner in ast.walk(line)}
    found = (node for node in ast.walk(tree) if id(node) not in left_out)
    return [node for node in found if isinstance(node, ast.Import | ast.ImportFrom)]


def _is_for_typing(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def _origin(tree: Sources, module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    above = module.split(".")
    dropped = node.level - _is_package(tree, module)
    return ".".join([*above[: len(above) - dropped], *filter(None, [node.module])])


def _is_package(tree: Sources, module: str) -> bool:
    return any(other.startswith(f"{module}.") for other in tree)


def room(tree: Sources, module: str) -> str:
    """The room of a module: `lab.checks` is in `lab`, `lab` itself too, `errors` in `errors`; the root has its own."""
    inside = module.partition(".")[2]
    if _is_package(tree, module):
        return inside or module
    return inside.rpartition(".")[0] or inside


def module_arrows(tree: Sources) -> Arrows:
    """Which modules of the tree each imports."""
    return {module: imported(tree, module) & set(tree) for module in tree}


def room_arrows(tree: Sources) -> Arrows:
    """Which other rooms each room imports from."""
    arrows: Arrows = {}
    for module, others in module_arrows(tree).items():
        here = room(tree, module)
        arrows.setdefault(here, set()).update({room(tree, other) for other in others} - {here})
    return arrows


def circle(arrows: Arrows) -> str:
    """One circle, as `a -> b -> a`; empty if everything points one way."""
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return " -> ".join(reversed(error.args[1]))
    return ""


def users(tree: Sources, library: str) -> dict[str, str]:
    """The modules that import a library or a part of it, each with its room."""
    return {
        module: room(tree, module)
        for module in tree
        if any(name == library or name.startswith(f"{library}.") for name in imported(tree, module))
    }


def outside(tree: Sources, library: str, allowed: Collection[str]) -> list[str]:
    """The modules that import a library though their room may not."""
    return sorted(module for module, its_room in users(tree, library).items() if its_room not in allowed)


def unused(tree: Sources, library: str, allowed: Collection[str]) -> list[str]:
    """Rooms that may import a library and do not: the list is longer than it has to be."""
    return sorted(set(allowed) - set(users(tree, library).values()))


def importers(tree: Sources, name: str) -> list[str]:
    """The modules outside a room that import from it."""
    return sorted(
        module
        for module, others in module_arrows(tree).items()
        if room(tree, module) != name and name in {room(tree, other) for other in others}
    )


def private(tree: Sources) -> list[str]:
    """What modules take of others of the tree that begins with an underscore, each as `module: other._name`; but for
    test_x, which may look into x. Who imports by a shorter name, as tests find each other, imports too."""
    found = ((module, other, name) for module in tree for other, name in _taken(tree, module))
    return sorted(
        {
            f"{module}: {other}.{name}"
            for module, other, name in found
            if name.startswith("_") and not name.endswith("__") and _known(tree, other)
            if _last(module) != f"test_{_last(other)}"
        }
    )


def importing_tests(tree: Sources) -> list[str]:
    """The modules that import a test's module, each as `module: test's module`; by whatever name, as above."""
    found = (
        (module, name)
        for module in tree
        for node in _imports(tree[module], True)
        for name in _named(tree, module, node)
    )
    return sorted(
        {f"{module}: {name}" for module, name in found if _last(name).startswith("test_") and _known(tree, name)}
    )


def _named(tree: Sources, module: str, node: ast.Import | ast.ImportFrom) -> set[str]:
    """Whatever may be a module in an import."""
    if isinstance(node, ast.Import):
        return {each.name for each in node.names}
    origin = _origin(tree, module, node)
    return {origin} | {f"{origin}.{each.name}" for each in node.names}


def _taken(tree: Sources, module: str) -> Iterator[tuple[str, str]]:
    """The names that a module imports from others, and those that it takes of modules that it has imported."""
    names: dict[str, str] = {}
    for node in _imports(tree[module], True):
        if isinstance(node, ast.Import):
            names |= {each.asname or each.name: each.name for each in node.names}
        else:
            origin = _origin(tree, module, node)
            names |= {each.asname or each.name: f"{origin}.{each.name}" for each in node.names}
            yield from ((origin, each.name) for each in node.names)
    for each in ast.walk(ast.parse(tree[module])):
        if isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name) and each.value.id in names:
            yield names[each.value.id], each.attr


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _known(tree: Sources, name: str) -> bool:
    return any(f".{module}".endswith(f".{name}") for module in tree)


def closure(tree: Sources, module: str) -> set[str]:
    """A module and all of the tree that it can come to import, also while its functions run."""
    arrows = {each: imported(tree, each, typing=False) & set(tree) for each in tree}
    found, left = set[str](), {module}
    while left:
        found |= left
        left = set().union(*(arrows[each] for each in left)) - found
    return found


def there(names: Collection[str], libraries: Collection[str]) -> list[str]:
    """Those of some libraries that are among the names of loaded modules."""
    return sorted(set(libraries) & {name.partition(".")[0] for name in names})


class Size(NamedTuple):
    """How much of a tree is loaded."""

    modules: int
    lines: int

    def within(self, most: Size) -> bool:
        return self.modules <= most.modules and self.lines <= most.lines


def size(tree: Sources, names: Collection[str]) -> Size:
    """How many of some loaded modules are of the tree, and how many lines these have."""
    ours = set(names) & set(tree)
    return Size(len(ours), sum(tree[name].count("\n") for name in ours))
