"""`verify --isolation`: where a frame may be seen, how it is known again, and what is said of it."""

from __future__ import annotations

import struct
from dataclasses import replace
from itertools import count

import pytest

from libvirt_guestnet import xmlread
from libvirt_guestnet.hook.read.domain import Domain
from libvirt_guestnet.isolation import ear, frames, gather, judge, report
from libvirt_guestnet.isolation.frames import FORGED, ORDINARY, TAGGED, Frame
from libvirt_guestnet.isolation.gather import Kernel, Net
from libvirt_guestnet.isolation.link import (
    DOT1AD,
    DOT1Q,
    GUARDED,
    OBSERVED,
    TRUSTED,
    UNTAGGED,
    Link,
    Sighting,
    Tag,
    vlans_beside,
)
from libvirt_guestnet.isolation.run import Result, Tried
from libvirt_guestnet.lab import forge
from libvirt_guestnet.metadata.policy import NAMESPACE
from libvirt_guestnet.state.receipts import NetworkReceipt

T100, T200 = Tag(DOT1Q, 100), Tag(DOT1Q, 200)
RED = Link("br0", 100, ("red",), "t", ports={"red1": UNTAGGED}, exits={"out0": frozenset({(T100,)})})
BLUE = Link("br0", 200, ("blue",), "t", ports={"blue1": UNTAGGED}, exits={"out0": frozenset({(T200,)})})
OVER = Link("br-o", 0, ("over",), exits={"vx1": UNTAGGED}, vni=7)
LINKS = (RED, BLUE, OVER)
ME, THEM = frames.identity(frames.nobody(1, 2), 0), frames.identity(frames.nobody(1, 3), 1)
FRAME = Frame(ORDINARY, "ARP", b"", b"", must=True)


def sent(way: str = GUARDED) -> list[Frame]:
    return frames.frames(RED, way, frames.Who(ME, THEM), [200], count(1))


def test_every_frame_is_another() -> None:
    packets = [each.packet for each in sent()]
    assert len(packets) == len(set(packets)) > 15
    assert {each.kind for each in sent()} == {ORDINARY, FORGED, TAGGED}
    assert {each.kind for each in sent(TRUSTED)} == {each.kind for each in sent(OBSERVED)} == {ORDINARY, TAGGED}


def test_nobody_is_named_and_nothing_is_offered() -> None:
    """Should it pass, no guest takes an address, a prefix or a router from it."""
    for each in sent():
        assert frames.MARK in each.data[6:12], "its sender is nobody"
    (announcement,) = [each.packet for each in sent() if each.what == "ra"]
    assert len(announcement) == 40 + 16 and announcement[46:48] == bytes(2), "lifetime 0, and no options"


@pytest.mark.parametrize("number", range(len(sent())))
def test_a_frame_is_known_again(number: int) -> None:
    frame = sent()[number]
    plain = frames.seen(frame.data, frame.packet, "x", True, ())
    assert plain is not None and plain.vni is None and not plain.wrapped
    assert (len(plain.tags) > 0) == (frame.kind == TAGGED)
    assert frames.seen(frame.data, frame.packet, "x", True, (T100,)) == replace(plain, tags=(T100, *plain.tags))
    assert frames.seen(sent()[number - 1].data, frame.packet, "x", True, ()) is None
    outer = bytes(12) + b"\x08\x00" + bytes(28)
    header = b"\x08" + bytes(3) + (7).to_bytes(3, "big") + b"\0"
    inside = frames.seen(outer + header + frame.data, frame.packet, "x", True, ())
    assert inside == replace(plain, vni=7)
    other = frames.seen(outer + bytes(8) + frame.packet, frame.packet, "x", True, ())
    assert other is not None and other.wrapped


def test_tags_are_read() -> None:
    frame = forge.broadcast4(ME, 5)
    tagged = frames.with_tags(frame, (Tag(DOT1AD, 400), Tag(DOT1Q, 9)))
    assert struct.unpack("!HHHH", tagged[12:20]) == (DOT1AD, 400, DOT1Q, 9)
    found = frames.seen(tagged, forge.packet(frame), "x", False, ())
    assert found is not None and [str(tag) for tag in found.tags] == ["400 (802.1ad)", "9"]


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (Sighting("red1", True), True),
        (Sighting("red1", True, (T100,)), False),
        (Sighting("out0", True, (T100,)), True),
        (Sighting("out0", True), False),
        (Sighting("out0", True, (T200,)), False),
        (Sighting("out0", True, (Tag(DOT1AD, 100),)), False),
        (Sighting("blue1", True), False),
        (Sighting("trunk1", True, (T100,)), False),
        (Sighting("br0", False, (T100,)), True),
        (Sighting("br0", False, (T200,)), False),
        (Sighting("eth9", True, vni=7), False),
        (Sighting("eth9", True, wrapped=True), False),
    ],
)
def test_where_an_ordinary_frame_may_be_seen(seen: Sighting, expected: bool) -> None:
    assert judge.is_expected(RED, GUARDED, FRAME, seen, LINKS) is expected
    for kind in (FORGED, TAGGED):
        assert not judge.is_expected(RED, GUARDED, replace(FRAME, kind=kind), seen, LINKS)


def test_where_a_vxlan_may_be_seen() -> None:
    for seen, expected in ((Sighting("vx1", True), True), (Sighting("any", True, vni=7), True)):
        assert judge.is_expected(OVER, GUARDED, FRAME, seen, LINKS) is expected
    assert not judge.is_expected(OVER, GUARDED, FRAME, Sighting("any", True, vni=8), LINKS)


def test_tags_of_a_port_without_a_guard_stay_on_its_own_link() -> None:
    tagged = replace(FRAME, kind=TAGGED)
    plain = Link("br-p", 0, ("plain",), exits={"out0": UNTAGGED}, ports={"p1": UNTAGGED})
    links = (*LINKS, plain)
    for seen, expected in (
        (Sighting("p1", True, (T200,)), True),
        (Sighting("out0", True, (Tag(DOT1Q, 300),)), True),
        (Sighting("out0", True, (T200,)), False),  # which is blue's
        (Sighting("blue1", True), False),
    ):
        assert judge.is_expected(plain, TRUSTED, tagged, seen, links) is expected, seen


def test_whose_it_was() -> None:
    assert judge.whose(Sighting("out0", True, (T200,)), LINKS) == "blue"
    assert judge.whose(Sighting("blue1", True, (T100,)), LINKS) == "blue"
    assert judge.whose(Sighting("eth9", True), LINKS) == ""
    assert vlans_beside(RED, LINKS) == [1, 200]


# ---- which links there are


def domain(*nics: str, ports: str = "") -> Domain:
    mark = f"<metadata><g:domain xmlns:g='{NAMESPACE}' topology='t' guest='g'>{ports}</g:domain></metadata>"
    xml = f"<domain><name>g</name><uuid>u</uuid>{mark}<devices>{''.join(nics)}</devices></domain>"
    receipts = {net.receipt.name: net.receipt for net in NETS}
    return Domain(xmlread.parse(xml.encode()), receipts.get)


def nic(mac: str, tap: str, network: str, bridge: str, more: str = "") -> str:
    source = f"<source network='{network}' bridge='{bridge}'/>"
    return f"<interface type='network'><mac address='{mac}'/>{source}<target dev='{tap}'/>{more}</interface>"


NETS = [
    Net(NetworkReceipt("red", "t", True, "br0", vlan=100, vlan_uplink="out0"), vlan=100),
    Net(NetworkReceipt("blue", "t", False, "br0", vlan=200, vlan_uplink="out0"), vlan=200),
    Net(NetworkReceipt("web", "t", True, "br-w", managed=True, isolated=True)),
    Net(
        NetworkReceipt("lan", "t", True, "br-l", managed=True, overlay="e.5", uplink="e.5"),
        parent="e",
        tag=Tag(DOT1Q, 5),
    ),
    Net(NetworkReceipt("old", "t", True, "br9", observed=True, external=True)),
    Net(NetworkReceipt("vx", "t", True, "br-v", managed=True, overlay="vx9", uplink="vx9"), vni=9),
]  # fmt: skip
KERNEL = Kernel(
    ports={"br0": frozenset({"out0", "trunk1"}), "br9": frozenset({"eth7.3", "vnet5"})},
    lower={"eth7.3": {"eth7": (Tag(DOT1Q, 3),)}, "eth7": {"slave": ()}},
    members={},
)


def found(*domains: Domain) -> dict[str, Link]:
    return {",".join(link.networks): link for link in gather.links(NETS, domains, KERNEL)}


def test_links_of_networks() -> None:
    links = found()
    assert {name: (link.name, link.ways) for name, link in links.items()} == {
        "red": ("br0/100", (GUARDED,)),
        "blue": ("br0/200", (TRUSTED,)),
        "web": ("br-w", (GUARDED,)),
        "lan": ("br-l", (GUARDED,)),
        "old": ("br9", (OBSERVED,)),
        "vx": ("br-v", (GUARDED,)),
    }
    assert links["red"].exits == {"out0": {(T100,)}}
    assert links["lan"].exits == {"e.5": {()}, "e": {(Tag(DOT1Q, 5),)}}
    assert links["vx"].exits == {"vx9": {()}, "br-v-nic": {()}} and links["vx"].vni == 9
    assert links["web"].isolated and links["web"].exits.keys() == {"br-w-nic"}
    tag3 = (Tag(DOT1Q, 3),)
    assert links["old"].exits == {"eth7.3": {()}, "vnet5": {()}, "eth7": {tag3}, "slave": {tag3}}


def test_links_of_guests_ports() -> None:
    first, second, third = (f"52:54:00:00:00:0{number}" for number in (1, 2, 3))
    trunk = f"<g:port xmlns:g='{NAMESPACE}' mac='{second}' name='t' network='red' guarded='no'><g:vlan trunk='100-101' native='200'/></g:port>"  # fmt: skip  # noqa: E501
    own = f"<g:port xmlns:g='{NAMESPACE}' mac='{third}' name='o' network='red'><g:vlan tag='7'/></g:port>"
    guest = domain(
        nic(first, "red1", "red", "br0"),
        nic(second, "trunk", "red", "br0"),
        nic(third, "own", "red", "br0"),
        nic("52:54:00:00:00:04", "vnet5", "", "br9").replace("network=''", ""),
        ports=trunk + own,
    )
    links = {link.name: link for link in gather.links(NETS, [guest], KERNEL)}
    assert links["br0/100"].ports == {"red1": {()}, "trunk": {(T100,)}}
    assert links["br0/200"].ports == {"trunk": {()}}
    assert links["br0/7"].ports == {"own": {()}} and links["br0/7"].exits == {"out0": {(Tag(DOT1Q, 7),)}}
    assert "vnet5" in links["br9"].ports and "vnet5" not in links["br9"].exits


def test_a_port_is_in_its_own_networks_vlan() -> None:
    """Several networks have one bridge: the first of them says nothing of the other's ports."""
    links = {each.name: each for each in found(domain(nic("52:54:00:00:00:01", "tap0", "blue", "br0"))).values()}
    assert (links["br0/100"].networks, links["br0/200"].networks) == (("red",), ("blue",))
    assert "tap0" not in links["br0/100"].ports and links["br0/200"].ports["tap0"] == UNTAGGED


def test_a_network_that_is_not_there_was_not_tried() -> None:
    assert gather.check_active(["red", "gone"], list(found().values())) == ["gone"]
    result = Result((), (), absent=("gone",))
    assert not report.passed(result)
    assert "the network is not active" in "\n".join(map(str, report.blocks(result)))


# ---- what is said


def tried(*leaks: Sighting, home: bool = True) -> Tried:
    near = tuple(judge.whose(each, LINKS) for each in leaks)
    return Tried(RED, GUARDED, FRAME, (Sighting("red1", True),) if home else (), leaks, near)


def test_a_guest_that_sends_it_back_hides_nothing() -> None:
    """Who hears a frame of ours can send it again, with as many other tags as there are."""
    found: list[Sighting] = []
    for number in range(1, 1000):
        ear.note(found, Sighting("guest", False, (Tag(DOT1Q, number),)))
    elsewhere = [Sighting("guest", True), Sighting("other", False), Sighting("guest", False, (Tag(DOT1Q, 1),))]
    for seen in elsewhere:
        ear.note(found, seen)
    assert len(found) == 64 + 2
    assert set(elsewhere) <= set(found)


def test_a_leak_is_named() -> None:
    result = Result((tried(Sighting("blue1", True), Sighting("out0", True, (T200,))),), LINKS)
    (row,) = report.rows(result)
    assert (row["result"], row["networks"], row["frames"], row["sent"]) == ("LEAK", ["red"], "ordinary", 1)
    assert row["leaks"] == [
        {"frame": "ARP", "device": "blue1", "direction": "out", "tags": [], "vni": None, "network": "blue"},
        {"frame": "ARP", "device": "out0", "direction": "out", "tags": [200], "vni": None, "network": "blue"},
    ]
    text = "\n".join(map(str, report.blocks(result)))
    assert "LEAK: ARP from red was seen at out0 (out, tagged 200), which is of blue" in text
    assert not report.passed(result)


def test_silence_proves_nothing() -> None:
    result = Result((tried(home=False),), LINKS)
    assert not report.passed(result)
    assert "FAILED: red: ARP was not heard on its own link" in "\n".join(map(str, report.blocks(result)))
    assert report.passed(Result((tried(),), LINKS))
    assert not report.passed(Result((tried(),), LINKS, lost=3))
