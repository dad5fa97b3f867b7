"""Towards a guarded port: nobody draws its traffic by its MAC address, and it hears nothing that is for others.

Real taps on a bridge of libvirt's; what the hooks do to it is asked of `bridge`, and proven with frames.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from support.kernel_bridge import ANN, BOB, LENT, MACS, OWNER, TOM, VIRTUAL, Host, domain, network, on_one, send


@pytest.fixture
def host() -> Iterator[Host]:
    with on_one() as host:
        yield host


def test_nobody_draws_a_guests_traffic_and_no_guest_hears_anothers(host: Host) -> None:
    host.start(ANN, BOB, TOM)
    far = "02:00:00:00:00:99"
    with host.wire() as wire:
        assert wire.stdout and wire.stdout.readline() == "ready\n"
        # Neither Ann nor Bob has ever sent anything.
        assert send(wire, "nic", MACS["ann"], far) == {"ann"}
        for thief in ("nic", "tom"):
            send(wire, thief, "ff:ff:ff:ff:ff:ff", MACS["ann"])
            assert send(wire, "nic", MACS["ann"], far) == {"ann"} - {thief}
            assert send(wire, "tom", MACS["ann"], MACS["tom"]) == {"ann"}
        assert send(wire, "tom", "02:00:00:00:00:77", MACS["tom"]) == {"nic"}, "unknown: only the port to the outside"
        assert send(wire, "nic", "02:00:00:00:00:77", far) == {"tom"}, "and who is trusted"
        assert send(wire, "nic", "ff:ff:ff:ff:ff:ff", far) == {"ann", "bob", "tom"}
        assert wire.stdin
        wire.stdin.close()


def test_a_ports_entry_comes_with_its_guard_and_goes_with_it(host: Host) -> None:
    host.start(ANN, BOB, TOM)
    assert host.held() == {MACS["ann"]: {"ann"}, MACS["bob"]: {"bob"}}
    assert [host.settings(tap) for tap in (*MACS, "nic")] == [(False, False)] * 2 + [(True, True)] * 2
    host.start(domain("ann", 'guarded="no"/>'))
    assert (host.held(), host.settings("ann")) == ({MACS["bob"]: {"bob"}}, (True, True))
    host.start(ANN, ANN)
    assert host.held() == {MACS["ann"]: {"ann"}, MACS["bob"]: {"bob"}}
    assert host.call("qemu", "ann", "release", ANN) == (0, "")
    assert (host.held(), host.settings("ann")) == ({MACS["bob"]: {"bob"}}, (True, True))


def test_a_mac_that_another_port_holds_refuses_the_start(host: Host) -> None:
    host.start(ANN)
    status, said = host.call("qemu", "bob", "start", domain("bob", OWNER.format(3), MACS["ann"]))
    assert status == 1
    assert f"bob: MAC address {MACS['ann']} is that of port ann of the same bridge" in said
    assert host.held() == {MACS["ann"]: {"ann"}}


@pytest.mark.parametrize("whose", ["br-one", "nic", "far"])
def test_a_mac_of_the_bridges_own_or_of_somebody_behind_it_refuses_the_start(host: Host, whose: str) -> None:
    """The guest would get what is for the host, who is its neighbours' gateway."""
    host.box.ok("ip", "link", "set", "br-one", "address", "52:54:00:00:00:f1")
    host.box.ok("bridge", "fdb", "add", "02:00:00:00:00:99", "dev", "nic", "master", "static")
    shown = json.loads(host.box.ok("ip", "-j", "link", "show", "nic"))[0]["address"]
    mac = {"br-one": "52:54:00:00:00:f1", "nic": shown, "far": "02:00:00:00:00:99"}[whose]
    before = host.box.ok("bridge", "fdb", "show", "br", "br-one")
    status, said = host.call("qemu", "ann", "start", domain("ann", OWNER.format(2), mac))
    assert (status, host.box.ok("bridge", "fdb", "show", "br", "br-one")) == (1, before)
    port = "br-one" if whose == "br-one" else "nic"
    assert f"ann: MAC address {mac} is that of port {port} of the same bridge" in said
    host.start(ANN)


def test_what_the_bridge_had_learnt_is_corrected(host: Host) -> None:
    with host.wire() as wire:
        assert wire.stdout and wire.stdout.readline() == "ready\n"
        send(wire, "nic", "ff:ff:ff:ff:ff:ff", MACS["ann"])
        host.start(ANN)
        assert send(wire, "tom", MACS["ann"], MACS["tom"]) == {"ann"}
        assert wire.stdin
        wire.stdin.close()


def test_a_virtual_mac_moves_between_its_ports(host: Host) -> None:
    lent = OWNER.replace("</guestnet:port>", f"{LENT}</guestnet:port>")
    host.start(domain("ann", lent.format(2)), domain("bob", lent.format(3)))
    assert host.held() == {MACS["ann"]: {"ann"}, MACS["bob"]: {"bob"}}, "the virtual one is at neither for good"
    announcement = "0806 " + "0001080006040001" + VIRTUAL.replace(":", "") + "0a000009" + "0" * 12 + "0a000009"
    with host.wire() as wire:
        assert wire.stdout and wire.stdout.readline() == "ready\n"
        for master in ("ann", "bob", "ann"):
            send(wire, master, "ff:ff:ff:ff:ff:ff", VIRTUAL, announcement)
            assert send(wire, "nic", VIRTUAL, "02:00:00:00:00:99") == {master}
        assert wire.stdin
        wire.stdin.close()


def test_a_guest_that_migrates_to_here_is_behind_the_uplink_until_it_arrives(host: Host) -> None:
    assert host.call("qemu", "ann", "migrate", ANN) == (0, "")
    host.start(ANN)
    assert host.held() == {}
    assert host.settings("ann") == (False, True), "it is found in the moment in which it runs here"
    assert host.call("qemu", "ann", "started", ANN) == (0, "")
    assert (host.held(), host.settings("ann")) == ({MACS["ann"]: {"ann"}}, (False, False))
    assert host.call("qemu", "ann", "release", ANN) == (0, "")
    assert host.box.ok("ls", "/run/libvirt-guestnet/incoming") == ""


def test_where_libvirt_keeps_the_entries_itself_they_are_libvirts(host: Host) -> None:
    assert host.call("network", "one", "updated", network(" macTableManager='libvirt'")) == (0, "")
    host.start(ANN)
    assert (host.held(), host.settings("ann")) == ({}, (True, True))


def test_a_bridge_that_was_there_before_is_left_alone(host: Host) -> None:
    assert host.call("network", "one", "stopped", network()) == (0, "")
    host.start(ANN)
    assert (host.held(), host.settings("ann")) == ({}, (True, True))
