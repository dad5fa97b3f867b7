"""What comes of hostile text in anything that the hooks read: nothing of it reaches a program, and no other guest pays.

docs/hostile-text.md is made of this: `pytest tests/unit/test_hostile_text.py --regenerate` writes it again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import hostile
import pytest
from hostile import MARK, SCHEMA, TEXTS, Document, Host, Place
from lxml import etree

from libvirt_guestnet import xmlread

DOCUMENT = hostile.ROOT / "docs/hostile-text.md"
DOCUMENTS = hostile.documents()


def _unlike() -> dict[str, Place]:
    """Each thing that is read once, in the first document that has it."""
    found: dict[str, Place] = {}
    for document in DOCUMENTS.values():
        for place in hostile.places(document):
            found.setdefault(place.what, place)
    return found


PLACES = _unlike()


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Host:
    return Host(monkeypatch, tmp_path)


def test_the_documents_have_every_attribute_of_the_schema_and_are_carried_out(host: Host) -> None:
    assert {f"<guestnet:{element}> {name}" for element, name in SCHEMA.attributes()} <= set(PLACES)
    for document in DOCUMENTS.values():
        host.fresh()
        told, said = host.run(document)
        assert told, document.name
        assert said == [], document.name
        assert not any(map(hostile.is_hostile, told))


def test_the_documents_have_everything_that_the_hooks_read(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    there = {(etree.QName(node).localname, name) for each in DOCUMENTS.values() for node, name in _attributes(each)}
    asked: set[tuple[str, str]] = set()
    get = xmlread.Node.get

    def noted(node: xmlread.Node, attribute: str) -> str:
        asked.add((node.tag.rpartition(" ")[2], attribute))
        return get(node, attribute)

    monkeypatch.setattr(xmlread.Node, "get", noted)
    for document in DOCUMENTS.values():
        host.fresh()
        host.run(document)
    assert asked - there - _LEFT_OUT == set()


# Read of every element of a kind; libvirt and the schema have it in some of them, which are there.
_LEFT_OUT: set[tuple[str, str]] = set()


def _attributes(document: Document) -> Iterator[tuple[etree._Element, str]]:
    for tree in (document.xml, document.record):
        for node in () if tree is None else tree.iter(etree.Element):
            yield from ((node, str(name)) for name in node.attrib)


@pytest.fixture(scope="module")
def outcomes() -> dict[str, dict[str, str]]:
    """By place and kind of text, what came of it."""
    return {}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_nothing_of_a_hostile_text_reaches_a_program(
    place: Place, host: Host, outcomes: dict[str, dict[str, str]]
) -> None:
    outcomes[place.what] = _outcome(place, host)


def _outcome(place: Place, host: Host) -> dict[str, str]:
    """By kind of text what the hooks say, "" where they go on, as they may only if the host is told what is clean."""
    found = {}
    document, tree = DOCUMENTS[place.document], _tree(place)
    expected = _Expected(host, document, place)
    turn = cycle(range(4))
    for kind, text in TEXTS.items():
        values = list(hostile.variants(place.read(tree), text))
        for value in values if kind == "scope id" else [values[next(turn) % len(values)]]:
            told, said = _run(host, document, place, value)
            assert not [each for each in told if hostile.is_hostile(each)], value
            assert not [line for line in said if "internal error" in line], value
            assert said or expected.allows(told), value
            found[kind] = said[0] if said else ""
    return found


def _run(host: Host, document: Document, place: Place, value: str | None) -> tuple[list[str], list[str]]:
    host.fresh()
    data = hostile.changed(_tree(place), place, value)
    return host.run(document, record=data) if place.in_record else host.run(document, data)


def _tree(place: Place) -> etree._Element:
    document = DOCUMENTS[place.document]
    tree: etree._Element = document.record if place.in_record else document.xml
    return tree


class _Expected:
    """What the host may be told: what it is without the hostile value, or with another one of its kind."""

    def __init__(self, host: Host, document: Document, place: Place) -> None:
        self.host, self.document, self.place = host, document, place
        host.fresh()
        self.clean = host.run(document)[0]
        self.others: list[list[str]] = []

    def allows(self, told: list[str]) -> bool:
        if told == self.clean:
            return True
        self.others = self.others or [
            _run(self.host, self.document, self.place, value)[0] for value in hostile.allowed_values(self.place)
        ]
        return told in self.others


@pytest.mark.parametrize("bad", ["\0", "&#0;", "&#x0;", "\x1b", "&#27;", "\ufffe"])
def test_what_is_no_xml_is_refused(bad: str, host: Host) -> None:
    document = DOCUMENTS["domain 0"]
    data = etree.tostring(document.xml).decode().replace("fd99::10", f"fd99::10{bad}{MARK}")
    host.fresh()
    told, said = host.run(document, data.encode())
    assert said
    assert not any(map(hostile.is_hostile, told))


def test_the_document_has_every_attribute(host: Host, outcomes: dict[str, dict[str, str]], regenerate: bool) -> None:
    # Another process may have tried some of them.
    text = _document({what: outcomes.get(what) or _outcome(place, host) for what, place in PLACES.items()})
    if regenerate:
        DOCUMENT.write_text(text)
    assert DOCUMENT.read_text() == text, "run this file with --regenerate and review the difference"


_HEAD = """# Hostile text in XML

Everything that the hooks read of XML (each attribute of [`xml/metadata.rng`](../xml/metadata.rng), found by walking
the schema, and what they read of libvirt's own) is given to the real hooks with each of these texts alone, before,
behind or inside of a clean value; receipts and lease files, too. What nft, ip(6)tables-restore, `bridge` and firewalld
are then given, what is written to /proc and said over netlink, is exactly what some clean value gives, or the call was
refused. `tests/unit/test_hostile_text.py` makes this table; `--regenerate` rewrites it.

"""


def _document(outcomes: dict[str, dict[str, str]]) -> str:
    texts = "".join(f"- {kind}: `{_shown(text)}`\n" for kind, text in TEXTS.items())
    rows = [_row(what, outcomes[what]) for what in PLACES]
    head = "| read | refused | ignored | a hostile text | what reached nft and ip(6)tables |\n|---|---|---|---|---|\n"
    return f"{_HEAD}{texts}\n{head}{''.join(rows)}"


def _row(what: str, outcome: dict[str, str]) -> str:
    refused = sum(map(bool, outcome.values()))
    place = PLACES[what]
    document = DOCUMENTS[place.document]
    value = list(hostile.variants(place.read(document.record if place.in_record else document.xml), TEXTS["scope id"]))[
        -1
    ]
    came = (
        "refused: " + _message(outcome["scope id"]) if outcome["scope id"] else "nothing of it: as with a clean value"
    )
    return f"| `{what}` | {refused} | {len(outcome) - refused} | `{_shown(value)}` | {came} |\n"


def _message(line: str) -> str:
    return line.replace("libvirt-guestnet: ", "").replace("|", "\\|").replace("<", "\\<")


def _shown(text: str) -> str:
    text = text if len(text) < 80 else f"{text[:10]}… ({len(text)} characters)"
    return text.replace("\n", "⏎").replace("\r", "␍").replace("|", "\\|").replace("`", "'")


def _receipts(host: Host) -> dict[str, bytes]:
    return {str(path.relative_to(host.root)): path.read_bytes() for path in host.root.rglob("*.json")}


def test_nothing_of_a_hostile_receipt_reaches_a_program_or_another_guest(host: Host) -> None:
    """Every text and number of every receipt of a guest, in the calls of another one and of a network."""
    host.fresh()
    victim = DOCUMENTS["domain 0"]
    for hook, operation in victim.calls[:2]:
        assert host.call(hook, operation, "guest", etree.tostring(victim.xml)) == 0, host.said
    kept = _receipts(host)
    assert {name.partition("/")[0] for name in kept} >= {
        "ports",
        "forwards",
        "host-routes",
        "vlans",
        "domains",
        "networks",
        "forwards-in-kernel.json",
    }
    turn = cycle(TEXTS.values())
    for name, data in kept.items():
        for value in [*hostile.hostile_json(json.loads(data), lambda clean: clean + next(turn)), *_no_receipts()]:
            for other, original in kept.items():
                (host.root / other).write_bytes(original)
            (host.root / name).write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
            _others_go_on(host, name)


def _no_receipts() -> list[object]:
    return [b"", b"{", b"\xff", b"[" * 100_000, b"null", [], "text", 7, {}, {"tap": None}, {"tap": ["x"]}]


_OTHER = etree.tostring(DOCUMENTS["domain without metadata"].xml).replace(b"tapa", b"tapo").replace(b"tapb", b"br9")
_OTHER = _OTHER.replace(b"0b5e0000-0000-4000-8000-00000000000a", b"0b5e0000-0000-4000-8000-0000000000ff")


def _others_go_on(host: Host, name: str) -> None:
    host.told.clear()
    host.said.clear()
    network = etree.tostring(DOCUMENTS["network of mode nat"].xml).replace(b">net<", b">other<")
    calls = [
        ("network", "started", network),
        ("qemu", "start", _OTHER),
        ("qemu", "started", _OTHER),
        ("qemu", "release", _OTHER),
    ]
    if name.startswith("networks/"):
        calls = calls[:1]  # it says what guests on that network are to have
    for hook, operation, data in calls:
        assert host.call(hook, operation, "other", data) == 0, (operation, host.said)
    assert not [line for each in host.told for line in each.splitlines() if hostile.is_hostile(line)]
    assert not [line for line in host.said if "internal error" in line], host.said


_LEASE = {"ip-address": "fd09::123", "mac-address": hostile.MAC, "hostname": "guest", "client-id": "00:01", "iaid": "7"}


def test_nothing_of_a_hostile_lease_reaches_a_program(host: Host) -> None:
    document = DOCUMENTS["domain without metadata"]
    without, with_one = _leased(host, document, []), _leased(host, document, [{**_LEASE, "expiry-time": 0}])
    assert without != with_one, "the lease is read"
    for field, clean in {**_LEASE, "expiry-time": 0}.items():
        for text in TEXTS.values():
            for value in hostile.variants(str(clean), text):
                told = _leased(host, document, [{"expiry-time": 0, **_LEASE, field: value}])
                assert told in (without, with_one), (field, value)
    other: object
    for other in (None, 7, "text", {}, [[]], [7, None], [{"ip-address": 7}], [{**_LEASE, "expiry-time": [1]}]):
        assert _leased(host, document, other) == without


def _leased(host: Host, document: Document, leases: object) -> list[str]:
    host.fresh()
    (host.folder / "br9.status").write_text(json.dumps(leases))
    told, said = host.run(document._replace(calls=document.calls[:1]))
    assert said == []
    return told
