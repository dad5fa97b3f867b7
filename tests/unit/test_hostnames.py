"""Under which names a network's DHCP and DNS server knows guests, whatever these are called."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.topology_files import HOSTMAP

from libvirt_guestnet import xmlgen
from libvirt_guestnet.errors import TopologyError
from libvirt_guestnet.libvirtd.snapshot import NetworkState, Snapshot, parse_xml
from libvirt_guestnet.model.hostnames import mapped
from libvirt_guestnet.plan.external import resolved
from libvirt_guestnet.topology import load, loads
from libvirt_guestnet.topology.service_kinds import HOST_NAME

CASE = """name: oddnames
networks:
  "my net (lab)": { mode: nat, subnets: [10.66.9.0/24], dhcp: {} }
guests:
  "Windows 10 – Büro": { ports: [{ network: "my net (lab)", addresses: [10.66.9.10] }] }
  "it's <odd> & \\"x\\"": { ports: [{ network: "my net (lab)", addresses: [10.66.9.11] }] }
  db:
    hostname: database
    ports:
      - { network: "my net (lab)", addresses: [10.66.9.12] }
      - { network: "my net (lab)", name: backup, addresses: [10.66.9.13] }
      - { network: "my net (lab)", name: third, addresses: [10.66.9.14], hostname: dump }
"""
DEFAULT = """<network><name>default</name><forward/><bridge name='virbr0'/>
<ip address='192.168.122.1' prefix='24'><dhcp><range start='192.168.122.2' end='192.168.122.254'/></dhcp></ip>
</network>"""


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("web", "web"),
        ("web_1.example", "web-1.example"),
        ("9lives", "9lives"),
        ("Windows 10 – Büro", "Windows-10-Buero"),
        ("Straße", "Strasse"),
        ("café", "cafe"),
        ("a . b", "a.b"),
        ("10 Büro", "vm-10-Buero"),
        # dnsmasq takes these for an address, lease times and orders, wherever they stand in a reservation.
        ("10.66.9.20", "vm-10.66.9.20"),
        ("99", "vm-99"),
        ("12h", "vm-12h"),
        ("7D", "vm-7D"),
        ("infinite", "vm-infinite"),
        ("ignore", "vm-ignore"),
        ("ignore!", "vm-ignore"),
        ("a..b", "a.b"),
        ("a.-b.", "a.b"),
        ("x" * 70, "x" * 63),
    ],
)
def test_names_are_mapped(name: str, known: str) -> None:
    assert mapped(name) == known


def test_what_has_no_letter_of_ours_has_a_name_of_its_own() -> None:
    assert re.fullmatch("vm-[0-9a-f]{8}", mapped("東京")) and mapped("東京") != mapped("京都")


@given(st.text(min_size=1, max_size=120))
def test_whatever_is_mapped_is_a_host_name(name: str) -> None:
    if not re.fullmatch("[A-Za-z0-9][A-Za-z0-9_.-]*", name):  # of that, most is left as it was
        HOST_NAME.read(mapped(name))


@example("0-0")
@given(st.from_regex("[0-9A-Za-z_.-]{1,300}", fullmatch=True) | st.from_regex("[0-9.]{1,80}[a-z]?", fullmatch=True))
def test_dnsmasq_takes_whatever_is_mapped_for_a_name(name: str) -> None:
    found = mapped(name)
    assert len(found) <= 253 and all(0 < len(label) <= 63 for label in found.split("."))
    assert re.search("[A-Za-z]", found) and not re.fullmatch("[0-9]+[wdhms]?", found)


@pytest.mark.parametrize("word", ["ignore", "infinite"])
def test_a_hostname_is_no_order_to_dnsmasq(word: str) -> None:
    with pytest.raises(ValueError, match="for something else in a reservation"):
        HOST_NAME.read(word)


def test_a_name_that_dns_cannot_have_is_an_error() -> None:
    ports = "ports: [{ network: n }, { network: n, name: backup }]"
    networks = "networks: { n: { mode: nat, subnets: [10.66.9.0/24] } }"
    text = f"name: t\n{networks}\nguests: {{ {'x' * 60}: {{ {ports} }} }}\n"
    with pytest.raises(TopologyError, match="too long for DNS; give it hostname:"):
        loads(text, "t")


def test_dhcp_and_dns_have_the_names_that_the_file_says() -> None:
    found = loads(CASE, "odd.yaml")
    network = xmlgen.network(found, found.networks[0], HOSTMAP)
    names = [host.get("name") for host in network.iterfind("ip/dhcp/host")]
    dns = [name.text for name in network.iterfind("dns/host/hostname")]
    assert [*names, *dns] == ["Windows-10-Buero", "it-s-odd-x", "database", "database-backup", "dump"]


def test_a_network_that_is_there_already_gets_the_name_too() -> None:
    port = "{ network: default, addresses: [192.168.122.10] }"
    guests = f"guests: {{ web: {{ hostname: shop, ports: [{port}] }} }}\n"
    text = f"name: t\nnetworks: {{ default: {{ external: true }} }}\n{guests}"
    xml = parse_xml(DEFAULT)
    here = resolved(loads(text, "t.yaml"), Snapshot((NetworkState("default", "u", xml, xml),)))
    mark = xmlgen.external_metadata(here, here.network("default"))
    assert [each.get("name") for each in mark] == ["shop"]


def test_every_key_of_a_name_is_in_a_good_file() -> None:
    found = load(Path(__file__).parents[1] / "topologies/every-key.yaml")
    web = xmlgen.network(found, found.network("web"), HOSTMAP)
    assert "gate-outside" in [each.get("name") for each in web.iterfind("ip/dhcp/host")]
