"""`guestnet guard`, `forward` and `address` on real libvirtds: guests that run, and were made by virt-install, without
any file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.adopted_host import WEB, Flow, Host, leased, two_on_default, wires
from support.sandboxes import HERE, LIBVIRTS

from libvirt_guestnet.sandbox import Sandbox

pytestmark = pytest.mark.libvirt


@pytest.fixture(scope="module", params=LIBVIRTS)
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    found: Sandbox = request.getfixturevalue("hooked_sandbox" if request.param == HERE else "trixie_sandbox")
    return found


@pytest.fixture
def host(sandbox: Sandbox) -> Iterator[Host]:
    made = Host(sandbox)
    yield made
    made.guestnet("destroy", "--name", "direct", status=None)
    made.clear()


def test_a_running_guest_is_guarded_and_given_back(host: Host) -> None:
    two_on_default(host)
    before, tap = host.texts(), host.tap("web", WEB)
    sender, receiver = wires(host)
    with sender, receiver:
        ip = leased(sender, WEB)
        with Flow(sender, receiver, ip) as flow:
            said = host.guestnet("guard", "on", "web")
            print(said)
            assert f"web: NIC {WEB} on network default (tap {tap}): guarded; addresses by DHCP, now {ip}" in said
            flow.forge()
            assert host.guarded() == {tap: WEB}, "nobody else is"
            assert "nothing to do" in host.guestnet("guard", "on", "web")
            status = host.guestnet("status")
            print(status)
            print(host.guestnet("import"))
            print(host.guestnet("guard", "off", "web"))
            assert host.guarded() == {}
    assert host.differences(before) == []
    assert host.files("networks") == {}
