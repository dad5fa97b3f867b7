"""Guests that migrate to this host: who is one, and who waits for it."""

import os
import select
from pathlib import Path

import pytest

from libvirt_guestnet import xmlread
from libvirt_guestnet.hook.processes import incoming
from libvirt_guestnet.hook.read import libvirt_records
from libvirt_guestnet.hook.read.domain import Domain
from libvirt_guestnet.state.locked import UnlockedState

DOMAIN = Domain(xmlread.parse(b"<domain><name>a</name><uuid>00000000-0000-4000-8000-00000000000a</uuid></domain>"))


@pytest.mark.parametrize(
    ("record", "is_incoming"),
    [
        ("state='paused' reason='migration'><job type='none' async='migration in' phase='prepare'/>", True),
        ("state='paused' reason='migration'><job type='none' async='start'/>", False),  # restored paused
        ("state='paused' reason='migration'>", False),
        ("state='paused' reason='user'><job type='none' async='migration in'/>", False),
        ("state='running' reason='migrated'><job type='none' async='migration in'/>", False),
    ],
)
def test_a_restored_guest_is_no_incoming_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: str, is_incoming: bool
) -> None:
    monkeypatch.setattr(libvirt_records, "STATUS", f"{tmp_path}/{{}}.xml")
    assert not incoming.is_incoming(DOMAIN), "it is only about to start"
    (tmp_path / "a.xml").write_text(f"<domstatus {record}</domstatus>")
    assert incoming.is_incoming(DOMAIN) is is_incoming


def test_one_helper_waits_for_a_guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many calls, syncs and repairs come meanwhile; when it is gone, the next call leaves another."""
    told, tell = os.pipe()
    ended, end = os.pipe()

    def wait(*_: object) -> None:
        os.write(tell, b"w")
        os.read(ended, 1)

    monkeypatch.setattr(incoming, "_wait", wait)
    state = UnlockedState(str(tmp_path))
    for _ in range(3):
        incoming.leave_helper(DOMAIN, [], lambda: None, state)
    assert os.read(told, 3) == b"w"
    assert not select.select([told], [], [], 0.2)[0]
    assert state.incoming("a")
    for _ in range(600):
        os.write(end, b"e") if not select.select([ended], [], [], 0)[0] else None
        incoming.leave_helper(DOMAIN, [], lambda: None, state)
        if select.select([told], [], [], 0.1)[0]:
            break
    else:
        pytest.fail("nobody waits any more")
    os.write(end, b"eee")
