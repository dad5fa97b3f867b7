"""Bringing a lab up and down on this host, which is a sandbox's unless the user says otherwise (decision 9)."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from libvirt_guestnet.apply.topology import apply_topology, destroy_topology
from libvirt_guestnet.datapath.netlink import lan
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.guest.agent import Agent, agent_script
from libvirt_guestnet.guest.config import CHANNEL
from libvirt_guestnet.hostmap import HostMap, load_hostmap
from libvirt_guestnet.lab import standin
from libvirt_guestnet.lab.endpoints import HOST
from libvirt_guestnet.libvirtd.connection import Connection, connect
from libvirt_guestnet.libvirtd.snapshot import channel, parse_xml
from libvirt_guestnet.model.topology import Guest, Topology
from libvirt_guestnet.router import control

READY_SECONDS = 120.0


class Progress:
    """Says on stderr what is done, and how many seconds after `began` (of the monotonic clock; default: now)."""

    def __init__(self, began: float | None = None) -> None:
        self.began = time.monotonic() if began is None else began

    def __call__(self, text: str) -> None:
        print(f"[{time.monotonic() - self.began:5.1f} s] {text}", file=sys.stderr, flush=True)


def up(topology: Topology, pairs: list[str], uri: str | None, tell: Progress) -> None:
    """Stand-ins, networks, guests, in this order; returns when every guest has its addresses. Raises GuestnetError."""
    real = load_hostmap(pairs=pairs).devices
    made = standin.lans(topology, real)
    for each in made:
        lan.make_lan(each)
        tell(f"LAN stand-in {each.namespace}: {', '.join(str(i.ip) for i in each.stand_in)}")
    changes = apply_topology(topology, _hostmap(topology, real), uri, quiet=True)
    tell(f"applied: {len(changes)} changes")
    with connect(uri) as connection, ThreadPoolExecutor() as pool:
        names = [guest.name for guest in topology.guests if guest.image]
        list(pool.map(connection.start_domain, names))
        tell(f"guests started: {', '.join(names)}")
        list(pool.map(lambda guest: await_guest(connection, guest, tell), (g for g in topology.guests if g.image)))


def down(topology: Topology, uri: str | None) -> None:
    """Takes a lab away; what is gone already does not matter. Raises GuestnetError after trying everything."""
    with ExitStack() as stack:
        for each in standin.lans(topology, {}):
            stack.callback(lan.delete_lan, each)
        destroy_topology(topology.name, uri)


@contextmanager
def agents(topology: Topology, uri: str | None, mapped: Mapping[str, str]) -> Iterator[dict[str, Agent]]:
    """An agent for every endpoint that `expect:` can name: the guests', and one each on the stand-ins and the host."""
    with ExitStack() as stack, connect(uri) as connection:
        found: dict[str, Agent] = {}
        for guest in topology.guests:
            if guest.image == "tiny":
                found[guest.name] = stack.enter_context(guest_agent(connection, guest.name))
        for each in topology.physical_networks:
            if each.label not in mapped:
                namespace = standin.device_name(each.label)
                found[each.label] = stack.enter_context(_local_agent(each.label, ["ip", "netns", "exec", namespace]))
        found[HOST] = stack.enter_context(_local_agent(HOST, []))
        yield found


def _hostmap(topology: Topology, real: Mapping[str, str]) -> HostMap:
    made = {p.label: standin.device_name(p.label) for p in topology.physical_networks}
    return HostMap({**made, **real})


def guest_agent(connection: Connection, name: str, seconds: float = 60.0, root: str = "") -> Agent:
    """The agent of a running lab guest; `root` is where the files of its host are seen. Raises GuestnetError."""
    xml = connection.live_xml(name)
    if xml is None:
        raise GuestnetError(f"guest {name} is not running: start it with `virsh start {name}`")
    if path := channel(parse_xml(xml), CHANNEL):
        return Agent.connect(root + path, seconds, name)
    raise GuestnetError(f"guest {name} has no agent channel {CHANNEL}: is it a guest of this lab?")


@contextmanager
def _local_agent(name: str, enter: list[str]) -> Iterator[Agent]:
    """The guests' own agent, run here: it ends when its standard input does, so also when this process is killed."""
    with TemporaryDirectory(prefix="guestnet-agent-") as directory:
        path = Path(directory, "agent.sock")
        argv = [*enter, "perl", str(agent_script()), "--listen", str(path)]
        with subprocess.Popen(argv, stdin=subprocess.PIPE) as process:
            try:
                with Agent.connect(path, name=name) as agent:
                    yield agent
            finally:
                process.kill()


def await_guest(connection: Connection, guest: Guest, tell: Progress, root: str = "") -> None:
    """Waits until a lab guest has its addresses, or a router serves. Raises GuestnetError."""
    if guest.image == "router":
        xml = connection.live_xml(guest.name)
        if trouble := control.await_serving(guest.name, root + channel(parse_xml(xml)) if xml else "", READY_SECONDS):
            raise GuestnetError(f"router {guest.name} does not serve: {trouble}")
        tell(f"router {guest.name} serves")
        return
    # The agent answers only once the guest has booted, which a busy machine without KVM takes its time for.
    with guest_agent(connection, guest.name, READY_SECONDS, root) as agent:
        agent.ready(READY_SECONDS)
    tell(f"guest {guest.name} has its addresses")
