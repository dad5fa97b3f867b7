"""libvirt's limits of a NIC's bandwidth beside the checksum guard: they want the same place at its tap."""

from __future__ import annotations

import os

from support import libvirt_host as guests

from libvirt_guestnet.sandbox import Sandbox, python_inside

# Before, the guard is in the qdisc that libvirt deletes with every change.
HAS_TCX = tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 6)
LIMITED = "<bandwidth><inbound average='1000'/><outbound average='1000'/></bandwidth>"
LOOK = "from libvirt_guestnet.hook.services.watch import _Watch; _Watch().look()"


class Slow(guests.Host):
    """In here all is ten times slower."""

    virsh_seconds, soon_seconds = 120.0, 180.0


def test_limits_of_bandwidth_and_the_checksum_guard_share_a_tap(hooked_sandbox: Sandbox) -> None:
    host = Slow(hooked_sandbox)
    host.networks()
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
