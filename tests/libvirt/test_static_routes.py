"""Static routes of networks on a real libvirtd: the kernel has them, and packets take them."""

from __future__ import annotations

import pytest
from support.libvirt_apply import ApplyHost

from libvirt_guestnet import xmlgen
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.importing.facts import Request, Seen
from libvirt_guestnet.importing.survey import survey
from libvirt_guestnet.importing.text import text
from libvirt_guestnet.topology import loads

pytestmark = pytest.mark.libvirt

TOPOLOGY = """
name: lab
networks:
  one:
    mode: nat
    subnets: [10.61.1.0/24, "fd61:1::/64"]
    routes: [{ to: 10.79.0.0/24, via: 10.61.1.7 }, { to: "fd79::/64", via: "fd61:1::7", metric: 7 }]
  two: { mode: isolated, gateway: host, subnets: [10.61.2.0/24], routes: [{ to: 10.78.0.0/16, via: 10.61.2.9 }] }
"""
ROUTES = {
    "10.79.0.0/24 via 10.61.1.7 dev gn-one metric 1",
    "fd79::/64 via fd61:1::7 dev gn-one metric 7",
    "10.78.0.0/16 via 10.61.2.9 dev gn-two metric 1",
}
# A router on the network that is no guest, with the prefixes.
ROUTER = """set -e
ip netns add router
ip netns exec router sh -c 'for f in all default; do echo 0 > /proc/sys/net/ipv6/conf/$f/accept_dad; done'
ip link add router0 type veth peer name eth0 netns router; ip link set router0 master gn-one up
ip -n router link set lo up; ip -n router link set eth0 up
ip -n router addr add 10.61.1.7/24 dev eth0; ip -n router addr add fd61:1::7/64 dev eth0
ip -n router addr add 10.79.0.9/32 dev lo; ip -n router addr add fd79::9/128 dev lo
echo 1 > /proc/sys/net/ipv4/ip_forward
"""


def routes(host: ApplyHost) -> set[str]:
    found = [route for family in ("-4", "-6") for route in host.json("ip", "-j", family, "route", "show")]
    via = [each for each in found if "gateway" in each]
    return {f"{each['dst']} via {each['gateway']} dev {each['dev']} metric {each.get('metric', 0)}" for each in via}


def reached(host: ApplyHost, address: str) -> bool:
    ping = ["busybox", "ping", "-c", "2", "-i", "0.2", "-W", "2", address]
    # The bridge has just got its first port: until then its IPv6 address was not asked for.
    return any(host.sandbox.run(ping, check=False).returncode == 0 for _ in range(10))


def test_routes_are_there_while_the_network_is(apply_host: ApplyHost) -> None:
    host = apply_host
    before = routes(host)
    host.apply(TOPOLOGY)
    assert routes(host) - before == ROUTES
    assert host.plan(TOPOLOGY).changes == (), "libvirt has what was asked for"
    # A guarded network's bridge lets nobody speak who is not guarded: the router is no guest.
    open_ = TOPOLOGY.replace("mode: nat", "mode: nat\n    guarded: false")
    host.apply(open_, allow_interrupt=True)
    host.sandbox.run(["sh", "-c", ROUTER])
    try:
        assert (reached(host, "10.79.0.9"), reached(host, "fd79::9")) == (True, True)
    finally:
        host.sandbox.run(["ip", "netns", "del", "router"])
    host.apply(open_.replace("10.79.0.0/24", "10.77.0.0/24"), allow_interrupt=True)
    assert routes(host) - before == {each.replace("10.79.", "10.77.") for each in ROUTES}
    host.destroy()
    assert routes(host) == before


def test_import_reads_them_from_a_network_that_libvirt_has(apply_host: ApplyHost) -> None:
    host = apply_host
    xml = """<network><name>mine</name><bridge name='gn-mine'/><ip address='10.60.0.1' prefix='24'/>
      <route address='10.79.0.0' netmask='255.255.255.0' gateway='10.60.0.7'/></network>"""
    host.sandbox.run(["virsh", "-q", "net-define", "/dev/stdin"], stdin=xml)
    try:
        found = loads(text(survey(Seen(host.libvirt.snapshot()), Request("mine", own=True))), "import")
        (network,) = found.networks
        made = xmlgen.network(found, network, HostMap({}))
        wanted = {"address": "10.79.0.0", "prefix": "24", "gateway": "10.60.0.7"}
        assert [dict(each.attrib) for each in made.iterfind("route")] == [wanted]
        kept = loads("name: lab\nnetworks: { mine: { external: true } }", "lab.yaml")
        assert kept.networks[0].routes == ()
        host.apply("name: lab\nnetworks: { mine: { external: true } }")
        assert (
            "<route address='10.79.0.0' netmask='255.255.255.0' gateway='10.60.0.7'/>"
            in host.sandbox.run(["virsh", "-q", "net-dumpxml", "mine"]).stdout
        )
        host.destroy()
    finally:
        host.sandbox.run(["virsh", "-q", "net-undefine", "mine"])
