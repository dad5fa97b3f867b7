"""The topology file as text, the same for the same host. A name, whatever is in it, cannot be anything else than a name
there: `scalar` writes all that a tenant or libvirt may have named, `comment` all that is only said. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from libvirt_guestnet.datapath.forwards.table import version_of
from libvirt_guestnet.importing.facts import Imported, ImportedGuest, ImportedNetwork, ImportedPort, Listed
from libvirt_guestnet.importing.values import Value
from libvirt_guestnet.metadata.policy import LEASE, LEASE6, Forward, PortPolicy
from libvirt_guestnet.model import ip_protocols
from libvirt_guestnet.parse import Prefix

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*|[0-9]{1,3}(\.[0-9]{1,3}){3}")
# What YAML 1.1 takes for something else than text.
_WORDS = frozenset(("null", "true", "false", "yes", "no", "on", "off", "y", "n"))
_QUOTED = {'"': '\\"', "\\": "\\\\"}
_OBSERVE = (
    "With guarded: observe, what port security would drop is counted, and passes: nobody is cut off.",
    "`guestnet suggest` says what to declare here before you change it to true.",
)
_GUARDED = ("Each port of this file is guarded from `guestnet apply` on: what it may not send is dropped.",)
_SET = "set without a file"
_WRITTEN = frozenset(
    (
        "guarded",
        "observed",
        "addresses",
        "addressing",
        "pairs",
        "lent",
        "roles",
        "privacy",
        "forwards",
        "note",
        "was",
        "impairment",
    )
)
_EVERYBODY = {4: "0.0.0.0/0", 6: "::/0"}
_PRIVACY = {"yes": "true", "no": "false"}
_OWN = (
    "Networks that say take-over: true are libvirt's so far. From `guestnet apply` on they are guestnet's own, and",
    "`guestnet destroy` removes them; guests and their NICs stay their owners'. A label of physical-networks is the",
    "name of the host's device: --map eth0=eth0.",
)
_ADDRESSES = {"dhcp": "dhcp", "none": "[]"}
_LABEL = "physical-network"
_LOOK = "An address of the neighbour table is what a guest said that it has: look at those first."


def scalar(text: str) -> str:
    """A text as a value or key of YAML, in one line, which reads back the same."""
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    return f'"{"".join(map(_escaped, text))}"'


def comment(text: str) -> str:
    """A text that nobody but people reads, in one line."""
    return "# " + "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    if character.isprintable():
        return _QUOTED.get(character, character)
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def text(found: Imported) -> str:
    """The whole file."""
    return "".join(f"{line}\n" for line in _lines(found))


def _lines(found: Imported) -> Iterator[str]:
    yield comment("What `guestnet import` found on this host. Nothing changes before `guestnet apply`.")
    own = _OWN if found.request.own else ()
    said = (*own, *(_OBSERVE if found.request.observe else _GUARDED), _LOOK)
    yield from map(comment, said)
    yield f"name: {scalar(found.request.topology)}"
    if labels := sorted({str(n.keys["physical-network"]) for n in found.networks if n.keys and _LABEL in n.keys}):
        yield from ("", "physical-networks:", *(f"  {scalar(label)}: {{}}" for label in labels))
    yield from _section("networks", map(_network, found.networks))
    yield from _section("guests", map(_guest, found.guests))
    if found.left_out:
        yield ""
        yield comment("Not in this file, which cannot say it:")
        yield from (comment(f"- {each.what}: {each.why}") for each in found.left_out)


def _section(key: str, items: Iterable[Iterator[str]]) -> Iterator[str]:
    lines = [f"  {line}" for item in items for line in item]
    yield ""
    yield f"{key}:" if lines else f"{key}: {{}}"
    yield from lines


def declared(name: str, keys: Mapping[str, Value], what: str = "") -> Iterator[str]:
    """A network with all its keys."""
    yield f"{scalar(name)}:{f'  {comment(what)}' if what else ''}"
    for key, value in keys.items():
        if isinstance(value, dict) and value:
            yield f"  {scalar(key)}:"
            yield from (f"    {scalar(inner)}: {_flow(each)}" for inner, each in value.items())
        else:
            yield f"  {scalar(key)}: {_flow(value)}"


def _flow(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(_flow, value))}]"
    if isinstance(value, dict):
        pairs = ", ".join(f"{scalar(key)}: {_flow(each)}" for key, each in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    return str(value) if isinstance(value, int) else scalar(value)


def _network(network: ImportedNetwork) -> Iterator[str]:
    if network.keys is not None:
        yield from declared(network.name, network.keys, network.what)
        return
    yield f"{scalar(network.name)}:  {comment(network.what)}"
    yield f"  external: {{ bridge: {scalar(network.bridge)} }}" if network.bridge else "  external: true"
    if network.guarded:
        yield f"  guarded: {network.guarded}"


def _guest(guest: ImportedGuest) -> Iterator[str]:
    yield f"{scalar(guest.name)}:"
    yield "  ports:"
    for port in guest.ports:
        first, *others = _port(port)
        yield f"    - {first}"
        yield from (f"      {line}" for line in others)


def _port(port: ImportedPort) -> Iterator[str]:
    known = port.addresses
    yield f"network: {scalar(port.network)}"
    if port.name:
        yield f"name: {scalar(port.name)}"
    yield f"mac: {scalar(port.mac)}"
    if port.said is not None:
        yield from _said(port.said)
        return
    yield from _list("addresses", known.own, "{}")
    if port.word:
        yield f"addresses: {_ADDRESSES[port.word]}"
    yield from _list("allowed-pairs", known.pairs, "{{ address: {} }}")
    if known.privacy:
        yield f"privacy-addresses: true  {comment(known.privacy)}"
    if port.observed:
        yield f"guarded: observe  {comment(port.observed)}"
    yield from map(comment, known.remarks)


def _list(key: str, listed: Iterable[Listed], form: str) -> Iterator[str]:
    for number, each in enumerate(listed):
        if number == 0:
            yield f"{key}:"
        yield f"  - {form.format(scalar(str(each.ip)))}  {comment(each.source)}"


def _said(said: PortPolicy) -> Iterator[str]:
    """What was set without a file: all that `why_not_said` lets pass."""
    yield f"guarded: {'observe' if said.observed else str(said.guarded).lower()}  {comment(_SET)}"
    leased = any(each.to in (LEASE, LEASE6) for each in said.forwards)
    if said.addressing or leased:
        yield f"addresses: {said.addressing or 'dhcp'}"
    yield from _list("addresses", [Listed(ip, _SET) for ip in said.addresses], "{}")
    for number, pair in enumerate(said.pairs):
        mac = f", mac: {scalar(pair.mac)}" if pair.mac else ""
        yield from (["allowed-pairs:"] if number == 0 else [])
        yield f"  - {{ address: {scalar(str(pair.prefix))}{mac} }}"
    for number, inside in enumerate(said.lent):
        yield from (["allowed-pairs:"] if number == 0 and not said.pairs else [])
        yield f"  - {{ mac: {scalar(inside)} }}"
    if said.roles:
        yield f"roles: [{', '.join(map(scalar, said.roles))}]"
    if said.privacy:
        yield f"privacy-addresses: {_PRIVACY.get(said.privacy, scalar(said.privacy))}"
    if said.impairment:
        yield f"impairment: {{ {', '.join(f'{key}: {text}' for key, text in said.impairment.words().items())} }}"
    yield from (["forwards:"] if said.forwards else [])
    yield from _forwards(said.forwards, {address.version for address in said.addresses})


def _forwards(said: Iterable[Forward], versions: set[int]) -> Iterator[str]:
    """A line for each, but one for both families of what is asked for at every address of the host."""
    found: dict[Forward, dict[int, tuple[Prefix, ...]]] = {}
    for each in said:
        line = each._replace(to="", hide=False, sources=())
        found.setdefault(line, {})[version_of(each.to)] = each.sources
    for line, sources in found.items():
        yield _forward(line, sources, {version_of(line.at)} if line.at else versions)


def _forward(forward: Forward, sources: Mapping[int, tuple[Prefix, ...]], versions: set[int]) -> str:
    """`sources`: who may ask, in each family that is forwarded; `versions`: those that would be, if nothing were said
    of it."""
    asked, to = ip_protocols.service(forward.protocol, forward.first, forward.last), ""
    if forward.first:
        to = f", to: {forward.to_first}"
    at = f", at: [{scalar(forward.at)}]" if forward.at else ""
    limits = any(sources.values()) or versions - set(sources)
    clients = [each for version, said in sorted(sources.items()) for each in map(str, said or [_EVERYBODY[version]])]
    only = f", from: [{', '.join(map(scalar, clients))}]" if limits else ""
    return f"  - {{ services: [{scalar(asked)}]{at}{to}{only} }}"


def why_not_said(said: PortPolicy) -> list[str]:
    """What of a port's metadata this does not write."""
    bare = PortPolicy(said.mac, said.name, said.network)
    fields = set(PortPolicy._fields) - _WRITTEN
    return sorted(name for name in fields if getattr(said, name) != getattr(bare, name))
