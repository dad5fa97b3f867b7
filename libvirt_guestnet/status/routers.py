"""Virtual routers: what each has been told, what it does, and whether it serves, which is tried with packets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.libvirtd.nics import mac, source_network
from libvirt_guestnet.libvirtd.snapshot import DomainState, Snapshot
from libvirt_guestnet.router import disks, folder, port
from libvirt_guestnet.router.client import Balanced, Lease, RouterClient, RouterState, read_leases
from libvirt_guestnet.router.document import decoded, digest
from libvirt_guestnet.router.health import Check
from libvirt_guestnet.router.health_guest import HealthGuest, health_guests

ANSWER_SECONDS = 3.0
TRY_SECONDS, LONG_TRY_SECONDS = 3.0, 10.0
"""How long each thing is tried: for a glance at all routers, and for a verdict on one."""
# `document` of a router: what is in force is what its disk has; something else is; nothing is, or nobody knows.
IN_FORCE, OTHER, NONE = "in force", "other in force", ""
SERVES, WAITS, STOPPED, GONE, NOT_TRIED = "serves", "waits", "stopped", "disks without a domain", ""


@dataclass(frozen=True)
class RouterRow:
    """One virtual router. `document` says whether it does what its disk has (the words above), `leases` how many
    addresses it gave, `members` how many members its balancers have, and `members_left_out` which of them get no
    connection, by its own checks; `health` what was tried with packets and failed, and balancers that nobody serves, or
    SERVES, of a pair's other one WAITS; `trouble` what went wrong in it, by its own word."""

    topology: str
    guest: str
    active: bool
    document: str
    leases: int | None
    memory_free_mib: int | None
    health: str
    trouble: tuple[str, ...] = ()
    members: int | None = None
    members_left_out: tuple[str, ...] = ()

    def json(self) -> dict[str, object]:
        lists = {"trouble": list(self.trouble), "members_left_out": list(self.members_left_out)}
        return {"kind": "router", **asdict(self), **lists, "port": ""}


@dataclass(frozen=True)
class Tried:
    """What was tried of a router from one of its networks."""

    router: str
    network: str
    check: str
    ok: bool
    seconds: float
    detail: str

    def json(self) -> dict[str, object]:
        return {**asdict(self), "seconds": round(self.seconds, 3)}


def router_rows(snapshot: Snapshot, topology: str | None, *, tried: bool) -> list[RouterRow]:
    """The routers of one topology, or of all, by name; `tried`: with their health, which only root can try."""
    found = [d for d in snapshot.domains if d.is_router and topology in (None, d.topology)]
    left = [
        RouterRow(owner, name, False, NONE, None, None, GONE)
        for name, owner in folder.found().items()
        if name not in snapshot.domain and topology in (None, owner)
    ]
    with ThreadPoolExecutor(len(found) or 1) as pool:
        return sorted([*pool.map(partial(_row, tried=tried), found), *left], key=lambda each: each.guest)


def _row(router: DomainState, *, tried: bool) -> RouterRow:
    row = RouterRow(router.topology or "", router.name, router.live is not None, NONE, None, None, STOPPED)
    if router.live is None:
        return row
    healthy = _summary(router) if tried else NOT_TRIED
    try:
        with connected(router) as client:
            state, leases = client.state(), len(client.leases())
            members = () if state.waits else client.balancers()
    except GuestnetError as error:
        return replace(row, health=healthy or "does not answer", trouble=(str(error),))
    return replace(
        row,
        document=in_force(router.name, state),
        leases=leases,
        memory_free_mib=state.memory_free_kib >> 10,
        health=WAITS if state.waits else _with_balancers(healthy, members),
        trouble=state.trouble,
        members=len(members) or None,
        members_left_out=tuple(f"{each.balancer}/{each.member}" for each in members if not each.gets_connections),
    )


def _with_balancers(healthy: str, members: Sequence[Balanced]) -> str:
    if healthy == NOT_TRIED:
        return NOT_TRIED
    failed = [f"{each.check}: {each.detail}" for each in _balancers("", members) if not each.ok]
    return "; ".join([*([] if healthy == SERVES and failed else [healthy]), *failed])


def _balancers(router: str, members: Sequence[Balanced]) -> Iterator[Tried]:
    """Whether each balancer has somebody who serves: by the checks that the router makes all the time."""
    by_name: dict[str, list[Balanced]] = {}
    for member in members:
        by_name.setdefault(member.balancer, []).append(member)
    for name, those in by_name.items():
        left_out = [f"{each.member} ({each.state})" for each in those if not each.gets_connections]
        detail = f"{len(those) - len(left_out)} of {len(those)} members serve"
        but = f", not {', '.join(left_out)}" if left_out else ""
        yield Tried(router, "", f"balancer {name}", len(left_out) < len(those), 0.0, detail + but)


def _summary(router: DomainState) -> str:
    try:
        found = health(router)
    except GuestnetError as error:
        return f"not tried: {error}"
    failed = [f"{each.network}: {each.check}: {each.detail}" for each in found if not each.ok]
    return "; ".join(failed) or (SERVES if found else "not tried: no network has room for it")


def balancers(router: DomainState) -> list[Tried]:
    """Whether each balancer of a router has a member that serves; of one that waits none is asked. That it does not
    answer is one of the findings."""
    try:
        with connected(router) as client:
            return [] if client.state().waits else list(_balancers(router.name, client.balancers()))
    except GuestnetError as error:
        return [Tried(router.name, "", "balancers", False, 0.0, str(error))]


def connected(router: DomainState, seconds: float = ANSWER_SECONDS) -> RouterClient:
    """Raises GuestnetError when it does not run or does not answer in time."""
    if router.live is None:
        raise GuestnetError(f"router {router.name} does not run: virsh start {router.name}")
    if not router.channel:
        raise GuestnetError(f"router {router.name} has no control channel: was its definition changed?")
    return RouterClient.connect(router.channel, router.name, seconds)


def in_force(name: str, state: RouterState) -> str:
    """Whether a router does what its disk has. Raises GuestnetError."""
    if state.document is None:
        return NONE
    on_disk = folder.document(name)
    return IN_FORCE if on_disk is not None and digest(on_disk) == state.document else OTHER


def health(router: DomainState, seconds: float = TRY_SECONDS) -> list[Tried]:
    """Tries a router from each of its networks, all at once. Raises GuestnetError where that cannot be done."""
    if router.live is None:
        return [Tried(router.name, "", "runs", False, 0.0, "it does not run")]
    files = decoded(folder.document(router.name) or b"")
    guests = () if files is None else health_guests(files)
    places = [(guest, *where) for guest in guests if (where := _place(router, guest))]
    if not places:
        return []
    with ThreadPoolExecutor(len(places)) as pool:
        done = pool.map(lambda each: port.tried(router.name, each[1], each[2], each[0], seconds), places)
        return [
            tried
            for (_, network, _), checks in zip(places, done, strict=True)
            for tried in _tried(router.name, network, checks)
        ]


def _place(router: DomainState, guest: HealthGuest) -> tuple[str, str] | None:
    """The network and the bridge of a router's NIC."""
    for nic in router.current.iterfind("devices/interface"):
        source = nic.find("source")
        if mac(nic) == guest.nic_mac and source is not None and source.get("bridge"):
            return source_network(nic) or "", source.get("bridge", "")
    return None


def _tried(router: str, network: str, checks: Sequence[Check]) -> Iterator[Tried]:
    return (Tried(router, network, each.name, each.ok, each.seconds, each.detail) for each in checks)


def leases(router: DomainState) -> tuple[Lease, ...]:
    """Which addresses a router gave; of one that does not run, by its disk. Raises GuestnetError."""
    if router.live is not None:
        with connected(router) as client:
            return client.leases()
    data = disks.read(folder.disk(router.name, disks.LEASES)) or b""
    return read_leases(data.decode("ascii", "replace"))


def described(router: DomainState) -> dict[str, object]:
    """All that is known of a router in one row: keys with one value each, and `nics`, `balancers` and `trouble`. Raises
    GuestnetError."""
    on_disk = folder.document(router.name)
    row: dict[str, object] = {
        "topology": router.topology or "",
        "router": router.name,
        "active": router.live is not None,
    }
    row |= {"on_disk": None if on_disk is None else digest(on_disk), "in_force": None, "document": NONE}
    trouble: tuple[str, ...] = ()
    members: tuple[Balanced, ...] = ()
    if router.live is not None:
        with connected(router) as client:
            state, members = client.state(), client.balancers()
        trouble = state.trouble
        row |= {"in_force": state.document, "document": in_force(router.name, state)}
        row |= {key: value for key, value in asdict(state).items() if key not in ("document", "trouble")}
    lists = {"balancers": [asdict(each) for each in members], "trouble": list(trouble)}
    return {**row, "nics": _nics(router, on_disk), **lists}


def _nics(router: DomainState, on_disk: bytes | None) -> list[dict[str, object]]:
    """By the document on its disk, each with the network that its definition says."""
    files = None if on_disk is None else decoded(on_disk)
    lines = [text.split() for text in files.net.splitlines()] if files else []
    networks = {mac(nic): source_network(nic) or "" for nic in router.current.iterfind("devices/interface")}
    addresses: dict[str, list[str]] = {}
    for _, nic, address, *_ in (words for words in lines if words[0] == "address"):
        addresses.setdefault(nic, []).append(address)
    return [
        {"nic": nic, "network": networks.get(address, ""), "mac": address, "addresses": addresses.get(nic, [])}
        for _, nic, address, *_ in (words for words in lines if words[0] == "nic")
    ]
