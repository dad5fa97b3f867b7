"""Which devices are gone: /sys may be another namespace's, or not there, and no guard may go for that."""

from __future__ import annotations

import os

import pytest

from libvirt_guestnet.datapath.netlink import links


def test_gone_is_what_neither_sys_nor_the_kernel_knows() -> None:
    assert links.missing({"lo", "tap-of-nobody"}) == {"tap-of-nobody"}
    assert links.missing(set()) == set()


def _unreadable(_folder: str) -> list[str]:
    raise FileNotFoundError


@pytest.mark.parametrize("listed", [lambda _folder: ["eth7"], _unreadable])
def test_what_sys_does_not_list_is_asked_for(listed: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "listdir", listed)
    assert links.missing({"lo", "tap-of-nobody"}) == {"tap-of-nobody"}
