"""A guest that keeps a NIC which is to go: why that may be."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from libvirt_guestnet.changes import guest
from libvirt_guestnet.errors import GuestnetError

NIC = "<interface type='network'><mac address='52:54:00:00:00:01'/><source network='a'/></interface>"


@pytest.mark.parametrize(
    ("arch", "features", "said"),
    [
        ("x86_64", "", "it has no ACPI, without which it cannot: shut it down, and add <acpi/>"),
        ("x86_64", "<features><apic/></features>", "it has no ACPI"),
        ("x86_64", "<features><acpi/></features>", "is an operating system running in it"),
        ("s390x", "", "is an operating system running in it"),
    ],
)
def test_a_guest_that_keeps_its_nic(monkeypatch: pytest.MonkeyPatch, arch: str, features: str, said: str) -> None:
    monkeypatch.setattr(guest, "UNPLUG_SECONDS", 0.0)
    xml = f"<domain><os><type arch='{arch}'>hvm</type></os>{features}<devices>{NIC}</devices></domain>"
    run: Any = SimpleNamespace(libvirt=SimpleNamespace(live_xml=lambda _: xml, detach=lambda *_, **__: None))
    with pytest.raises(GuestnetError, match=f"has not let go of NIC 52:54:00:00:00:01 .*{said}"):
        guest.unplug(run, "g", NIC)
