"""Addresses that are somebody's already, claimed by guests: refused by name, before anything of the host changes.

The LAN of `support.kernel_routed`: X is the host's default gateway here, and Y and whoever else there is answer ARP
and ND.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from ear import announced, asked_for, hearing
from support.kernel_lan import GUEST, GUEST6, LAN, LAN6, NEAR, LanHost, seen, start
from support.kernel_routed import HOST, ON_LAN, A, B, RoutedLab, X, both, domain, led_to, tap

ROOT = Path(__file__).parents[2]
NEXT_HOPS = """
import json, sys
from ipaddress import ip_address
from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.datapath.netlink.rtnl import Rtnl
from libvirt_guestnet.model.held_addresses import single

with Rtnl() as netlink:
    found = netlink.next_hops([single(ip_address(text)) for text in json.loads(sys.argv[1])])
print(json.dumps(sorted(f"{hop.address} {links.name_of(hop.ifindex)}" for hop in found)))
"""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[RoutedLab]:
    lab = RoutedLab(tmp_path)
    lab.ip(f"route add default via {both(X)[0]}")
    lab.ip(f"-6 route add default via {both(X)[1]}")
    lab.boot("a", A)
    yield lab
    lab.box.close()


def claiming(addresses: tuple[str, str], name: str = "a", who: tuple[int, int] = A, routed: str = ON_LAN) -> bytes:
    """A host-routed guest with these addresses instead of its own."""
    xml = domain(name, who, routed)
    for own, other in zip(both(who), addresses, strict=True):
        xml = xml.replace(f'ip="{own}"'.encode(), f'ip="{other}"'.encode())
    return xml


def captured(lab: RoutedLab) -> AbstractContextManager[list[bytes]]:
    """What computer X hears meanwhile."""
    return hearing([*("nsenter", "-t", lab.box.pid, "--net", "--mount", "ip", "netns", "exec", "x"), sys.executable])


def refused(lab: RoutedLab, xml: bytes, name: str = "a") -> str:
    """What the start of a guest is refused with; nothing of it is left, nor told to anybody."""
    before = (lab.routes(), lab.published())
    chains = lab.hooks.chains()
    with captured(lab) as heard:
        status, said = lab.hooks.call("qemu", name, "start", "begin", xml)
        if status == 0:  # what a host without the check goes on with
            status, said = lab.hooks.call("qemu", name, "started", "begin", xml)
        assert (lab.routes(), lab.published()) == before
    assert status == 1
    assert said.count("\n") == 1
    assert lab.hooks.call("qemu", name, "release", "end", xml) == (0, "")
    assert lab.hooks.chains() == chains
    assert announced(heard) == set()
    return said


def test_the_default_gateway(lab: RoutedLab) -> None:
    said = refused(lab, claiming(both(X)))
    assert "domain 'a': address 192.0.2.9 is a router of this host's, by which it routes on device up0" in said
    said = refused(lab, claiming((both(A)[0], both(X)[1])))
    assert "address 2001:db8::9 is a router of this host's" in said
    assert "`ip -6 route show table all via 2001:db8::9` says what for" in said


@pytest.mark.parametrize("publish", ["yes", "no"])
def test_the_hosts_own_addresses_on_whatever_device(lab: RoutedLab, publish: str) -> None:
    lab.ip("link add inner type bridge")
    lab.ip("address add 10.9.9.9/32 dev inner scope link")
    routed = ON_LAN.replace('publish="yes"', f'publish="{publish}"')
    for address, device in ((both(HOST)[0], "up0"), ("10.9.9.9", "inner"), ("127.0.0.1", "lo")):
        said = refused(lab, claiming((address, both(A)[1]), routed=routed))
        assert f"address {address} is this host's own, on device {device}: give the guest another one" in said
    assert "2001:db8::1 is this host's own" in refused(lab, claiming((both(A)[0], both(HOST)[1]), routed=routed))


def test_next_hops_of_every_kind_and_table(lab: RoutedLab) -> None:
    for command in (
        "route add 10.1.0.0/16 via 192.0.2.20 table 100",
        "route add 10.2.0.0/16 nexthop via 192.0.2.21 nexthop via 192.0.2.22",
        "-6 route add 2001:db8:1::/48 via 2001:db8::20 table 100",
        "-6 route add 2001:db8:2::/48 nexthop via 2001:db8::21 nexthop via 2001:db8::22",
        "route add 10.3.0.0/16 via inet6 2001:db8::23",
        "nexthop add id 7 via 192.0.2.24 dev up0",
        "route add 192.0.2.30/32 dev up0 proto 71",
        "route add 10.4.0.0/16 via 192.0.2.30 proto 71",
    ):
        lab.ip(command)
    lab.box.ok("sh", "-c", "echo 0 > /proc/sys/net/ipv4/nexthop_compat_mode")
    lab.ip("route add 10.5.0.0/16 nhid 7")
    hops = {*(f"192.0.2.{n}" for n in (20, 21, 22, 24)), *(f"2001:db8::{n}" for n in (20, 21, 22, 23))}
    asked = [*hops, "192.0.2.30", "10.1.0.0", *both(HOST)]
    found = lab.box.ok("env", f"PYTHONPATH={ROOT}", sys.executable, "-c", NEXT_HOPS, json.dumps(asked))
    assert json.loads(found) == sorted(f"{address} up0" for address in hops)
    for number in (20, 22):
        said = refused(lab, claiming((f"192.0.2.{number}", f"2001:db8::{number}")))
        assert f"192.0.2.{number} is a router of this host's" in said


def test_resolvers_and_dhcp_servers(lab: RoutedLab) -> None:
    lab.box.ok("sh", "-c", "mkdir -p /run/systemd/resolve /run/systemd/netif/leases")
    lab.box.ok("sh", "-c", "echo 'nameserver 192.0.2.53' > /run/systemd/resolve/resolv.conf")
    lab.box.ok("sh", "-c", "echo SERVER_ADDRESS=192.0.2.67 > /run/systemd/netif/leases/2")
    for number, what in ((53, "resolver"), (67, "DHCP server")):
        said = refused(lab, claiming((f"192.0.2.{number}", both(A)[1])))
        assert f"address 192.0.2.{number} is a {what} that this host uses (by /run/systemd/" in said
        assert f"give the guest another one, or have the host use another {what}" in said


def test_another_running_guest_whichever_starts_first(lab: RoutedLab) -> None:
    lab.start("a", A)
    lab.boot("b", B)
    said = refused(lab, claiming(both(A), "b", B), "b")
    assert "domain 'b': address 192.0.2.10 is already routed to running guest 'a'" in said
    assert (lab.routes(), lab.published()) == led_to(A)
    # A prefix of it, too, that would be nearer than the LAN.
    xml = domain("b", B, more='<guestnet:source prefix="192.0.2.8/29"/>')
    assert "prefix 192.0.2.8/29, which holds 192.0.2.9, is a router of this host's" in refused(lab, xml, "b")
    lab.stop("a", A)
    lab.start("b", B, claiming(both(A), "b", B))


def test_a_wide_prefix_behind_a_guest_takes_nothing_from_the_lan(lab: RoutedLab) -> None:
    lab.start("a", A, domain("a", A, more='<guestnet:source prefix="192.0.0.0/16"/>'))
    assert lab.reaches("x", both(A)[0])


def test_two_that_start_at_once(lab: RoutedLab) -> None:
    """Of what is recorded at `start` already the other is refused for, before anything leads to either."""
    lab.boot("b", B)
    assert lab.hooks.call("qemu", "a", "start", "begin", domain("a", A)) == (0, "")
    said = refused(lab, claiming(both(A), "b", B), "b")
    assert "address 192.0.2.10 is an address of running guest 'a'" in said


@pytest.fixture
def neighbour(lab: RoutedLab) -> str:
    """X has further addresses; its MAC address."""
    for address in ("192.0.2.70/24", "2001:db8::70/64"):
        lab.ip(f"address add {address} dev eth0", "x")
    return "02:00:00:00:00:09"


def test_what_answers_on_the_lan(lab: RoutedLab, neighbour: str) -> None:
    for addresses in (("192.0.2.70", both(A)[1]), (both(A)[0], "2001:db8::70")):
        said = refused(lab, claiming(addresses))
        wrong = next(address for address in addresses if "70" in address)
        assert f"address {wrong} is in use on the LAN of device up0: {neighbour} answers for it: " in said
        assert "or say probe: false for its port if the address is about to move here" in said
    lab.start("a", A)


def test_whoever_is_told_of_a_move_does_not_ask(lab: RoutedLab, neighbour: str) -> None:
    xml = claiming(("192.0.2.70", "2001:db8::70")).replace(b' guarded="yes"', b' guarded="yes" probe="no"')
    with captured(lab) as heard:
        assert lab.hooks.call("qemu", "a", "start", "begin", xml) == (0, "")
    assert asked_for(heard) == set()
    assert lab.hooks.call("qemu", "a", "started", "begin", xml) == (0, "")


def test_neither_a_migration_nor_a_repair_asks(lab: RoutedLab, neighbour: str) -> None:
    """Where a guest comes from it still answers; and one that runs is never refused because of itself."""
    xml = claiming(("192.0.2.70", "2001:db8::70"))
    with captured(lab) as heard:
        assert lab.hooks.call("qemu", "a", "migrate", "begin", xml) == (0, "")
        assert lab.hooks.call("qemu", "a", "start", "begin", xml) == (0, "")
        assert lab.hooks.call("qemu", "a", "started", "begin", xml) == (0, "")
    assert asked_for(heard) == set()
    with captured(lab) as heard:
        assert lab.hooks.call("qemu", "a", "reconnect", "begin", xml) == (0, "")
    assert asked_for(heard) == set()
    lab.hooks.call("qemu", "a", "release", "end", xml)
    # The note is for one start, and for one that comes at once.
    assert "in use on the LAN" in refused(lab, xml)
    assert lab.hooks.call("qemu", "a", "migrate", "begin", xml) == (0, "")
    lab.box.ok("touch", "-d", "1 hour ago", "/run/libvirt-guestnet/incoming/a.json")
    assert "in use on the LAN" in refused(lab, xml)


def test_a_guest_is_not_in_its_own_way(lab: RoutedLab) -> None:
    """Whatever a killed hook left of it: its receipts, and the host's answers, on a second device on the LAN too."""
    lab.ip("link add up1 type veth peer name eth1 netns x")
    lab.ip("link add lan type bridge", "x")
    for command in ("link set eth0 master lan", "link set eth1 master lan", "link set lan up", "link set eth1 up"):
        lab.ip(command, "x")
    lab.ip("link set up1 up")
    lab.ip("address add 192.0.2.3/24 dev up1")
    for again in range(2):
        assert [lab.hooks.call("qemu", "a", each, "begin", domain("a", A)) for each in ("start", "started")] == [
            (0, "")
        ] * 2, again
        lab.ip(f"neigh replace proxy {both(A)[0]} dev up1")
    assert lab.routes() == led_to(A)[0]


def test_a_host_that_answers_for_its_guests_is_heard(lab: RoutedLab) -> None:
    """Proxies are silent to probes of ARP: one question is an ordinary one."""
    lab.ip("link set lo up", "x")
    lab.ip("neigh add proxy 192.0.2.70 dev eth0", "x")
    lab.ip("route add 192.0.2.70 dev lo", "x")
    for setting in ("conf/all/forwarding", "conf/eth0/forwarding"):
        lab.run("x", "sh", "-c", f"echo 1 > /proc/sys/net/ipv4/{setting}")
    lab.run("x", "sh", "-c", "echo 0 > /proc/sys/net/ipv4/neigh/eth0/proxy_delay")
    assert "192.0.2.70 is in use on the LAN of device up0" in refused(lab, claiming(("192.0.2.70", both(A)[1])))


def test_how_long_the_question_takes(lab: RoutedLab) -> None:
    before = time.monotonic()
    assert lab.hooks.call("qemu", "a", "start", "begin", domain("a", A, ON_LAN.replace('"yes"', '"no"'))) == (0, "")
    unasked = time.monotonic() - before
    lab.hooks.call("qemu", "a", "release", "end", domain("a", A))
    with captured(lab) as heard:
        before = time.monotonic()
        assert lab.hooks.call("qemu", "a", "start", "begin", domain("a", A)) == (0, "")
        asked = time.monotonic() - before
    print(f"{1000 * unasked:.0f} ms without, {1000 * asked:.0f} ms with the question")
    assert asked > 0.5
    assert asked_for(heard) == set(both(A))


# Ways in, and guests' own addresses on bridges


def forwards_refused(host: LanHost, forwards: str) -> str:
    """What the start of guest a with these forwards is refused with; nothing is left of it."""
    before = host.rules(), host.routes()
    xml = start(forwards)
    status, said = host.call("qemu", "guesta", "start", "begin", xml)
    if status == 0:
        status, said = host.call("qemu", "guesta", "started", "begin", xml)
    assert (status, host.routes()) == (1, before[1])
    assert host.gone(xml) == (0, "")
    assert (host.rules(), host.routes(), host.receipts()) == (*before, [])
    return said


@pytest.mark.parametrize("led", ["to", "via"])
def test_floating_addresses_of_others(host: LanHost, led: str) -> None:
    host.box.ok("sh", "-c", f"ip route add default via {LAN}; ip -6 route add default via {LAN6}")
    host.box.ok("ip", "-n", "lan", "address", "add", "198.18.1.70/24", "dev", "eth0")
    host.box.ok("ip", "-n", "lan", "address", "add", "fd61::70/64", "dev", "eth0", "nodad")
    own = "floating address 198.18.1.1 is this host's own, on device up0"
    wanted = {
        "198.18.1.1": own,
        LAN: f"floating address {LAN} is a router of this host's",
        LAN6: f"floating address {LAN6} is a router of this host's",
        "198.18.1.70": "floating address 198.18.1.70 is in use on the LAN of device up0",
        "fd61::70": "floating address fd61::70 is in use on the LAN of device up0",
    }
    for ip, message in wanted.items():
        said = forwards_refused(host, f'<guestnet:floating ip="{ip}" {led}="{GUEST6 if ":" in ip else GUEST}"/>')
        assert message in said, ip


def test_an_address_that_is_forwarded_from(host: LanHost) -> None:
    """It may be the host's own, which is what it is for; never a router's or another guest's."""
    host.box.ok("ip", "route", "add", "default", "via", LAN)
    forward = f'<guestnet:forward at="{{}}" protocol="tcp" ports="8080" to="{GUEST}"/>'
    assert f"forward at {LAN} is a router of this host's" in forwards_refused(host, forward.format(LAN))
    assert host.started(start(forward.format("198.18.1.1"))) == [(0, "")] * 2


def test_what_is_behind_a_guest_takes_no_router_with_it(host: LanHost) -> None:
    host.box.ok("ip", "route", "add", "default", "via", LAN)
    said = forwards_refused(host, '<guestnet:behind prefix="198.18.1.8/29"/>')
    assert f"prefix 198.18.1.8/29, which holds {LAN}, is a router of this host's" in said
    assert host.started(start('<guestnet:behind prefix="198.18.0.0/16"/>')) == [(0, "")] * 2


def test_a_guests_own_address_on_a_bridge_that_the_host_is_on(host: LanHost) -> None:
    """The host's there is its gateway. One that the host routes by may be the guest itself, unless somebody answers."""
    said = host.call("qemu", "guesta", "start", "begin", start("").replace(GUEST.encode(), b"10.61.1.1"))
    assert said[0] == 1
    assert "address 10.61.1.1 is this host's own, on device virbr1" in said[1]
    host.box.ok("ip", "route", "add", "10.99.0.0/16", "via", NEAR)
    status, text = host.call("qemu", "guesta", "start", "begin", start("").replace(GUEST.encode(), NEAR.encode()))
    assert status == 1
    assert f"address {NEAR} is in use on the LAN of device virbr1: " in text
    host.box.ok("ip", "-n", "near", "address", "flush", "dev", "eth0")
    assert host.started(start("").replace(GUEST.encode(), NEAR.encode())) == [(0, "")] * 2


def test_a_guest_that_runs_is_never_refused(host: LanHost) -> None:
    """Not even by what the host took for itself meanwhile, which it keeps when the guest is gone."""
    xml = start(f'<guestnet:floating ip="198.18.1.50" to="{GUEST}"/>')
    assert host.started(xml) == [(0, "")] * 2
    host.box.ok("ip", "address", "add", "198.18.1.50/32", "dev", "up0")
    assert host.call("qemu", "guesta", "reconnect", "begin", xml) == (0, "")
    assert seen(host.tcp("lan", "198.18.1.50", 22)) == LAN
    assert host.gone(xml) == (0, "")
    assert "198.18.1.50" in host.box.ok("ip", "address", "show", "dev", "up0")


# What is asked for since the guest runs


def test_what_a_running_guest_asks_for_anew_is_judged_too(lab: RoutedLab) -> None:
    """Its metadata was changed, and the daemon restarts: no start would have given it that, and neither does this."""
    lab.start("a", A)
    chains = lab.hooks.box.ok("nft", "-s", "list", "table", "netdev", "guestnet")
    with captured(lab) as heard:
        for addresses in (both(X), both(HOST)):
            assert lab.hooks.call("qemu", "a", "reconnect", "begin", claiming(addresses)) == (0, "")
            assert (lab.routes(), lab.published()) == led_to(A)
    assert announced(heard) == set()
    assert lab.hooks.box.ok("nft", "-s", "list", "table", "netdev", "guestnet") == chains
    more = domain("a", A, more='<guestnet:address ip="192.0.2.12"/>')
    assert lab.hooks.call("qemu", "a", "reconnect", "begin", more) == (0, "")
    assert f"192.0.2.12 {tap(A)}" in lab.routes()


def test_an_address_on_a_bridge_is_none_that_the_host_leads_to(host: LanHost) -> None:
    """On a bridge without the host a guest may call itself what it likes; that is no claim to it elsewhere."""
    host.box.ok("ip", "route", "add", "default", "via", LAN)
    own = start("").replace(GUEST.encode(), LAN.encode())
    assert host.started(own) == [(0, "")] * 2
    before = host.routes()
    floating = f'<guestnet:floating ip="{LAN}" to="{GUEST}"/>'
    assert host.call("qemu", "guesta", "reconnect", "begin", start(floating)) == (0, "")
    assert host.routes() == before
    assert LAN not in host.rules()
    assert host.call("qemu", "guesta", "reconnect", "begin", start("").replace(GUEST.encode(), b"10.61.1.1")) == (0, "")
    assert "10.61.1.1 " not in host.box.ok("nft", "list", "table", "netdev", "guestnet")
