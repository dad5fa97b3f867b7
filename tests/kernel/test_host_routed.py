"""Host-routed guests: the qemu hook's calls against a real kernel, with real IP stacks as guests and on the LAN.

A guest is a network namespace behind a veth pair whose host end plays the tap, and so is computer X on the LAN.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.hooks import NS
from support.kernel_lan import agent
from support.kernel_routed import HOST, ON_LAN, A, B, RoutedLab, X, both, domain, led_to, tap
from support.tunnels import GRE, Tunnels


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[RoutedLab]:
    lab = RoutedLab(tmp_path)
    yield lab
    lab.box.close()


def test_computer_x_finds_the_guest_at_the_servers_mac(lab: RoutedLab) -> None:
    lab.boot("a", A)
    lab.start("a", A)
    assert (lab.routes(), lab.published()) == led_to(A)
    server = json.loads(lab.ip("-j link show up0"))[0]["address"]
    for address in both(A):
        assert lab.neighbour(address) == server
        assert lab.reaches("x", address)
    for address in (*both(X), *both(HOST), "169.255.30.1"):
        assert lab.reaches("a", address)
    lab.stop("a", A)
    assert (lab.routes(), lab.published(), lab.hooks.receipts(), lab.hooks.chains()) == (set(), set(), [], [])
    assert [lab.neighbour(address) for address in both(A)] == ["", ""]


def test_other_firewalls_let_them_pass_while_they_run(lab: RoutedLab) -> None:
    """A policy drop as Docker and ufw set it, and a reject of what goes to somebody else's network, which stays."""
    for tool in ("iptables", "ip6tables"):
        lab.box.ok(tool, "-P", "FORWARD", "DROP")
        lab.box.ok(tool, "-A", "FORWARD", "-o", "virbr9", "-j", "REJECT")
    lab.ip("link add virbr9 type bridge")
    lab.ip("address add 10.9.9.1/24 dev virbr9")
    lab.ip("link set virbr9 up")
    before = [lab.box.ok(tool, "-S") for tool in ("iptables", "ip6tables")]
    for name, who in (("a", A), ("b", B)):
        lab.boot(name, who)
        lab.start(name, who)
    for address in both(A):
        assert lab.reaches("x", address)
        assert lab.reaches("b", address)
    for address in both(X):
        assert lab.reaches("a", address)
    assert not lab.reaches("a", "10.9.9.9")
    assert re.search(r"^ +2 +\d+ REJECT .* virbr9 ", lab.box.ok("iptables", "-nvxL", "FORWARD"), re.M)
    assert re.search(r"-A GUESTNET-ROUTED -s 192.0.2.10/32 -i vme0000000a -j ACCEPT", lab.box.ok("iptables", "-S"))
    # A firewall that makes its rules anew: whoever looks next puts ours back.
    lab.box.ok("iptables", "-F")
    assert not lab.reaches("x", both(A)[0])
    assert lab.hooks.call("qemu", "b", "release", "end", domain("b", B)) == (0, "")
    assert lab.reaches("x", both(A)[0])
    lab.stop("a", A)
    lab.box.ok("iptables", "-A", "FORWARD", "-o", "virbr9", "-j", "REJECT")
    assert [lab.box.ok(tool, "-S") for tool in ("iptables", "ip6tables")] == before


def test_a_port_of_the_host_is_forwarded_to_a_guest_that_it_routes_to(lab: RoutedLab, tmp_path: Path) -> None:
    """For X, another guest and the host itself, past a policy that lets nothing else in; only for whom it is."""
    for tool in ("iptables", "ip6tables"):
        lab.box.ok(tool, "-P", "FORWARD", "DROP")
    form = '<guestnet:forward protocol="tcp" ports="8080" to="{}" first="80" from="{}"/>'
    clients = ("192.0.2.0/24", both(X)[1])
    xml = domain("a", A, more="".join(form.format(*each) for each in zip(both(A), clients, strict=True)))
    for name, who in (("a", A), ("b", B)):
        lab.boot(name, who)
    lab.start("a", A, xml)
    lab.start("b", B)
    enter = ["nsenter", "-t", lab.box.pid, "--net", "--mount", "--"]
    with ExitStack() as stack:
        places = {"host": enter} | {who: [*enter, "ip", "netns", "exec", who] for who in ("x", "a", "b")}
        agents = {who: stack.enter_context(agent(tmp_path / who, prefix)) for who, prefix in places.items()}
        agents["a"].listen(tcp=[80])
        seen = {
            (who, at): (probe := agents[who].tcp(at, 8080, timeout=3.0)).outcome + f" {probe.seen_as}"
            for who in ("x", "b", "host")
            for at in both(HOST)
        }
    v4, v6 = both(HOST)
    assert seen == {
        ("x", v4): f"open {both(X)[0]}",
        ("x", v6): f"open {both(X)[1]}",
        ("b", v4): f"open {both(B)[0]}",
        ("b", v6): "refused None",
        ("host", v4): f"open {v4}",
        ("host", v6): "refused None",
    }
    lab.stop("b", B)
    assert lab.hooks.call("qemu", "a", "release", "end", xml) == (0, "")
    assert "inet guestnet" not in lab.box.ok("nft", "list", "tables")


def test_a_protocol_without_ports_is_forwarded_to_it_too(lab: RoutedLab) -> None:
    """Past a policy that lets nothing else in."""
    for tool in ("iptables", "ip6tables"):
        lab.box.ok(tool, "-P", "FORWARD", "DROP")
    form = '<guestnet:forward protocol="gre" at="{}" to="{}"/>'
    xml = domain("a", A, more="".join(form.format(*each) for each in zip(both(HOST), both(A), strict=True)))
    lab.boot("a", A)
    lab.start("a", A, xml)
    tunnels = Tunnels(lab.box)
    for at, x in zip(both(HOST), both(X), strict=True):
        assert tunnels.heard("x", "a", at, GRE) == x
        assert tunnels.heard("a", "x", x, GRE) == at
    assert lab.hooks.call("qemu", "a", "release", "end", xml) == (0, "")


def test_what_floats_or_is_in_a_table_of_its_own_is_not_forwarded_to_a_routed_guest(lab: RoutedLab) -> None:
    lab.boot("a", A)
    forward = f'<guestnet:forward protocol="tcp" ports="8080" to="{both(A)[0]}"/>'
    elsewhere = ON_LAN.replace("/>", ' table="100"/>')
    for more, routed, why in (
        (forward, elsewhere, "the host forwards by its main table"),
        (f'<guestnet:floating ip="192.0.2.77" to="{both(A)[0]}"/>', ON_LAN, "has its addresses itself"),
    ):
        status, stderr = lab.hooks.call("qemu", "a", "start", "begin", domain("a", A, routed, more))
        assert (status, why in stderr) == (1, True), stderr


def test_guests_reach_each_other_through_the_host_and_nothing_at_layer_2(lab: RoutedLab) -> None:
    for name, who in (("a", A), ("b", B)):
        lab.boot(name, who)
        lab.start(name, who)
    for address in both(B):
        assert lab.reaches("a", address)
    known = {entry["dst"] for f in ("-4", "-6") for entry in json.loads(lab.ip(f"-j {f} neigh show", "a"))}
    assert known <= {"169.255.30.1", "fe80::1"} | {a for a in known if a.startswith("fe80:")}
    hops = lab.run("a", "busybox", "traceroute", "-n", "-q", "1", "-w", "2", "-m", "3", both(B)[0])[1].splitlines()[1:]
    # The host says who it is by its own address, not by that of the gateway.
    assert [hop.split()[1] for hop in hops] == [both(HOST)[0], both(B)[0]]
    hops = lab.run("a", "busybox", "traceroute6", "-n", "-q", "1", "-w", "2", "-m", "3", both(B)[1])[1].splitlines()[1:]
    assert [hop.split()[1] for hop in hops] == [both(HOST)[1], both(B)[1]]


ROUTED = f"""<hookData><network><name>dmz</name><metadata><guestnet:network {NS} topology="t" name="dmz" guarded="no">
    <guestnet:subnet prefix="10.70.1.0/24"/><guestnet:subnet prefix="fd70:1::/64"/></guestnet:network></metadata>
  <forward mode="route" dev="up0"/><bridge name="dmz0"/><ip address="10.70.1.1" prefix="24"/>
  <ip family="ipv6" address="fd70:1::1" prefix="64"/></network></hookData>""".encode()
# libvirt's rules for it, and for a nat network beside it.
LIBVIRTS = """set -e
ip link add dmz0 type bridge forward_delay 0; ip link set dmz0 up; ip link add nat0 type bridge; ip link set nat0 up
ip address add 10.70.1.1/24 dev dmz0; ip address add fd70:1::1/64 dev dmz0 nodad
ip netns add d; ip netns exec d sh -c 'echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad'
ip link add d0 type veth peer name eth0 netns d; ip link set d0 master dmz0 up; ip -n d link set eth0 up
ip -n d address add 10.70.1.5/24 dev eth0; ip -n d address add fd70:1::5/64 dev eth0
ip -n d route add default via 10.70.1.1; ip -n d route add default via fd70:1::1
for each in "iptables 10.70.1.0/24" "ip6tables fd70:1::/64"; do
    set -- $each
    $1 -A FORWARD -o nat0 -j REJECT
    $1 -A FORWARD -d $2 -i up0 -o dmz0 -j ACCEPT; $1 -A FORWARD -o dmz0 -j REJECT
    $1 -A FORWARD -s $2 -i dmz0 -o up0 -j ACCEPT; $1 -A FORWARD -i dmz0 -j REJECT
done"""


def test_they_and_guests_of_a_routed_network_of_that_lan_reach_each_other(lab: RoutedLab) -> None:
    lab.box.ok("sh", "-c", LIBVIRTS)
    assert lab.hooks.call("network", "dmz", "started", "begin", ROUTED) == (0, "")
    lab.boot("a", A)
    routed = ("10.70.1.5", "fd70:1::5")
    lab.ip("address add 10.70.9.1/24 dev nat0")
    before = [lab.box.ok(tool, "-S") for tool in ("iptables", "ip6tables")]
    lab.start("a", A)
    for one, other in zip(both(A), routed, strict=True):
        assert lab.reaches("a", other)
        assert lab.reaches("d", one)
    assert not lab.reaches("a", "10.70.9.9")
    assert re.search(r"^ +[12] +\d+ REJECT .* nat0 ", lab.box.ok("iptables", "-nvxL", "FORWARD"), re.M), "as before"
    lab.stop("a", A)
    assert [lab.box.ok(tool, "-S") for tool in ("iptables", "ip6tables")] == before


def test_icmp_errors_towards_the_lan_come_from_the_servers_own_address(lab: RoutedLab) -> None:
    lab.boot("a", A)
    lab.start("a", A)
    for command, target, server in zip(("traceroute", "traceroute6"), both(A), both(HOST), strict=True):
        hops = lab.run("x", "busybox", command, "-n", "-q", "1", "-w", "2", "-m", "3", target)[1].splitlines()[1:]
        assert [hop.split()[1] for hop in hops] == [server, target]


def test_the_gateway_answers_on_the_guests_own_link_only(lab: RoutedLab) -> None:
    lab.boot("a", A)
    lab.start("a", A)
    arping = ("busybox", "arping", "-c", "2", "-w", "2", "-f", "-I", "eth0")
    assert lab.run("a", *arping, "-s", both(A)[0], "169.255.30.1")[0] == 0
    assert lab.run("x", *arping, both(HOST)[0])[0] == 0
    assert lab.run("x", *arping, "169.255.30.1")[0] != 0
    # Nor does anything else of the host's on the guest's link.
    assert lab.run("a", *arping, "-s", both(A)[0], both(HOST)[0])[0] != 0
    lab.stop("a", A)
    assert lab.box.run("nft", "list", "table", "arp", "guestnet").returncode != 0


def test_a_guest_is_announced_when_it_is_there_and_not_before(lab: RoutedLab) -> None:
    lab.boot("a", A)
    server = json.loads(lab.ip("-j link show up0"))[0]["address"]
    for address in both(A):
        lab.ip(f"neigh replace {address} lladdr 02:00:00:00:00:77 dev eth0 nud stale", "x")
    assert lab.hooks.call("qemu", "a", "start", "begin", domain("a", A)) == (0, "")
    assert lab.routes() == lab.published() == set()
    assert _known(lab) == {"02:00:00:00:00:77"}
    assert lab.hooks.call("qemu", "a", "started", "begin", domain("a", A)) == (0, "")
    deadline = time.monotonic() + 240
    while _known(lab) != {server} and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _known(lab) == {server}


def _known(lab: RoutedLab) -> set[str]:
    return {json.loads(lab.ip(f"-j neigh show to {address}", "x"))[0]["lladdr"] for address in both(A)}


def test_the_host_keeps_its_own_ipv6(lab: RoutedLab) -> None:
    """Forwarding on, the kernel drops default routes that it learnt, and learns no more, unless accept_ra is 2."""
    lab.boot("a", A)
    assert lab.sysctl("ipv6/conf/all/forwarding") == "0"
    lab.box.ok("sh", "-c", "echo 0 >/proc/sys/net/ipv6/conf/vme0000000a/accept_ra")
    _send_advertisement(lab)
    assert _learnt_default(lab)
    lab.start("a", A)
    assert lab.sysctl("ipv6/conf/all/forwarding") == lab.sysctl("ipv4/ip_forward") == "1"
    assert _learnt_default(lab)
    assert lab.sysctl("ipv6/conf/up0/accept_ra") == "2"
    assert lab.sysctl(f"ipv6/conf/{tap(A)}/accept_ra") == "0"
    lab.ip("-6 route flush default")
    _send_advertisement(lab)
    assert _learnt_default(lab)


ADVERTISEMENT = """
import socket, struct
sock = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
sock.sendto(struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0), ("ff02::1", 0, 0, socket.if_nametoindex("eth0")))
"""


def _send_advertisement(lab: RoutedLab) -> None:
    assert lab.run("x", "python3", "-IS", "-c", ADVERTISEMENT) == (0, "")


def _learnt_default(lab: RoutedLab) -> bool:
    deadline = time.monotonic() + 480
    while not (found := "proto ra" in lab.ip("-6 route show default")) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def test_what_a_tap_is_whatever_the_hosts_defaults_are(lab: RoutedLab) -> None:
    lab.boot("a", A)
    for setting, value in (("rp_filter", 2), ("proxy_arp", 1), ("accept_redirects", 1), ("send_redirects", 1)):
        lab.box.ok("sh", "-c", f"echo {value} >/proc/sys/net/ipv4/conf/{tap(A)}/{setting}")
    lab.box.ok("sh", "-c", f"echo 1 >/proc/sys/net/ipv6/conf/{tap(A)}/disable_ipv6")
    lab.start("a", A)
    found = {
        s: lab.sysctl(f"ipv4/conf/{tap(A)}/{s}")
        for s in ("rp_filter", "proxy_arp", "accept_redirects", "send_redirects")
    }
    assert found == {"rp_filter": "1", "proxy_arp": "0", "accept_redirects": "0", "send_redirects": "0"}
    assert lab.reaches("x", both(A)[1])


def test_a_provider_that_routes_needs_nothing_published(lab: RoutedLab) -> None:
    routed = '<guestnet:routed gateway="169.254.1.1" publish="no"/>'
    more = '<guestnet:source prefix="198.51.100.0/28"/><guestnet:source prefix="0.0.0.0/0"/>'
    lab.boot("a", A, "169.254.1.1")
    lab.start("a", A, domain("a", A, routed, more))
    assert lab.published() == set()
    assert lab.routes() == {*led_to(A)[0], f"198.51.100.0/28 {tap(A)}"}, "never a default route to a guest"
    lab.ip("address add 198.51.100.1/28 dev lo", "a")
    lab.ip("link set lo up", "a")
    lab.ip(f"route add 198.51.100.0/28 via {both(HOST)[0]}", "x")
    assert lab.reaches("x", "198.51.100.1")


def test_a_table_of_its_own(lab: RoutedLab) -> None:
    routed = ON_LAN.replace("/>", ' table="100"/>')
    lab.boot("a", A)
    lab.start("a", A, domain("a", A, routed))
    assert (lab.routes("main"), lab.routes("100")) == (set(), led_to(A)[0])
    lab.ip(f"rule add to {both(A)[0]} lookup 100 priority 10")
    assert lab.reaches("x", both(A)[0])
    lab.stop("a", A)
    assert lab.routes() == set()


def test_on_another_host_the_uplink_has_another_name(lab: RoutedLab) -> None:
    """After a migration the XML still names the device of the host that the guest came from."""
    lab.boot("a", A)
    lab.start("a", A, domain("a", A, ON_LAN.replace("up0", "enp5s0")))
    assert (lab.routes(), lab.published()) == led_to(A)
    assert lab.reaches("x", both(A)[0])


@pytest.mark.parametrize(
    ("routed", "message"),
    [
        (ON_LAN.replace("169.255.30.1", "fe80::2"), "gateway 'fe80::2' is no IPv4 address"),
        (ON_LAN.replace("169.255.30.1", "nonsense"), "'nonsense' is not an IP address"),
        (ON_LAN.replace("/>", ' table="-1"/>'), "<guestnet:routed> table: '-1' is not a number"),
        (ON_LAN.replace("up0", "up0; x"), "device name 'up0; x'"),
    ],
)
def test_bad_metadata_is_vetoed_with_one_line(lab: RoutedLab, routed: str, message: str) -> None:
    lab.boot("a", A)
    status, stderr = lab.hooks.call("qemu", "a", "start", "begin", domain("a", A, routed))
    assert (status, stderr.count("\n")) == (1, 1)
    assert message in stderr
    assert (lab.routes(), lab.published(), lab.hooks.receipts()) == (set(), set(), [])


def test_what_is_no_vrf_of_the_host_refuses_the_start(lab: RoutedLab) -> None:
    """tests/labvm/inside/test_vrf.py has what is one: not every kernel knows them."""
    lab.boot("a", A)
    for vrf, found in (("red", "this host has no VRF red"), ("up0", "device up0 of this host is no VRF")):
        xml = domain("a", A, ON_LAN.replace("/>", f' vrf="{vrf}"/>'))
        status, stderr = lab.hooks.call("qemu", "a", "start", "begin", xml)
        assert (status, stderr.count("\n")) == (1, 1)
        assert f"{found}: make it (`ip link add {vrf} type vrf table NUMBER`" in stderr
    lab.stop("a", A)
    assert (lab.routes(), lab.hooks.receipts(), lab.hooks.chains()) == (set(), [], [])


def test_an_address_on_no_lan_of_the_host_is_refused(lab: RoutedLab) -> None:
    lab.boot("a", A)
    lab.ip("address flush dev up0 scope global")
    xml = domain("a", A, ON_LAN.replace("up0", "enp5s0"))
    assert lab.hooks.call("qemu", "a", "start", "begin", xml) == (0, "")
    status, stderr = lab.hooks.call("qemu", "a", "started", "begin", xml)
    assert status == 1
    assert "no device of this host is on the LAN of 192.0.2.10" in stderr
    lab.stop("a", A)
    assert (lab.routes(), lab.published(), lab.hooks.receipts()) == (set(), set(), [])


def test_reconnect_repairs_all_of_it(lab: RoutedLab) -> None:
    lab.boot("a", A)
    lab.start("a", A)
    lab.box.ok("nft", "flush", "ruleset")
    lab.ip(f"route flush dev {tap(A)} proto 71")
    lab.ip(f"neigh del proxy {both(A)[0]} dev up0")
    lab.ip(f"address del 169.255.30.1/32 dev {tap(A)}")
    assert not lab.reaches("x", both(A)[0])
    assert lab.hooks.call("qemu", "a", "reconnect", "begin", domain("a", A)) == (0, "")
    assert (lab.routes(), lab.published()) == led_to(A)
    assert lab.reaches("x", both(A)[0])
    assert lab.hooks.chains() == [tap(A)]


def test_a_guest_that_vanished_unheard_is_swept_by_the_next_call(lab: RoutedLab) -> None:
    for name, who in (("a", A), ("b", B)):
        lab.boot(name, who)
        lab.start(name, who)
    lab.ip(f"link delete {tap(A)}")
    assert lab.published() == led_to(A, B)[1]
    assert lab.hooks.call("qemu", "b", "reconnect", "begin", domain("b", B)) == (0, "")
    assert (lab.routes(), lab.published()) == led_to(B)


def test_what_cannot_be_taken_away_keeps_nothing_else(lab: RoutedLab) -> None:
    """Somebody's own rule leads into a chain of the guest's filter, so that the kernel does not let it go."""
    lab.boot("a", A)
    lab.start("a", A)
    assert (lab.routes(), lab.published()) == led_to(A)
    lab.box.ok("nft", "add chain netdev guestnet x; add rule netdev guestnet x jump arp-vme0000000a")
    status, said = lab.hooks.call("qemu", "a", "release", "end", domain("a", A))
    assert (status, "Device or resource busy" in said) == (0, True)
    assert (lab.routes(), lab.published()) == (set(), set())
    assert lab.box.run("nft", "list", "table", "arp", "guestnet").returncode != 0
    assert lab.hooks.receipts() != [], "its filter has a receipt still"
    lab.box.ok("nft", "delete chain netdev guestnet x")
    lab.ip(f"link delete {tap(A)}")
    lab.stop("a", A)
    assert (lab.hooks.receipts(), lab.hooks.chains()) == ([], [])
