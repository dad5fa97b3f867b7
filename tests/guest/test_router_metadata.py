"""The metadata service of a virtual router, booted for real: who asks is told its own, and nobody else's."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

import pytest
from support.router_bench import Namespace, Router, RouterBench
from support.router_config import OTHER_MAC, ROUTER, WEB_MAC

from libvirt_guestnet import parse
from libvirt_guestnet.model.router import GuestMetadata, RouterConfig
from libvirt_guestnet.router import disks
from libvirt_guestnet.router.client import RefusedDocumentError, RouterClient
from libvirt_guestnet.router.document import document
from libvirt_guestnet.router.image import ensure_router_image

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces and taps need root")

ASK = """
import sys, urllib.request, urllib.error
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=float(sys.argv[2])).read().decode(), end="")
except urllib.error.HTTPError as error:
    print("status", error.code, end="")
except OSError as error:
    print("nothing", end="")
"""
FLOOD = """
import socket, sys, time
end, open_ = time.monotonic() + 8, []
while time.monotonic() < end:
    each = socket.socket()
    each.setblocking(False)
    each.connect_ex(("169.254.169.254", 80))
    open_.append(each)
    if len(open_) > 500:
        open_.pop(0).close()
"""


def config(web: str = "web's", db: str = "db's") -> RouterConfig:
    told = [
        GuestMetadata(tuple(map(parse.address, addresses)), (("user-data", text),))
        for addresses, text in ((("10.1.1.10", "fd13:1::10"), web), (("10.1.2.10", "fd13:2::10"), db))
    ]
    return replace(ROUTER, metadata=tuple(told))


@dataclass
class World:
    """A router and its guests."""

    router: Router
    client: RouterClient
    web: Namespace
    db: Namespace
    internet: Namespace

    def ask(self, machine: Namespace, at: str = "169.254.169.254", path: str = "user-data", seconds: float = 60) -> str:
        return machine.run(sys.executable, "-c", ASK, f"http://{at}/{path}", str(seconds))

    def await_answer(self, text: str) -> None:
        """Until web is told that. The service starts beside the router's other work, and guests ask more than once."""
        deadline = time.monotonic() + 120
        while (told := self.ask(self.web, seconds=5)) != text:
            assert time.monotonic() < deadline, (told[:100], self.client.state())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        bench = RouterBench(tmp_path_factory.mktemp("metadata"), stack)
        for name in ("lan", "tier", "pub"):
            bench.bridge(name)
        bench.bridge("ctl", "169.254.7.1/30")
        bridges = {"eth0": "lan", "eth1": "ctl", "eth2": "pub", "eth3": "tier"}
        router = Router(bench, ROUTER, ensure_router_image(), bridges)
        disks.write(router.disk("config"), document(config()).encoded())
        router.start()
        web = bench.machine("web", "lan", WEB_MAC, "10.1.1.10/24", "fd13:1::10/64")
        db = bench.machine("db", "tier", OTHER_MAC, "10.1.2.10/24", "fd13:2::10/64")
        # The tier's router advertises, and nobody guards the port: no other address than the file's is formed here.
        db.run(
            "sh", "-c", "echo 0 >/proc/sys/net/ipv6/conf/net0/autoconf; ip -6 addr flush dev net0 scope global dynamic"
        )
        for machine, number in ((web, 1), (db, 2)):
            machine.ip(f"route add default via 10.1.{number}.1")
            machine.ip(f"-6 route add default via fd13:{number}::1")
        internet = bench.machine("internet", "pub", "52:54:00:13:02:01", "203.0.113.1/24")
        client = router.connect()
        print(client.state())
        made = World(router, client, web, db, internet)
        made.await_answer("web's")
        yield made
        print(router.console.read_text())


def test_each_guest_is_told_its_own_at_every_address(world: World) -> None:
    for machine, number, text in ((world.web, 1, "web's"), (world.db, 2, "db's")):
        for at in ("169.254.169.254", f"10.1.{number}.1", "[fd00:ec2::254]", f"[fd13:{number}::1]"):
            assert world.ask(machine, at) == text, at
    assert world.ask(world.db, path="latest/meta-data/") == "status 404"


def test_who_takes_another_address_of_its_link_is_told_nothing(world: World) -> None:
    world.web.ip("addr add 10.1.1.77/24 dev net0")
    world.web.ip("route change default via 10.1.1.1 src 10.1.1.77")
    try:
        assert world.ask(world.web) == "status 404"
    finally:
        world.web.ip("route change default via 10.1.1.1 src 10.1.1.10")
        world.web.ip("addr del 10.1.1.77/24 dev net0")


def test_an_address_of_another_link_is_not_believed(world: World) -> None:
    """Where nobody guards the port: the other guest's address, from here."""
    world.web.ip("addr add 10.1.2.10/32 dev net0")
    world.web.ip("route change default via 10.1.1.1 src 10.1.2.10")
    try:
        assert world.ask(world.web, seconds=5) == "nothing"
    finally:
        world.web.ip("route change default via 10.1.1.1 src 10.1.1.10")
        world.web.ip("addr del 10.1.2.10/32 dev net0")


def test_the_public_side_reaches_nothing(world: World) -> None:
    world.internet.ip("route add 169.254.169.254 via 203.0.113.2")
    for at in ("169.254.169.254", "203.0.113.2"):
        assert world.ask(world.internet, at, seconds=5) == "nothing"


def test_it_changes_live_and_a_mistake_changes_nothing(world: World) -> None:
    long = "#cloud-config\n" + "x" * 16_000
    world.client.configure(document(config(web=long)).encoded())
    world.await_answer(long)
    good = document(config())
    wrong = good._replace(metadata=good.metadata.replace("file user-data 0", "file user-data 9"))
    with pytest.raises(RefusedDocumentError, match="metadata, line 4"):
        world.client.configure(wrong.encoded())
    assert world.ask(world.web) == long
    world.client.configure(good.encoded())
    assert world.client.state().trouble == ()


def test_without_guests_to_tell_nobody_listens_and_then_again(world: World) -> None:
    world.client.configure(document(ROUTER).encoded())
    assert world.ask(world.web, "10.1.1.1", seconds=5) == "nothing"
    world.client.configure(document(config()).encoded())
    world.await_answer("web's")
    assert world.client.state().trouble == ()


def test_a_guest_that_floods_takes_nothing_from_another(world: World) -> None:
    flood = world.web.start(sys.executable, "-c", FLOOD)
    waited = []
    for _ in range(5):
        began = time.monotonic()
        assert world.ask(world.db) == "db's"
        waited.append(time.monotonic() - began)
    flood.wait(60)
    print(f"db was told while web flooded: {', '.join(f'{each:.2f} s' for each in waited)}")
    assert world.client.counters()["limited"].packets > 0
