"""One parser that root runs, fed by chance for some seconds of a processor: `run.py PARSER SECONDS SEED`.

A failure prints the seed of the one input that did it; `run.py PARSER 0 SEED` is that input again.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[2]))

import change
import seeds
import world
from seeds import DOMAINS, NETWORKS, Call
from world import Finding, World

from libvirt_guestnet import topology, xmlgen
from libvirt_guestnet.errors import GuestnetError, TopologyError

GUESTS = sorted(set(DOMAINS) - {"bystander"})
OPERATIONS = {
    "qemu": ("start", "started", "migrate", "reconnect", "release"),
    "network": ("start", "started", "updated", "port-created", "port-deleted", "stopped"),
}


def _started(host: World, chance: Random, *guests: str) -> None:
    for network in NETWORKS:
        host.call(Call("network", network, "started", seeds.hook_data(network)))
    for guest in guests:
        for operation in ("start", "started"):
            host.call(Call("qemu", guest, operation, DOMAINS[guest]))


def _any_call(chance: Random) -> Call:
    return chance.choice(_LIVES)


# All but those of the guest that must not notice, and of its network.
_LIVES = [call for call in seeds.lives() if call.name not in ("bystander", "safe")]


def stdin(host: World, chance: Random) -> None:
    """Any bytes on the standard input of any call."""
    call = _any_call(chance)
    changed = chance.choice((change.octets, change.xml))(call.xml, chance)
    host.call(call._replace(xml=changed))


def chain(host: World, chance: Random) -> None:
    """The calls of one domain, each with an XML of its own, in any order, one of them perhaps under another name."""
    guest = chance.choice(GUESTS)
    xml = DOMAINS[guest]
    for _ in range(chance.randrange(2, 7)):
        if chance.random() < 0.5:
            xml = change.xml(xml, chance)
        operation = chance.choice(OPERATIONS["qemu"])
        host.call(Call("qemu", guest if chance.random() < 0.9 else change.value(chance) or "x", operation, xml))
        if chance.random() < 0.3:
            plug = chance.choice((seeds.PLUG, seeds.MOVE))
            port = change.xml(plug, chance) if chance.random() < 0.7 else plug
            host.call(Call("network", "nat", chance.choice(("port-created", "port-deleted")), port))
    host.call(Call("qemu", guest, "release", DOMAINS[guest]))


def metadata(host: World, chance: Random) -> None:
    """What is ours in a domain or a network."""
    if chance.random() < 0.3:
        network = chance.choice(sorted(set(NETWORKS) - {"safe"}))
        changed = change.xml(seeds.hook_data(network), chance, ours_only=True)
        for operation in chance.sample(OPERATIONS["network"][:3], 2):
            host.call(Call("network", network, operation, changed))
        return
    guest = chance.choice(GUESTS)
    changed = change.xml(DOMAINS[guest], chance, ours_only=True)
    for operation in ("start", "started", "reconnect", "release"):
        host.call(Call("qemu", guest, operation, changed))


def receipts(host: World, chance: Random) -> None:
    """What calls before this one left under /run, damaged."""
    for guest in chance.sample(GUESTS, 2):
        for operation in ("start", "started"):
            host.call(Call("qemu", guest, operation, DOMAINS[guest]))
    for path in chance.sample(found := [p for p in world.receipts() if not _safe(p)], min(2, len(found))):
        path.write_bytes(change.plain(path.read_bytes(), chance))
    for _ in range(2):
        host.call(_any_call(chance))
    chance.choice((host.watch, lambda: host.sync(NETWORKS, dict(list(DOMAINS.items())[:3]))))()


def _safe(path: Path) -> bool:
    """What is the whole host's, of which `format` is refused by name, or another guest's."""
    return path.name in ("lock", "format", "safe.json", "tap0.json", f"{seeds.uuid_of('bystander')}.json")


def leases(host: World, chance: Random) -> None:
    """libvirt's file of what its DHCP server has leased, to which guests' names and identifiers go."""
    world.put_leases(change.plain(seeds.LEASES, chance))
    for operation in ("start", "reconnect", "release"):
        host.call(Call("qemu", "learner", operation, DOMAINS["learner"]))


def records(host: World, chance: Random) -> None:
    """libvirt's records of running domains, which calls for others read."""
    guest = chance.choice(GUESTS)
    changed = chance.choice((change.octets, change.xml))(DOMAINS[guest], chance)
    world.record(guest, changed)
    for call in (
        Call("network", "nat", "port-created", seeds.PLUG.replace(b">nat<", f">{guest}<".encode())),
        Call("qemu", guest, "reconnect", b""),
    ):
        if call.operation != "started":
            host.call(call)
    host.watch()


def topologies(host: World, chance: Random) -> None:
    """A topology file, to the XML that is made of it, to the hooks."""
    text = seeds.TOPOLOGY
    for _ in range(chance.choice((1, 1, 2, 3))):
        words = text.split(" ")
        at = chance.randrange(len(words))
        words[at] = chance.choice((change.value(chance), chance.choice(words), "", f"{words[at]} {words[at]}"))
        text = " ".join(words)
    try:
        found = topology.loads(text, "by chance")
        networks = [xmlgen.to_string(xmlgen.network_metadata(found, each, seeds.HOSTMAP)) for each in found.networks]
        domains = [
            (each.name, xmlgen.to_string(xmlgen.domain_metadata(found, each, seeds.HOSTMAP))) for each in found.guests
        ]
    except (TopologyError, GuestnetError):
        return
    for name, own in domains:
        if name in GUESTS:
            host.call(Call("qemu", name, "start", _with_metadata(DOMAINS[name], own)))
    assert networks


def _with_metadata(domain: bytes, own: str) -> bytes:
    head, _, rest = domain.partition(b"<metadata>")
    return head + b"<metadata>" + own.encode() + b"</metadata>" + rest.partition(b"</metadata>")[2]


PARSERS: dict[str, Callable[[World, Random], None]] = {
    parser.__name__: parser for parser in (stdin, chain, metadata, receipts, leases, records, topologies)
}


def once(host: World, parser: Callable[[World, Random], None], seed: str) -> None:
    """One input, beside a guest that runs and has nothing to do with it. Raises Finding, or whatever the product let
    through."""
    chance = Random(seed)
    host.calm(chance.random() < 0.5)
    _started(host, chance)
    before = host.lives(("start", "started"))
    parser(host, chance)
    after = host.lives(())
    if after != before:
        changed = [
            f"{key}: {before.get(key)} became {after.get(key)}"
            for key in {*before, *after}
            if before.get(key) != after.get(key)
        ]
        raise Finding(f"a running guest's rules: {changed}"[:2000])
    if left := host.lives(("release",)):
        raise Finding(f"left behind by a guest that ended: {left}")
    if host.lives(("start",)) != before:
        raise Finding("a guest's rules are others when it starts again")


def main(name: str, seconds: float, seed: str) -> int:
    host, parser = World(), PARSERS[name]
    # By the clock there would be fewer inputs where other work is beside this.
    end, number = time.process_time() + seconds, 0
    while not number or time.process_time() < end:
        this = f"{seed}.{number}" if seconds else seed
        try:
            once(host, parser, this)
        except BaseException as error:
            print(f"{name}: seed {this}: {type(error).__name__}: {error}")
            traceback.print_exc(file=sys.stdout)
            return 1
        number += 1
    print(f"{name}: {number} inputs in {seconds:.0f} s, seeds {seed}.0 to {seed}.{number - 1}: nothing found")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2]), sys.argv[3]))
