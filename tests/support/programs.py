"""Programs inside of strings, which tests and scripts run in sandboxes and VMs: what they name of ours, and whether it
exists. A rename breaks them without any other fast test seeing it."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

_OURS = r"(?:libvirt_guestnet|tests\.support|support)\b"
_SAYS = re.compile(rf"\b(?:from|import)\s+{_OURS}")
_IMPORT = re.compile(
    rf"\bfrom\s+({_OURS}[\w.]*)\s+import\s+\(?((?:\w+(?:\s+as\s+\w+)?)(?:\s*,\s*\w+(?:\s+as\s+\w+)?)*)"
    rf"|\bimport\s+({_OURS}[\w.]*)(?:\s+as\s+(\w+))?"
)
_PLACE = "_place_"


def python_files(root: Path) -> Iterator[Path]:
    """Those of tests and scripts, by their names or first lines."""
    for path in sorted([*(root / "tests").rglob("*"), *(root / "scripts").rglob("*")]):
        if path.is_file() and "__pycache__" not in path.parts and "data" not in path.parts:
            with path.open("rb") as file:
                first = file.readline(200)
            if path.suffix == ".py" or (first.startswith(b"#!") and b"python" in first):
                yield path


def shell_files(root: Path) -> Iterator[Path]:
    """Scripts that may have a program in them."""
    for path in sorted((root / "scripts").rglob("*")):
        if path.is_file() and path.suffix not in (".py", ".pyc") and path.read_bytes().startswith(b"#!/bin/"):
            yield path


def programs(source: str) -> Iterator[tuple[int, str]]:
    """Each string in a Python file that imports something of ours, and its line. What is put into it and is a string of
    the file itself stands in it."""
    tree = ast.parse(source)
    known: dict[str, str] = {}
    for line in tree.body:
        if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
            known[line.targets[0].id] = _text(line.value, known) or ""
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, _WHOLE) for part in ast.walk(node) if part != node}
    for node in ast.walk(tree):
        if isinstance(node, ast.expr) and id(node) not in inner and (text := _text(node, known)) and _SAYS.search(text):
            yield node.lineno, text


_WHOLE = (ast.JoinedStr, ast.BinOp)


def _text(node: ast.AST, known: dict[str, str]) -> str | None:
    """What an expression says, if it is a string; a placeholder where that is not known here."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, known) or _PLACE for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return _text(node.value, known) if isinstance(node.value, ast.Name) else None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts = [_text(each, known) for each in (node.left, node.right)]
        return "".join(part or "" for part in parts) if any(parts) else None
    return None


def missing(text: str) -> list[str]:
    """What a program names of ours that does not exist."""
    tree = _parsed(text)
    return sorted(set(_missing_of_tree(tree) if tree else _missing_of_text(text)))


def _parsed(text: str) -> ast.Module | None:
    """As it is, or as `format` makes it; None for what is more than a program, such as a line of shell."""
    filled = re.sub(r"\{[\w!:.]*\}", _PLACE, text.replace("{{", "\0").replace("}}", "\1"))
    for each in (text, filled.replace("\0", "{").replace("\1", "}")):
        try:
            return ast.parse(textwrap.dedent(each))
        except SyntaxError:
            continue
    return None


def _missing_of_tree(tree: ast.Module) -> Iterator[str]:
    modules: dict[str, ModuleType] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and re.match(_OURS, node.module):
            yield from _take(node.module, [(each.name, each.asname) for each in node.names], modules)
        elif isinstance(node, ast.Import):
            for each in node.names:
                if re.match(_OURS, each.name):
                    yield from _take_module(each.name, each.asname, modules)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield from _lacking(_dotted(node), modules)


def _dotted(node: ast.expr) -> list[str]:
    """`a.b.c`; [] for anything else."""
    if isinstance(node, ast.Name):
        return [node.id]
    before = _dotted(node.value) if isinstance(node, ast.Attribute) else []
    return [*before, node.attr] if before and isinstance(node, ast.Attribute) else []


def _missing_of_text(text: str) -> Iterator[str]:
    modules: dict[str, ModuleType] = {}
    for module, names, whole, alias in _IMPORT.findall(text):
        if module:
            pairs = [(words[0], words[2] if len(words) > 2 else None) for words in map(str.split, names.split(","))]
            yield from _take(module, pairs, modules)
        else:
            yield from _take_module(whole, alias or None, modules)
    for name in modules:
        for rest in re.findall(rf"(?<![\w.]){name}((?:\.[a-zA-Z_]\w*)+)", text):
            yield from _lacking([name, *rest.strip(".").split(".")], modules)


def _take(module: str, names: list[tuple[str, str | None]], modules: dict[str, ModuleType]) -> Iterator[str]:
    """Notes the modules among names that are imported from one; says which do not exist."""
    if (found := _module(module)) is None:
        yield module
        return
    for name, alias in names:
        if name != "*" and (taken := _of(found, name)) is None:
            yield f"{module}.{name}"
        elif name != "*" and isinstance(taken, ModuleType):
            modules[alias or name] = taken


def _take_module(module: str, alias: str | None, modules: dict[str, ModuleType]) -> Iterator[str]:
    found, first = _module(module), module.partition(".")[0]
    if found is None:
        yield module
    elif alias:
        modules[alias] = found
    else:
        modules[first] = importlib.import_module(first)


def _lacking(names: list[str], modules: dict[str, ModuleType]) -> Iterator[str]:
    """The first of some attributes that a module has not."""
    if not names or names[0] not in modules:
        return
    found: object = modules[names[0]]
    for name in names[1:]:
        if not isinstance(found, ModuleType):
            return
        if (inner := _of(found, name)) is None:
            yield f"{found.__name__}.{name}"
            return
        found = inner


_NONE = object()


def _of(module: ModuleType, name: str) -> object:
    """What a module has of that name, None if nothing."""
    found = getattr(module, name, _module(f"{module.__name__}.{name}"))
    return _NONE if found is None and hasattr(module, name) else found


def _module(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name.removeprefix("tests."))
    except ModuleNotFoundError as error:
        if error.name is not None and name.removeprefix("tests.").startswith(error.name):
            return None
        raise
