"""The facts behind `guestnet suggest`, and its words: from libvirt, the receipts and the kernel."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from libvirt_guestnet import parse
from libvirt_guestnet.datapath.netlink import kernel
from libvirt_guestnet.datapath.netlink.kernel import Guarded
from libvirt_guestnet.datapath.port import notes, port_facts
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.enforce import address_sets, checksum_guard
from libvirt_guestnet.hook.read.port_receipts import guard_of
from libvirt_guestnet.libvirtd.connection import connect, host_snapshot
from libvirt_guestnet.libvirtd.snapshot import Snapshot
from libvirt_guestnet.metadata.policy import PortPolicy
from libvirt_guestnet.parse import Address, Prefix
from libvirt_guestnet.state.folder import State
from libvirt_guestnet.state.locked import UnlockedState
from libvirt_guestnet.state.receipts import PortReceipt
from libvirt_guestnet.status.rows import OFFLOAD_REASON
from libvirt_guestnet.status.suggest import Observed, Suggestion, suggest

Policies = Mapping[tuple[str, str], tuple[str, PortPolicy]]  # by UUID and MAC address: its topology, and what it says


def suggestions(uri: str | None, wanted: str = "") -> list[Suggestion]:
    """What to declare of every observed port, or of those of a guest, or of one: GUEST or GUEST.PORT. Raises
    GuestnetError, also where there is none of that name."""
    state = UnlockedState()
    with connect(uri) as connection:
        policies = _policies(host_snapshot(connection))
    found = [suggest(each) for each in observed(state, policies)]
    named = [each for each in found if wanted in ("", each.guest, f"{each.guest}.{each.port}")]
    if wanted and not named:
        raise GuestnetError(f"{parse.shown(wanted)} is no observed port, nor a running guest that has one")
    return sorted(named, key=lambda each: (each.guest, each.port))


def _policies(snapshot: Snapshot) -> Policies:
    return {
        (domain.uuid, policy.mac): (domain.topology or "", policy)
        for domain in snapshot.domains
        for policy in domain.policies
    }


def observed(state: State, policies: Policies) -> Iterator[Observed]:
    """Every observed port with all that is known of it. Raises GuestnetError when nft does not answer."""
    receipts = state.ports()
    if not any(receipt.observed for receipt in receipts):
        return
    seen, noted, offload = kernel.guarded_ports(), notes.read(), checksum_guard.drops(state)
    for receipt in receipts:
        if receipt.observed and receipt.tap in seen:
            others = [each for each in receipts if each.tap != receipt.tap]
            reasons = dict(seen[receipt.tap].drops)
            reasons |= {OFFLOAD_REASON: offload[receipt.tap]} if offload.get(receipt.tap) else {}
            found = _observed(receipt, others, seen, state, policies.get((receipt.uuid, receipt.mac)))
            yield _with(found, reasons, noted.get(receipt.tap, notes.Noted()))


def _with(found: Observed, reasons: Mapping[str, int], noted: notes.Noted) -> Observed:
    from dataclasses import replace

    return replace(
        found,
        reasons=reasons,
        seen=noted.addresses,
        vlans=noted.vlans,
        announces=noted.announces,
        full=noted.full,
    )


def _observed(
    receipt: PortReceipt,
    others: Sequence[PortReceipt],
    seen: Mapping[str, Guarded],
    state: State,
    said: tuple[str, PortPolicy] | None,
) -> Observed:
    network = state.sound_network(receipt.network) if receipt.network else None
    topology, policy = said or ("", None)
    held = dict(_held(others, seen, receipt.network))
    if network is not None:
        reserved = ((ip, mac) for mac, ip in network.reservations if mac != receipt.mac)
        held = {parse.address(ip): f"reserved for {mac or 'somebody'}" for ip, mac in reserved} | held
    return Observed(
        guest=receipt.domain,
        port=policy.name if policy else receipt.mac,
        network=receipt.network,
        tap=receipt.tap,
        topology=topology,
        guard=guard_of(receipt),
        policy=policy,
        has=frozenset([*(seen[receipt.tap].learnt if receipt.tap in seen else ()), *address_sets.claimed(receipt)]),
        subnets=tuple(map(parse.prefix, network.subnets)) if network else (),
        hosts=tuple(_hosts(receipt, state)),
        others=held,
        macs={each.mac: _name(each) for each in others} | ({network.mac: "the host"} if network else {}),
        elsewhere=dict(_elsewhere(receipt, state)),
    )


def _name(receipt: PortReceipt) -> str:
    return f"{receipt.domain} on {receipt.network or receipt.tap}"


def _held(others: Sequence[PortReceipt], seen: Mapping[str, Guarded], network: str) -> Iterator[tuple[Address, str]]:
    """Whose an address is, by what the ports of the same network hold."""
    for other in others:
        if other.network == network:
            guard = guard_of(other)
            certain = [*port_facts.certain(guard, 4), *port_facts.certain(guard, 6)]
            learnt = seen[other.tap].learnt if other.tap in seen else []
            single = [each.network_address for each in certain if each.num_addresses == 1]
            yield from ((address, f"that of {_name(other)}") for address in (*single, *learnt))


def _hosts(receipt: PortReceipt, state: State) -> Iterator[Address]:
    """The host's own on that network, and those by which it routes out of it."""
    network = state.sound_network(receipt.network) if receipt.network else None
    yield from map(parse.address, network.hosts if network else ())
    for text in receipt.unclaimed:
        with suppress(parse.TextError):
            yield parse.prefix(text).network_address


def _elsewhere(receipt: PortReceipt, state: State) -> Iterator[tuple[Prefix, str]]:
    for network in state.networks():
        if network.name != receipt.network:
            yield from ((parse.prefix(subnet), network.name) for subnet in network.subnets)


def text(found: Sequence[Suggestion]) -> str:
    """The same for people: what to write into the topology file, port by port."""
    if not found:
        return "no running guest has a port that is observed\n"
    return "\n".join("".join(f"{line}\n" for line in _lines(each)) for each in found)


def _lines(port: Suggestion) -> Iterator[str]:
    yield f"{port.guest}.{port.port} on {port.network or port.tap}: {_counted(port)}"
    keys = _keys if port.topology else _in_metadata
    if port.declare:
        where = (
            f"in topology {port.topology}, guests, {port.guest}, ports" if port.topology else "in its metadata, port"
        )
        yield f"  {where}, {port.port}:"
        yield from keys(port.declare)
    for question in port.ask:
        yield f"  and only if this guest is {question['if']}:"
        yield from keys({key: value for key, value in question.items() if key != "if"})
    yield from (f"  not to be declared unseen: {warning}" for warning in port.warnings)
    if port.rest:
        yield f"  no declaration lets pass: {', '.join(port.rest)}"


def _counted(port: Suggestion) -> str:
    if port.frames:
        reasons = ", ".join(f"{reason} {frames}" for reason, frames in sorted(port.reasons.items()))
        return f"{port.frames} frames would have been dropped ({reasons})"
    nothing = "nothing would have been dropped since its filter was last written"
    return nothing if port.declare or port.ask or port.warnings else f"{nothing}: it can be `guarded: true`"


def _keys(keys: Mapping[str, object]) -> Iterator[str]:
    """As YAML, of which JSON is a part."""
    return (f"    {key}: {json.dumps(value)}" for key, value in keys.items())


def _in_metadata(keys: Mapping[str, object]) -> Iterator[str]:
    """As <guestnet:port> of a domain that is no topology's has it (xml/metadata.rng)."""
    for key, value in keys.items():
        if key == "privacy-addresses":
            yield '    privacy="yes"'
        elif key == "trunk":
            yield f'    <guestnet:vlan trunk="{",".join(map(str, _list(value)))}"/>'
        else:
            yield from (f"    {_element(key, each)}" for each in _list(value))


def _list(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else [value]


def _element(key: str, value: object) -> str:
    if isinstance(value, dict):
        mac = f' mac="{value["mac"]}"' if "mac" in value else ""
        return f'<guestnet:pair prefix="{value["address"]}"{mac}/>'
    tag, attribute = {"addresses": ("address", "ip"), "roles": ("role", "name"), "sources": ("source", "prefix")}[key]
    return f'<guestnet:{tag} {attribute}="{value}"/>'
