"""libvirt's limits of a NIC's bandwidth beside the checksum guard and an impairment, which want the same places."""

from __future__ import annotations

import json
import os

import pytest
from support import libvirt_host as guests

from libvirt_guestnet.sandbox import Sandbox, python_inside

# Before, the guard is in the qdisc that libvirt deletes with every change.
HAS_TCX = tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 6)
LIMITED = "<bandwidth><inbound average='1000'/><outbound average='1000'/></bandwidth>"
PORT = """<g:port mac="{mac}" name="p{number}" network="one" guarded="yes"><g:address ip="10.61.1.1{number}"/>
<g:impairment delay="20ms"/></g:port>"""
SENDS_LESS = "<bandwidth><outbound average='1000'/></bandwidth>"
LOOK = "from libvirt_guestnet.hook.services.watch import _Watch; _Watch().look()"


class Slow(guests.Host):
    """In here all is ten times slower."""

    virsh_seconds, soon_seconds = 600.0, 600.0

    def root(self, tap: str) -> str:
        (found,) = json.loads(self.sandbox.run(["tc", "-j", "qdisc", "show", "dev", tap, "root"]).stdout)
        return str(found["kind"])


@pytest.fixture(scope="module")
def host(hooked_sandbox: Sandbox) -> Slow:
    made = Slow(hooked_sandbox)
    made.networks()
    return made


def test_limits_of_bandwidth_and_the_checksum_guard_share_a_tap(host: Slow) -> None:
    nic = guests.NIC.format(network="one", mac=guests.mac(1, 0)).replace("<rom", f"{LIMITED}<rom")
    host.define("create", guests.DOMAIN.format(name="a", uuid=guests.uuid(1), policy="", nics=nic))
    (tap,) = host.nics("a")
    assert host.checksum_guards() == {"lost": [], "counted": [tap]}
    assert limits(host, tap) == {"htb", "police"}
    host.soon(lambda: host.helpers() == [], "the guard is where it stays")
    for change, left in ((("--outbound", "0"), {"htb"}), (("--outbound", "2000"), {"htb", "police"})):
        host.virsh("domiftune", "a", tap, *change, "--live")
        assert limits(host, tap) == left
        assert host.checksum_guards()["lost"] == ([] if HAS_TCX else [tap])
        host.sandbox.run(python_inside(["-c", LOOK], host.sandbox.root), timeout=480)
        assert (limits(host, tap), host.checksum_guards()["lost"]) == (left, [])
    host.sandbox.run(["tee", "/tmp/nic.xml"], stdin=nic.replace(guests.mac(1, 0), guests.mac(1, 1)))
    host.virsh("attach-device", "a", "/tmp/nic.xml", "--live")
    host.soon(lambda: len(host.guarded()) == 2 and host.helpers() == [], "the plugged NIC is guarded")
    assert host.checksum_guards()["lost"] == []
    assert all(limits(host, each) == {"htb", "police"} for each in host.nics("a"))
    host.virsh("destroy", "a")


def limits(host: guests.Host, tap: str) -> set[str]:
    """What libvirt has at a tap."""
    shown = (["qdisc", "show", "dev", tap], ["filter", "show", "dev", tap, "ingress"])
    text = "".join(host.sandbox.run(["tc", *words]).stdout for words in shown)
    return {word for word in ("htb", "police") if word in text}


def test_libvirt_limits_what_an_impaired_guest_sends(host: Slow) -> None:
    """Before it does so, it deletes all qdiscs of a tap: of a new one before the hook is called, of a plugged one after
    that, and of both when the limit changes."""
    first, second = (
        guests.NIC.format(network="one", mac=guests.mac(1, number)).replace("<rom", f"{SENDS_LESS}<rom")
        for number in (0, 1)
    )
    ports = "".join(PORT.format(mac=guests.mac(1, number), number=number) for number in (0, 1))
    policy = f'<g:domain {guests.XMLNS} topology="t" guest="a">{ports}</g:domain>'
    host.define("create", guests.DOMAIN.format(name="a", uuid=guests.uuid(1), policy=policy, nics=first))
    (tap,) = host.nics("a")
    assert host.root(tap) == "netem"
    host.sandbox.run(["tee", "/tmp/nic.xml"], stdin=second)
    host.virsh("attach-device", "a", "/tmp/nic.xml", "--live")
    (other,) = set(host.nics("a")) - {tap}
    host.soon(lambda: host.root(other) == "netem" and host.helpers() == [], "the plugged NIC is impaired")
    host.virsh("domiftune", "a", tap, "--outbound", "2000", "--live")
    assert host.root(tap) != "netem"
    host.sandbox.run(python_inside(["-m", "libvirt_guestnet.cli", "hooks", "sync"], host.sandbox.root), timeout=480)
    assert (host.root(tap), host.root(other)) == ("netem", "netem")
    host.virsh("destroy", "a")
    assert host.files("impaired") == {}
