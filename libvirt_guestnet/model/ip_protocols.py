"""The IP protocols that are forwarded: those with ports, and others as a whole. Pure; on the hook path."""

from __future__ import annotations

from libvirt_guestnet import parse

PORTED = {"tcp": 6, "udp": 17, "sctp": 132}
"""What ports are forwarded of, by the number in IP."""
WHOLE = {"ipip": 4, "6in4": 41, "gre": 47, "esp": 50}
"""What is forwarded as a whole and has a word; all others are proto/NUMBER."""
_WORDS = {number: word for word, number in WHOLE.items()}
_AH = 51
_HEADERS = (43, 44, 59, 60, 135, 139, 140)  # of IPv6, before a protocol
_NEVER = {
    **{number: f"{word} has ports: name them, such as {word}/8080" for word, number in PORTED.items()},
    **dict.fromkeys((1, 58), "ICMP goes where the connection goes that it is about"),
    **dict.fromkeys(_HEADERS, "that is a header of IPv6, and no protocol"),
    2: "multicast groups are a matter of one link",
    _AH: "AH is there to notice that an address was translated; use floating-untranslated",
}


def is_whole(protocol: str) -> bool:
    """Whether it has no ports."""
    return protocol not in PORTED


def number(protocol: str) -> int:
    """The number in IP of what `read` gives."""
    return PORTED.get(protocol) or WHOLE.get(protocol) or int(protocol.removeprefix("proto/"))


def word(found: int) -> str:
    """What a protocol without ports is called here."""
    return _WORDS.get(found) or f"proto/{found}"


def read(text: str) -> str:
    """A protocol of which something can be forwarded, as it is always written. Raises TextError, which says why not."""
    return text if text in PORTED else read_whole(text)


def read_whole(text: str) -> str:
    """One without ports."""
    if text in WHOLE:
        return text
    if text != "ah" and not text.startswith("proto/"):
        raise parse.TextError(f"{parse.shown(text)} is not {', '.join([*PORTED, *WHOLE])} or proto/NUMBER")
    found = _AH if text == "ah" else parse.number(text.removeprefix("proto/"), 1, 254)
    if found in _NEVER:
        raise parse.TextError(f"{text}: {_NEVER[found]}")
    return word(found)


def service(protocol: str, first: int, last: int) -> str:
    """The protocol with its port, or the first and last one, if it has any, as people write it."""
    if not first:
        return protocol
    return f"{protocol}/{first}" if first == last else f"{protocol}/{first}-{last}"
