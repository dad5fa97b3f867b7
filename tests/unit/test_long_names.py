"""Names that no file can have: nothing is known of what is called so, and nobody else has to pay for it."""

from __future__ import annotations

import pytest

from libvirt_guestnet.hook import concern
from libvirt_guestnet.hook.read import libvirt_records

UUID = "0b5e0000-0000-4000-8000-00000000000a"
LONG = "x" * 12_000


def port(owner: str) -> bytes:
    return f"<networkport><uuid>{UUID}</uuid><owner><name>{owner}</name></owner></networkport>".encode()


@pytest.mark.parametrize(
    ("network", "owner", "waits"), [("n", LONG, False), (LONG, "guest", True), ("n", "../x", False)]
)
def test_a_port_of_such_a_name_is_looked_at_or_nothing_of_ours(network: str, owner: str, waits: bool) -> None:
    assert concern._can_wait(network, port(owner)) is waits


@pytest.mark.parametrize("name", [LONG, "../qemu.conf", "a\0b", ""])
def test_there_is_no_record_of_such_a_domain(name: str) -> None:
    assert (libvirt_records.status(name), libvirt_records.record(name), libvirt_records.record_size(name)) == (
        None,
        None,
        0,
    )
