"""Installing the hooks: once is enough, strangers stay, and what would not work or not be safe is refused."""

import os
from pathlib import Path

import pytest

from libvirt_guestnet import install
from libvirt_guestnet.errors import GuestnetError


@pytest.fixture(autouse=True)
def recent_libvirt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "libvirt_version", lambda: (9, 0, 0))


def hook(root: Path, name: str) -> Path:
    return root / f"etc/libvirt/hooks/{name}.d/50-guestnet"


def test_installing_again_changes_nothing(tmp_path: Path) -> None:
    states = install.install(tmp_path, any_owner=True)
    assert [(s.hook, s.installed, s.current) for s in states] == [("qemu", True, True), ("network", True, True)]
    before = [hook(tmp_path, name).stat() for name in install.HOOKS]
    install.install(tmp_path, any_owner=True)
    assert [hook(tmp_path, name).stat() for name in install.HOOKS] == before
    assert all(stat.st_mode & 0o7777 == 0o755 for stat in before)


def test_a_changed_hook_is_seen_and_mended(tmp_path: Path) -> None:
    install.install(tmp_path, any_owner=True)
    text = hook(tmp_path, "qemu").read_text()
    hook(tmp_path, "qemu").write_text(f"{text}# changed\n")
    assert [s.current for s in install.status(tmp_path)] == [False, True]
    install.install(tmp_path, any_owner=True)
    assert hook(tmp_path, "qemu").read_text() == text


def test_uninstalling_leaves_strangers_alone_and_twice_is_success(tmp_path: Path) -> None:
    install.install(tmp_path, any_owner=True)
    stranger = hook(tmp_path, "qemu").with_name("10-other")
    stranger.write_text("#!/bin/sh\n")
    assert not any(s.installed for s in install.uninstall(tmp_path))
    assert not any(s.installed for s in install.uninstall(tmp_path))
    assert [path.name for path in stranger.parent.iterdir()] == ["10-other"]


def test_a_libvirt_that_is_too_old_is_refused_with_instructions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "libvirt_version", lambda: (6, 4, 0))
    with pytest.raises(GuestnetError, match=r"libvirt 6\.4\.0 does not run hooks .* upgrade to 6\.5\.0 or later"):
        install.install(tmp_path, any_owner=True)
    monkeypatch.setattr(install, "libvirt_version", lambda: None)
    with pytest.raises(GuestnetError, match="no libvirt daemon found: install the package"):
        install.install(tmp_path, any_owner=True)
    assert list(tmp_path.iterdir()) == []


def test_a_library_that_others_may_change_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "library"
    (library / "libvirt_guestnet/hook").mkdir(parents=True)
    (library / "libvirt_guestnet/hook/main.py").touch()
    os.chmod(library / "libvirt_guestnet", 0o777)  # noqa: PTH101
    monkeypatch.setattr(install, "_library", lambda: library)
    with pytest.raises(GuestnetError, match="can be changed by others than root, and libvirt would run it as root"):
        install.install(tmp_path / "root")
    assert not (tmp_path / "root").exists()
