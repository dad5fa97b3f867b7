"""The work behind `lifecycle.TABLE`: from stdin to the kernel and the receipts, under one deadline."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from types import FrameType

from libvirt_guestnet.datapath import filters, kernel, overlay
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.hook import intent, xmlread
from libvirt_guestnet.state import NetworkReceipt, PortReceipt, State

# libvirt holds the domain's lock while a hook runs and has no limit of its own.
DEADLINE_SECONDS = 20


class DeadlineError(GuestnetError):
    """The hook took too long."""


def call(hook: str, argv: list[str], function: str, veto: bool, data: bytes) -> int:
    """One hook call. Whatever happens: one line on stderr, nothing on stdout, the status the table asks for."""
    name, operation = argv[1], argv[2]
    signal.signal(signal.SIGALRM, _expired)
    signal.alarm(DEADLINE_SECONDS)
    try:
        FUNCTIONS[function](xmlread.parse(data), State())
    except GuestnetError as error:
        return _failed(f"{hook} {name} {operation}: {error}", veto)
    except Exception as error:  # closed, with one line, whatever the bug or the damage
        return _failed(f"{hook} {name} {operation}: internal error: {type(error).__name__}: {error}", veto)
    finally:
        signal.alarm(0)
    return 0


def _failed(text: str, veto: bool) -> int:
    sys.stderr.write(f"libvirt-guestnet: {' '.join(text.split())}\n")
    return 1 if veto else 0


def _expired(_signal: int, _frame: FrameType | None) -> None:
    raise DeadlineError(f"not done within {DEADLINE_SECONDS} s; is the host overloaded? Start again")


def guard(domain: xmlread.Node, state: State) -> None:
    """Puts the filter on every guarded port of a domain, and takes it off those that are guarded no more.

    Receipts come first, so that a kill leaves nothing unknown.
    """
    uuid = domain.text_of("uuid")
    receipts = intent.port_receipts(domain, state.network)
    stale = sorted({*state.taps(uuid)} - {receipt.tap for receipt in receipts})
    batch = "".join(filters.guard(intent.guard_of(receipt)) for receipt in receipts)
    if receipts:
        state.put_ports(uuid, receipts)
    kernel.nft(batch + (filters.release(stale) if stale else ""))
    if stale:
        state.drop_ports(uuid, stale)


def release(domain: xmlread.Node, state: State) -> None:
    """Takes the filters of a domain that is gone away again."""
    _release(domain.text_of("uuid"), state, lambda _receipt: True)


def release_port(hook_data: xmlread.Node, state: State) -> None:
    """Takes the filter of an unplugged NIC away, once its tap is gone.

    A NIC that merely moved to another network has a new port by now, and its tap lives on: it stays guarded.
    """
    port = hook_data.one("networkport")
    if port is not None:
        portid = port.text_of("uuid")
        _release(port.text_of("owner/uuid"), state, lambda r: r.portid == portid and not kernel.device_exists(r.tap))


def _release(uuid: str, state: State, wanted: Callable[[PortReceipt], bool]) -> None:
    if not state.has_domain(uuid):
        return
    taps = [tap for tap in state.taps(uuid) if (receipt := state.port(tap)) is None or wanted(receipt)]
    if taps:
        kernel.nft(filters.release(taps))
    state.drop_ports(uuid, taps)


def prepare_network(hook_data: xmlread.Node, state: State) -> None:
    """Makes the bridge of a bridged network and puts its NIC or overlay in, before libvirt looks for it."""
    network = _network(hook_data)
    name, nic, vxlan = network.text_of("name"), intent.uplink(network), intent.overlay(network)
    if nic is not None:
        kernel.ensure_uplink_bridge(nic.bridge, nic.device, name)
    if vxlan is not None:
        overlay.ensure_overlay(vxlan, name)


def remember_network(hook_data: xmlread.Node, state: State) -> None:
    """Keeps what the network's XML says for ports that have no policy of their own."""
    network = _network(hook_data)
    receipt = intent.network_receipt(network)
    if receipt is None:
        state.drop_network(network.text_of("name"))
    else:
        nic, vxlan = intent.uplink(network), intent.overlay(network)
        made = nic is not None or vxlan is not None
        state.put_network(receipt._replace(made_bridge=made, overlay=vxlan.device if vxlan else ""))


def forget_network(hook_data: xmlread.Node, state: State) -> None:
    """Forgets a network that was stopped, with the bridge that our hook made for it."""
    name = _network(hook_data).text_of("name")
    receipt = state.network(name)
    if receipt is not None and receipt.made_bridge:
        _remove_bridge(receipt, state)
    state.drop_network(name)


def _remove_bridge(receipt: NetworkReceipt, state: State) -> None:
    if receipt.overlay:
        overlay.remove_overlay(receipt.bridge, receipt.overlay)
    elif not any(other.bridge == receipt.bridge for other in state.networks() if other.name != receipt.name):
        kernel.remove_bridge(receipt.bridge)


def _network(hook_data: xmlread.Node) -> xmlread.Node:
    network = hook_data.one("network")
    if network is None:
        raise GuestnetError("no <network> on stdin: was this hook called by libvirt?")
    return network


FUNCTIONS: dict[str, Callable[[xmlread.Node, State], None]] = {
    function.__name__: function
    for function in (guard, release, release_port, prepare_network, remember_network, forget_network)
}


def guard_domain(xml: bytes) -> None:
    """Puts the filters on every guarded port of a live domain's XML, as `start` would. Raises GuestnetError."""
    guard(xmlread.parse(xml), State())


def release_tap(uuid: str, tap: str) -> None:
    """Takes the filter of one unplugged NIC of a domain away. Raises GuestnetError."""
    _release(uuid, State(), lambda receipt: receipt.tap == tap)


def release_all() -> None:
    """Takes every filter away, of running guests too: what uninstalling the hooks means. Raises GuestnetError."""
    kernel.nft(filters.remove())
    State().forget_ports()
