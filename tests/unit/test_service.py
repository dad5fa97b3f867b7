"""The service that watches over the host's rules: installed where systemd runs, and a unit that systemd understands."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from libvirt_guestnet.install import service


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    made: list[tuple[str, ...]] = []
    monkeypatch.setattr(service, "_systemctl", lambda *arguments: made.append(arguments))
    return made


def unit(root: Path) -> Path:
    return root / "etc/systemd/system" / service.NAME


def test_it_is_installed_once_and_taken_away_again(tmp_path: Path, calls: list[tuple[str, ...]]) -> None:
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    service.install(tmp_path)
    assert calls == [("daemon-reload",), ("enable", service.NAME), ("restart", service.NAME)]
    service.install(tmp_path)
    assert len(calls) == 3
    service.uninstall(tmp_path)
    assert calls[3:] == [("disable", "--now", service.NAME)]
    assert not unit(tmp_path).exists()
    service.uninstall(tmp_path)
    assert len(calls) == 4


def test_without_systemd_there_is_nothing_to_do(tmp_path: Path, calls: list[tuple[str, ...]]) -> None:
    service.install(tmp_path)
    service.uninstall(tmp_path)
    assert calls == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.system
def test_systemd_understands_the_unit(tmp_path: Path, calls: list[tuple[str, ...]]) -> None:
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    service.install(tmp_path)
    text = unit(tmp_path).read_text()
    assert "@" not in text.split("[Unit]")[1]
    # Nobody else puts rules back: systemd must not give up after five quick ends.
    assert "StartLimitIntervalSec=0" in text.split("[Service]")[0].splitlines()
    assert "Restart=on-failure" in text.splitlines()
    argv = ["systemd-analyze", "verify", "--man=no", str(unit(tmp_path))]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    complaints = [line for line in done.stderr.splitlines() if service.NAME in line]
    assert complaints == []
