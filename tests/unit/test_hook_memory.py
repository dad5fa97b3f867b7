"""Processes of the hook that live on for years do not gather what they have read."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from libvirt_guestnet import xmlread
from libvirt_guestnet.hook import main
from libvirt_guestnet.hook.calls import repair
from libvirt_guestnet.hook.read.domain import Domain
from libvirt_guestnet.hook.services import watch

NIC = "<interface type='network'><source network='n'/><target dev='v'/></interface>"
XML = f"<domain><name>g</name><devices>{20 * NIC}</devices></domain>".encode()
READ = 1_000


@pytest.fixture(autouse=True)
def as_a_hook_starts() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(100_000)
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


@pytest.mark.parametrize("process", [watch, repair], ids=["watch", "repair"])
def test_domains_that_were_read_are_freed(process: object, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: weakref.WeakSet[Domain] = weakref.WeakSet()
    most = 0

    def read_many() -> int:
        nonlocal most
        for _ in range(READ):
            alive.add(Domain(xmlread.parse(XML)))
            most = max(most, len(alive))
        return 0

    monkeypatch.setattr(process, "main", read_many)
    assert main.main(["main.py", process.__name__.rpartition(".")[2]]) == 0  # type: ignore[attr-defined]
    assert most < READ / 4
