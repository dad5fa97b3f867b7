"""A lab of several hosts: a sandbox each, joined by the LANs behind their labels.

A LAN is a bridge in a namespace of the first host's sandbox, where the stand-in's addresses are, too. Each host has a
NIC on it with the name that its label says, and on one of them its underlay address.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.guest.agent import Agent, agent_script
from libvirt_guestnet.lab import run as running
from libvirt_guestnet.lab import standin
from libvirt_guestnet.lab.endpoints import HOST, STAND_IN_DEVICE, stand_in_mac
from libvirt_guestnet.libvirtd.connection import connect
from libvirt_guestnet.model import labelled
from libvirt_guestnet.model.host import FabricKind, Host
from libvirt_guestnet.model.topology import Topology
from libvirt_guestnet.sandbox import Sandbox

_SECONDS = 120


@dataclass(frozen=True)
class Plug:
    """A host's NIC on a LAN, with the address that it has there ("": none)."""

    host: str
    label: str
    device: str
    address: str = ""


def check(found: Topology) -> None:
    """Raises GuestnetError for what a lab of several hosts cannot show."""
    if found.fabric.kind is FabricKind.OVN:
        raise GuestnetError(f"{found.file}: the hosts of a lab have no OVN yet: say kind: vxlan, or vxlan on networks")
    lines = [line for line in found.expect if line.forge or HOST in (line.source, line.destination, *line.via)]
    if lines:
        raise GuestnetError(
            f"{found.file}: a lab of several hosts has no single host, and nobody who hears all of them: "
            f"leave out lines of expect: with host or forge, such as that from {lines[0].source}"
        )
    list(plugs(found))


def plugs(found: Topology) -> Iterator[Plug]:
    """The NICs of all hosts. Raises GuestnetError for a label that is no NIC's, and for an underlay on none of them."""
    for host in found.hosts:
        carries = _underlay_label(found, host)
        for label, entry in host.labels:
            if labelled.is_bridge(entry):
                raise GuestnetError(f"{found.file}: host {host.name}: a lab makes NICs, and {label}: {entry} is none")
            yield Plug(host.name, label, labelled.bare(entry), carries[1] if carries[0] == label else "")


def _underlay_label(found: Topology, host: Host) -> tuple[str, str]:
    """The label that a host's underlay address is of, and the address with its prefix length."""
    for label, _ in host.labels:
        for subnet in found.physical_network(label).subnets:
            if host.underlay is not None and host.underlay in subnet:
                return label, f"{host.underlay}/{subnet.prefixlen}"
    raise GuestnetError(
        f"{found.file}: host {host.name}: a lab needs its underlay, in a subnet of a physical network of its labels"
    )


def join(found: Topology, sandboxes: Mapping[str, Sandbox]) -> None:
    """Makes the LANs, and each host's NICs on them. Raises GuestnetError."""
    first = sandboxes[found.hosts[0].name]
    for physical in found.physical_networks:
        lan = standin.lan_of(found, physical)
        inside = f"ip -n {lan.namespace}"
        bridge = f"{STAND_IN_DEVICE} address {stand_in_mac(found, physical)}"
        lines = [f"ip netns add {lan.namespace}", f"{inside} link set lo up"]
        lines += [f"{inside} link add {bridge} type bridge stp_state 0 forward_delay 0"]
        lines += [
            f"{inside} address add {each} dev {STAND_IN_DEVICE} nodad" for each in lan.stand_in if each.version == 6
        ]
        lines += [f"{inside} address add {each} dev {STAND_IN_DEVICE}" for each in lan.stand_in if each.version == 4]
        _run(first, *lines, f"{inside} link set {STAND_IN_DEVICE} up")
    for number, plug in enumerate(plugs(found)):
        _plug(found, plug, f"plug{number}", first, sandboxes[plug.host])


def _plug(found: Topology, plug: Plug, far: str, first: Sandbox, own: Sandbox) -> None:
    """Made right inside the two: nothing of it is ever in the machine's own namespace."""
    ends = ["name", plug.device, "netns", str(own.first.pid), "type", "veth", "peer", "name", far]
    argv = ["ip", "link", "add", *ends, "netns", str(first.first.pid)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if done.returncode != 0:
        raise GuestnetError(f"joining host {plug.host} to {plug.label}: {done.stderr.strip()}")
    namespace = standin.device_name(plug.label)
    _run(first, f"ip link set {far} netns {namespace}", f"ip -n {namespace} link set {far} master {STAND_IN_DEVICE} up")
    nodad = " nodad" if ":" in plug.address else ""
    addresses = [f"ip address add {plug.address} dev {plug.device}{nodad}"] if plug.address else []
    _run(own, *addresses, f"ip link set {plug.device} up")


def _run(sandbox: Sandbox, *lines: str) -> None:
    for line in lines:
        sandbox.run(line.split())


def start_guests(found: Topology, host: Host, sandbox: Sandbox, tell: running.Progress) -> None:
    """Starts a host's lab guests, and waits until each has its addresses. Raises GuestnetError."""
    own = [guest for guest in found.guests if guest.image and guest.host == host.name]
    with connect(sandbox.uri) as connection:
        for guest in own:
            connection.start_domain(guest.name)
        for guest in own:
            running.await_guest(connection, guest, tell, _root(sandbox))


def _root(sandbox: Sandbox) -> str:
    return f"/proc/{sandbox.first.pid}/root"


@contextmanager
def agents(found: Topology, sandboxes: Mapping[str, Sandbox]) -> Iterator[dict[str, Agent]]:
    """An agent for each lab guest, and one on the stand-in of each LAN."""
    with ExitStack() as stack:
        made: dict[str, Agent] = {}
        for guest in (guest for guest in found.guests if guest.image == "tiny"):
            sandbox = sandboxes[guest.host or ""]
            connection = stack.enter_context(connect(sandbox.uri))
            made[guest.name] = stack.enter_context(running.guest_agent(connection, guest.name, root=_root(sandbox)))
        first = sandboxes[found.hosts[0].name]
        for each in found.physical_networks:
            made[each.label] = stack.enter_context(_stand_in_agent(first, standin.device_name(each.label)))
        yield made


@contextmanager
def _stand_in_agent(sandbox: Sandbox, namespace: str) -> Iterator[Agent]:
    path = f"/run/agent-{namespace}.sock"
    argv = sandbox.command(["ip", "netns", "exec", namespace, "perl", str(agent_script()), "--listen", path])
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as process:
        try:
            with Agent.connect(_root(sandbox) + path, name=namespace) as agent:
                yield agent
        finally:
            process.kill()
