"""What a virtual router tells guests: what of it is in its document, and how much has room there."""

from __future__ import annotations

import base64
from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from support.router_config import LAN, ROUTER

from libvirt_guestnet import parse, xmlgen
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.model.router import GuestMetadata, RouterConfig
from libvirt_guestnet.model.topology import Guest, Port, PortKind, Topology
from libvirt_guestnet.model.traffic import Verdict
from libvirt_guestnet.model.virtual_router import Tier, VirtualRouter
from libvirt_guestnet.router import metadata
from libvirt_guestnet.router.document import MAX_BYTES, document
from libvirt_guestnet.topology import loads

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHdoYXRldmVyIGlzIGhlcmUgaXMgbm8ga2V5 me@example"
TOPOLOGY = f"""
name: t
networks: {{ web: {{ mode: isolated, subnets: [10.1.1.0/24, "fd13:1::/64"], gateway: edge }} }}
guests:
  edge: {{ router: {{}}, ports: [{{ network: web, addresses: [10.1.1.1, "fd13:1::1"] }}] }}
  web1:
    image: /srv/debian.qcow2
    seed: SEED
    ssh-keys: [{KEY}]
    ports: [{{ network: web, mac: "52:54:00:13:00:0a", addresses: [10.1.1.10, "fd13:1::10"] }}]
  mine: {{ ports: [{{ network: web, addresses: [10.1.1.11] }}] }}
"""


def with_router(seed: str = "disk") -> Topology:
    """The topology with its guest `edge` as a virtual router."""
    found = loads(TOPOLOGY.replace("SEED", seed).replace(f"    ssh-keys: [{KEY}]\n", ""), "t.yaml")
    router = VirtualRouter((Tier("web", Verdict.DENY),), ())
    told = loads(TOPOLOGY.replace("SEED", "disk"), "t.yaml").guest("web1").cloud_init
    guests = {g.name: g for g in found.guests}
    edge, web1 = replace(guests["edge"], virtual_router=router), replace(guests["web1"], cloud_init=told)
    return replace(found, guests=(edge, web1, guests["mine"]))


def config(*guests: GuestMetadata) -> RouterConfig:
    return replace(ROUTER, metadata=guests)


def guest(number: int, user_data: str) -> GuestMetadata:
    address = IPv4Address("10.1.1.10") + number
    return GuestMetadata((address,), (("user-data", user_data), ("latest/user-data", user_data)))


def test_each_guest_of_a_tier_is_told_its_own() -> None:
    topology = with_router()
    web1, mine = metadata.of_router(topology, topology.guest("edge"))
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
    assert "latest/meta-data/public-keys" not in dict(mine.files)


def test_the_router_is_its_guests_name_server() -> None:
    topology = with_router()
    (text,) = [dict(each.files)["network-config"] for each in metadata.of_router(topology, topology.guest("edge"))][:1]
    assert '"via": "10.1.1.1"' in text and '"nameservers"' in text


def test_a_guest_without_a_seed_is_sent_to_its_router() -> None:
    def serial(topology: Topology) -> str | None:
        made = xmlgen.domain(topology, topology.guest("web1"), HostMap({}), None, "qemu")
        return made.findtext("sysinfo/system/entry")

    assert serial(with_router("none")) == "ds=nocloud-net;s=http://169.254.169.254/"
    assert serial(with_router("disk")) is None


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


def test_a_port_without_addresses_is_nobody_who_asks() -> None:
    topology = with_router()
    silent = Guest("silent", (Port("web", "web", PortKind.NETWORK, "52:54:00:13:00:0c", "t0"),))
    more = replace(topology, guests=(*topology.guests, silent))
    assert len(metadata.of_router(more, more.guest("edge"))) == 2
