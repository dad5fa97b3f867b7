"""Two virtual routers of which one serves, booted for real on plain QEMU: what guests see when the other takes over."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from support.router_bench import Router
from support.router_pair import Pair, frozen, killed, started, take_over, unplugged

from libvirt_guestnet.router.document import document

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces and taps need root")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with started(tmp_path_factory.mktemp("pair")) as found:
        yield found


def test_one_serves_and_one_waits(pair: Pair) -> None:
    pair.until(lambda: pair.looking.ready)
    assert pair.agents["web"].tcp("203.0.113.1", 80, timeout=30).open
    host = pair.looking.host
    other = "r2" if pair.looking.serving == "r1" else "r1"
    with host.client(pair.looking.serving) as one, host.client(other) as two:
        states = [one.state(), two.state()]
    assert [(state.waits, state.trouble, state.dnsmasq_runs) for state in states] == [
        (False, (), True),
        (True, (), False),
    ]
    assert (host.linked(pair.looking.serving), host.linked(other)) == (True, False)


@pytest.mark.parametrize("harm", [killed, frozen, unplugged])
def test_the_other_one_takes_over(pair: Pair, harm: Callable[[Router], None]) -> None:
    """A stream and pings go on, the MAC address is the same, and never do both send."""
    pair.until(lambda: pair.looking.ready)
    old, gateway = pair.looking.serving, pair.web.run("ip", "neigh", "show", "10.1.1.1")
    seen = take_over(pair, harm)
    print(seen)
    assert seen.turns == [old, pair.looking.serving]
    assert seen.received > 0
    assert pair.web.run("ip", "neigh", "show", "10.1.1.1").split()[:5] == gateway.split()[:5]
    assert "52:54:00:13:a0:00" in gateway
    assert pair.agents["internet"].tcp("203.0.113.10", 8080, timeout=30).open
    assert any(line.startswith(f"{old} was fenced: ") for line in pair.looking.said)


def test_one_that_serves_goes_on_alone(pair: Pair) -> None:
    """It has its own MAC address again then, the only one that the guard lets it use."""
    pair.until(lambda: pair.looking.ready)
    router = pair.routers[pair.looking.serving]
    alone = replace(
        router.config,
        guests=tuple(replace(nic, virtual_mac="") for nic in router.config.guests),
        public=tuple(replace(nic, virtual_mac="") for nic in router.config.public),
        sync=None,
    )
    with pair.looking.host.client(router.name) as client:
        client.configure(document(alone).encoded())
        assert not client.state().waits
    pair.web.ip("neigh flush all")
    assert pair.agents["web"].tcp("203.0.113.1", 80, timeout=30).open
    assert alone.guests[0].mac in pair.web.run("ip", "neigh", "show", "10.1.1.1")
