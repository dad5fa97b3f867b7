"""What a router is told, as one whole document of text files. Pure.

    guestnet-router 1
    section net 123
    ...123 bytes...
    section nft 4567
    ...

`data/agent` in the appliance reads it. Its SHA-256 names it: the host sees by that whether a router does as it should.
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.model.router import RouterConfig
from libvirt_guestnet.router import balancing, checks, conntrackd, dnsmasq, grammar, links, metadata, nftables

MAX_BYTES = 1_000_000
"""More than the agent takes in one request; a thousand guests and rules are a third of it."""


class Document(NamedTuple):
    """The files. A change of `dnsmasq` restarts dnsmasq, one of the four after it makes it read them again;
    `balance` is what the agent does itself, `sync` conntrackd's configuration, empty but in a pair, `metadata` what
    guests are told by the service for that."""

    net: str
    nft: str
    dnsmasq: str
    hosts: str
    options: str
    names: str
    servers: str
    balance: str
    sync: str
    metadata: str

    def encoded(self) -> bytes:
        """Raises GuestnetError when it is longer than the appliance takes."""
        parts = [b"guestnet-router 1\n"]
        for name, text in zip(self._fields, self, strict=True):
            data = text.encode("ascii")
            parts.append(b"section %s %d\n%s" % (name.encode(), len(data), data))
        whole = b"".join(parts)
        if len(whole) > MAX_BYTES:
            raise GuestnetError(f"a router's document has {len(whole)} bytes, more than {MAX_BYTES}: it has to do less")
        return whole

    @property
    def digest(self) -> str:
        return digest(self.encoded())


def digest(encoded: bytes) -> str:
    """The name of a document: its SHA-256."""
    return hashlib.sha256(encoded).hexdigest()


def decoded(encoded: bytes) -> Document | None:
    """The files in an encoded document; None for what is none, or of another version."""
    head, left, parts = b"guestnet-router 1\n", encoded, []
    if not left.startswith(head) or not encoded.isascii() or len(encoded) > MAX_BYTES:
        return None
    left = left[len(head) :]
    for name in Document._fields:
        found = re.match(rb"section %s ([0-9]{1,7})\n" % name.encode(), left)
        if found is None:
            return None
        end = found.end() + int(found[1])
        parts.append(left[found.end() : end].decode("ascii"))
        left = left[end:]
    made = Document(*parts)
    return made if made.encoded() == encoded else None


def document(config: RouterConfig) -> Document:
    """The document for a router. Raises GuestnetError for a configuration that contradicts itself, and rather than
    write what no router is ever told (decision 80)."""
    if found := checks.conflicts(config):
        raise GuestnetError(f"router {config.name}: " + "; ".join(found))
    return Document(
        net=grammar.checked("net", links.lines(config)),
        nft=grammar.checked("nft", nftables.lines(config)),
        dnsmasq=grammar.checked("dnsmasq", dnsmasq.main(config)),
        hosts=grammar.checked("hosts", dnsmasq.hosts(config)),
        options=grammar.checked("options", dnsmasq.options(config)),
        names=grammar.checked("names", dnsmasq.names(config)),
        servers=grammar.checked("servers", dnsmasq.servers(config)),
        balance=grammar.checked("balance", balancing.section(config)),
        sync=grammar.checked("sync", conntrackd.lines(config)),
        metadata=grammar.checked("metadata", metadata.lines(config)),
    )
