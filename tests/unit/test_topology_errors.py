"""Every bad topology has its exact complaints beside it. `pytest --regenerate` rewrites them; review the diff."""

from __future__ import annotations

from pathlib import Path

import pytest

from libvirt_guestnet import topology
from libvirt_guestnet.errors import GuestnetError, TopologyError

BAD = sorted((Path(__file__).parent.parent / "topologies" / "bad").glob("*.yaml"))


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_exact_messages(path: Path, regenerate: bool) -> None:
    with pytest.raises(TopologyError) as caught:
        topology.loads(path.read_text(), path.name)
    complaints = f"{caught.value}\n"
    expected = path.with_suffix(".expected")
    if regenerate:
        expected.write_text(complaints)
    assert complaints == expected.read_text()
    assert list(caught.value.problems) == sorted(caught.value.problems)


def test_there_are_enough_of_them() -> None:
    assert len(BAD) >= 25


def test_every_bad_file_is_expected_and_nothing_else() -> None:
    folder = BAD[0].parent
    assert {path.stem for path in BAD} == {path.stem for path in folder.glob("*.expected")}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(GuestnetError, match=r"cannot read the topology file .*absent\.yaml: No such file or directory"):
        topology.load(tmp_path / "absent.yaml")


def test_text_that_is_not_utf8_is_placed(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"name: t\ndescription: caf\xe9\n")
    with pytest.raises(TopologyError) as caught:
        topology.load(path)
    assert str(caught.value) == f"{path}:2:1: the file is not UTF-8 text"


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(TopologyError, match="larger than 4 MiB"):
        topology.load(path)
