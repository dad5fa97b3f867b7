"""Where a router's disks are: for whom, and what is refused in their place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.libvirtd import objects
from libvirt_guestnet.parse import TextError
from libvirt_guestnet.router import disks, folder
from libvirt_guestnet.router.folder import Owner

SELF = Owner(os.geteuid(), os.getegid())


@pytest.fixture(autouse=True)
def routers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(folder, "ROUTERS", tmp_path / "libvirt-guestnet/routers")
    return folder.ROUTERS


def modes(name: str) -> list[int]:
    places = (
        folder.disk(name, disks.CONFIG).parent,
        *(folder.disk(name, each) for each in (disks.CONFIG, disks.LEASES)),
    )
    return [each.stat().st_mode & 0o777 for each in places]


def test_two_disks_for_whom_they_are(routers: Path) -> None:
    for _ in range(2):
        folder.ensure("edge", SELF)
        assert modes("edge") == [0o710, 0o640, 0o600]
    disks.write(folder.disk("edge", disks.CONFIG), b"document")
    folder.ensure("edge", SELF)
    assert folder.document("edge") == b"document"
    folder.ensure("other", SELF)
    folder.remove("edge")
    folder.remove("edge")
    assert (folder.exists("edge"), folder.document("edge")) == (False, None)
    assert list(routers.iterdir()) == [routers / "other"]
    folder.remove("other")
    assert not routers.parent.exists()


def test_a_folder_says_whose_it_is(routers: Path) -> None:
    assert folder.found() == {}
    for name, topology in (("edge", "t"), ("old", "")):
        folder.ensure(name, SELF, topology)
    folder.ensure("edge", SELF)
    (routers / "not a name").mkdir()
    assert folder.found() == {"edge": "t", "old": ""}
    assert (routers / "edge/topology").stat().st_mode & 0o777 == 0o600
    folder.remove("edge")
    assert folder.found() == {"old": ""}


def test_a_note_that_is_none_says_nothing(routers: Path) -> None:
    folder.ensure("edge", SELF)
    note = routers / "edge/topology"
    for text in (b"\xff", b""):
        note.write_bytes(text)
        assert folder.found() == {"edge": ""}
    note.unlink()
    os.mkfifo(note)
    assert folder.found() == {"edge": ""}, "nobody waits for a writer"


def test_what_was_taken_is_put_back() -> None:
    folder.ensure("edge", SELF, "t")
    for which in (disks.CONFIG, disks.LEASES):
        disks.write(folder.disk("edge", which), which.encode())
    kept = folder.contents("edge")
    folder.remove("edge")
    assert folder.contents("edge") == {}
    folder.restore("edge", SELF, kept)
    assert folder.found() == {"edge": "t"}
    assert [disks.read(folder.disk("edge", which)) for which in (disks.CONFIG, disks.LEASES)] == [b"config", b"leases"]


@pytest.mark.parametrize("which", ["", disks.CONFIG, disks.LEASES])
def test_a_link_in_its_place_leads_nowhere(tmp_path: Path, which: str) -> None:
    target = tmp_path / "target"
    target.mkdir() if not which else target.write_bytes(b"precious")
    folder.ensure("edge", SELF)
    place = folder.disk("edge", which or disks.CONFIG)
    if which:
        place.unlink()
        place.symlink_to(target)
    else:
        folder.remove("edge")
        folder.ROUTERS.mkdir(parents=True, exist_ok=True)
        place.parent.symlink_to(target)
    for attempt in (
        (lambda: folder.ensure("edge", SELF), lambda: folder.contents("edge"))
        if which
        else (
            lambda: folder.ensure("edge", SELF),
            lambda: folder.remove("edge"),
        )
    ):
        with pytest.raises(GuestnetError):
            attempt()
    assert target.is_dir() or target.read_bytes() == b"precious"
    if which:
        folder.remove("edge")
        assert target.read_bytes() == b"precious"


def test_a_folder_that_others_can_write_to_is_refused() -> None:
    folder.ensure("edge", SELF)
    folder.disk("edge", disks.CONFIG).parent.chmod(0o777)
    with pytest.raises(GuestnetError, match="nobody else can write"):
        folder.ensure("edge", SELF)


def test_what_somebody_put_there_is_not_removed() -> None:
    folder.ensure("edge", SELF)
    mine = folder.disk("edge", "notes")
    mine.write_text("mine")
    with pytest.raises(GuestnetError, match="not empty"):
        folder.remove("edge")
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../edge", ".edge", "-edge", "a b", "ä", "a\n", "x" * 129])
def test_a_name_that_no_folder_has(name: str) -> None:
    with pytest.raises(TextError, match="cannot be a file's name"):
        folder.disk(name, disks.CONFIG)


CAPABILITIES = """<capabilities><host><secmodel><model>apparmor</model><doi>0</doi></secmodel>
<secmodel><model>dac</model><doi>0</doi><baselabel type='kvm'>{}</baselabel></secmodel></host></capabilities>"""


@pytest.mark.parametrize(
    ("label", "owner"), [("+64055:+108", (64055, 108)), ("+0:+0", (0, 0)), ("libvirt-qemu", (0, 0))]
)
def test_whom_qemu_runs_as(label: str, owner: tuple[int, int]) -> None:
    assert objects.owner(CAPABILITIES.format(label)) == owner
