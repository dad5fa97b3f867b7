"""`guestnet guard`: how a port is guarded, and which addresses it then has. Pure."""

from __future__ import annotations

from libvirt_guestnet import parse
from libvirt_guestnet.direct.subject import DirectPort
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.importing.facts import Listed
from libvirt_guestnet.metadata.policy import Pair, PortPolicy
from libvirt_guestnet.parse import shown

ON, OBSERVE, OFF = "on", "observe", "off"
# A port's note: its addresses are what was found when it became guarded, and go with the guard.
FOUND = "addresses found by guestnet guard"


def guarded(port: DirectPort, how: str) -> PortPolicy | None:
    """The port's policy from now on, None for none. Raises GuestnetError where nobody knows the addresses of a port
    that is to be guarded."""
    if how == OFF:
        return needed(_without_found(port.policy)._replace(guarded=False, observed=False), port.default)
    policy = _with_found(port)._replace(guarded=True, observed=how == OBSERVE)
    if how == ON and not _is_known(port, policy):
        raise GuestnetError(
            f"port {shown(policy.name)}, NIC {policy.mac}: nobody knows its addresses: say observe "
            f"first, and `guestnet suggest` tells what it sends from; a topology file can list that (guestnet import)"
        )
    return policy


def needed(policy: PortPolicy, default: PortPolicy) -> PortPolicy | None:
    """None where it says no more than what the port would have without it."""
    return None if policy == default._replace(was=policy.was, name=policy.name, network=policy.network) else policy


def _without_found(policy: PortPolicy) -> PortPolicy:
    return policy._replace(addresses=(), pairs=(), privacy="", note="") if policy.note == FOUND else policy


def _with_found(port: DirectPort) -> PortPolicy:
    """With the addresses that import finds, beside those found before; not where somebody decided."""
    policy, known = port.policy, port.found.addresses
    own = known.own if any(not _is_reserved(port, each) for each in known.own) else ()  # else the guard follows it
    if not (own or known.pairs or known.privacy) or (policy.note != FOUND and _is_decided(policy)):
        return policy
    pairs = (Pair(parse.prefix(str(each.ip))) for each in known.pairs)
    return policy._replace(
        addresses=tuple(dict.fromkeys([*policy.addresses, *(each.ip for each in own)])),
        pairs=tuple(dict.fromkeys([*policy.pairs, *pairs])),
        privacy="yes" if known.privacy else policy.privacy,
        note=policy.note or FOUND,
    )


def _is_reserved(port: DirectPort, listed: Listed) -> bool:
    facts = port.known.facts
    return facts is not None and any(ip == str(listed.ip) for _, ip in facts.reservations)


def _is_decided(policy: PortPolicy) -> bool:
    return bool(policy.addresses or policy.addressing or policy.pairs or policy.sources or policy.privacy)


def _is_known(port: DirectPort, policy: PortPolicy) -> bool:
    return not port.found.observed or bool(policy.addresses or policy.addressing or policy.pairs or policy.sources)
