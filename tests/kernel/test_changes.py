"""What the watch service takes for a change that may concern us, against a real kernel."""

from __future__ import annotations

import select
import subprocess
from collections.abc import Iterator

import pytest
from support.taps import ip

from libvirt_guestnet.datapath.netlink.events import Changes

PREPARED = (
    "link add br0 type bridge",
    "link add p0 type veth peer name p1",
    "link set p0 master br0",
    "link set br0 up",
    "link set p0 up",
    "link set p1 up",
    "address add 10.0.0.1/24 dev p1",
    "address add 10.0.0.2/24 dev p1",
    "route add 10.1.0.0/24 via 10.0.0.9 proto 71",
    "route add 10.2.0.0/24 via 10.0.0.9",
    "neigh add 10.0.0.9 lladdr 52:54:00:00:00:09 dev p1",
)


@pytest.fixture
def changes(namespace: None) -> Iterator[Changes]:
    for command in PREPARED:
        ip(command)
    fdb("add 52:54:00:00:00:01 dev p0 master static")
    made = Changes()
    yield made
    for sock in made.sockets:
        sock.close()


def fdb(arguments: str) -> None:
    subprocess.run(["bridge", "fdb", *arguments.split()], check=True, timeout=120)


def matter(changes: Changes) -> bool:
    """Of what was heard by now: the kernel tells before it answers whoever makes the change."""
    ready = select.select(changes.sockets, [], [], 0)[0]
    return any([changes.matters(sock) for sock in ready])  # noqa: C419  each is emptied


def choosy(changes: Changes) -> bool:
    """The same of the socket that takes not all for a reason: what the kernel does by itself does not disturb it."""
    return changes.matters(changes.sockets[-1])


@pytest.mark.parametrize(
    ("command", "matters"),
    [
        ("ip route del 10.1.0.0/24", True),
        ("ip route del 10.2.0.0/24", False),
        ("ip route add 10.3.0.0/24 via 10.0.0.9", False),
        ("ip address del 10.0.0.2/24 dev p1", True),
        ("ip neigh del 10.0.0.9 dev p1", False),
        ("bridge fdb del 52:54:00:00:00:01 dev p0 master", True),
        ("bridge fdb replace 52:54:00:00:00:01 dev br0 self permanent", True),
        ("ip link set p0 nomaster", True),
        ("bridge link set dev p0 learning off", True),
        ("nft add table inet x", True),
    ],
)
def test_only_what_may_be_ours_matters(changes: Changes, command: str, matters: bool) -> None:
    subprocess.run(command.split(), check=True, timeout=120)
    assert (matter(changes) if matters else choosy(changes)) is matters
    assert not choosy(changes), "what was heard is forgotten"
