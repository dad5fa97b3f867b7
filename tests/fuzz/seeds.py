"""What is changed by chance: a network and a guest of every kind, as libvirt would show them to the hooks."""

from __future__ import annotations

import json
from typing import NamedTuple

from lxml import etree

from libvirt_guestnet import xmlgen
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.model.topology import Guest
from libvirt_guestnet.topology import loads

TOPOLOGY = """
name: chance
physical-networks:
  wan: { subnets: [198.18.1.0/24, "fd61:1::/64"] }
  lan: {}
  nic: {}
networks:
  safe: { mode: isolated, subnets: [10.0.9.0/24] }
  nat:
    mode: nat
    physical-network: wan
    subnets: [10.0.1.0/24, "fd00:1::/64"]
    dhcp: { range: [10.0.1.100, 10.0.1.199] }
    mac: "52:54:00:00:01:01"
    log-drops: true
  quiet: { mode: isolated, subnets: [10.0.2.0/24, "fd00:2::/64"], privacy-addresses: true }
  routed: { mode: route, physical-network: wan, subnets: [10.0.7.0/24, "fd00:7::/64"] }
  wire: { mode: bridge, physical-network: nic, subnets: [10.0.3.0/24] }
  red: { mode: bridge, physical-network: lan, vlan: 100, subnets: [10.0.4.0/24] }
  tunnel: { mode: bridge, vxlan: { vni: 7, underlay: wan, remotes: [198.18.1.9] }, subnets: [10.0.5.0/24] }
  direct: { mode: host-routed, physical-network: wan }
  table: { mode: host-routed, publish: false, table: 100, subnets: [10.0.8.0/24] }
guests:
  bystander: { ports: [{ network: safe, tap: tap0, addresses: [10.0.9.2] }] }
  nat:
    ports:
      - network: nat
        tap: tap1
        addresses: [10.0.1.9, "fd00:1::9"]
        allowed-pairs:
          - { address: 10.0.1.10, mac: "00:00:5e:00:01:05" }
          - { address: 10.0.1.11, mac: "52:54:00:00:99:11" }
          - { address: "fd00:1::1000/116" }
        roles: [dhcp-server, dhcp-relay, ra-sender, ospf, multicast-router, lldp, stp, pppoe]
        sources: [10.9.0.0/16]
        next-hop: true
        forwards:
          - { services: [gre, proto/115], at: [198.18.1.22] }
          - { services: [esp], at: [198.18.1.22], from: [198.18.1.0/24] }
          - { services: [tcp/8080, udp/8000-8010], at: [198.18.1.20], to: 80 }
          - { services: [tcp/2222, udp/2223], from: [198.18.1.0/24, "fd61:1::/64"] }
        floating: [198.18.1.50, "fd61:1::50"]
        floating-untranslated: [198.18.1.51]
  learner:
    ports:
      - { network: nat, tap: tap2, addresses: dhcp, forwards: [{ services: [tcp/2323], at: [198.18.1.21] }] }
      - { network: quiet, tap: tap3, guarded: observe }
  hop:
    ports:
      - { network: routed, tap: tap4, next-hop: true }
      - { network: quiet, tap: tap5 }
    router: { allow: [{ from: quiet, to: routed, services: [icmp] }] }
  tags:
    ports:
      - { network: red, tap: tap6, addresses: [10.0.4.6] }
      - { network: wire, tap: tap7, addresses: [10.0.3.7], log-drops: true, impairment: { delay: 20ms, loss: 1% } }
      - { network: tunnel, tap: tap8, addresses: [10.0.5.8], kind: bridge }
  trunk: { ports: [{ network: red, tap: tap9, trunk: [100-110], native-vlan: 7, addresses: [10.0.4.9] }] }
  trusted: { ports: [{ network: nat, tap: tap10, guarded: false, addresses: [] }] }
  direct:
    ports:
      - network: direct
        tap: tap11
        addresses: [198.18.1.60, "fd61:1::60"]
        sources: [10.8.0.0/16]
        forwards: [{ services: [sctp/2424] }]
  table: { ports: [{ network: table, tap: tap12, addresses: [10.0.8.2] }] }
  plain: { ports: [{ network: red, tap: tap13, guarded: observe }] }
  any: { ports: [{ network: quiet, tap: tap14, addresses: any }, { network: wire, tap: tap15, addresses: [] }] }
"""
TAPS, NEW_TAP = [f"tap{number}" for number in range(16)], "tap16"
BRIDGES = ("gn-safe", "gn-nat", "gn-quiet", "gn-routed", "br0")
ON_BRIDGES = [
    ("up1", "br0"),
    ("tap0", "gn-safe"),
    *((f"tap{n}", b) for n, b in ((1, "gn-nat"), (2, "gn-nat"), (3, "gn-quiet"), (10, "gn-nat"), (14, "gn-quiet"))),
]
DEVICES = {"wan": "up0", "lan": "br0/up1", "nic": "up2"}
FOUND = loads(TOPOLOGY, "by chance")
HOSTMAP = HostMap(DEVICES, lambda device: device == "br0")


RESERVED = "52:54:00:66:66:67"


class Call(NamedTuple):
    """One hook call; `inside` is what is between the tags of <hookData> beside the network."""

    hook: str
    name: str
    operation: str
    xml: bytes


def network_xml(name: str) -> bytes:
    network = xmlgen.network(FOUND, FOUND.network(name), HOSTMAP)
    dhcp = network.find("ip/dhcp")
    if dhcp is not None:
        etree.SubElement(dhcp, "host", mac="52:54:00:66:66:66", ip="10.0.1.77", name="reserved")
        last = etree.SubElement(network.findall("ip")[-1], "dhcp")
        etree.SubElement(last, "range", start="fd00:1::100", end="fd00:1::1ff")
        etree.SubElement(last, "host", id=f"00:03:00:01:{RESERVED}", ip="fd00:1::77")
    return etree.tostring(network)


def domain_xml(guest: Guest) -> bytes:
    """As from `start` on: with bridges, ports and taps."""
    domain = etree.Element("domain")
    for tag, text in (("name", guest.name), ("uuid", uuid_of(guest.name))):
        etree.SubElement(domain, tag).text = text
    etree.SubElement(domain, "metadata").append(xmlgen.domain_metadata(FOUND, guest, HOSTMAP))
    devices = etree.SubElement(domain, "devices")
    for number, port in enumerate(guest.ports):
        nic = xmlgen.interface(FOUND, guest, port, HOSTMAP)
        source = nic.find("source")
        if source is not None and source.get("network"):
            source.set("portid", uuid_of(f"{guest.name}{number}"))
            source.set("bridge", HOSTMAP.bridge(FOUND.network(port.network)))
        devices.append(nic)
        if guest.name == "plain":  # a tag that its user gave it by libvirt's own means
            etree.SubElement(etree.SubElement(nic, "vlan", trunk="yes"), "tag", id="101", nativeMode="untagged")
    return etree.tostring(domain)


def uuid_of(name: str) -> str:
    return f"6ba7b810-9dad-41d1-80b4-{name.encode().hex()[:12]:0<12}"


NETWORKS = {network.name: network_xml(network.name) for network in FOUND.networks if network.mode != "host-routed"}
DOMAINS = {guest.name: domain_xml(guest) for guest in FOUND.guests}
# One that names another's tap, and one of a type that has none, on a network that insists on a guard.
DOMAINS["thief"] = DOMAINS["any"].replace(b"tap14", b"tap1").replace(b">any<", b">thief<").replace(
    uuid_of("any").encode(), uuid_of("thief").encode()
)  # fmt: skip
DOMAINS["tapless"] = DOMAINS["plain"].replace(b">plain<", b">tapless<").replace(b'type="network"', b'type="direct"')


def hook_data(network: str, port: bytes = b"") -> bytes:
    return b"<hookData>" + NETWORKS[network] + port + b"</hookData>"


# One that somebody else made, with what is in its definition, and without, as it runs.
OFFICE = b"""<hookData><network><name>office</name>%s<forward mode='nat'/><bridge name='gn-safe'/>
<ip address='10.0.6.1' netmask='255.255.255.0'/><ip family='ipv6' address='fd00:6::1' prefix='64'/></network>
</hookData>"""
ADOPTED = b"""<metadata><guestnet:network xmlns:guestnet="https://libvirt-guestnet.org/xmlns/1" topology="t"
name="office" guarded="observe" external="yes"><guestnet:dhcp mac="52:54:00:61:0c:01" routers="edge" lease="3600">
<guestnet:server ip="10.0.6.2"/></guestnet:dhcp></guestnet:network></metadata>"""


def port_of(owner: str, network: str, mac: str, portid: str) -> bytes:
    """A <networkport> as libvirt describes a NIC that is being plugged in."""
    bridge = HOSTMAP.bridge(FOUND.network(network))
    return f"""<networkport><uuid>{portid}</uuid><owner><name>{owner}</name><uuid>{uuid_of(owner)}</uuid></owner>
<mac address='{mac}'/><plug type='network' bridge='{bridge}' macTableManager='kernel'/></networkport>""".encode()


PLUGGED_MAC, PLUGGED_ID = "52:54:00:77:77:77", "6ba7b810-9dad-41d1-80b4-777777777777"
PLUG = hook_data("nat", port_of("nat", "nat", PLUGGED_MAC, PLUGGED_ID))
MOVE = hook_data("quiet", port_of("nat", "quiet", FOUND.guest("nat").ports[0].mac, PLUGGED_ID))
# The port of a NIC that is there still, as libvirt tells it before a move is over.
LEFT = hook_data("nat", port_of("nat", "nat", FOUND.guest("nat").ports[0].mac, uuid_of("nat0")))
# To another network of its bridge.
WITHIN = hook_data("safe", port_of("nat", "nat", FOUND.guest("nat").ports[0].mac, PLUGGED_ID))

_LEASE = {"mac-address": FOUND.guest("learner").ports[0].mac, "expiry-time": 4102444800}
# Of this one the tap does not come in time.
LATE_MAC, LATE_ID = "52:54:00:88:88:88", "6ba7b810-9dad-41d1-80b4-888888888888"
LATE = hook_data("nat", port_of("nat", "nat", LATE_MAC, LATE_ID))

LEASES = json.dumps([
    {"ip-address": "10.0.1.150", **_LEASE, "client-id": "01:52"},
    {"ip-address": "fd00:1::150", **_LEASE, "iaid": "1"},
]).encode()  # fmt: skip


def lives() -> list[Call]:
    """The calls of every network and guest, from their start to their end."""
    begin = [Call("network", n, op, hook_data(n)) for n in NETWORKS for op in ("start", "started")]
    begin.append(Call("network", "office", "started", OFFICE % ADOPTED))
    running = [Call("qemu", "direct", "migrate", DOMAINS["direct"])]
    running += [Call("qemu", n, op, DOMAINS[n]) for n in DOMAINS for op in ("start", "started")]
    between = [
        *(Call("network", n, "updated", hook_data(n)) for n in NETWORKS),
        Call("network", "office", "updated", OFFICE % b""),
        Call("network", "nat", "port-created", PLUG),
        Call("network", "quiet", "port-created", MOVE),
        Call("network", "safe", "port-created", WITHIN),
        Call("network", "nat", "port-deleted", PLUG),
        Call("network", "nat", "port-created", LATE),
        Call("network", "nat", "port-deleted", LEFT),
        *(Call("qemu", n, "reconnect", DOMAINS[n]) for n in DOMAINS),
    ]
    ending = [Call("qemu", n, "release", DOMAINS[n]) for n in DOMAINS]
    end = [Call("network", n, "stopped", hook_data(n)) for n in NETWORKS]
    end.append(Call("network", "office", "stopped", OFFICE % b""))
    return [*begin, *running, *between, *ending, *end]
