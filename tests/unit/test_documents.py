"""What the documents say of files, rooms and versions is so."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import libvirt_guestnet

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "libvirt_guestnet"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("xml/*.md")])
DECISIONS = ROOT / "docs/decisions"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", document.read_text())
    for link in links:
        path, _, heading = link.partition("#")
        if ":" not in path:
            target = document.parent / path if path else document
            assert target.exists(), link
            assert not heading or heading in _headings(target), link


def _headings(document: Path) -> set[str]:
    """As forges make anchors of them."""
    lines = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


@pytest.mark.parametrize("name", ["DESIGN.md", "CONTRIBUTING.md"])
def test_files_that_are_named_exist(name: str) -> None:
    named = re.findall(
        r"`((?:libvirt_guestnet|tests|docs|xml|labs|scripts|hooks)/[\w./-]+)`", (ROOT / name).read_text()
    )
    assert [each for each in named if not (ROOT / each).exists()] == []


def test_the_design_has_every_room() -> None:
    cells = re.findall(r"^\| (`.+?) \|", (ROOT / "DESIGN.md").read_text(), re.MULTILINE)
    named = {word for cell in cells for word in re.findall(r"`([\w/]+(?:/|\.py))`", cell)}
    rooms = {f"{path.parent.relative_to(PACKAGE)}/" for path in PACKAGE.rglob("__init__.py")} - {"./"}
    assert rooms <= named
    assert [each for each in named if not (PACKAGE / each).exists()] == []


def test_the_index_has_every_decision() -> None:
    index = re.findall(r"^- \[(\d+)\]\((.+)\): (.+)$", (DECISIONS / "README.md").read_text(), re.MULTILINE)
    assert sorted(name for _, name, _ in index) == sorted(p.name for p in DECISIONS.glob("[0-9]*.md"))
    for number, name, title in index:
        assert name.startswith(f"{int(number):04}-")
        assert (DECISIONS / name).read_text().startswith(f"# {number}. {title}\n")


def test_decisions_that_are_cited_exist() -> None:
    numbers = {int(path.name[:4]) for path in DECISIONS.glob("[0-9]*.md")}
    files = [
        path for folder in ("libvirt_guestnet", "tests", "scripts", "hooks") for path in (ROOT / folder).rglob("*")
    ]
    texts = [path.read_text() for path in [*DOCUMENTS, *files] if path.is_file() and path.suffix in ("", ".py", ".md")]
    cited = {int(number) for text in texts for number in re.findall(r"\bdecision (\d+)\b", text)}
    assert cited <= numbers


def test_the_version_is_everywhere_the_same() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    released = re.findall(r"^## \[(\d.*)\] - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert project["version"] == libvirt_guestnet.__version__ == released[0]
