"""Beside other people's firewalls: guests stay guarded and reachable whatever those load, reload or flush.

Each firewall's rules are loaded for real, as its own tool loads them on Debian; nobody calls guestnet afterwards.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest
from support.adopted_host import DOCKER
from support.libvirt_lan import MAC, Net, forward_rules, reachable, running, soon_reachable
from support.own_programs import watching
from support.sandboxes import BACKENDS, BUS, HERE, NFTABLES, hooked, install_hooks

from libvirt_guestnet import sandbox as sandboxes
from libvirt_guestnet.sandbox import Sandbox


@pytest.fixture(scope="module", params=BACKENDS)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with hooked(request, "beside", BUS) as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def theirs(net: Net) -> list[str]:
    """libvirt's own rules before anybody flushed any."""
    return libvirts(net)


def guards(net: Net) -> str:
    """The guard of every tap, without counters, and without the empty sets of links that no port is on any more; nor
    that a guard came late, which the guest's own addresses wait for."""
    listed = net.sandbox.run(["nft", "-s", "list", "table", "netdev", "guestnet"], check=False).stdout
    listed = re.sub(r"\tset late-ports {\n.*?\n\t}\n\n?", "", listed, flags=re.S)
    return re.sub(r"\tset \S+ {\n(?:(?!\t\telements|\t}).*\n)*\t}\n\n?", "", listed)


def nft_file(net: Net, text: str) -> None:
    net.sandbox.run(["nft", "-f", "-"], stdin=text)


@pytest.mark.parametrize("network", ["web", "inside"])
def test_a_flushed_ruleset_comes_back(net: Net, theirs: list[str], network: str) -> None:
    """`nft flush ruleset`, and nftables.service's reload, which begins with it."""
    before = forward_rules(net)
    with running(net.sandbox, network), watching(net.sandbox):
        reachable(net)
        guarded = guards(net)
        assert MAC in guarded
        for ruleset in ("flush ruleset", NFTABLES_CONF):
            nft_file(net, ruleset)
            net.soon(lambda: guards(net), guarded)
            net.soon(lambda: libvirts(net), theirs)
            net.soon(lambda: first_is_ours(net))
            soon_reachable(net)
    assert guards(net).count("tap-") == 0
    assert forward_rules(net) == before


# As under emulation, where a round of libvirt's takes 20 s; and who asks for one is written down.
SLOW = """
set -e
instead() { printf '#!/bin/sh\\n%s\\n' "$2" >/run/instead && chmod 755 /run/instead && mv /run/instead "$1"; }
for each in iptables ip6tables; do
    real=$(readlink -f /usr/sbin/$each)
    rm /usr/sbin/$each
    instead /usr/sbin/$each "sleep 0.15; exec $real $each \\"\\$@\\""
done
mv /usr/bin/busctl /usr/bin/busctl-itself
instead /usr/bin/busctl 'echo "$*" >>/run/asked; exec /usr/bin/busctl-itself "$@"'
"""


@pytest.mark.parametrize("sandbox", [HERE], indirect=True)
def test_a_slow_libvirt_is_asked_once() -> None:
    """Each signal is a round of its own for it."""
    with sandboxes.start(f"slow-{os.getpid()}", prepare=[*install_hooks(), BUS]) as slow, Net(slow) as net:
        theirs = libvirts(net)
        slow.run(["sh", "-c", SLOW])
        with watching(slow):
            nft_file(net, "flush ruleset")
            net.soon(lambda: libvirts(net), theirs)
        assert slow.run(["cat", "/run/asked"]).stdout.count("FirewallD1 Reloaded") == 1


def libvirts(net: Net) -> list[str]:
    """libvirt's own rules, in whatever order."""
    listed = net.sandbox.run(["nft", "-s", "list", "ruleset"]).stdout
    tables = re.findall(r"^table (ip6? (?:filter|nat|mangle|libvirt_network)) {\n(.*?)^}", listed, re.M | re.S)
    chains = [
        (table, chain, rules.split("\n"))
        for table, body in tables
        for chain, rules in re.findall(r"^\tchain (\S+) {\n(.*?)^\t}", body, re.M | re.S)
        if "guestnet" not in chain.lower()
    ]
    lines = (f"{table} {chain} {rule.strip()}" for table, chain, rules in chains for rule in rules if rule)
    return sorted(line for line in lines if "guestnet" not in line.lower())


def first_is_ours(net: Net) -> bool:
    """Before libvirt's rejects, which are new."""
    rules = net.sandbox.run(["iptables", "-S", "FORWARD"]).stdout
    return "LIBVIRT" not in rules.partition("GUESTNET-FORWARD")[0]


# Debian's /etc/nftables.conf, which nftables.service loads.
NFTABLES_CONF = """flush ruleset
table inet filter {
	chain input { type filter hook input priority filter; }
	chain forward { type filter hook forward priority filter; }
	chain output { type filter hook output priority filter; }
}
"""


def test_without_the_service_it_stays_lost(net: Net) -> None:
    """The test above could fail; and so it is the service that mends."""
    with running(net.sandbox, "web"):
        nft_file(net, "flush ruleset")
        assert guards(net) == ""
        assert not net.udp("lan", "198.18.1.1", 5300).open
    net.sandbox.restart_libvirtd()


@pytest.mark.parametrize("order", ["before", "after"])
def test_docker_before_and_after(net: Net, order: str) -> None:
    """Docker's FORWARD DROP, loaded before the guest starts or while it runs."""
    try:
        if order == "before":
            docker(net, DOCKER)
        with running(net.sandbox, "web"), watching(net.sandbox):
            if order == "after":
                docker(net, DOCKER)
            soon_reachable(net)
            docker(net, DOCKER)  # its restart
            soon_reachable(net)
        rules = net.sandbox.run(["iptables", "-S", "FORWARD"]).stdout
        assert "-P FORWARD DROP" in rules
        assert "GUESTNET" not in rules
    finally:
        nft_file(net, "flush ruleset")
        net.sandbox.restart_libvirtd()


def docker(net: Net, rules: str) -> None:
    for tool in ("iptables", "ip6tables"):
        net.sandbox.run([f"{tool}-restore", "--noflush"], stdin=rules)


@pytest.mark.parametrize("sandbox", [pytest.param(NFTABLES, marks=pytest.mark.trixie)], indirect=True)
def test_libvirt_makes_a_single_rule_anew(net: Net, theirs: list[str]) -> None:
    """It may delete such a one itself after a flush, by the handle that another network's rule had."""
    with watching(net.sandbox):
        net.soon(lambda: libvirts(net), theirs)  # so it has, before this test, more often than not
        listed = net.sandbox.run(["nft", "-a", "list", "chain", "ip", "libvirt_network", "guest_nat"]).stdout
        handle = re.findall(r" # handle (\d+)$", listed, re.M)[-1]
        net.sandbox.run(["nft", "delete", "rule", "ip", "libvirt_network", "guest_nat", "handle", handle])
        assert libvirts(net) != theirs
        net.soon(lambda: libvirts(net), theirs)
