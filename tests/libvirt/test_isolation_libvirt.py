"""`guestnet verify --isolation` on a host with every kind of network that this kernel has, under a real libvirtd."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from support.hooks import SETTLED
from support.libvirt_host import Guests
from support.libvirt_wire import domain

from libvirt_guestnet import xmlgen
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.sandbox import Sandbox, python_inside
from libvirt_guestnet.topology import loads
from libvirt_guestnet.xmlgen.element import to_string

# `one` and `two` have the same subnet; `both` is on a bridge that somebody else has made.
TEXT = """
name: t
physical-networks: { lan: {}, br: {}, under: { subnets: [198.18.7.0/24] }, up: { subnets: [198.18.9.0/24] } }
networks:
  one: { mode: isolated, subnets: [10.1.1.0/24] }
  two: { mode: isolated, subnets: [10.1.1.0/24] }
  web: { mode: nat, subnets: [10.61.1.0/24, "fd61:1::/64"] }
  alone: { mode: isolated, isolated-ports: true, subnets: [10.61.2.0/24] }
  outside: { mode: bridge, physical-network: lan, subnets: [10.61.3.0/24] }
  both: { mode: bridge, physical-network: br, guarded: false }
  red: { mode: bridge, vxlan: { vni: 5001, underlay: under, remotes: [198.18.7.2] }, subnets: [10.61.4.0/24] }
  blue: { mode: bridge, vxlan: { vni: 5002, underlay: under, remotes: [198.18.7.2] }, subnets: [10.61.5.0/24] }
guests:
  a: { ports: [{ network: one, addresses: [10.1.1.5] }, { network: red, addresses: [10.61.4.5] }] }
"""
SETUP = """set -e
mkdir -p /run/netns; ip netns add far
for each in lan0 under0 ext0; do
    ip link add $each type veth peer name $each netns far; ip link set $each up; ip -n far link set $each up
done
ip link add br0 type bridge stp_state 0 forward_delay 0; ip link set ext0 master br0; ip link set br0 up
ip addr add 198.18.7.1/24 dev under0; ip neigh add 198.18.7.2 lladdr 02:00:00:00:00:02 dev under0
for each in /proc/sys/net/bridge/bridge-nf-call-*tables; do [ ! -e $each ] || echo 0 > $each; done
"""
DEVICES = {"lan": "lan0", "br": "bridge:br0", "under": "under0", "up": "up0"}
FOUND = loads(TEXT, "t.yaml")


class Verified(Guests):
    """A host with these networks and a guest."""

    def verify(self, *words: str) -> tuple[int, Any, str]:
        argv = python_inside(["-m", "libvirt_guestnet.cli", "verify", "--isolation", "--json", *words])
        done = self.sandbox.run(argv, check=False, timeout=600)
        return done.returncode, json.loads(done.stdout), done.stderr

    def state(self) -> list[str]:
        """Rules (in whatever order their chains are), devices (an empty bridge's state changes) and receipts, once no
        process of a hook works any more."""
        listed = (
            f"{SETTLED}; nft -s list ruleset; ls /sys/class/net; find /run/libvirt-guestnet -type f | grep -v /lock"
        )
        return sorted(self.sandbox.run(["sh", "-c", listed]).stdout.splitlines())


@pytest.fixture(scope="module")
def host(hooked_sandbox: Sandbox) -> Iterator[Verified]:
    found = Verified(hooked_sandbox)
    hooked_sandbox.run(["sh", "-c", SETUP])
    hostmap = HostMap(DEVICES)
    for network in FOUND.networks:
        found.define("net-create", to_string(xmlgen.network(FOUND, network, hostmap)))
    guest = FOUND.guest("a")
    nics = [to_string(xmlgen.interface(FOUND, guest, port, hostmap)) for port in guest.ports]
    found.define("create", domain("a", *nics, metadata=to_string(xmlgen.domain_metadata(FOUND, guest, hostmap))))
    hooked_sandbox.run(["tee", "/tmp/t.yaml"], stdin=TEXT)
    yield found


def test_every_network_is_apart(host: Verified) -> None:
    before = host.state()
    status, rows, said = host.verify()
    assert (status, said) == (0, ""), (rows, said)
    assert {row["networks"][0] for row in rows} == {network.name for network in FOUND.networks}
    home = {row["networks"][0]: row for row in rows if row["frames"] == "ordinary"}
    assert {name for name, row in home.items() if row["left_by"]} == {"outside", "both", "red", "blue"}
    assert home["outside"]["left_by"] == ["lan0 untagged"] and home["both"]["left_by"] == ["ext0 untagged"]
    assert "under0 in VXLAN 5001 untagged" in home["red"]["left_by"]
    assert "under0 in VXLAN 5002 untagged" in home["blue"]["left_by"]
    assert (home["both"]["port"], home["one"]["port"]) == ("not guarded", "guarded")
    tap = next(tap for tap, mac in host.nics("a").items() if mac == FOUND.guest("a").ports[0].mac)
    assert tap in home["one"]["heard"] and tap not in home["two"]["heard"], "two networks with one subnet"
    assert host.state() == before


def test_a_topology_says_which(host: Verified) -> None:
    status, rows, _ = host.verify("/tmp/t.yaml")
    assert (status, len({row["link"] for row in rows})) == (0, len(FOUND.networks))
    more = TEXT.replace("networks:\n", "networks:\n  gone: { mode: isolated }\n")
    host.sandbox.run(["tee", "/tmp/more.yaml"], stdin=more)
    status, rows, _ = host.verify("/tmp/more.yaml")
    assert status == 1
    assert [(r["networks"], r["result"]) for r in rows if r["result"] != "ok"] == [(["gone"], "FAILED")]


def test_a_cable_between_an_existing_bridge_and_a_nic(host: Verified) -> None:
    """`both` leaks into the LAN of `outside`: by its uplink, and by the bridge over that."""
    host.sandbox.run(["sh", "-c", "ip link add leak0 type veth peer name leak1; ip link set leak0 master br0 up"])
    bridge = next(network.bridge for network in FOUND.networks if network.name == "outside")
    host.sandbox.run(["sh", "-c", f"ip link set leak1 master {bridge} up"])
    try:
        status, rows, _ = host.verify()
        assert status == 1
        devices = {leak["device"] for row in rows for leak in row["leaks"] if row["networks"] == ["both"]}
        assert {"leak1"} <= devices
        argv = python_inside(["-m", "libvirt_guestnet.cli", "verify", "--isolation"])
        done = host.sandbox.run(argv, check=False, timeout=600)
        assert done.returncode == 1 and "LEAK: IPv4 broadcast from both was seen at leak1" in done.stdout
    finally:
        host.sandbox.run(["ip", "link", "del", "leak0"])
    status, rows, _ = host.verify()
    assert status == 0, rows


def test_two_overlays_with_one_number(host: Verified) -> None:
    """Somebody has put the VXLAN device of one into the bridge of the other."""
    bridges = {network.name: network.bridge for network in FOUND.networks}
    find = f"ip -br link show master {bridges['blue']} type vxlan"
    device = host.sandbox.run(["sh", "-c", find]).stdout.split()[0].partition("@")[0]
    host.sandbox.run(["ip", "link", "set", device, "master", bridges["red"]])
    try:
        status, rows, _ = host.verify()
        assert status == 1
        leaks = {(row["networks"][0], leak["device"], leak["vni"]) for row in rows for leak in row["leaks"]}
        assert {("red", device, None), ("red", "under0", 5002)} <= leaks
    finally:
        host.sandbox.run(["ip", "link", "set", device, "master", bridges["blue"]])
