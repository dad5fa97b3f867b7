"""Other domains name a running guest's tap, or its MAC: the guest keeps all that it has, whatever they say."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.box import Box
from support.hooks import SETTLED, repaired
from support.kernel_guests import (
    FORWARD,
    MAC,
    NEW_PORT,
    PORT,
    ROUTED,
    ROUTED_TAP,
    ROUTED_UUID,
    SETUP,
    TAP,
    UUID,
    A,
    C,
    domain,
    nic,
    policy,
    port_created,
)
from support.kernel_host import Host

from libvirt_guestnet.hook.helpers.hotplug import HELPER_SECONDS

LIBRARY = str(Path(__file__).parents[2])
THIEF_UUID, THIEF_MAC = "63000000-0000-4000-8000-00000000000b", "52:54:00:00:00:0b"
X_UUID = "63000000-0000-4000-8000-0000000000f1"
TAKEN = f"tap {TAP} belongs to domain 'a', which runs"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    box = Box()
    box.ok("sh", "-c", SETUP)
    host = Host(box, tmp_path)
    host.running("a", A)
    host.running("c", C)
    yield host
    box.close()


def thief(kind: str, tap: str = TAP, metadata: str = "", mac: str = THIEF_MAC) -> bytes:
    return domain("thief", THIEF_UUID, metadata, nic(kind, tap, mac))


MAKES_NO_TAP = (
    "user",
    "direct",
    "hostdev",
    "vhostuser",
    "vdpa",
    "mcast",
    "server",
    "client",
    "udp",
    "internal",
    "null",
)
MAKES_A_TAP = ("network", "bridge", "ethernet")
OWN = policy(THIEF_MAC, "10.61.1.66", FORWARD.replace("8080", "9090").replace("10.61.1.10", "10.61.1.66"))


def test_the_guests_have_all_there_is(host: Host) -> None:
    """Or the other tests would see nothing go."""
    have = host.all()
    for part in ("tap-vme0a", "tap-vme0c", "tcp/8080", "198.18.1.50", "10.61.99.0/24", "198.18.1.60", "gateways"):
        assert part in have.replace("tcp . 8080", "tcp/8080"), part


def test_a_name_without_a_tap_says_nothing(host: Host) -> None:
    before = host.all()
    nics = (nic(kind, tap, THIEF_MAC) for kind in MAKES_NO_TAP for tap in (TAP, ROUTED_TAP))
    thief = domain("thief", THIEF_UUID, "", *nics)
    host.running("thief", thief)
    assert host.call("qemu", "thief", "reconnect", "begin", thief) == (0, "")
    for operation in ("stopped", "release"):
        assert host.call("qemu", "thief", operation, "end", thief) == (0, "")
    assert host.all() == before


@pytest.mark.parametrize("metadata", ["", OWN], ids=["plain", "with a policy of its own"])
@pytest.mark.parametrize("kind", MAKES_A_TAP)
def test_a_tap_of_a_running_guest_refuses_the_start(host: Host, kind: str, metadata: str) -> None:
    """As the hook sees it where queues of two guests are attached to one tap."""
    before = host.all()
    for tap, owner in ((TAP, "a"), (ROUTED_TAP, "c")):
        status, stderr = host.call("qemu", "thief", "start", "begin", thief(kind, tap, metadata))
        assert (status, stderr.count("\n")) == (1, 1)
        assert f"domain 'thief': tap {tap} belongs to domain '{owner}', which runs: give the interface" in stderr
        # What libvirt says then.
        for operation in ("stopped", "release"):
            assert host.call("qemu", "thief", operation, "end", thief(kind, tap, metadata)) == (0, "")
    assert host.all() == before


def test_a_host_routed_thief_is_refused_too(host: Host) -> None:
    before = host.all()
    stolen = policy(THIEF_MAC, "198.18.1.77", ROUTED)
    for tap in (TAP, ROUTED_TAP):
        for operation in ("start", "started"):
            status, stderr = host.call("qemu", "thief", operation, "begin", thief("ethernet", tap, stolen))
            assert status == 1
            assert f"tap {tap} belongs to domain" in stderr
    assert host.all() == before


def test_a_guest_under_another_name_is_the_same_guest(host: Host) -> None:
    """Renamed, or migrated here as `--dname`; reverted to a snapshot, or restored from a file, with its old taps or
    new ones."""
    renamed = A.replace(b"<name>a<", b"<name>a2<")
    assert host.call("qemu", "a2", "start", "begin", renamed) == (0, "")
    assert "10.61.1.10" in host.chain(TAP)
    host.box.ok("sh", "-c", f"ip link del {TAP}; ip tuntap add {TAP} mode tap; ip link set {TAP} master br0 up")
    host.running("a2", renamed)
    assert "10.61.1.10" in host.chain(TAP)
    status, stderr = host.call("qemu", "thief", "start", "begin", thief("bridge"))
    assert (status, "belongs to domain 'a2'" in stderr) == (1, True)
    assert host.call("qemu", "a2", "release", "end", renamed) == (0, "")
    assert host.chains() == [ROUTED_TAP]


def test_a_new_device_of_that_name_is_its_new_owners_with_nothing_left_over(host: Host) -> None:
    """The guests' `release` calls never came, and their taps are gone."""
    for tap in (TAP, ROUTED_TAP):
        host.box.ok("sh", "-c", f"rm /run/libvirt/qemu/*; ip link del {tap}; ip tuntap add {tap} mode tap")
        host.box.ok("touch", "/run/libvirt/qemu/none.xml")
    plain = domain("thief", THIEF_UUID, "", nic("bridge", TAP, THIEF_MAC), nic("ethernet", ROUTED_TAP, THIEF_MAC))
    assert host.call("qemu", "thief", "start", "begin", plain) == (0, "")
    assert host.chains() == []
    for operation, end in (("started", "begin"), ("release", "end")):
        assert host.call("qemu", "thief", operation, end, plain) == (0, "")
    have = host.all()
    assert host.receipts() == []
    for part in ("tap-vme", "10.61.99.0/24", "198.18.1.60", "198.18.1.50", "8080", "arp guestnet", "-A GUESTNET"):
        assert part not in have, part


def test_a_new_device_of_that_name_gets_its_own_policy_alone(host: Host) -> None:
    host.box.ok("sh", "-c", f"ip link del {TAP}; ip tuntap add {TAP} mode tap; ip link set {TAP} master br0")
    host.running("thief", thief("network", TAP, OWN))
    assert "10.61.1.66" in host.chain(TAP)
    assert "10.61.1.10" not in host.chain(TAP)
    # The late `release` of the old one.
    assert host.call("qemu", "a", "release", "end", A) == (0, "")
    assert "10.61.1.66" in host.chain(TAP)
    have = host.all()
    assert "9090" in have
    assert not re.search(r"10\.61\.99\.0/24|8080|198\.18\.1\.50", have)


def test_a_thief_that_runs_already_gets_no_tap_of_others_but_keeps_its_own(host: Host) -> None:
    """It was plugged into one of its NICs with no hook's knowing; then the daemon restarts."""
    metadata = policy(THIEF_MAC, "10.61.1.66")
    both = domain("thief", THIEF_UUID, metadata, nic("bridge", TAP, THIEF_MAC), nic("bridge", "vme0b", THIEF_MAC))
    host.record("thief", both)
    a_rules = host.chain(TAP)
    said = repaired(host, "a", "c", "thief")
    assert [line for line in said if TAKEN in line] == [line for line in said if line != "transaction"]
    assert "domain 'thief'" in "".join(said)
    assert host.chain(TAP) == a_rules
    assert "10.61.1.66" in host.chain("vme0b")
    assert host.chains() == ["vme0a", "vme0b", "vme0c"]


def test_of_two_that_nobody_knows_yet_the_first_has_the_tap(host: Host) -> None:
    host.box.ok("sh", "-c", f"{SETTLED}; nft flush ruleset; rm -r /run/libvirt-guestnet/*")
    host.record("thief", thief("bridge", TAP, policy(THIEF_MAC, "10.61.1.66")))
    assert any(TAKEN in line for line in repaired(host, "a", "thief"))
    assert "10.61.1.10" in host.chain(TAP)
    # And from then on it is that one's.
    assert any(TAKEN in line for line in repaired(host, "thief"))
    assert "10.61.1.10" in host.chain(TAP)


@pytest.mark.parametrize("kind", ["user", "direct"])
def test_a_nic_that_only_names_the_tap_is_not_taken_for_one_that_stays_on_the_bridge(host: Host, kind: str) -> None:
    """Or a NIC plugged with its MAC would be, with the guest's tap."""
    before = host.all()
    host.record("thief", thief(kind, TAP, policy(THIEF_MAC, "10.61.1.66")))
    created = port_created("other", THIEF_MAC, "thief", THIEF_UUID, NEW_PORT)
    assert host.call("network", "other", "port-created", "begin", created) == (0, "")
    assert _without_network(host) == before


def _without_network(host: Host) -> str:
    """The network that the call told of is remembered, its helper waits, and what the host routes behind a guest on
    that network passes as on such a network: a call that concerns neither finds all as before."""
    host.box.ok("sh", "-c", "cd /run/libvirt-guestnet; rm -rf networks plugging bridges.json")
    assert host.call("qemu", "other", "release", "end", domain("other", "x", "")) == (0, "")
    return host.all()


def test_a_nic_that_shares_the_tap_moves_nothing(host: Host) -> None:
    before = host.all()
    host.record("thief", thief("network", TAP, policy(THIEF_MAC, "10.61.1.66")))
    created = port_created("other", THIEF_MAC, "thief", THIEF_UUID, NEW_PORT)
    status, stderr = host.call("network", "other", "port-created", "begin", created)
    assert status == 1
    assert TAKEN in stderr
    assert _without_network(host) == before


def test_a_plugged_nic_on_a_neighbours_tap_whose_helper_has_gone_does_not_take_it_down(host: Host) -> None:
    """Nobody waits for that tap, so it is one that a later call sees to."""
    before = host.all()
    created = port_created("lan", THIEF_MAC, "thief", THIEF_UUID, NEW_PORT)
    host.record("thief", domain("thief", THIEF_UUID, policy(THIEF_MAC, "10.61.1.66")))
    assert host.call("network", "lan", "port-created", "begin", created) == (0, "")
    host.signal_helper(signal.SIGKILL)
    host.record("thief", thief("network", TAP, policy(THIEF_MAC, "10.61.1.66")).replace(b"portid=''", f"portid='{NEW_PORT}'".encode()))  # fmt: skip  # noqa: E501
    assert host.call("qemu", "other", "release", "end", domain("other", "x", "")) == (0, "")
    host.soon(lambda: f"{NEW_PORT}.json" not in host.receipts())
    assert _without_network(host) == before


def test_a_plugged_nic_with_a_neighbours_mac_does_not_get_its_tap(host: Host) -> None:
    rules = host.chain(TAP)
    host.record("thief", domain("thief", THIEF_UUID, policy(MAC, "10.61.1.66")))
    created = port_created("lan", MAC, "thief", THIEF_UUID, NEW_PORT)
    assert host.call("network", "lan", "port-created", "begin", created) == (0, "")
    # The kernel tells of a's tap, which has that MAC, too, and then of the new one.
    for state in ("down", "up"):
        host.box.ok("ip", "link", "set", TAP, state)
    host.box.ok("sh", "-c", f"ip link set vme0b address fe{MAC[2:]}; ip link set vme0b master br0")
    host.soon(lambda: "vme0b" in host.chains() and f"{NEW_PORT}.json" not in host.receipts())
    assert host.chain(TAP) == rules
    assert "10.61.1.66" in host.chain("vme0b")


def test_a_second_nic_with_the_mac_of_the_first_is_guarded_too(host: Host) -> None:
    """It could be the first one, of which something changes: libvirt says nothing else then."""
    rules = host.chain(TAP)
    created = port_created("lan", MAC, "a", UUID, NEW_PORT)
    assert host.call("network", "lan", "port-created", "begin", created) == (0, "")
    host.box.ok("ip", "link", "set", TAP, "mtu", "1400")
    host.box.ok("sh", "-c", f"ip link set vme0b address fe{MAC[2:]}; ip link set vme0b master br0")
    host.soon(lambda: "vme0b" in host.chains() and f"{NEW_PORT}.json" not in host.receipts())
    assert (host.chain(TAP), "10.61.1.10" in host.chain("vme0b")) == (rules, True)


def test_nobody_waits_for_a_second_nic_where_the_first_only_changes(host: Host) -> None:
    before = host.all()
    created = port_created("lan", MAC, "a", UUID, NEW_PORT)
    assert host.call("network", "lan", "port-created", "begin", created) == (0, "")
    host.record("a", A.replace(PORT.encode(), NEW_PORT.encode()))
    begun = time.monotonic()
    host.soon(lambda: f"{NEW_PORT}.json" not in host.receipts())
    assert time.monotonic() - begun < HELPER_SECONDS
    assert _without_network(host).replace(NEW_PORT, PORT) == before


def test_a_plugged_nic_with_a_neighbours_mac_is_refused_what_that_one_has(host: Host) -> None:
    host.record("thief", domain("thief", THIEF_UUID, policy(MAC, "10.61.1.66", FORWARD)))
    created = port_created("lan", MAC, "thief", THIEF_UUID, NEW_PORT)
    status, stderr = host.call("network", "lan", "port-created", "begin", created)
    assert status == 1
    assert "tcp/8080 is already forwarded to guest 'a'" in stderr


def test_a_port_of_a_forged_owner_takes_nothing_off(host: Host) -> None:
    """Who may make ports in a network can name any owner and MAC."""
    rules = host.chain(TAP)
    for owner, uuid, mac in (("a", UUID, THIEF_MAC), ("a", THIEF_UUID, MAC), ("thief", UUID, MAC), ("a", UUID, MAC)):
        created = port_created("lan", mac, owner, uuid, NEW_PORT)
        for operation in ("port-created", "port-deleted"):
            assert host.call("network", "lan", operation, "begin", created) == (0, "")
        host.box.ok("ip", "link", "set", TAP, "up")
        assert host.chain(TAP) == rules


def test_a_domain_of_the_same_name_and_another_uuid_gets_nothing_of_the_old(host: Host) -> None:
    """Its predecessor's `release` was killed, and somebody else made its tap, which stays."""
    again = C.replace(ROUTED_UUID.encode(), THIEF_UUID.encode())
    status, stderr = host.call("qemu", "c", "start", "begin", again)
    assert status == 1
    assert f"tap {ROUTED_TAP} belongs to domain 'c'" in stderr
    assert "`guestnet hooks sync` frees the tap" in stderr
    before = host.all()
    forget_ended(host, UUID, ROUTED_UUID)
    assert host.all() == before, "they run"
    host.box.ok("rm", "/run/libvirt/qemu/c.xml")
    forget_ended(host, UUID)
    assert host.all() == before, "it was not known when libvirt was asked who runs"
    forget_ended(host, UUID, ROUTED_UUID)
    assert host.chains() == [TAP]
    assert host.call("qemu", "c", "start", "begin", again) == (0, "")


def forget_ended(host: Host, *uuids: str) -> None:
    """What `guestnet hooks sync` does for domains that libvirt does not list as running."""
    code = f"import sys; sys.path.insert(0, {LIBRARY!r}); from libvirt_guestnet.hook import live; live.forget_ended"
    host.box.ok(sys.executable, "-IS", "-c", f"{code}({list(uuids)!r})")


def plugs(host: Host, name: str, uuid: str, ip: str) -> None:
    """A NIC with the thief's MAC address is being plugged into a guest."""
    host.record(name, domain(name, uuid, policy(THIEF_MAC, ip)))
    created = port_created("lan", THIEF_MAC, name, uuid, f"6300cccc-{name}")
    assert host.call("network", "lan", "port-created", "begin", created) == (0, "")


def has(host: Host, name: str, uuid: str, ip: str, tap: str) -> None:
    """libvirt has written down that it came."""
    host.record(name, domain(name, uuid, policy(THIEF_MAC, ip), nic("network", tap, THIEF_MAC, f"6300cccc-{name}")))


def test_two_nics_of_one_mac_plugged_into_two_guests_at_once(host: Host) -> None:
    """No tap tells whose it is; libvirt's records do, a moment later."""
    host.box.ok("sh", "-c", "ip tuntap add vme0d mode tap; ip link set vme0d up")
    x_tap, y_tap = "vme0d", "vme0b"
    plugs(host, "x", X_UUID, "10.61.1.71")
    late = host.signal_helper(signal.SIGSTOP)
    plugs(host, "y", THIEF_UUID, "10.61.1.72")
    for tap, owner in ((x_tap, ("x", X_UUID, "10.61.1.71")), (y_tap, ("y", THIEF_UUID, "10.61.1.72"))):
        host.box.ok("sh", "-c", f"ip link set {tap} address fe{THIEF_MAC[2:]}; ip link set {tap} master br0")
        time.sleep(1)
        has(host, *owner, tap)
    os.kill(late, signal.SIGCONT)
    host.soon(lambda: "10.61.1.72" in host.chain(y_tap))
    host.soon(lambda: "10.61.1.71" in host.chain(x_tap))
