"""A router's disks: two slots, of which the newer whole one counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.router import disks


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    disks.ensure_disk(path, disks.CONFIG_BYTES)
    return path


def test_an_empty_disk_has_nothing(disk: Path) -> None:
    assert disks.read(disk) is None
    assert disk.stat().st_mode & 0o777 == 0o600


def test_the_last_one_written_counts(disk: Path) -> None:
    for number in range(5):
        disks.write(disk, b"document %d" % number)
        assert disks.read(disk) == b"document %d" % number


def _serials(disk: Path) -> list[int]:
    whole = disk.read_bytes()
    return [int(whole[start : start + 100].split()[1]) for start in (0, len(whole) // 2)]


def test_the_slot_that_counts_is_not_touched(disk: Path) -> None:
    for number in range(4):
        disks.write(disk, b"%d" % number)
    assert sorted(_serials(disk)) == [3, 4]


@pytest.mark.parametrize("offset", [0, 14, disks.HEAD_BYTES, disks.HEAD_BYTES + 5])
def test_of_a_write_that_was_cut_off_the_one_before_is_left(disk: Path, offset: int) -> None:
    disks.write(disk, b"the old one")
    disks.write(disk, b"the new one")
    newest = max(range(2), key=lambda slot: _serials(disk)[slot])
    with disk.open("r+b") as file:
        file.seek(newest * disks.CONFIG_BYTES // 2 + offset)
        file.write(b"\xff")
    assert disks.read(disk) == b"the old one"
    disks.write(disk, b"another")
    assert disks.read(disk) == b"another"


@pytest.mark.parametrize(
    "head",
    [
        b"guestnet-slot 1 99999999 " + b"0" * 64 + b"\n",
        b"guestnet-slot -1 5 " + b"0" * 64 + b"\n",
        b"guestnet-slot 1 5 " + b"0" * 64,
        b"guestnet-slot 1 5 " + b"0" * 64 + b"\nmore",
        b"\0" * 100,
    ],
)
def test_what_a_guest_wrote_is_not_believed(disk: Path, head: bytes) -> None:
    with disk.open("r+b") as file:
        file.write(head)
    assert disks.read(disk) is None


def test_too_much_is_refused_and_changes_nothing(disk: Path) -> None:
    disks.write(disk, b"small")
    with pytest.raises(GuestnetError, match="are more than a slot has"):
        disks.write(disk, b"x" * (disks.CONFIG_BYTES // 2))
    assert disks.read(disk) == b"small"


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for use in (lambda path: disks.ensure_disk(path, 4096), disks.read):
        with pytest.raises(GuestnetError, match="symbolic links"):
            use(tmp_path / "link")
    assert not (tmp_path / "target").exists()
