"""The rows of `status` on NICs that have, or could have, a tap: one for each of a running domain, whoever made it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from libvirt_guestnet.datapath.netlink.kernel import Guarded
from libvirt_guestnet.datapath.port.port_facts import link_local
from libvirt_guestnet.hook.read import nics
from libvirt_guestnet.hook.read.domain import Nic
from libvirt_guestnet.libvirtd.nics import interfaces, mac, source_network
from libvirt_guestnet.libvirtd.snapshot import DomainState, Element
from libvirt_guestnet.metadata.policy import ANY, PortPolicy
from libvirt_guestnet.model.drift import GUEST, Drift
from libvirt_guestnet.state.receipts import PortReceipt
from libvirt_guestnet.status.joining import Joining
from libvirt_guestnet.status.nic_states import STOPPED, judge

OFFLOAD_REASON = "checksum offload"
# `offload` of a port; words of `bridge_guard` of a network, too.
ON, CANNOT, MISSING = "on", "kernel cannot", "missing"

Seen = Callable[[str], Guarded | None]


@dataclass(frozen=True)
class PortRow:
    """One NIC. `network` is its bridge where it is on none. `state` is one of the words in `nic_states`, and `reason`
    says why it is so; `wanted`, that it is to be guarded. `guarded` is what the hooks applied: None while there is
    no tap, False for one that is only `observed`.

    `trusted` is what the policy says: no port security at all; `any_address`, that it may use what nobody else holds;
    `unknown`, that the hooks know no address that it could use but those that follow from its MAC; `note` is the
    topology's. `drops` counts the frames that port security dropped, or of an observed port would have, None when
    unknown; `reasons` has them by reason. `offload` says whether the guest is kept from having the host write checksums
    where it wants: one of the words above, or "" where nothing is guarded nor observed. `learnt` are addresses that a
    DHCP server gave the port, `claimed` those that its guest formed itself. `link` is the kernel's where that is not
    what was asked for: "host down", "no bridge", "in BRIDGE"; `wrong` says this, and what else the tap lacks, in words.
    """

    topology: str
    guest: str
    port: str
    mac: str
    network: str
    running: bool
    tap: str
    link: str
    addresses: tuple[str, ...]
    guarded: bool | None
    drops: int | None
    learnt: tuple[str, ...] = ()
    trusted: bool = False
    offload: str = ""
    any_address: bool = False
    unknown: bool = False
    note: str = ""
    reasons: Mapping[str, int] = field(default_factory=dict)
    wrong: tuple[str, ...] = ()
    observed: bool = False
    state: str = STOPPED
    reason: str = ""
    wanted: bool = False
    claimed: tuple[str, ...] = ()

    def json(self) -> dict[str, object]:
        return {
            "kind": "port",
            **asdict(self),
            "addresses": list(self.addresses),
            "learnt": list(self.learnt),
            "claimed": list(self.claimed),
            "reasons": dict(self.reasons),
            "wrong": list(self.wrong),
        }


@dataclass(frozen=True)
class ChecksumGuards:
    """The checksum guard: taps that lack it, the frames that it dropped by tap, and the reason if this host cannot have
    it."""

    lost: frozenset[str] = frozenset()
    drops: Mapping[str, int] = field(default_factory=dict)
    cannot: str = ""

    def word(self, tap: str) -> str:
        return CANNOT if self.cannot else MISSING if tap in self.lost else ON


NO_CHECKSUM_FACTS = ChecksumGuards()


@dataclass(frozen=True)
class PortFacts:
    """`receipt` says what the hooks applied to a tap, if the kernel has it, `seen` what the kernel counted, `joining`
    what hooks would do, `refused` that this host refuses what cannot be guarded. `wrong` and `lacks` are what the
    kernel has otherwise than it should, by domain and tap, and what of the guard it lacks, by tap."""

    receipt: Callable[[str], PortReceipt | None]
    seen: Seen
    offload: ChecksumGuards
    joining: Joining
    refused: bool
    wrong: Mapping[tuple[str, str], Sequence[Drift]]
    lacks: Mapping[str, Sequence[str]]


def of_taps(wrong: Iterable[Drift]) -> dict[tuple[str, str], list[Drift]]:
    """Those of guests, by domain and tap."""
    found: dict[tuple[str, str], list[Drift]] = {}
    for each in wrong:
        if each.kind == GUEST:
            found.setdefault((each.owner, each.device), []).append(each)
    return found


def port_rows(domain: DomainState, facts: PortFacts, *, every: bool) -> Iterator[PortRow]:
    """The NICs that our metadata lists, all of a lab guest, and with `every` also all that have a tap."""
    policies, meant = {port.mac: port for port in domain.policies}, interfaces(domain.current, domain.marked_networks)
    for interface, nic in _nics(domain, meant.values(), facts):
        policy = policies.get(mac(interface)) if meant[mac(interface)] is interface else None
        has_tap = nic is not None and nic.kind.guarded != nics.NO
        if policy is not None or domain.ours or (every and has_tap):
            row = _stopped(domain, interface, policy)
            yield row if nic is None else _running(row, nic, domain.uuid, facts)


def _nics(domain: DomainState, defined: Iterable[Element], facts: PortFacts) -> Iterator[tuple[Element, Nic | None]]:
    """Each NIC; of a running domain with what hooks see of it."""
    if domain.live is None:
        return ((interface, None) for interface in defined)
    return zip(domain.live.iterfind("devices/interface"), facts.joining.domain(domain.live).nics, strict=True)


def _stopped(domain: DomainState, interface: Element, policy: PortPolicy | None) -> PortRow:
    return PortRow(
        topology=domain.topology or "",
        guest=domain.name,
        port="" if policy is None else policy.name,
        mac=mac(interface),
        network=source_network(interface) or ("" if policy is None else policy.network) or _bridge(interface),
        running=False,
        tap="",
        link=_link(interface),
        addresses=() if policy is None else tuple(map(str, policy.addresses)),
        guarded=None,
        drops=None,
        trusted=policy is not None and not policy.guarded,
        any_address=policy is not None and policy.addressing == ANY,
        note="" if policy is None else policy.note,
    )


def _bridge(interface: Element) -> str:
    """The host's bridge that it names in the place of a network."""
    source = interface.find("source")
    named = source is not None and interface.get("type") == "bridge"
    return source.get("bridge", "") if source is not None and named else ""


def _running(row: PortRow, nic: Nic, uuid: str, facts: PortFacts) -> PortRow:
    """The row of a stopped guest's NIC, with what is there while it runs."""
    device = nic.tap
    receipt = facts.receipt(device) if device else None
    # Of a guest that is gone, and had this tap before, there may be a chain with what it counted, too.
    applied = receipt if receipt is not None and receipt.uuid == uuid else None
    judged = applied is not None and not applied.trusted
    observed = applied is not None and judged and applied.observed
    found = facts.seen(device) if applied is not None else None
    drops = _drops(device, found, facts.offload) if applied is not None else {}
    here = facts.wrong.get((row.guest, device), ()) if device else ()
    state = judge(nic, applied, facts.lacks.get(device, ()), facts.refused)
    return replace(
        row,
        running=True,
        tap=device,
        link=next((each.link for each in here if each.link), row.link),
        guarded=judged and not observed if device else None,
        drops=None if found is None else sum(drops.values()),
        learnt=() if found is None else tuple(map(str, found.learnt)),
        claimed=() if found is None else tuple(map(str, found.claimed)),
        any_address=row.any_address or (applied is not None and applied.by_host and _is_open(applied)),
        unknown=applied is not None and _unknown(applied),
        offload=facts.offload.word(device) if device and judged else "",
        reasons=drops,
        wrong=tuple(map(said, here)),
        observed=observed,
        **state._asdict(),
    )


def said(wrong: Drift) -> str:
    """What is wrong, and what mends it."""
    return f"{wrong.text()}: {wrong.do}"


def _drops(tap: str, found: Guarded | None, offload: ChecksumGuards) -> dict[str, int]:
    by_chains, by_offload = found.drops if found else {}, offload.drops.get(tap, 0)
    return {**by_chains, **({OFFLOAD_REASON: by_offload} if by_offload else {})}


def _unknown(applied: PortReceipt) -> bool:
    addresses = [text for text in applied.owned if not text.split("/")[0].endswith(_of_mac(applied.mac))]
    return not (applied.trusted or applied.bare or addresses or applied.dhcp or applied.pairs)


def _is_open(applied: PortReceipt) -> bool:
    return any(text.endswith("/0") for text in applied.owned)


def _of_mac(mac: str) -> str:
    """The end of an address that follows from a MAC address."""
    return str(link_local(mac)).removeprefix("fe80::")


def _link(interface: Element) -> str:
    link = interface.find("link")
    return "up" if link is None else link.get("state", "up")
