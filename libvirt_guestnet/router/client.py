"""The host's side of a router's control channel, a virtio-serial port that nobody else reaches (decision 81).

What comes back was written by a guest and is believed no further than its format. Each request has a deadline, and an
answer a length.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from libvirt_guestnet import parse, slots
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.guest.agent import Agent
from libvirt_guestnet.model.network import IPAddress
from libvirt_guestnet.router.document import digest

CHANNEL = "org.libvirt-guestnet.router.0"
"""Name of the virtio-serial port."""

VERSION = 1
CONFIGURE_SECONDS = 30.0
_MOST_LINES = 20_000
_HOST_NAME = re.compile("[A-Za-z0-9_.-]{1,253}")
_OWN_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_REFUSED = re.compile(r"(?s)(document|[a-z]{1,20})(?::([0-9]{1,7}))?: (.{1,4096})")


class RefusedDocumentError(GuestnetError):
    """A router took nothing of a document. `section` is the file in it that is wrong, `line` the place there, or 0."""

    def __init__(self, router: str, section: str, line: int, reason: str) -> None:
        self.section, self.line, self.reason = section, line, reason
        where = f"{section}, line {line}" if line else section
        super().__init__(f"router {router}: nothing was changed: {where}: {reason}")


@dataclass(frozen=True)
class Lease:
    """An address that the router's DHCP server gave. `client` is a MAC address, or of DHCPv6 a DUID; `expires` is in
    seconds since 1970, 0 for never."""

    expires: int
    client: str
    address: IPAddress
    name: str = ""


@dataclass(frozen=True)
class Counted:
    """How often a rule was met."""

    packets: int
    octets: int


@dataclass(frozen=True)
class RouterState:
    """How a router is. `document` names what it does (`document.digest`), None where it does nothing yet; `serving` is
    in seconds after its start. `waits`: the other one of a pair serves. `trouble` is what went wrong at its start or
    with its leases."""

    document: str | None
    serving: float
    uptime: float
    dnsmasq_runs: bool
    dnsmasq_restarts: int
    memory_kib: int
    memory_free_kib: int
    connections: int
    trouble: tuple[str, ...] = ()
    waits: bool = False


class MemberState(StrEnum):
    """Of a balancer's member: new ones, whose first check is not answered yet, and those that are down get nothing.
    Right after a take-over nobody is checked yet, and all are assumed to serve until their first check is over."""

    NEW = "new"
    ASSUMED = "assumed"
    UP = "up"
    DOWN = "down"
    UNCHECKED = "unchecked"


@dataclass(frozen=True)
class Balanced:
    """How a balancer's member is, and how many connections it has open."""

    balancer: str
    member: str
    state: MemberState
    connections: int

    @property
    def gets_connections(self) -> bool:
        return self.state in (MemberState.UP, MemberState.ASSUMED, MemberState.UNCHECKED)


class RouterClient:
    """A connection to one router. Close it, or use it in a `with` block."""

    def __init__(self, agent: Agent) -> None:
        self._agent, self.name = agent, agent.name

    @classmethod
    def connect(cls, path: Path | str, name: str, timeout: float = 10.0) -> RouterClient:
        """Raises GuestnetError when nobody answers in time, and for an appliance of another version."""
        client = cls(Agent.connect(path, timeout, name))
        try:
            version = client.version()
            if version != VERSION:
                raise GuestnetError(f"router {name} runs version {version} of the appliance, not {VERSION}: replace it")
        except BaseException:
            client.close()
            raise
        return client

    def __enter__(self) -> RouterClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._agent.close()

    def version(self) -> int:
        """Of the appliance."""
        found = re.fullmatch(r"guestnet-router ([0-9]{1,4})\n", self._ask("hello"))
        if found is None:
            raise GuestnetError(f"guest {self.name} is no router of ours")
        return int(found[1])

    def configure(self, document: bytes) -> None:
        """Puts an encoded document into force as a whole; returns when it is. Raises RefusedDocumentError when the
        router found something wrong and changed nothing."""
        self._give("configure", document)

    def check(self, document: bytes) -> None:
        """The same without putting it into force."""
        self._give("check", document)

    def activate(self, leases: str = "") -> None:
        """Has one of a pair take over, with the other one's lease file. Whoever calls this has seen to it that the
        other one does not serve. Raises GuestnetError."""
        self._ask("activate", leases)

    def state(self) -> RouterState:
        lines = [line.partition(" ") for line in self._ask("state").splitlines()[:100]]
        values = {key: value for key, _, value in lines if key != "trouble"}
        try:
            return RouterState(
                document=values["document"] if re.fullmatch("[0-9a-f]{64}", values["document"]) else None,
                serving=_seconds(values["serving"]),
                uptime=_seconds(values["uptime"]),
                dnsmasq_runs=values["dnsmasq"] == "runs",
                dnsmasq_restarts=_natural(values["dnsmasq-restarts"]),
                memory_kib=_natural(values["memory-kib"]),
                memory_free_kib=_natural(values["memory-free-kib"]),
                connections=_natural(values["connections"]),
                waits=values["role"] == "waits",
                trouble=tuple(value[:500] for key, _, value in lines if key == "trouble"),
            )
        except (KeyError, ValueError) as error:
            raise GuestnetError(f"router {self.name} says of itself what nobody understands: {error}") from error

    def leases(self) -> tuple[Lease, ...]:
        return read_leases(self._ask("leases"))

    def counters(self) -> dict[str, Counted]:
        """By the counters' names, such as "forward-web" and "egress-eth0-dns" (`nftables.counter`)."""
        try:
            listed = json.loads(self._ask("counters"))["nftables"]
            found = [item["counter"] for item in listed[:_MOST_LINES] if "counter" in item]
            return {str(each["name"]): Counted(int(each["packets"]), int(each["bytes"])) for each in found}
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise GuestnetError(f"router {self.name} says of its counters what nobody understands: {error}") from error

    def balancers(self) -> tuple[Balanced, ...]:
        """All members of all balancers."""
        lines = [line.split(" ") for line in self._ask("balancers").splitlines()[:_MOST_LINES]]
        try:
            return tuple(
                Balanced(_called(balancer), _called(member), MemberState(state), _natural(connections))
                for balancer, member, state, connections in lines
            )
        except ValueError as error:
            raise GuestnetError(f"router {self.name} says of its balancers what nobody understands: {error}") from error

    def rules(self) -> str:
        """The ruleset as nft lists it. A guest wrote it: show it as such."""
        return self._ask("rules")

    def _ask(self, verb: str, *words: str) -> str:
        result = self._agent.call(verb, *words)
        if result.status != 0:
            reason = result.stderr.decode("ascii", "replace").strip()[:400]
            raise GuestnetError(f"router {self.name}: {verb} failed: {reason}")
        return result.text

    def _give(self, verb: str, document: bytes) -> None:
        result = self._agent.call(verb, digest(document), document, timeout=CONFIGURE_SECONDS)
        if result.status == 0:
            return
        said = result.stderr.decode("ascii", "replace").strip()
        found = _REFUSED.fullmatch(said)
        if found is None:
            raise RefusedDocumentError(self.name, "document", 0, said[:400])
        raise RefusedDocumentError(self.name, found[1], int(found[2] or 0), found[3])


def read_leases(text: str) -> tuple[Lease, ...]:
    """The leases in a lease file of dnsmasq's. What is no lease is left out: a guest wrote it."""
    return tuple(
        Lease(each.expires, each.client, each.address, each.name if _HOST_NAME.fullmatch(each.name) else "")
        for each in slots.lease_lines(text)
    )


def _called(text: str) -> str:
    if not _OWN_NAME.fullmatch(text):
        raise ValueError(f"{parse.shown(text)} is no name")
    return text


def _natural(text: str) -> int:
    return parse.number(text, 0, (1 << 62) - 1)


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,3})?", text):
        raise ValueError(f"{parse.shown(text)} are no seconds")
    return float(text)
