"""The lab of forwards: real sessions of every kind, each with the client's address that the guest saw."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from support.lab import LABS, Lab, lab_up


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    yield from lab_up("forwards", LABS / "forwards.yaml")


def test_everything_is_as_expected(lab: Lab) -> None:
    rows = lab.verify()
    assert [row for row in rows if row["result"] != "ok"] == []
    asked = {(row["from"], row["to"], row["at"]) for row in rows}
    for at in ("198.18.1.2", "fd61:11::2"):
        assert {(who, "www", at) for who in ("lan", "host", "mail")} <= asked
    assert {row["check"] for row in rows} >= {"seen as lan", "seen as lan by udp", "seen as mail", "answered by host"}
    assert len(rows) > 70


def test_a_guest_that_stops_is_reached_no_more_and_comes_back(lab: Lab) -> None:
    lab.virsh("destroy", "db")
    text = lab.sandbox.run(["nft", "list", "table", "inet", "guestnet"]).stdout
    assert ("10.61.1.10" in text, "10.61.2.10" in text) == (True, False)
    rows = json.loads(lab.guestnet("status", "--json").stdout)
    opened = {row["guest"]: row["open"] for row in rows if row["kind"] == "way"}
    assert opened == {"www": True, "mail": True, "public": True, "db": None}
    published = {
        row["prefix"]: (row["guest"], row["uplink"], row["published"]) for row in rows if row["kind"] == "route"
    }
    floating = {"mail": ("198.18.1.50/32", "fd61:11::50/128"), "public": ("198.18.1.60/32", "fd61:11::60/128")}
    assert published == {ip: (guest, "lan-lan", True) for guest, both in floating.items() for ip in both}
    lab.virsh("start", "db")
    assert "10.61.2.10" in lab.sandbox.run(["nft", "list", "table", "inet", "guestnet"]).stdout


def test_apply_changes_forwards_of_running_guests(lab: Lab) -> None:
    labels = ["--map", "lan=lan-lan"]
    text = lab.topology.read_text().replace("tcp/8080], at", "tcp/8081], at")
    try:
        applied = lab.guestnet("apply", *labels, "-", stdin=text)
        assert "set guest metadata www" in applied.stdout, applied.stderr
        assert lab.unexpected() >= {"lan > www tcp/8080 ipv4", "host > www tcp/8080 ipv6"}
        moved = text.replace("can: [tcp/8080", "can: [tcp/8081")
        assert not [line for line in lab.unexpected(moved) if "8081" in line]
        # What the host itself listens on is refused, and everything stays as it was.
        clash = text.replace("udp/5300], to: 53", "udp/67]")
        refused = lab.guestnet("apply", *labels, "-", stdin=clash)
        assert refused.returncode == 2
        assert "udp/67 cannot be forwarded: the host's DHCP server for network 'web' listens on port" in refused.stderr
        assert lab.guestnet("plan", *labels, "-", stdin=text).stdout == "nothing to do\n"
    finally:
        assert lab.guestnet("apply", *labels, "-").returncode == 0
    assert lab.unexpected() == set()


def test_another_topology_cannot_have_the_same(lab: Lab) -> None:
    other = """
name: other
networks: { o: { mode: nat, subnets: [10.77.1.0/24] } }
guests: { o: { image: tiny, ports: [{ network: o, forwards: [{ services: [tcp/8000-9000] }] }] } }
"""
    refused = lab.guestnet("plan", "-", stdin=other)
    assert refused.returncode == 1
    holder = "domain 'www' of topology 'forwards' (tcp/8080 at 198.18.1.2)"
    assert f"guest 'o': tcp/8000-9000 is already forwarded to {holder}" in refused.stderr
