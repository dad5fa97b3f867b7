"""What is no YAML is said in plain words, at the place to look at: in topology files and in host.yaml alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from libvirt_guestnet import topology
from libvirt_guestnet.errors import GuestnetError, TopologyError
from libvirt_guestnet.hostmap import load_hostmap

CASES = {
    "a key further in": ("a:\n  b: 1\n   c: 2\n", "3:5", "a ':' cannot stand here: indent this line like"),
    "no blank behind the colon": ("a:\n  b:1\n  c: 2\n", "3:4", "a ':' cannot stand here"),
    "a colon in a text": ("a: b: c\n", "1:5", "a text that has ': ' in it needs quotes"),
    "a key further out": ("a:\n    b: 1\n  c: 2\n", "3:3", "indented like no key there"),
    "a dash too much": (
        "a:\n  b: 1\n  - c: 2\n",
        "3:3",
        "its '- ' is too much (the keys around it begin in column 3, as in line 2)",
    ),
    "a dash too few": (
        "a:\n  - b: 1\n  c: 2\n",
        "3:3",
        "in the list that begins in line 2: begin it with '- ' in column 3",
    ),
    "a bracket left open": (
        "a: [1, 2\nb: 3\n",
        "2:2",
        "expected ',' or ']': the '[' in line 1, column 4 is still open",
    ),
    "a brace left open": ("a: {x: 1\nb: 3\n", "2:2", "expected ',' or '}': the '{' in line 1, column 4 is still open"),
    "a bracket too many": ("a: [1]]\nb: 1\n", "1:7", "nothing can follow here"),
    "a quote left open": ('a: 1\nb: "x\nc: 1\n', "2:4", "this quote is never closed"),
    "no colon": ("a:\n  b: 1\n  c\n  d: 1\n", "3:3", "this line is not KEY: VALUE"),
    "IPv6 that begins with a colon": ("a: [fd00::1, ::1]\n", "1:14", "such as ::1, needs quotes"),
    "IPv6 that ends with a colon": ("a: {x: fd00::}\n", "1:13", "such as fd00::, needs quotes"),
    "a sign": ("a: @b\n", "1:4", "a value that begins with this character needs quotes"),
    "a tab": ("a:\n\tb: 1\n", "2:1", "here is a tab; indent lines with spaces only"),
    "what we have no words for": ('a: "\\q"\n', "1:5", "while parsing a quoted scalar, found unknown escape character"),
}


@pytest.mark.parametrize(("text", "place", "words"), CASES.values(), ids=CASES)
def test_in_a_topology(text: str, place: str, words: str) -> None:
    with pytest.raises(TopologyError) as caught:
        topology.loads(text, "net.yaml")
    assert str(caught.value).startswith(f"net.yaml:{place}: not valid YAML: ")
    assert words in str(caught.value)


@pytest.mark.parametrize(("text", "place", "words"), CASES.values(), ids=CASES)
def test_in_the_hosts_file(tmp_path: Path, text: str, place: str, words: str) -> None:
    file = tmp_path / "host.yaml"
    file.write_text(text)
    with pytest.raises(GuestnetError) as caught:
        load_hostmap(file)
    assert str(caught.value).startswith(f"{file}:{place}: not valid YAML: ")
    assert words in str(caught.value)
