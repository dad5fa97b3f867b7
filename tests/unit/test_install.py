"""Installing the hooks: once is enough, strangers stay, and what would not work or not be safe is refused."""

import os
import time
from pathlib import Path

import pytest

from libvirt_guestnet.cli import hooks
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.install import hook_files


@pytest.fixture(autouse=True)
def recent_libvirt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook_files, "libvirt_version", lambda: (9, 0, 0))


def hook(root: Path, name: str) -> Path:
    return root / f"etc/libvirt/hooks/{name}.d/50-guestnet"


def test_installing_again_changes_nothing(tmp_path: Path) -> None:
    states = hook_files.install(tmp_path, any_owner=True)
    assert [(s.hook, s.installed, s.current) for s in states] == [("qemu", True, True), ("network", True, True)]
    before = [hook(tmp_path, name).stat() for name in hook_files.HOOKS]
    hook_files.install(tmp_path, any_owner=True)
    assert [hook(tmp_path, name).stat() for name in hook_files.HOOKS] == before
    assert all(stat.st_mode & 0o7777 == 0o755 for stat in before)


def test_a_changed_hook_is_seen_and_mended(tmp_path: Path) -> None:
    hook_files.install(tmp_path, any_owner=True)
    text = hook(tmp_path, "qemu").read_text()
    hook(tmp_path, "qemu").write_text(f"{text}# changed\n")
    assert [s.current for s in hook_files.status(tmp_path)] == [False, True]
    hook_files.install(tmp_path, any_owner=True)
    assert hook(tmp_path, "qemu").read_text() == text


def test_a_daemon_that_had_the_hooks_at_its_start_needs_no_restart_when_they_are_rewritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It calls whatever the file says now."""
    started = [time.time() - 100.0]
    monkeypatch.setattr(hook_files, "_started", lambda daemon: started[0] if daemon == "libvirtd" else None)
    assert all(state.restart_needed for state in hook_files.install(tmp_path, any_owner=True)), "its first"
    for name in hook_files.HOOKS:
        hook(tmp_path, name).write_text("#!/bin/sh\n# of an earlier version\n")
        os.utime(hook(tmp_path, name), (started[0] - 50, started[0] - 50))  # there when the daemon started
    assert not any(state.restart_needed for state in hook_files.install(tmp_path, any_owner=True))
    started[0] -= 60
    assert all(state.restart_needed for state in hook_files.install(tmp_path, any_owner=True)), "older than the first"


def test_uninstalling_leaves_strangers_alone_and_twice_is_success(tmp_path: Path) -> None:
    hook_files.install(tmp_path, any_owner=True)
    stranger = hook(tmp_path, "qemu").with_name("10-other")
    stranger.write_text("#!/bin/sh\n")
    assert not any(s.installed for s in hook_files.uninstall(tmp_path))
    assert not any(s.installed for s in hook_files.uninstall(tmp_path))
    assert [path.name for path in stranger.parent.iterdir()] == ["10-other"]


def test_uninstalling_leaves_no_empty_folders(tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    (tmp_path / "etc/libvirt-guestnet").mkdir(parents=True)
    (tmp_path / "etc/libvirt-guestnet/host.yaml").write_text("guard: all\n")
    hook_files.install(tmp_path, any_owner=True)
    hook_files.uninstall(tmp_path)
    left = {str(path.relative_to(tmp_path)) for path in set(tmp_path.rglob("*")) - set(before)}
    assert left == {"etc", "etc/libvirt", "etc/libvirt/hooks", "etc/libvirt-guestnet", "etc/libvirt-guestnet/host.yaml"}
    (tmp_path / "etc/libvirt-guestnet/host.yaml").unlink()
    hook_files.uninstall(tmp_path)
    assert not (tmp_path / "etc/libvirt-guestnet").exists()


LOOPS = {
    "glob": 'for f in /etc/libvirt/hooks/qemu.d/*; do "$f" "$@"; done',
    "of its own name": 'for f in "$0.d"/*; do [ -x "$f" ] && "$f" "$@" </dev/null; done',
    "run-parts": "run-parts --exit-on-error -a $1 -a $2 /etc/libvirt/hooks/qemu.d",
    "find": 'find "$(dirname "$0")/qemu.d" -type f -executable | while read f; do "$f" "$@"; done',
    "variable": 'DIR="${0}.d"\nfor f in "$DIR"/*; do "$f" "$@"; done',
    "by name": "exec /etc/libvirt/hooks/qemu.d/50-guestnet",
    "python": "for f in sorted(os.listdir('/etc/libvirt/hooks/qemu.d')):\n    subprocess.run([f, *sys.argv[1:]])",
}
NO_LOOPS = {
    "nothing": "exit 0",
    "a comment": "# libvirt runs qemu.d/* itself\nexit 0",
    "a guest's own": """BASEDIR="$(dirname $0)"
HOOKPATH="$BASEDIR/qemu.d/$1/$2/$3"
if [ -f "$HOOKPATH" ]; then eval \\"$HOOKPATH\\" "$@"
elif [ -d "$HOOKPATH" ]; then
  find -L "$HOOKPATH" -maxdepth 1 -type f -executable -print | while read f; do "$f" "$@"; done
fi""",
    "another": "run-parts /etc/my-hooks; systemctl restart x",
}


@pytest.mark.parametrize("name", [*LOOPS, *NO_LOOPS])
def test_a_script_that_runs_the_hooks_itself_is_found(tmp_path: Path, name: str) -> None:
    hook_files.install(tmp_path, any_owner=True)
    script = tmp_path / "etc/libvirt/hooks/qemu"
    script.write_text(f"#!/bin/sh\n{(LOOPS | NO_LOOPS)[name]}\n")
    assert not any(state.run_by for state in hook_files.status(tmp_path)), "libvirt runs no file that is not executable"
    script.chmod(0o755)
    qemu, network = hook_files.status(tmp_path)
    assert (qemu.run_by, network.run_by) == (str(script) if name in LOOPS else "", "")
    if name in LOOPS:
        assert f"{script} runs it a second time" in hooks._hook_text(qemu)


def test_a_libvirt_that_is_too_old_is_refused_with_instructions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hook_files, "libvirt_version", lambda: (6, 4, 0))
    with pytest.raises(GuestnetError, match=r"libvirt 6\.4\.0 does not run hooks .* upgrade to 6\.5\.0 or later"):
        hook_files.install(tmp_path, any_owner=True)
    monkeypatch.setattr(hook_files, "libvirt_version", lambda: None)
    with pytest.raises(GuestnetError, match="no libvirt daemon found: install the package"):
        hook_files.install(tmp_path, any_owner=True)
    assert list(tmp_path.iterdir()) == []


def test_a_daemon_that_does_not_say_its_version_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook_files, "_VERSION_SECONDS", 0.1)
    with pytest.raises(GuestnetError, match=r"sleep 60 took more than 0\.1 s: is the host overloaded\?"):
        hook_files._said(["sleep", "60"])


def test_a_library_that_others_may_change_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "library"
    (library / "libvirt_guestnet/hook").mkdir(parents=True)
    (library / "libvirt_guestnet/hook/main.py").touch()
    os.chmod(library / "libvirt_guestnet", 0o777)  # noqa: PTH101
    monkeypatch.setattr(hook_files, "_library", lambda: library)
    with pytest.raises(GuestnetError, match="can be changed by others than root, and libvirt would run it as root"):
        hook_files.install(tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_who_applies_is_told_that_hooks_do_not_work_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    for installed, restart, said in (
        (False, False, "guestnet hooks install"),
        (True, True, "systemctl restart libvirtd"),
        (True, False, ""),
    ):
        states = [hook_files.HookStatus("qemu", "p", installed, True, restart)]
        monkeypatch.setattr(hook_files, "status", lambda found=states: found)
        monkeypatch.setattr(hook_files, "_started", lambda _: None)
        assert hook_files.unseen()[-len(said) :] == said if said else hook_files.unseen() == ""
