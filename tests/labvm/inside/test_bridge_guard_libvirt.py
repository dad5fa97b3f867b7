"""The bridge guard under real libvirt: NICs of which no hook hears, and those of which one does."""

from __future__ import annotations

import json
import time

import pytest
from support import libvirt_host as guests
from support.labvm_real import announcement
from support.libvirt_wire import Wire

from libvirt_guestnet.sandbox import Sandbox, python_inside

pytestmark = pytest.mark.only("trixie")  # minutes each: test_libvirt.py is the other one's


POLICY = f"""<g:domain {guests.XMLNS} topology="t" guest="{{}}">
  <g:port mac="{{}}" name="p" network="one" guarded="yes"><g:address ip="10.61.1.51"/></g:port>
  <g:port mac="{{}}" name="late" network="one" guarded="yes"><g:address ip="10.61.1.52"/></g:port></g:domain>"""


class Slow(guests.Host):
    """In here all is ten times slower."""

    virsh_seconds, soon_seconds = 120.0, 180.0


def test_a_nic_that_no_hook_hears_of_passes_nothing_until_sync(hooked_sandbox: Sandbox) -> None:
    host = Slow(hooked_sandbox)
    host.networks()
    mac = guests.mac(1, 2)
    for number, name in enumerate(("a", "b"), start=1):
        host.guest(name, "one", number=number, policy=POLICY.format(name, guests.mac(number, 0), mac))
        host.virsh("start", name)
    host.virsh("attach-interface", "a", "bridge", "br-one", "--mac", mac, "--model", "rtl8139", "--live")
    (tap,) = (tap for tap, address in host.nics("a").items() if address == mac)
    with Wire(hooked_sandbox, "a") as first, Wire(hooked_sandbox, "a", "net1") as new, Wire(hooked_sandbox, "b") as b:
        mine, honest = announcement(mac, "10.61.1.52"), announcement(guests.mac(1, 0), "10.61.1.51")
        forged = announcement(mac, "10.61.1.1")
        assert network_row(host) == ("on", [tap])
        assert sent_before(honest, first, new, b, [mine]) == []
        cli(host, "hooks", "sync")
        assert network_row(host) == ("on", [])
        assert sent_before(honest, first, new, b, [mine, forged]) == [mine]
    host.virsh("attach-interface", "a", "network", "one", "--mac", guests.mac(1, 3), "--model", "rtl8139", "--live")
    host.soon(lambda: guests.mac(1, 3) in host.guarded().values(), "the helper guards a NIC of type network")
    assert network_row(host) == ("on", [])
    cli(host, "hooks", "uninstall")
    assert "guestnet" not in hooked_sandbox.run(["nft", "list", "tables"]).stdout


def sent_before(honest: bytes, first: Wire, new: Wire, hearer: Wire, data: list[bytes]) -> list[bytes]:
    """Those of a new NIC's frames that are heard before an honest one of the first NIC."""
    new.send(*data)
    time.sleep(0.5)
    first.send(honest)
    heard = [frame[:60] for frame in hearer.receive_until(honest)]
    return [frame for frame in data if frame in heard]


def network_row(host: guests.Host) -> tuple[str, list[str]]:
    rows = json.loads(cli(host, "status", "--json", check=False))  # 3 while nobody guards that NIC
    (row,) = (row for row in rows if row["kind"] == "network" and row["name"] == "one")
    return row["bridge_guard"], row["silent"]


def cli(host: guests.Host, *words: str, check: bool = True) -> str:
    return host.sandbox.run(python_inside(["-m", "libvirt_guestnet.cli", *words]), timeout=480, check=check).stdout
