"""A guest whose port is only observed, on real daemons: it forges, is told of, and is guarded while it runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import frames
import pytest
from make import arp, mine
from support.libvirt_wire import NO_ROM, Wire, arrived, domain

from libvirt_guestnet.metadata.policy import NAMESPACE
from libvirt_guestnet.sandbox import Sandbox, python_inside

NETWORK = f"""<network><name>shop</name><metadata><g:network xmlns:g="{NAMESPACE}" topology="t" name="shop"
  guarded="observe"><g:subnet prefix="10.61.1.0/24" host="10.61.1.1"/></g:network></metadata>
  <bridge name="shop0" stp="off"/><ip address="10.61.1.1" netmask="255.255.255.0"/></network>"""
NIC = """<interface type='network'><mac address='{}'/><source network='shop'/><model type='rtl8139'/>{}</interface>"""
ADDRESSES = {"me": (frames.ME, frames.ME4), "them": (frames.THEM, frames.THEM4)}
FORGED = [mine(arp("10.61.1.50")), mine(arp(frames.THEM4)), mine(arp("10.61.1.1"))]


def policy(name: str, guarded: str) -> str:
    mac, address = ADDRESSES[name]
    return (
        f'<g:domain xmlns:g="{NAMESPACE}" topology="t" guest="{name}"><g:port mac="{mac}" name="p" network="shop" '
        f'guarded="{guarded}"><g:address ip="{address}"/></g:port></g:domain>'
    )


@pytest.fixture(scope="module")
def sandbox(each_sandbox: Sandbox) -> Iterator[Sandbox]:
    each_sandbox.run(["virsh", "-q", "net-create", "/dev/stdin"], stdin=NETWORK)
    for name, guarded in (("me", "observe"), ("them", "yes")):
        nic = NIC.format(ADDRESSES[name][0], NO_ROM)
        each_sandbox.run(
            ["virsh", "-q", "create", "/dev/stdin"], stdin=domain(name, nic, metadata=policy(name, guarded))
        )
    yield each_sandbox
    for name in ADDRESSES:
        each_sandbox.run(["virsh", "-q", "destroy", name], timeout=240, check=False)
    each_sandbox.run(["virsh", "-q", "net-destroy", "shop"])


@pytest.fixture(scope="module")
def wires(sandbox: Sandbox) -> Iterator[list[Wire]]:
    """Of the observed guest and its neighbour; a domain that was restored has none yet."""
    with Wire(sandbox, "me") as sender, Wire(sandbox, "them") as receiver:
        yield awaited(sender, receiver)


def awaited(sender: Wire, receiver: Wire) -> list[Wire]:
    """Both, once their ports forward: the bridge takes a moment."""
    for _ in range(240):
        sender.send(mine(arp(frames.ME4, target="10.61.1.99")))
        with suppress(AssertionError):
            receiver.receive_until(mine(arp(frames.ME4, target="10.61.1.99")), 1)
            return [sender, receiver]
    raise AssertionError("no honest frame arrives")


def passing(wires: list[Wire]) -> list[bytes]:
    """What of the forged frames arrives."""
    sender, receiver = wires
    return arrived(sender, receiver, FORGED, mine(arp(frames.ME4)))


def guestnet(sandbox: Sandbox, *argv: str) -> Any:
    done = sandbox.run(python_inside(["-m", "libvirt_guestnet.cli", *argv], sandbox.root), timeout=240)
    return json.loads(done.stdout) if "--json" in argv else done.stdout


def port(sandbox: Sandbox, name: str) -> dict[str, Any]:
    rows = guestnet(sandbox, "status", "--json")
    found: dict[str, Any] = next(row for row in rows if row["kind"] == "port" and row["guest"] == name)
    return found


def change(sandbox: Sandbox, guarded: str) -> None:
    """As `guestnet apply` does: the metadata of the running guest, and its filter after it."""
    xml = policy("me", guarded).replace(f' xmlns:g="{NAMESPACE}"', "").replace("g:", "")
    sandbox.run(["virsh", "-q", "metadata", "me", NAMESPACE, "--key", "g", "--set", xml, "--live"])
    guestnet(sandbox, "hooks", "sync")


def test_an_observed_guest_is_told_of_and_guarded_while_it_runs(sandbox: Sandbox, wires: list[Wire]) -> None:
    assert passing(wires) == FORGED
    row = port(sandbox, "me")
    assert (row["guarded"], row["observed"], row["reasons"]) == (False, True, {"ARP": 3})
    assert (port(sandbox, "them")["guarded"], port(sandbox, "them")["observed"]) == (True, False)
    assert "OBSERVED, nothing is dropped" in guestnet(sandbox, "status")
    (said,) = guestnet(sandbox, "suggest", "me.p", "--json")
    assert said["declare"] == {"addresses": [frames.ME4, "10.61.1.50"]}
    assert [warning.split(":")[0] for warning in said["warnings"]] == [
        "10.61.1.1 is the host's",
        f"{frames.THEM4} is that of them on shop",
    ]
    change(sandbox, "yes")
    assert passing(wires) == []
    assert (port(sandbox, "me")["guarded"], port(sandbox, "me")["observed"]) == (True, False)
    change(sandbox, "observe")
    assert passing(wires) == FORGED


def test_a_daemons_restart_and_a_save_leave_it_observed(sandbox: Sandbox, wires: list[Wire]) -> None:
    passing(wires)
    sandbox.stop_libvirtd()
    sandbox.start_libvirtd()
    guestnet(sandbox, "hooks", "sync")
    assert port(sandbox, "me")["observed"]
    assert guestnet(sandbox, "suggest", "me", "--json")[0]["declare"] == {"addresses": [frames.ME4, "10.61.1.50"]}
    sandbox.run(["virsh", "-q", "save", "me", "/tmp/me.save"], timeout=240)
    sandbox.run(["virsh", "-q", "restore", "/tmp/me.save"], timeout=240)
    assert port(sandbox, "me")["observed"]
    with Wire(sandbox, "me") as sender:
        assert passing(awaited(sender, wires[1])) == FORGED
