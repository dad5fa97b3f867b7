"""What one NIC of a running domain is by now: guarded, observed, trusted, or not, and why; and what it should be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook.read import nics
from libvirt_guestnet.hook.read.domain import Nic
from libvirt_guestnet.hook.read.hostwide import ALL, OBSERVE
from libvirt_guestnet.state.receipts import PortReceipt

# `state` of a NIC, in `--json` and in the table. STOPPED: its domain does not run. NOTHING: nothing receives what it
# sends.
GUARDED, OBSERVED, TRUSTED, UNGUARDED = "guarded", "observed", "trusted", "unguarded"
CANNOT, STOPPED, NOTHING = "cannot-be-guarded", "stopped", "nothing-to-guard"

# Reasons. NOBODY: neither its domain's metadata, nor its network, nor this host asks for a guard.
NOBODY = "nobody asked for it"
NO_RULES = "its tap has no rules in the kernel"
BY_HOST = "by this host's default (guard: {} in host.yaml)"
NO_TAP = "it has no tap yet"
# Of what a tap may lack (`missing_state`), what makes it unguarded.
OF_GUARD = ("port security", "checksum guard")


class NicState(NamedTuple):
    """`state` is one of the words above, `reason` says why, "" where there is nothing to say. `wanted`: it is to be
    guarded, by its domain's metadata, its network or this host."""

    state: str
    reason: str = ""
    wanted: bool = False


def judge(nic: Nic, applied: PortReceipt | None, lacks: Sequence[str] = (), refused: bool = False) -> NicState:
    """The state of a NIC of a running domain, by what hooks would do with it, by its receipt if the kernel has its
    rules (`applied`), and by what its tap `lacks`. `refused`: this host refuses what cannot be guarded."""
    if nic.kind.guarded == nics.NOTHING:
        return NicState(NOTHING, nic.kind.why)
    wanted, unreadable = _wanted(nic)
    if nic.kind.guarded == nics.NO:
        return NicState(CANNOT, nic.kind.why, wanted or refused)
    if applied is not None:
        return _with_rules(applied, lacks, wanted)
    if wanted and nic.tap:
        return NicState(UNGUARDED, unreadable or NO_RULES, True)
    return _without_rules(nic) if nic.tap else NicState(UNGUARDED, NO_TAP)


def _with_rules(applied: PortReceipt, lacks: Sequence[str], wanted: bool) -> NicState:
    if lost := [what for what in lacks if what in OF_GUARD]:
        return NicState(UNGUARDED, f"the kernel lacks its {' and '.join(lost)}", wanted)
    why = BY_HOST.format(OBSERVE if applied.observed else ALL) if applied.by_host else ""
    if applied.observed:
        return NicState(OBSERVED, "it is to be guarded by now" if wanted else why, wanted)
    return NicState(TRUSTED if applied.trusted else GUARDED, why, wanted)


def _wanted(nic: Nic) -> tuple[bool, str]:
    """Whether it is to be guarded; also if its metadata cannot be carried out, and then why: a start would fail."""
    try:
        return nic.is_guarded and not nic.is_observed, ""
    except GuestnetError as error:
        return True, str(error)


def _without_rules(nic: Nic) -> NicState:
    """Of a NIC that nobody wants to be guarded, and that is not."""
    if nic.is_observed:
        return NicState(UNGUARDED, f"it is to be observed, and {NO_RULES}")
    if nic.policy is not None:
        return NicState(TRUSTED, "its domain's metadata says so")
    return NicState(UNGUARDED, NOBODY) if nic.receipt is None else NicState(TRUSTED, "its network's metadata says so")
