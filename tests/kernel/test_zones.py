"""Zones on a host that routes: what passes between real IP stacks behind its bridges, and that the table comes back."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.box import Box
from support.hooks import NS, Hooks

from libvirt_guestnet.datapath.routing.zones import TABLE
from libvirt_guestnet.hook import main

# Bridge: its zone ("": none), and the number of its subnets. Behind each is one guest, which has .9 there.
BRIDGES = {"blue0": ("blue", 1), "blue1": ("blue", 2), "red0": ("red", 3), "open0": ("", 4)}
PUBLIC = "198.18.1.50"  # translated to the guest behind red0
ASK = """
import socket, sys
for address in sys.argv[1:]:
    try:
        socket.create_connection((address, 9), 1).close()
    except ConnectionRefusedError:
        print(address)
    except TimeoutError:
        pass
"""


def of(bridge: str, last: int, family: int = 4) -> str:
    number = BRIDGES[bridge][1]
    return f"10.1.{number}.{last}" if family == 4 else f"fd00:1:{number}::{last}"


def network(bridge: str, zone: str | None = None, mode: str = "route") -> bytes:
    """As libvirt hands it to the network hook."""
    zone = BRIDGES[bridge][0] if zone is None else zone
    said = f' zone="{zone}"' if zone else ""
    addresses = "".join(f'<ip address="{of(bridge, 1, f)}" prefix="{24 if f == 4 else 64}"/>' for f in (4, 6))
    return f"""<hookData><network><name>n-{bridge}</name><metadata>
      <guestnet:network {NS} topology="t" name="n-{bridge}" guarded="no"{said}/></metadata>
      <forward mode="{mode}"/><bridge name="{bridge}"/>{addresses if mode == "route" else ""}</network>
      </hookData>""".encode()


class Zoned:
    """A host with a bridge and a guest, a network namespace, for each network; and their networks' hooks."""

    def __init__(self, root: Path) -> None:
        self.box = Box()
        self.hooks = Hooks(self.box, root)
        ok = self.box.ok
        ok("sh", "-c", "for f in 4/ip_forward 6/conf/all/forwarding; do echo 1 >/proc/sys/net/ipv$f; done")
        hurry = "echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad"  # link-local addresses are there at once
        ok("sh", "-c", hurry)
        for bridge in BRIDGES:
            ok("ip", "netns", "add", bridge)
            ok("ip", "netns", "exec", bridge, "sh", "-c", hurry)
            ok("ip", "link", "add", bridge, "type", "bridge")
            ok("ip", "link", "add", f"v-{bridge}", "master", bridge, "type", "veth", "peer", "eth0", "netns", bridge)
            for device in (bridge, f"v-{bridge}"):
                ok("ip", "link", "set", device, "up")
            ok("ip", "-n", bridge, "link", "set", "eth0", "up")
            for family, length in ((4, 24), (6, 64)):
                nodad = ["nodad"] if family == 6 else []
                ok("ip", "address", "add", f"{of(bridge, 1, family)}/{length}", "dev", bridge, *nodad)
                ok("ip", "-n", bridge, "address", "add", f"{of(bridge, 9, family)}/{length}", "dev", "eth0", *nodad)
                ok("ip", "-n", bridge, f"-{family}", "route", "add", "default", "via", of(bridge, 1, family))

    def start(self, bridge: str, xml: bytes = b"", operation: str = "started") -> tuple[int, str]:
        return self.hooks.call("network", f"n-{bridge}", operation, "begin", xml or network(bridge))

    def answering(self, source: str, *addresses: str) -> set[str]:
        """Those of the addresses from which a guest is answered: nothing listens there, and a TCP stack says so."""
        found = self.box.ok("ip", "netns", "exec", source, sys.executable, "-IS", "-c", ASK, *addresses)
        return set(found.split())

    def reaches(self, source: str, address: str) -> bool:
        return bool(self.answering(source, address))

    def met(self, source: str, last: int = 9) -> set[str]:
        """Of the other networks, those where it reaches that address, in both families alike."""
        others = set(BRIDGES) - {source}
        answers = self.answering(source, *(of(bridge, last, family) for bridge in others for family in (4, 6)))
        found = [{bridge for bridge in others if of(bridge, last, family) in answers} for family in (4, 6)]
        assert found[0] == found[1]
        return found[0]

    def table(self) -> str:
        return self.box.run("nft", "-s", "list", "table", *TABLE.split()).stdout.decode()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Zoned]:
    zoned = Zoned(tmp_path)
    yield zoned
    zoned.box.close()


@pytest.fixture
def started(host: Zoned) -> Zoned:
    for bridge in BRIDGES:
        assert host.start(bridge) == (0, "")
    return host


def test_a_host_that_routes_joins_what_is_in_no_zone(host: Zoned) -> None:
    for bridge in BRIDGES:
        assert host.start(bridge, network(bridge, zone="")) == (0, "")
    assert host.table() == ""
    assert host.met("blue0") == {"blue1", "red0", "open0"}


def test_guests_of_different_zones_do_not_meet(started: Zoned) -> None:
    assert started.met("blue0") == {"blue1", "open0"}
    assert started.met("blue1") == {"blue0", "open0"}
    assert started.met("red0") == {"open0"}
    assert started.met("open0") == {"blue0", "blue1", "red0"}, "what is in no zone is outside of all"


def test_nor_is_the_hosts_address_in_another_zone_reached(started: Zoned) -> None:
    assert started.met("blue0", last=1) == {"blue1", "open0"}
    assert started.met("red0", last=1) == {"open0"}
    assert started.reaches("blue0", of("blue0", 1))
    assert started.reaches("red0", of("red0", 1, 6))


def test_a_translated_address_is_public(started: Zoned) -> None:
    rule = f"ip daddr {PUBLIC} dnat to {of('red0', 9)}"
    chain = "{ type nat hook prerouting priority -100; }"
    started.box.ok("nft", f"add table ip t; add chain ip t pre {chain}; add rule ip t pre {rule}")
    assert started.reaches("blue0", PUBLIC)
    assert not started.reaches("blue0", of("red0", 9))


def test_the_last_zone_but_one_takes_the_table_with_it(started: Zoned) -> None:
    assert started.table()
    assert started.start("red0", operation="stopped") == (0, "")
    assert started.table() == ""
    assert started.start("red0") == (0, "")
    assert started.met("red0") == {"open0"}


def test_the_service_puts_the_table_back(started: Zoned) -> None:
    whole = started.table()
    argv = ["nsenter", "-t", started.box.pid, "--net", "--mount", "--", sys.executable, "-IS", main.__file__, "watch"]
    with subprocess.Popen(argv) as service:
        for damage in (f"delete table {TABLE}", f"flush chain {TABLE} from-1", f"flush map {TABLE} zones"):
            started.box.ok("nft", damage)
            end = time.monotonic() + 120
            while started.table() != whole:
                assert time.monotonic() < end, damage
                time.sleep(0.05)
        service.kill()
    assert started.met("red0") == {"open0"}


@pytest.mark.parametrize(("zone", "other"), [("red", "zone 'red' of 't'"), ("", "no zone")])
def test_a_network_that_would_share_a_zones_bridge_does_not_start(started: Zoned, zone: str, other: str) -> None:
    name = b"<name>n-red0</name>"
    xml = network("blue0", zone=zone, mode="bridge").replace(b"<name>n-blue0</name>", name)
    status, words = started.hooks.call("network", "n-red0", "started", "begin", xml)
    assert status != 0
    assert f"network 'n-red0' in {other} would share bridge blue0 with 'n-blue0' in zone 'blue' of 't'" in words
