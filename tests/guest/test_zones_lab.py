"""The lab of two zones: real guests with the same addresses in each, kept apart, and what is noticed when not."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from support.lab import LABS, Lab, lab_up

TABLE = ("inet", "guestnet-zones")


@pytest.fixture(scope="module")
def zones() -> Iterator[Lab]:
    yield from lab_up("zones", LABS / "zones.yaml")


def test_each_zone_reaches_itself_and_public_addresses_only(zones: Lab) -> None:
    rows = zones.verify()
    assert [row for row in rows if row["result"] != "ok"] == []
    checked = {(row["from"], row["to"], row["check"], row["expected"], row["family"]) for row in rows}
    for family in ("ipv4", "ipv6"):
        assert {
            ("blue2", "blue1", "icmp", "yes", family),
            ("red2", "red1", "icmp", "yes", family),
            ("blue1", "red2.red-lan", "icmp", "no", family),
            ("blue2", "red2.red-web", "tcp/80", "no", family),
            ("red2", "blue2.blue-web", "icmp", "no", family),
        } <= checked


def test_a_second_apply_changes_nothing(zones: Lab) -> None:
    assert zones.guestnet("plan", "--map", "internet=lan-internet", "-").stdout == "nothing to do\n"


def test_two_ports_have_one_address_and_the_map_tells_them_apart(zones: Lab) -> None:
    said = json.loads(zones.sandbox.run(["cat", "/run/libvirt-guestnet/network.json"]).stdout)
    mode = zones.sandbox.run(["stat", "-c", "%a", "/run/libvirt-guestnet/network.json"]).stdout
    assert mode == "600\n"
    zone_of = {each["name"]: each["zone"] for each in said["networks"]}
    assert zone_of == {"blue-lan": "blue", "blue-web": "blue", "red-lan": "red", "red-web": "red"}
    same = [each for each in said["ports"] if "10.1.1.11/32" in each["addresses"] or "10.1.1.11" in each["addresses"]]
    assert {(each["domain"], each["network"], each["bridge"]) for each in same} == {
        ("blue1", "blue-lan", "gn-blue-lan"),
        ("red1", "red-lan", "gn-red-lan"),
    }
    assert zones.guestnet("status").returncode == 0


def test_without_the_table_the_host_joins_them_and_sync_puts_it_back(zones: Lab) -> None:
    zones.sandbox.run(["nft", "delete", "table", *TABLE])
    lost = zones.unexpected()
    assert lost == set() or any("red-web" in row for row in lost)
    assert zones.guestnet("hooks", "sync").returncode == 0
    assert "drop" in zones.sandbox.run(["nft", "list", "table", *TABLE]).stdout
    assert zones.unexpected() == set()


def test_nothing_is_left_after_down(zones: Lab) -> None:
    assert zones.guestnet("lab", "down", "--here", "-").returncode == 0
    assert " ".join(TABLE) not in zones.sandbox.run(["nft", "list", "tables"]).stdout
    assert zones.sandbox.run(["find", "/run/libvirt-guestnet", "-name", "*.json"]).stdout == ""
