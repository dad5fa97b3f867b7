"""AppArmor and the hooks' Python: judged as the kernel finds it, allowed by a rule, or refused with what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from libvirt_guestnet.doctor import finding, host_facts, judge
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.install import apparmor

FAR, NEAR = "/opt/a b/bin/python3.11", "/usr/bin/python3.11"
BASE = "profile libvirtd /usr/sbin/libvirtd {\n  /usr/bin/* PUx,\n  include if exists <local/usr.sbin.libvirtd>\n}\n"
OLDER = BASE.replace("include if exists", "#include")
Stand = Callable[..., "Kernel"]


class Kernel:
    """A host in a folder, whose kernel enforces what was loaded last."""

    def __init__(self, root: Path) -> None:
        self.root, self.loaded, self.wrong, self.mute = root, "", "", False
        self.local = root / "etc/apparmor.d/local/usr.sbin.libvirtd"
        self.put("etc/apparmor.d/usr.sbin.libvirtd", BASE)
        self.put("sys/kernel/security/apparmor/profiles", "man_groff (enforce)\nlibvirtd (enforce)\n")

    def put(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def runs(self, profile: str, daemon: str = "libvirtd", attribute: str = "apparmor/current") -> None:
        self.put(f"run/{daemon}.pid", "7\n")
        self.put(f"proc/7/attr/{attribute}", f"{profile}\n")

    def executes(self, profile: str, program: str) -> bool | None:
        assert profile == "libvirtd"
        return None if self.mute else program.startswith("/usr/bin/") or f'"{program}" pux,' in self.loaded

    def load(self, base: Path) -> str:
        assert base == self.root / "etc/apparmor.d/usr.sbin.libvirtd"
        self.loaded = self.local.read_text() if self.local.exists() else ""
        return self.wrong if self.loaded else ""

    def denied(self, python: str = FAR) -> list[tuple[str, str]]:
        found = apparmor.denied(self.root, python, self.executes)
        assert {each.python for each in found} <= {python}
        return [each[:2] for each in found]

    def allow(self, python: str = FAR) -> list[str]:
        return apparmor.allow(self.root, python, self.executes, self.load)

    def take_back(self) -> list[str]:
        return apparmor.take_back(self.root, self.load)


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


@pytest.mark.parametrize("mute", [False, True], ids=["asked", "by its place"])
def test_a_python_that_the_profile_forbids_is_found(kernel: Kernel, mute: bool) -> None:
    kernel.mute = mute
    assert kernel.denied() == [("libvirtd", "libvirtd")], "the daemon does not run, but its profile is loaded"
    for attribute in ("current", "apparmor/current"):
        kernel.runs("libvirtd (enforce)", attribute=attribute)
        assert kernel.denied() == [("libvirtd", "libvirtd")]
        assert kernel.denied(NEAR) == []


@pytest.mark.parametrize("profile", ["unconfined", "libvirtd (complain)", "system_u:system_r:virtd_t:s0"])
def test_a_daemon_that_nothing_confines_may_run_any(kernel: Kernel, profile: str) -> None:
    kernel.runs(profile)
    assert kernel.denied() == []
    assert (kernel.allow(), kernel.local.exists()) == ([], False)


@pytest.mark.parametrize("before", [None, "# site's own\n/opt/x rix,", "# site's own\n"])
def test_a_rule_is_written_once_and_taken_back(kernel: Kernel, before: str | None) -> None:
    if before is not None:
        kernel.put("etc/apparmor.d/local/usr.sbin.libvirtd", before)
    (said,) = kernel.allow()
    assert f"{kernel.local}: lets libvirtd run {FAR}" in said
    assert f'"{FAR}" pux,' in kernel.loaded.splitlines()
    assert (kernel.denied(), kernel.allow()) == ([], [])
    said, _ = kernel.allow("/opt/other/python")
    assert "is removed" in said
    assert kernel.denied("/opt/other/python") == []
    assert kernel.denied() == [("libvirtd", "libvirtd")], "an earlier installation's is gone"
    assert len(kernel.take_back()) == 1
    assert kernel.take_back() == []
    left = kernel.local.read_text() if kernel.local.exists() else None
    assert (left or "").rstrip("\n") == (before or "").rstrip("\n")
    assert "pux" not in kernel.loaded


@pytest.mark.parametrize(("base", "left"), [(BASE, False), (OLDER, True)])
def test_a_file_that_the_profile_cannot_be_loaded_without_stays(kernel: Kernel, base: str, left: bool) -> None:
    kernel.put("etc/apparmor.d/usr.sbin.libvirtd", base)
    kernel.put("etc/apparmor.d/local/usr.sbin.libvirtd", "")
    kernel.allow()
    kernel.take_back()
    assert kernel.local.exists() == left
    assert not left or kernel.local.read_text() == ""


def test_a_python_that_moved_to_a_place_of_debians_needs_no_rule(kernel: Kernel) -> None:
    kernel.allow()
    assert len(kernel.allow(NEAR)) == 1
    assert not kernel.local.exists()


def test_a_rule_that_was_written_counts_where_the_kernel_cannot_be_asked(kernel: Kernel) -> None:
    kernel.mute = True
    kernel.allow()
    assert kernel.denied() == []


@pytest.mark.parametrize(
    ("python", "base", "wrong"),
    [
        ("/opt/*/python", BASE, "no rule for it can be written"),
        (FAR, "profile libvirtd /usr/sbin/libvirtd {\n}\n", "no rule for it can be written"),
        (FAR, BASE, "syntax error"),
    ],
)
def test_what_cannot_be_allowed_is_refused_and_nothing_changed(
    kernel: Kernel, python: str, base: str, wrong: str
) -> None:
    kernel.put("etc/apparmor.d/usr.sbin.libvirtd", base)
    kernel.wrong = "syntax error"
    with pytest.raises(
        GuestnetError, match=f"forbids libvirtd to run .*{wrong}.*install libvirt-guestnet for /usr/bin/py"
    ):
        kernel.allow(python)
    assert (kernel.local.exists(), kernel.loaded) == (False, "")


def test_doctor_demands_it() -> None:
    facts = host_facts.HostFacts(confined=(apparmor.Confined("libvirtd", "libvirtd", FAR),))
    (row,) = [row for row in judge.judge(facts) if row.level == finding.MUST]
    assert (row.check, row.about, row.do) == ("hooks", "libvirtd", "guestnet hooks install")
    assert f"AppArmor's profile libvirtd forbids {FAR}" in row.found
