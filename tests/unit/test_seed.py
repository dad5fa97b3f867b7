"""What cloud-init in a guest is told, in each mode, and the disk that has it."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
import yaml

from libvirt_guestnet.guest import iso9660, seed
from libvirt_guestnet.model.topology import Topology
from libvirt_guestnet.topology import loads

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHdoYXRldmVyIGlzIGhlcmUgaXMgbm8ga2V5 me@example"
TOPOLOGY = """
name: t
physical-networks: { lan: { subnets: [198.51.100.0/24, "fd61:5::/64"] } }
networks:
  web: { mode: nat, subnets: [10.0.1.0/24, "fd00:1::/64"], dhcp: {}, mtu: 1400 }
  plain: { mode: nat, subnets: [10.0.2.0/24, "fd00:2::/64"] }
  wire: { mode: bridge, physical-network: lan }
  routed: { mode: host-routed, subnets: [203.0.113.0/24, "fd00:3::/64"] }
  behind: { mode: isolated, subnets: [10.0.4.0/24], gateway: gate }
guests:
  gate:
    image: tiny
    router: { allow: [{ from: behind, to: plain, services: [icmp] }] }
    ports: [{ network: behind, addresses: [10.0.4.1] }, { network: plain }]
  cloud:
    image: /srv/debian-12.qcow2
    PORT
"""


def told(port: str, more: str = "") -> tuple[Topology, dict[str, Any]]:
    """The topology, and the one NIC's configuration."""
    topology = loads(TOPOLOGY.replace("PORT", f"{more}ports: [{{ {port} }}]"), "t.yaml")
    files = seed.seed_files(topology, topology.guest("cloud"))
    config = yaml.safe_load(files["network-config"])
    assert config["version"] == 2
    (nic,) = config["ethernets"].values()
    assert nic.pop("match") == {"macaddress": topology.guest("cloud").ports[0].mac}
    return topology, nic


def test_dhcp_where_the_host_serves_it_and_ipv6_outright() -> None:
    topology, nic = told("network: web")
    own = topology.guest("cloud").ports[0].address(6)
    assert nic == {
        "dhcp4": True,
        "dhcp6": False,
        "accept-ra": False,
        "addresses": [f"{own}/64"],
        "routes": [{"to": "::/0", "via": "fd00:1::1"}],
        "mtu": 1400,
    }


def test_all_outright_where_nobody_serves_dhcp() -> None:
    topology, nic = told("network: plain, addresses: [10.0.2.9]")
    own = topology.guest("cloud").ports[0].address(6)
    assert nic == {
        "dhcp4": False,
        "dhcp6": False,
        "accept-ra": False,
        "addresses": ["10.0.2.9/24", f"{own}/64"],
        "routes": [
            {"to": "0.0.0.0/0", "via": "10.0.2.1"},
            {"to": "::/0", "via": "fd00:2::1"},
            {"to": "10.0.4.0/24", "via": str(topology.guest("gate").ports[1].address(4))},
        ],
        "nameservers": {"addresses": ["10.0.2.1", "fd00:2::1"]},
    }


def test_a_lan_has_its_own_gateway_and_servers() -> None:
    _, nic = told("network: wire, addresses: [198.51.100.7]")
    assert nic == {"dhcp4": False, "dhcp6": False, "accept-ra": False, "addresses": ["198.51.100.7/24"]}


def test_a_host_routed_guest_reaches_its_gateway_on_the_link() -> None:
    _, nic = told('network: routed, addresses: [203.0.113.7, "fd00:3::7"]')
    assert nic["addresses"] == ["203.0.113.7/32", "fd00:3::7/128"]
    assert nic["routes"] == [
        {"to": "0.0.0.0/0", "via": "169.255.30.1", "on-link": True},
        {"to": "::/0", "via": "fe80::1", "on-link": True},
    ]
    assert "nameservers" not in nic


def test_another_guest_is_the_gateway() -> None:
    _, nic = told("network: behind, addresses: [10.0.4.9]")
    assert nic["routes"] == [{"to": "0.0.0.0/0", "via": "10.0.4.1"}]


def test_any_address_is_asked_for_and_heard_of() -> None:
    _, nic = told("network: wire, addresses: any")
    assert (nic["dhcp4"], nic["accept-ra"]) == (True, True)
    assert "addresses" not in nic


def test_nobody_waits_for_a_nic_that_gets_nothing() -> None:
    _, nic = told("network: wire, addresses: []")
    assert (nic["dhcp4"], nic["link-local"], nic["optional"]) == (False, [], True)
    _, nic = told("network: web, link: down")
    assert nic["optional"] is True


def test_a_second_nic_with_dhcp_takes_no_default_route() -> None:
    topology = loads(TOPOLOGY.replace("PORT", "ports: [{ network: plain }, { network: web }]"), "t.yaml")
    nics = seed.network_config(topology, topology.guest("cloud"))["ethernets"]
    assert isinstance(nics, dict)
    assert nics["net1"]["dhcp4-overrides"] == {"use-routes": False}
    assert "routes" not in nics["net1"]


def test_names_keys_and_user_data() -> None:
    more = f"hostname: Büro\n    uuid: 6ba7b810-9dad-41d1-80b4-00c04fd430c8\n    ssh-keys: [{KEY}]\n    "
    more = more.replace("Büro", "office") + 'user-data: "#!/bin/sh\\necho ü\\n"\n    '
    topology, _ = told("network: web", more)
    files = seed.seed_files(topology, topology.guest("cloud"))
    assert json.loads(files["meta-data"]) == {
        "instance-id": "6ba7b810-9dad-41d1-80b4-00c04fd430c8",
        "local-hostname": "office",
        "public-keys": [KEY],
    }
    assert files["user-data"] == "#!/bin/sh\necho ü\n"
    assert files["vendor-data"].startswith("#cloud-config\n")
    # YAML is what cloud-init reads.
    assert yaml.safe_load(files["vendor-data"]) == {"updates": {"network": {"when": ["boot-new-instance", "boot"]}}}


def listed(image: bytes, descriptor: int, wide: bool) -> dict[str, bytes]:
    """The files of an ISO 9660 image by one of its directories, read as ECMA-119 says."""
    head = image[descriptor * 2048 :][:2048]
    assert head[1:6] == b"CD001" and head[0] == (2 if wide else 1)
    sector, size = struct.unpack_from("<I4xI", head, 156 + 2)
    at, end, found = sector * 2048, sector * 2048 + size, {}
    while at < end and image[at]:
        where, length = struct.unpack_from("<I4xI", image, at + 2)
        assert struct.unpack_from(">I", image, at + 6) == (where,)
        name = image[at + 33 : at + 33 + image[at + 32]]
        if len(name) > 1:
            found[name.decode("utf-16-be" if wide else "ascii")] = image[where * 2048 :][:length]
        at += image[at]
    return found


def test_the_image_has_the_files_by_long_names_and_by_short_ones() -> None:
    files = {"meta-data": b"a" * 5000, "network-config": b"b", "user-data": b"", "vendor-data": b"d" * 2048}
    image = iso9660.image("cidata", files)
    assert listed(image, 17, wide=True) == files
    short = {"META_DAT.;1": "meta-data", "NETWORK_.;1": "network-config", "USER_DAT.;1": "user-data"}
    short["VENDOR_D.;1"] = "vendor-data"
    assert listed(image, 16, wide=False) == {name: files[long] for name, long in short.items()}
    assert image[16 * 2048 + 40 :][:32] == b"cidata".ljust(32)
    assert struct.unpack_from("<I", image, 16 * 2048 + 80) == (len(image) // 2048,)


def test_the_same_files_are_the_same_image() -> None:
    topology, _ = told("network: web")
    assert seed.seed_image(topology, topology.guest("cloud")) == seed.seed_image(topology, topology.guest("cloud"))


def test_what_does_not_fit_is_an_error() -> None:
    with pytest.raises(ValueError, match="longer than 2048"):
        iso9660.image("cidata", {f"file-number-{n}": b"" for n in range(60)})
    with pytest.raises(ValueError, match="longer than 32"):
        iso9660.image("a-label-that-is-longer-than-a-volume-can-have", {})
