"""The whole of it: ports on every link, frames from each, and where these were seen."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.isolation import frames, gather, judge, link, twins
from libvirt_guestnet.isolation.ear import Ear
from libvirt_guestnet.isolation.frames import Frame
from libvirt_guestnet.isolation.link import UNTAGGED, Link, Sighting
from libvirt_guestnet.isolation.twins import Twin
from libvirt_guestnet.lab.forge import NONCES
from libvirt_guestnet.libvirtd.connection import connect, host_snapshot
from libvirt_guestnet.state.locked import UnlockedState

LONGEST_SECONDS = 5.0
_CALM_SECONDS, _MORE_TRIES = 0.7, 2
_SENT_TOGETHER = 200


@dataclass(frozen=True)
class Tried:
    """A frame that was sent on a link, and where it was seen: `home` as it may be, `leaks` where it must not."""

    link: Link
    way: str
    frame: Frame
    home: tuple[Sighting, ...] = ()
    leaks: tuple[Sighting, ...] = ()
    near: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """All that was tried; the links as they were, networks that are not active, and how many frames nobody looked at,
    because the host sent more than could be read."""

    tried: tuple[Tried, ...]
    links: tuple[Link, ...]
    absent: tuple[str, ...] = ()
    lost: int = 0


def verify(uri: str | None, wanted: Sequence[str] | None) -> Result:
    """Tries every link that has one of these networks, or all of guestnet's (None). Raises GuestnetError."""
    state = UnlockedState()
    with connect(uri) as connection:
        snapshot = host_snapshot(connection)
    links = gather.gather(snapshot, state)
    absent = gather.check_active(wanted, links) if wanted is not None else []
    tried = [each for each in links if wanted is None or set(each.networks) & set(wanted)]
    return replace(measure(links, tried, state), absent=tuple(absent))


def measure(links: Sequence[Link], wanted: Sequence[Link], state: UnlockedState) -> Result:
    """Sends on some links, and listens everywhere. Raises GuestnetError."""
    try:
        with twins.made(wanted, state) as pairs, Ear() as ear:
            return _measured(_with_twins(links, pairs), pairs, ear)
    except OSError as error:
        raise GuestnetError(f"no frames can be sent or heard: {error.strerror}") from error


def _with_twins(links: Sequence[Link], pairs: Sequence[tuple[Twin, Twin]]) -> tuple[Link, ...]:
    """The links with our own ports on them."""
    found = []
    for each in links:
        own = [twin.tap for pair in pairs for twin in pair if twin.link == each]
        found.append(each.with_ports(dict.fromkeys(own, UNTAGGED)) if not each.alone else each)
    return tuple(found)


def _measured(links: tuple[Link, ...], pairs: Sequence[tuple[Twin, Twin]], ear: Ear) -> Result:
    nonces = _nonces()
    sent: list[tuple[Twin, Frame]] = []
    for sender, hearer in pairs:
        vlans = link.vlans_beside(sender.link, links)
        who = frames.Who(sender.me, replace(hearer.me, mac=_other(sender)))
        made = frames.frames(sender.link, sender.way, who, vlans, nonces)
        sent += [(sender, frame) for frame in made]
    sightings: dict[int, list[Sighting]] = {}
    lost = 0
    listed = [frame for _, frame in sent]
    for again in range(1 + _MORE_TRIES):
        missing = [number for number, (twin, frame) in enumerate(sent) if _must(twin, frame) and not sightings.get(number)]  # fmt: skip  # noqa: E501
        for number in missing if again else range(len(sent)):
            sent[number][0].send(sent[number][1].data)
        heard = ear.listen(listed, LONGEST_SECONDS, _CALM_SECONDS, lambda found: _all_heard(sent, links, found))
        sightings, lost = heard.sightings, lost + heard.lost
        if _all_heard(sent, links, sightings):
            break
    tried = tuple(_tried(twin, frame, sightings.get(n, []), links) for n, (twin, frame) in enumerate(sent))
    return Result(tried, links, lost=lost)


def _nonces() -> Iterator[int]:
    """None that another run had, most likely."""
    first = secrets.randbelow(NONCES)
    return ((first + number) % NONCES for number in count())


def _other(twin: Twin) -> str:
    """A MAC address beside the sender's that nobody has."""
    return f"{twin.me.mac[:-5]}ff:{twin.me.mac[-2:]}"


def _must(twin: Twin, frame: Frame) -> bool:
    return frame.must and not twin.link.alone


def _all_heard(sent: Sequence[tuple[Twin, Frame]], links: Sequence[Link], found: dict[int, list[Sighting]]) -> bool:
    return all(
        any(_counts(twin, seen, links) for seen in found.get(number, ()))
        for number, (twin, frame) in enumerate(sent)
        if _must(twin, frame)
    )


def _counts(twin: Twin, seen: Sighting, links: Sequence[Link]) -> bool:
    """What comes in at a guest's tap, or at ours, has not been judged yet."""
    return seen.outgoing or not (seen.device == twin.tap or any(seen.device in each.ports for each in links))


def _tried(twin: Twin, frame: Frame, seen: Sequence[Sighting], links: tuple[Link, ...]) -> Tried:
    own = next(each for each in links if each.name == twin.link.name and each.networks == twin.link.networks)
    seen = [each for each in seen if _counts(twin, each, links)]
    home = [each for each in seen if judge.is_expected(own, twin.way, frame, each, links)]
    leaks = [each for each in seen if each not in home]
    near = tuple(judge.whose(each, links) for each in leaks)
    return Tried(own, twin.way, frame, tuple(home), tuple(leaks), near)
