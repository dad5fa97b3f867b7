"""What a virtual router tells guests: what of it is in its document, and how much has room there."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from lxml import etree
from support.router_config import LAN, ROUTER

from libvirt_guestnet import parse, xmlgen
from libvirt_guestnet.errors import GuestnetError, TopologyError
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.model.router import GuestMetadata, RouterConfig
from libvirt_guestnet.model.topology import Topology
from libvirt_guestnet.router import metadata
from libvirt_guestnet.router.config import router_config
from libvirt_guestnet.router.document import MAX_BYTES, document
from libvirt_guestnet.topology import loads

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHdoYXRldmVyIGlzIGhlcmUgaXMgbm8ga2V5 me@example"
TOPOLOGY = f"""
name: t
physical-networks: {{ provider: {{}} }}
networks:
  fiber: {{ mode: bridge, physical-network: provider, subnets: [203.0.113.0/24] }}
  web: {{ mode: isolated, subnets: [10.1.1.0/24, "fd13:1::/64"] }}
routers:
  edge:
    tiers: {{ web: {{ egress: deny }} }}
    public: {{ fiber: {{ addresses: [203.0.113.2], gateways: [203.0.113.1] }} }}
guests:
  web1:
    image: /srv/debian.qcow2
    seed: SEED
    ssh-keys: [{KEY}]
    ports: [{{ network: web, mac: "52:54:00:13:00:0a", addresses: [10.1.1.10, "fd13:1::10"] }}]
  mine:
    user-data: "#!/bin/sh"
    ports: [{{ network: web, addresses: [10.1.1.11, "fd13:1::11"] }}]
  unsaid: {{ ports: [{{ network: web, addresses: [10.1.1.12] }}] }}
  silent: {{ ssh-keys: [{KEY}], ports: [{{ network: web, addresses: [] }}] }}
"""


def with_router(seed: str = "none") -> Topology:
    return loads(TOPOLOGY.replace("SEED", seed), "t.yaml")


def told(topology: Topology) -> tuple[GuestMetadata, ...]:
    return router_config(topology, topology.guest("edge")).metadata


def config(*guests: GuestMetadata) -> RouterConfig:
    return replace(ROUTER, metadata=guests)


def guest(number: int, user_data: str) -> GuestMetadata:
    address = IPv4Address("10.1.1.10") + number
    return GuestMetadata((address,), (("user-data", user_data), ("latest/user-data", user_data)))


def test_each_guest_of_a_tier_is_told_its_own() -> None:
    web1, mine = told(with_router())
    assert list(map(str, web1.addresses)) == ["10.1.1.10", "fd13:1::10"]
    files = dict(web1.files)
    assert sorted(files) == [
        "latest/meta-data/hostname",
        "latest/meta-data/instance-id",
        "latest/meta-data/ipv6",
        "latest/meta-data/local-hostname",
        "latest/meta-data/local-ipv4",
        "latest/meta-data/mac",
        "latest/meta-data/public-keys",
        "latest/meta-data/public-keys/0/openssh-key",
        "meta-data",
        "network-config",
        "user-data",
        "vendor-data",
    ]
    assert files["latest/meta-data/public-keys"] == "0=key-0"
    assert files["latest/meta-data/public-keys/0/openssh-key"] == KEY
    assert files["latest/meta-data/mac"] == "52:54:00:13:00:0a"
    assert dict(mine.files)["latest/meta-data/local-hostname"] == "mine"
    assert dict(mine.files)["user-data"] == dict(mine.files)["latest/user-data"] == "#!/bin/sh"
    assert "latest/meta-data/public-keys" not in dict(mine.files)


def test_a_guest_with_a_seed_is_told_by_that_alone() -> None:
    (mine,) = told(with_router("disk"))
    assert list(map(str, mine.addresses)) == ["10.1.1.11", "fd13:1::11"]


def test_a_router_of_a_pair_tells_the_same() -> None:
    topology = loads(TOPOLOGY.replace("SEED", "none").replace("  edge:\n", "  edge:\n    redundant: true\n"), "t.yaml")
    first, second = (guest for guest in topology.guests if guest.virtual_router)
    assert told(topology) == router_config(topology, second).metadata == router_config(topology, first).metadata
    assert len(told(topology)) == 2


def test_the_router_is_its_guests_name_server() -> None:
    text = dict(told(with_router())[0].files)["network-config"]
    assert '"via": "10.1.1.1"' in text and '"nameservers"' in text


def test_a_guest_without_a_seed_is_sent_to_its_router() -> None:
    def made(topology: Topology) -> etree._Element:
        return xmlgen.domain(topology, topology.guest("web1"), HostMap({}), None, "qemu")

    asks = made(with_router())
    assert asks.findtext("sysinfo/system/entry") == "ds=nocloud-net;s=http://169.254.169.254/"
    assert asks.find("os/smbios[@mode='sysinfo']") is not None
    assert made(with_router("disk")).find("sysinfo") is None
    booted = TOPOLOGY.replace(
        "SEED", "none\n    domain-xml: <domain><os><type>hvm</type><kernel>/k</kernel></os></domain>"
    )
    with_own = made(loads(booted, "t.yaml"))
    assert with_own.findtext("os/kernel") == "/k"
    assert with_own.find("os/smbios[@mode='sysinfo']") is not None


def test_what_nobody_would_tell_is_refused_at_its_place() -> None:
    alone = """
name: t
networks: { web: { mode: isolated, subnets: [10.1.1.0/24] } }
guests:
  mine: { user-data: "#!/bin/sh", ports: [{ network: web }] }
"""
    with pytest.raises(TopologyError, match=r"t.yaml:5:22: nobody would tell 'mine' that: it has no seed, and none of"):
        loads(alone, "t.yaml")


def test_more_than_a_router_has_room_for_is_refused_at_its_place() -> None:
    more = "".join(
        f"  more{number}: {{ user-data: '#{number:04}{'x' * 16_000}', ports: [{{ network: web }}] }}\n"
        for number in range(29)
    )
    with pytest.raises(
        TopologyError, match=r"t.yaml:8:3: guests would be told about 6\d{5} bytes by router 'edge', which has"
    ):
        loads(TOPOLOGY.replace("SEED", "none") + more, "t.yaml")
    found = loads(TOPOLOGY.replace("SEED", "none") + re.sub("'#[0-9]{4}", "'#", more), "t.yaml")  # once for all of them
    assert len(document(router_config(found, found.guest("edge"))).encoded()) < MAX_BYTES


def test_a_text_stands_there_once_whoever_is_told_it() -> None:
    lines = list(metadata.lines(config(guest(0, "ü"), guest(1, "ü"), guest(2, ""))))
    assert lines == [
        f"data {base64.b64encode('ü'.encode()).decode()}",
        "data -",
        "guest 10.1.1.10",
        "file user-data 0",
        "file latest/user-data 0",
        "guest 10.1.1.11",
        "file user-data 0",
        "file latest/user-data 0",
        "guest 10.1.1.12",
        "file user-data 1",
        "file latest/user-data 1",
    ]


def test_the_router_has_the_addresses_and_lets_its_guests_reach_them() -> None:
    without, made = document(config()), document(config(guest(0, "x")))
    assert without.metadata == ""
    assert "dport 80 accept" not in without.nft and " lo " not in without.net
    assert "address lo 169.254.169.254/32\naddress lo fd00:ec2::254/128\n" in made.net
    for source, asked in (
        ("ip saddr 10.1.1.0/24", "10.1.1.1, 169.254.169.254"),
        ("ip6 saddr fd13:1::/64", "fd13:1::1"),
    ):
        assert f"input iifname eth0 {source} " in made.nft
        (line,) = [line for line in made.nft.splitlines() if "dport 80 accept" in line and f"eth0 {source} " in line]
        assert f"daddr {{ {asked}" in line
    assert not [line for line in made.nft.splitlines() if "dport 80 accept" in line and "eth2" in line]


def test_two_hundred_guests_with_one_user_data_have_room() -> None:
    lan = replace(LAN, addresses=(replace(LAN.addresses[0], prefix_length=23), LAN.addresses[1]))
    many = [guest(number, "#cloud-config\n".ljust(16 << 10, "#")) for number in range(200)]
    assert len(
        document(replace(ROUTER, guests=(lan,), static_nat=(), tier_rules=(), metadata=tuple(many))).encoded()
    ) < (MAX_BYTES // 20)


def test_what_has_no_room_is_said() -> None:
    many = [guest(number, f"{number}\n".ljust(16 << 10, "#")) for number in range(60)]
    with pytest.raises(
        GuestnetError, match=r"guests are told \d+ bytes by it, more than 600000: give some of them a seed"
    ):
        document(config(*many))


def test_an_address_is_one_guests_and_of_a_tier() -> None:
    with pytest.raises(GuestnetError, match=r"address of a guest's metadata, 10\.1\.1\.10 is used twice"):
        document(config(guest(0, "a"), guest(0, "b")))
    with pytest.raises(GuestnetError, match=r"address 192\.0\.2\.1 of a guest's metadata is in no guest network"):
        document(config(replace(guest(0, "a"), addresses=(parse.address("192.0.2.1"),))))


@pytest.mark.parametrize("path", ["../x", "/x", "a b", "x\nguest 10.1.1.11", ""])
def test_no_other_paths_are_written(path: str) -> None:
    with pytest.raises(GuestnetError, match="never write"):
        document(config(GuestMetadata((parse.address("10.1.1.10"),), ((path, "x"),))))
