"""A libvirt host on which topologies are applied: over libvirt's API, with what apply does itself done inside.

Guests are real but empty machines of 8 MiB: nothing boots in them, so an unplug only completes at a reset.
"""

from __future__ import annotations

import json
import re
import select
import subprocess
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from lxml import etree

from libvirt_guestnet import xmlgen
from libvirt_guestnet.apply.apply import apply, destroy
from libvirt_guestnet.apply.topology import wanted
from libvirt_guestnet.errors import GuestnetError
from libvirt_guestnet.guest.image import TinyImage
from libvirt_guestnet.hostmap import HostMap
from libvirt_guestnet.libvirtd.connection import Connection, connect
from libvirt_guestnet.libvirtd.snapshot import DomainState, NetworkState, Wanted, parse_xml
from libvirt_guestnet.plan.order import Plan, plan, plan_destroy
from libvirt_guestnet.sandbox import Sandbox
from libvirt_guestnet.topology import loads

TOPOLOGY = """
name: lab
networks:
  one:
    mode: nat
    subnets: [10.61.1.0/24, "fd61:1::/64"]
    dhcp: {}
  two:
    mode: isolated
    subnets: [10.61.2.0/24]
guests:
  a:
    image: tiny
    ports:
      - network: one
  b:
    image: tiny
    ports:
      - network: one
        isolated: true
      - network: two
"""
USERS_OWN = """
<domain type='qemu'>
  <name>u</name><memory unit='MiB'>8</memory><os><type machine='pc'>hvm</type></os>
  <features><acpi/></features><cpu mode='custom' match='exact'><model>qemu64</model></cpu>
  <devices>
    <controller type='usb' model='none'/><memballoon model='none'/>
    <interface type='user'><mac address='52:54:00:99:99:99'/><model type='rtl8139'/></interface>
  </devices>
</domain>"""
WITH_USER = """
name: lab
networks:
  one: {mode: nat, subnets: [10.61.1.0/24]}
guests:
  u:
    ports: [{network: one}]
"""
# One process inside makes all effects: starting Python and importing pyroute2 for each would take most of the time.
EFFECTS = """
import json, sys
from libvirt_guestnet.apply.apply import KernelEffects
effects = KernelEffects()
for line in sys.stdin:
    name, *arguments = json.loads(line)
    if name in ("guard", "adopt_network"):
        arguments = [arguments[0].encode()]
    try:
        getattr(effects, name)(*arguments)
        print("", flush=True)
    except Exception as error:
        print(" ".join(str(error).split()), flush=True)
"""


class ApplyHost:
    """A sandbox and a connection into it; the real effects, made inside."""

    def __init__(self, sandbox: Sandbox, connection: Connection, effects: subprocess.Popen[str]) -> None:
        self.sandbox = sandbox
        self.libvirt = connection
        self.effects = effects
        self.guarded: list[etree._Element] = []

    def enslave(self, tap: str, bridge: str, isolated: bool) -> None:
        self._effect("enslave", tap, bridge, isolated)

    def guard(self, domain_xml: bytes, settle: bool = True) -> None:
        self.guarded.append(parse_xml(domain_xml.decode()))
        self._effect("guard", domain_xml.decode(), settle)

    def release(self, uuid: str, tap: str) -> None:
        self._effect("release", uuid, tap)

    def adopt_network(self, network_xml: bytes) -> None:
        self._effect("adopt_network", network_xml.decode())

    def kept_open(self, _bridge: str) -> AbstractContextManager[None]:
        return nullcontext()

    def _effect(self, *call: object) -> None:
        print(json.dumps(call), file=self.effects.stdin, flush=True)
        answers = self.effects.stdout
        assert answers is not None
        assert select.select([answers], [], [], 30)[0], f"no answer to {call[0]}"
        failure = answers.readline()
        if failure != "\n":
            raise GuestnetError(failure)

    def plan(self, text: str = TOPOLOGY) -> Plan:
        return plan(want(text), self.libvirt.snapshot(self.devices()))

    def apply(self, text: str = TOPOLOGY, **options: Any) -> Plan:
        made = self.plan(text)
        apply(made, self.libvirt, self, **options)
        return made

    def destroy(self, name: str = "lab") -> Plan:
        made = plan_destroy(name, self.libvirt.snapshot())
        destroy(made, self.libvirt, self)
        return made

    def devices(self) -> list[str]:
        return [link["ifname"] for link in self.json("ip", "-j", "link")]

    def json(self, *argv: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.sandbox.run(argv).stdout or "[]")
        return found

    def ports(self) -> dict[str, tuple[str, bool]]:
        """Tap -> (bridge, isolated), as iproute2 sees it."""
        links = self.json("bridge", "-j", "-d", "link")
        return {p["ifname"]: (p["master"], p["isolated"]) for p in links if "master" in p}

    def start(self, *guests: str) -> None:
        for guest in guests:
            self.libvirt.start_domain(guest)

    @contextmanager
    def cooperative(self, *guests: str) -> Iterator[None]:
        """Empty machines let go of a NIC only when they are reset."""
        done = threading.Event()

        def nudge() -> None:
            while not done.wait(0.3):
                for guest in guests:
                    self.sandbox.run(["virsh", "-q", "-c", "qemu:///system", "reset", guest], check=False)

        thread = threading.Thread(target=nudge)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def fingerprint(self) -> object:
        """Everything that an undone apply must have left as it was; not what libvirt numbers anew."""
        snapshot = self.libvirt.snapshot()
        objects: list[NetworkState | DomainState] = [*snapshot.networks, *snapshot.domains]
        texts = [(o.name, clean(o.config), None if o.live is None else clean(o.live), o.autostart) for o in objects]
        return sorted(texts), self.ports()


def clean(element: etree._Element) -> str:
    text = etree.tostring(element, method="c14n").decode().replace("\n", "")
    text = re.sub(
        r"<(alias|address)\b[^>]*></\1>| (portid|connections|id)=\"[^\"]*\"|<link state=\"up\"></link>", "", text
    )
    return re.sub(r">\s+<", "><", text)


def empty_machine(domain: etree._Element) -> etree._Element:
    for path in ("os/kernel", "os/initrd", "os/cmdline"):
        for element in domain.findall(path):
            element.getparent().remove(element)
    domain.find("memory").text = "8"
    return domain


def want(text: str = TOPOLOGY) -> Wanted:
    topology = loads(text, "lab.yaml")
    hosts = HostMap({"lan": "uplink0"}, lambda _device: False)
    image = TinyImage(kernel=Path("/kernel"), initrd=Path("/initrd"))
    return wanted(topology, hosts, lambda guest: empty_machine(xmlgen.domain(topology, guest, hosts, image, "qemu")))


@contextmanager
def effects_in(sandbox: Sandbox) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        sandbox.python(["-c", EFFECTS]), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.stdin.close()
        assert process.wait(10) == 0


@contextmanager
def apply_host_in(sandbox: Sandbox, effects: subprocess.Popen[str]) -> Iterator[ApplyHost]:
    uri = f"qemu+unix:///system?socket=/proc/{sandbox.first.pid}/root/run/libvirt/libvirt-sock"
    with connect(uri) as connection:
        made = ApplyHost(sandbox, connection, effects)
        yield made
        for name in ("lab", "other"):
            made.destroy(name)
        leftover = connection.snapshot()
        assert (leftover.networks, leftover.domains) == ((), ())
        assert {d for d in made.devices() if d.startswith(("gn-", "vme", "vnet"))} == set()
