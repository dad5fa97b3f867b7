"""Guests that the host routes through, and routed networks: the hooks' calls against a real kernel.

A guest is a network namespace behind a veth pair whose host end plays the tap. The LAN behind `wan` sends
everything to the host; `edge` is on the routed network `dmz`, and only it reaches what is behind it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.box import Box
from support.hooks import NS, Hooks

TAP, MAC, UUID = "vme000000ed", "52:54:00:00:00:ed", "00000000-0000-4000-8000-0000000000ed"
BEHIND = ("10.79.0.0/24", "fd79::/64")
ROUTES = {"10.79.0.0/24 via 10.70.1.5 dev dmz0", "fd79::/64 via fd70:1::5 dev dmz0"}


def domain(*behind: str) -> bytes:
    """What libvirt hands to the hook for the running guest `edge`."""
    prefixes = "".join(f'<guestnet:source prefix="{p}"/>' for p in behind)
    prefixes += "".join(f'<guestnet:behind prefix="{p}"/>' for p in behind)
    return f"""<domain type="qemu"><name>edge</name><uuid>{UUID}</uuid>
      <metadata><guestnet:domain {NS} topology="t" guest="edge">
        <guestnet:port mac="{MAC}" name="dmz" network="dmz" guarded="yes">
          <guestnet:address ip="10.70.1.5"/><guestnet:address ip="fd70:1::5"/>{prefixes}</guestnet:port>
      </guestnet:domain></metadata>
      <devices><interface type="network"><mac address="{MAC}"/><source network="dmz" portid="p" bridge="dmz0"/>
        <target dev="{TAP}"/></interface></devices></domain>""".encode()


class Site:
    """The host with the LAN behind `wan` and the bridge of the routed network `dmz`, where `edge` leads to `inside`."""

    def __init__(self, root: Path) -> None:
        self.box = Box()
        self.hooks = Hooks(self.box, root)
        self.sh("for f in all default; do echo 0 >/proc/sys/net/ipv6/conf/$f/accept_dad; done")
        self.sh("echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding")
        self.connect("lan", "wan")
        self.addresses("", "wan", "198.18.9.2/24", "fd98::2/64")
        self.addresses("lan", "eth0", "198.18.9.1/24", "fd98::1/64", via=("198.18.9.2", "fd98::2"))
        self.sh("ip link add dmz0 type bridge forward_delay 0; ip link set dmz0 up")
        self.addresses("", "dmz0", "10.70.1.1/24", "fd70:1::1/64")

    def connect(self, namespace: str, device: str, mac: str = "") -> None:
        given = f"address {mac}" if mac else ""
        self.sh(
            f"ip netns add {namespace} && ip link add {device} type veth peer name eth0 {given} netns {namespace} && "
            f"ip link set {device} up && ip -n {namespace} link set eth0 up && ip netns exec {namespace} "
            "sh -c 'for f in all default eth0; do echo 0 >/proc/sys/net/ipv6/conf/$f/accept_dad; done'"
        )

    def addresses(self, namespace: str, device: str, *addresses: str, via: tuple[str, ...] = ()) -> None:
        inside = f"-n {namespace}" if namespace else ""
        for address in addresses:
            self.sh(f"ip {inside} address add {address} dev {device}")
        for gateway in via:
            self.sh(f"ip {inside} route add default via {gateway}")

    def boot(self) -> None:
        """Plugs `edge` in, which forwards to what is behind it without hiding it."""
        self.connect("edge", TAP, MAC)
        self.sh(f"ip link set {TAP} master dmz0")
        self.addresses("edge", "eth0", "10.70.1.5/24", "fd70:1::5/64", via=("10.70.1.1", "fd70:1::1"))
        self.sh(
            "ip netns exec edge sh -c 'cd /proc/sys/net; echo 1 >ipv4/ip_forward; echo 1 >ipv6/conf/all/forwarding'"
        )
        self.sh("ip -n edge link add in type dummy 2>/dev/null || ip -n edge link add in type bridge")
        self.sh("ip -n edge link set in up")
        self.addresses("edge", "in", "10.79.0.9/24", "fd79::9/64")

    def call(self, operation: str, *behind: str) -> tuple[int, str]:
        sub = "end" if operation == "release" else "begin"
        return self.hooks.call("qemu", "edge", operation, sub, domain(*behind))

    def sh(self, script: str) -> str:
        return self.box.ok("sh", "-c", script)

    def reaches(self, address: str) -> bool:
        return self.box.run("ip", "netns", "exec", "lan", "busybox", "ping", "-c", "2", "-i", "0.2", "-W", "2", address).returncode == 0  # fmt: skip  # noqa: E501

    def routes(self) -> set[str]:
        found = [
            r for f in ("-4", "-6") for r in json.loads(self.sh(f"ip -j {f} route show table all proto 71") or "[]")
        ]
        return {f"{route['dst']} via {route['gateway']} dev {route['dev']}" for route in found}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    site.boot()
    yield site
    site.box.close()


def test_the_host_routes_through_the_guest_while_it_is_there(site: Site) -> None:
    assert site.call("start", *BEHIND) == (0, "")
    assert site.routes() == set(), "an incoming migration runs elsewhere still"
    assert site.call("started", *BEHIND) == (0, "")
    assert site.routes() == ROUTES
    assert [site.reaches(address) for address in ("10.79.0.9", "fd79::9")] == [True, True]
    assert site.call("release", *BEHIND) == (0, "")
    assert (site.routes(), site.hooks.receipts(), site.hooks.chains()) == (set(), [], [])


def test_a_route_outlives_neither_the_tap_nor_a_killed_hook(site: Site) -> None:
    for operation in ("start", "started"):
        assert site.call(operation, *BEHIND) == (0, "")
    site.sh(f"ip link del {TAP}")  # QEMU is dead, and whoever called `release` too
    assert site.routes() == ROUTES, "the bridge is there still"
    other = domain().replace(UUID.encode(), UUID[:-2].encode() + b"ff").replace(TAP.encode(), b"vme000000ff")
    site.connect("other", "vme000000ff", MAC)
    assert site.hooks.call("qemu", "other", "start", "begin", other) == (0, "")
    assert (site.routes(), site.hooks.chains()) == (set(), ["vme000000ff"])


def test_a_lost_route_comes_back_and_changed_metadata_is_followed(site: Site) -> None:
    for operation in ("start", "started"):
        assert site.call(operation, *BEHIND) == (0, "")
    site.sh("ip route del 10.79.0.0/24")
    assert site.call("started", *BEHIND) == (0, "")
    assert site.routes() == ROUTES
    assert site.call("started", BEHIND[1]) == (0, "")
    assert site.routes() == {route for route in ROUTES if "fd79" in route}


@pytest.mark.parametrize(
    ("behind", "complaint"),
    [
        ("0.0.0.0/0", "0.0.0.0/0 is behind no guest: the host has a default route of its own"),
        ("10.79.0.1/24", "'10.79.0.1/24' has bits set beyond"),
        ("198.18.50.0/24", "198.18.50.0/24 is routed elsewhere on this host already"),
    ],
)
def test_what_cannot_be_behind_a_guest_is_refused(site: Site, behind: str, complaint: str) -> None:
    site.sh("ip route add 198.18.50.0/24 via 198.18.9.1")
    status, said = site.call("started", behind)
    assert (status, complaint in said) == (1, True), said
    assert site.call("release", behind) == (0, "")
    assert site.routes() == set()
    assert "198.18.50.0/24 via 198.18.9.1 dev wan" in site.sh("ip route")


def test_when_the_guest_ends_so_do_the_flows_of_what_is_behind_it(site: Site) -> None:
    """As established they would pass the host's rules, wherever it routes them by then. Its own flows are not cut."""
    for each in ("ip", "ip6"):
        site.sh(
            f"nft add table {each} watch; nft 'add chain {each} watch f {{ type filter hook forward priority 0; }}'"
        )
        site.sh(f"nft add rule {each} watch f ct state established counter")
    for operation in ("start", "started"):
        assert site.call(operation, *BEHIND) == (0, "")
    assert all(map(site.reaches, ("10.79.0.9", "fd79::9", "10.70.1.5")))
    behind = ("dst=10.79.0.9 ", "dst=fd79:0000:0000:0000:0000:0000:0000:0009 ")
    flows = site.sh("cat /proc/net/nf_conntrack")
    assert [each in flows for each in (*behind, "dst=10.70.1.5 ")] == [True] * 3
    assert site.call("started", BEHIND[1]) == (0, "")
    flows = site.sh("cat /proc/net/nf_conntrack")
    assert [each in flows for each in (*behind, "dst=10.70.1.5 ")] == [False, True, True]
    assert site.call("release", *BEHIND) == (0, "")
    flows = site.sh("cat /proc/net/nf_conntrack")
    assert [each in flows for each in (*behind, "dst=10.70.1.5 ")] == [False, False, True]
