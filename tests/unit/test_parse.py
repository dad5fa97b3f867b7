"""The one parser of what comes as text, and that there is no other."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libvirt_guestnet import parse

PACKAGE = Path(parse.__file__).parent
HOSTILE = (
    "\n",
    "\0",
    "\r",
    "\t",
    " ",
    '"',
    "'",
    "%",
    "%1",
    "%1\n-I INPUT 1",
    ";",
    "#",
    "-",
    "+",
    "١",
    "²",
    "٫",
    "\\",
    "}",
    "@",
)
LONG = "1" * 10_000


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize(
    ("read", "clean"),
    [
        (parse.address, "192.0.2.1"),
        (parse.address, "fd00::1"),
        (parse.prefix, "192.0.2.0/24"),
        (parse.prefix, "fd00::/64"),
        (parse.netmask, "255.255.255.0"),
        (parse.mac, "52:54:00:00:00:01"),
        (parse.device, "vnet0"),
        (lambda text: parse.number(text, 0, 99), "7"),
        (lambda text: parse.span(text, 0, 99), "7-9"),
    ],
)
def test_nothing_passes_before_in_or_behind_a_value(read: Callable[[str], Any], clean: str, hostile: str) -> None:
    assert read(clean)
    for text in (hostile + clean, clean + hostile, clean[:1] + hostile + clean[1:], hostile):
        if (read, hostile) == (parse.device, "-") and text not in ("-", "-vnet0"):
            continue  # a device's name may have one, but not first
        with pytest.raises(parse.TextError) as refused:
            read(text)
        assert str(refused.value).isprintable()


@pytest.mark.parametrize("text", ["", LONG, "1." * 5000, "a:" * 5000, "0" * 5000 + "1", "52:" * 4000])
def test_neither_nothing_nor_much_passes(text: str) -> None:
    for read in (parse.address, parse.prefix, parse.mac, parse.device, lambda text: parse.number(text, 0, 1 << 64)):
        with pytest.raises(parse.TextError) as refused:
            read(text)
        assert len(str(refused.value)) < 250


@pytest.mark.parametrize(
    "text",
    ["010.0.0.1", "10.0.0.01", "10.1", "1", "0x0a000001", "::ffff:192.0.2.1", "fd00::1%lo", "[fd00::1]", "fd00::1/128"],
)
def test_an_address_is_only_what_its_text_says(text: str) -> None:
    with pytest.raises(parse.TextError):
        parse.address(text)


@pytest.mark.parametrize(
    "text", ["10.0.0.1/24", "10.0.0.0/024", "10.0.0.0/255.0.0.0", "10.0.0.0/33", "fd00::/129", "10.0.0.0/", "/24", "/"]
)
def test_a_prefix_is_only_what_its_text_says(text: str) -> None:
    with pytest.raises(parse.TextError):
        parse.prefix(text)


def test_what_the_schema_allows_has_one_text_afterwards() -> None:
    assert str(parse.address("FD00:0:0::A")) == "fd00::a"
    assert str(parse.prefix("FD00::/64")) == "fd00::/64"
    assert str(parse.prefix("192.0.2.1")) == "192.0.2.1/32"
    assert str(parse.enclosing("192.0.2.1/24")) == "192.0.2.0/24"
    assert parse.netmask("255.255.254.0") == 23
    assert parse.mac("52:54:00:AB:CD:EF") == "52:54:00:ab:cd:ef"
    assert (parse.span("80", 1, 99), parse.span("80-90", 1, 99)) == ((80, 80), (80, 90))


@pytest.mark.parametrize("text", ["90-80", "80-", "-80", "80-90-95", "080", "1e1", "1_0", "0"])
def test_a_range_is_only_what_its_text_says(text: str) -> None:
    with pytest.raises(parse.TextError):
        parse.span(text, 1, 99)


@pytest.mark.parametrize("name", [".", "..", "all", "default", "-v", "a" * 16, "a/b", "a b", "ä", "a:1"])
def test_a_name_that_could_be_something_else_is_no_devices(name: str) -> None:
    with pytest.raises(parse.TextError):
        parse.device(name)


# What makes addresses of numbers, bytes and other addresses: (module, function).
_BINARY = {
    ("topology/addressing.py", "__init__"),
    ("model/held_addresses.py", "single"),
    ("model/slaac.py", "eui64"),
    ("datapath/routing/announce.py", "_link_local"),
    ("datapath/forwards/conntrack.py", "_address"),
    ("datapath/forwards/listeners.py", "_address"),
    ("datapath/netlink/probe.py", "_solicited"),
    ("datapath/netlink/rtnl.py", "_address"),
    ("datapath/netlink/rtnl.py", "_prefix"),
    ("datapath/port/notes.py", "_with_set"),
    ("datapath/port/port_facts.py", "certain"),
    ("datapath/port/port_facts.py", "link_local"),
    ("datapath/netlink/probe.py", "_solicited"),
    ("model/held_addresses.py", "single"),
    ("datapath/netlink/kernel.py", "guarded_ports"),
    ("datapath/port/ranges.py", "as_set"),
    ("hook/enforce/address_sets.py", "_addresses_in"),
    ("hook/enforce/address_sets.py", "_names_of"),
    ("lab/standin.py", "_interface"),
    ("model/router.py", "prefix"),
    ("router/health.py", "_lease"),
    ("isolation/frames.py", "identity"),
    ("router/tier.py", "_last_free"),
    ("router/tier.py", "_ranges"),
}
_MAKERS = {f"IPv{version}{kind}" for version in (4, 6) for kind in ("Address", "Network", "Interface")}
_OF_TEXT = {"ip_address", "ip_network", "ip_interface"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_else_makes_addresses_of_text(path: Path) -> None:
    if path == PACKAGE / "parse.py":
        return
    found = list(_makers(ast.parse(path.read_text())))
    assert [where for where in found if (str(path.relative_to(PACKAGE)), where[0]) not in _BINARY] == []


def _makers(tree: ast.Module) -> Iterator[tuple[str, int]]:
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                if _makes(node):
                    yield function.name, getattr(node, "lineno", 0)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and _OF_TEXT & {alias.name for alias in node.names}:
            yield "import", node.lineno
        if isinstance(node, ast.Import) and "ipaddress" in {alias.name for alias in node.names}:
            yield "import", node.lineno


def _makes(node: ast.AST) -> bool:
    """Whether a class of addresses is called with more than a literal, or handed on to be called later."""
    if isinstance(node, ast.IfExp):
        return any(map(_is_maker, (node.body, node.orelse)))
    if not isinstance(node, ast.Call) or (isinstance(node.func, ast.Name) and node.func.id == "isinstance"):
        return False
    literal = all(isinstance(argument, ast.Constant) for argument in node.args)
    return (_is_maker(node.func) and not literal) or any(map(_is_maker, node.args))


def _is_maker(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id in _MAKERS


@given(
    st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){2,4}\n?", fullmatch=True)
    | st.integers(0, 2**32 - 1).map(lambda n: str(IPv4Address(n)))
    | st.text("0123456789.:", max_size=20)
)
def test_the_quick_way_through_a_common_address_is_the_slow_one(text: str) -> None:
    try:
        slow = ip_address(text)
    except ValueError:
        for make in (parse.address, parse.address_text, parse.prefix):
            with pytest.raises(parse.TextError):
                make(text)
    else:
        assert (parse.address(text), parse.address_text(text)) == (slow, str(slow))
        assert parse.prefix(text) == ip_network(text)


@given(st.from_regex(r"[0-9a-fA-F]{2}(:[0-9a-f]{2}){4,6}\n?", fullmatch=True))
def test_the_quick_way_through_a_common_mac_is_the_slow_one(text: str) -> None:
    if len(text) == 17 and not int(text[1], 16) & 1:
        assert parse.mac(text) == text.lower()
    else:
        with pytest.raises(parse.TextError):
            parse.mac(text)
