"""Small guests on guarded networks, and what they need of the kernel: shared by the lifecycle and the stress tests."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from lxml import etree

from libvirt_guestnet.sandbox import Sandbox, python_inside

XMLNS = 'xmlns:g="https://libvirt-guestnet.org/xmlns/1"'
# No guest kernel: 8 MiB and nothing to boot.
DOMAIN = """<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><metadata>{policy}</metadata>
<memory unit='MiB'>8</memory><os><type arch='x86_64' machine='pc'>hvm</type></os>
<features><acpi/></features><cpu mode='custom' match='exact'><model>qemu64</model></cpu>
<on_crash>destroy</on_crash><devices><controller type='usb' model='none'/><memballoon model='none'/>{nics}</devices>
</domain>"""
# Without its boot ROM, which would take a whole processor.
NIC = """<interface type='network'><source network='{network}'/><model type='rtl8139'/><mac address='{mac}'/>
<rom enabled='no'/></interface>"""
NETWORK = """<network><name>{name}</name><metadata>{mark}</metadata><bridge name='br-{name}'/>
<ip address='10.61.{number}.1' netmask='255.255.255.0'/></network>"""
MARK = f"""<g:network {XMLNS} topology="t" name="{{name}}"><g:subnet prefix="10.61.{{number}}.0/24"/>
<g:subnet prefix="fd61:{{number}}::/64"/></g:network>"""

CHECKSUM_GUARDS = """
import json
from contextlib import closing
from libvirt_guestnet.datapath.port import checksum
from libvirt_guestnet.datapath.netlink import links
from libvirt_guestnet.hook.enforce import checksum_guard as offload
from libvirt_guestnet.state.locked import UnlockedState
program = checksum.opened(offload.program_state(UnlockedState()).loaded)
counted = sorted(map(links.name_of, program.drops())) if program else []
print(json.dumps({"lost": sorted(offload.lost(UnlockedState())), "counted": counted}))
"""


class Programs(Protocol):
    """Where programs run."""

    def run(
        self, argv: Sequence[str], *, timeout: float = ..., check: bool = ..., stdin: str = ...
    ) -> subprocess.CompletedProcess[str]: ...


class Guests:
    """A host's guests as libvirt, the kernel and our files know them, asked by programs alone."""

    virsh_seconds, soon_seconds = 120.0, 120.0

    def __init__(self, sandbox: Programs) -> None:
        self.sandbox = sandbox

    def define(self, verb: str, xml: str, *more: str) -> None:
        """`virsh VERB FILE` with this XML."""
        self.sandbox.run(["tee", "/tmp/defined.xml"], stdin=xml)
        self.virsh(verb, "/tmp/defined.xml", *more)

    def guest(self, name: str, *networks: str, number: int = 1, policy: str = "") -> None:
        """Defines a guest with a NIC on each network; NIC n of guest number m has MAC 52:54:00:00:m:n."""
        nics = "".join(NIC.format(network=net, mac=mac(number, nic)) for nic, net in enumerate(networks))
        self.define("define", DOMAIN.format(name=name, uuid=uuid(number), policy=policy, nics=nics))

    def virsh(self, *words: str, check: bool = True) -> str:
        done = self.sandbox.run(
            ["virsh", "-q", "-c", "qemu:///system", *words], check=False, timeout=self.virsh_seconds
        )
        assert not check or done.returncode == 0, f"virsh {' '.join(words)}: {done.stderr}"
        return done.stdout if check else done.stdout + done.stderr

    def nics(self, name: str) -> dict[str, str]:
        """Tap -> MAC of every NIC of a running guest."""
        live = etree.fromstring(self.virsh("dumpxml", name).encode())
        return {_of(nic, "target", "dev"): _of(nic, "mac", "address") for nic in live.iter("interface")}

    def running(self) -> list[str]:
        return self.virsh("list", "--name").split()

    def guarded(self) -> dict[str, str]:
        """Tap -> the one MAC its chain lets pass, as the kernel has it."""
        for _ in range(20):  # a transaction while nft lists gives it half of two rulesets
            text = self.sandbox.run(["nft", "list", "table", "netdev", "guestnet"], check=False).stdout
            chains = {name.partition("-")[2] for name in re.findall(r"^\tchain (\S+-\S+) {", text, re.M)}
            hooked = re.findall(r'^\tchain tap-(\S+) {\n\t\ttype filter hook ingress device "\1" [^\n]* policy drop;\n(.*?)\n\t}', text, re.M | re.S)  # fmt: skip  # noqa: E501
            if {tap for tap, _ in hooked} == chains:
                break
        assert {tap for tap, _ in hooked} == chains
        return {tap: " ".join(re.findall(r"ether saddr != (\S+)", rules)) for tap, rules in hooked}

    def macs(self) -> set[str]:
        """The MAC addresses of all ports with a guard, observed ones too, which name it in several rules."""
        return {mac for macs in self.guarded().values() for mac in macs.split()}

    def rules(self, tap: str) -> str:
        """Every chain of a tap, as nft prints it, by name: one that was made again comes last there."""
        text = self.sandbox.run(["nft", "list", "table", "netdev", "guestnet"], check=False).stdout
        return "".join(sorted(re.findall(rf"^\tchain \w+-{tap} {{\n.*?^\t}}\n", text, re.M | re.S)))

    def files(self, kind: str) -> dict[str, dict[str, Any]]:
        # One that goes meanwhile is not there.
        each = "for f in *.json; do text=$(cat $f) && echo $f $text; done"
        code = f"cd /run/libvirt-guestnet/$0 2>/dev/null && {each} 2>/dev/null; true"
        lines = self.sandbox.run(["sh", "-c", code, kind]).stdout.splitlines()
        return {name.removesuffix(".json"): json.loads(text) for name, _, text in (li.partition(" ") for li in lines)}

    def needed(self) -> dict[str, str]:
        """Tap -> MAC of every NIC of a running guest that is on a network we guard."""
        needed = {}
        for name in self.running():
            live = etree.fromstring(self.virsh("dumpxml", name).encode())
            for nic in live.iter("interface"):
                if _of(nic, "source", "network") in ("one", "two"):
                    needed[_of(nic, "target", "dev")] = _of(nic, "mac", "address")
        return needed

    def soon(self, true: Callable[[], bool], what: str) -> None:
        """Waits for something a helper or a daemon does on its own."""
        began = time.monotonic()
        deadline = began + self.soon_seconds
        while not true():
            assert time.monotonic() < deadline, f"not within {self.soon_seconds:.0f} s: {what}; {self.seen()}"
            # Where a look takes long, as in the lab VM, looking all the time would slow down what is waited for.
            time.sleep(max(0.02, time.monotonic() - began))
            began = time.monotonic()

    def seen(self) -> str:
        """What a test that waits in vain has seen last."""
        kinds = {kind: self.files(kind) for kind in ("plugging", "ports", "vlans")}
        links = self.sandbox.run(["sh", "-c", "ip -br link; bridge vlan show"], check=False).stdout
        return f"{json.dumps(kinds)}\n{links}\n{self.helpers()}"

    def unplug(self, name: str, address: str, kind: str = "network") -> None:
        """Nobody in the guest answers the request; a reset makes QEMU let go."""
        self.virsh("detach-interface", name, kind, "--mac", address, "--live")
        self.virsh("reset", name)
        self.soon(lambda: address not in self.nics(name).values(), "the NIC is unplugged")

    def qemu(self, name: str) -> str:
        """The process of a running guest, as its host counts."""
        return self.sandbox.run(["cat", f"/run/libvirt/qemu/{name}.pid"]).stdout.strip()

    def helpers(self) -> list[str]:
        """Hook processes that are still there, zombies included."""
        listed = self.sandbox.run(["ps", "-eo", "pid,stat,args"]).stdout.splitlines()
        return [line for line in listed if re.search(r"hook/main\.py|<defunct>", line)]


class Host(Guests):
    """A sandbox with networks one and two, guarded by default, and plain, which knows nothing of us."""

    sandbox: Sandbox

    def __init__(self, sandbox: Sandbox) -> None:
        super().__init__(sandbox)

    def networks(self) -> None:
        for number, name in enumerate(("one", "two", "plain"), start=1):
            mark = MARK.format(name=name, number=number) if name != "plain" else ""
            self.define("net-define", NETWORK.format(name=name, number=number, mark=mark))
            self.virsh("net-start", name)

    def exact(self) -> None:
        """Kernel and receipts are what the running guests need, nothing more."""
        needed = self.needed()
        assert self.guarded() == needed
        ports = self.files("ports")
        assert {tap: port["mac"] for tap, port in ports.items()} == needed
        listed = {tap: uuid for uuid, domain in self.files("domains").items() for tap in domain["taps"]}
        assert listed == {tap: port["uuid"] for tap, port in ports.items()}
        assert self.files("plugging") == {}
        self.soon(lambda: self.checksum_guards()["lost"] == [], "the checksum guard is where it stays")
        assert self.checksum_guards()["counted"] == sorted(needed)

    def checksum_guards(self) -> dict[str, list[str]]:
        """The taps that lack the checksum guard, and those whose drops are counted."""
        run = self.sandbox.run(python_inside(["-c", CHECKSUM_GUARDS], self.sandbox.root))
        found: dict[str, list[str]] = json.loads(run.stdout)
        return found

    def soon_exact(self) -> None:
        self.soon(lambda: self.guarded() == self.needed() and not self.files("plugging"), "the kernel is as needed")
        self.exact()

    def stop_daemon(self, with_signal: signal.Signals = signal.SIGTERM) -> None:
        self.sandbox.stop_libvirtd(with_signal)

    def restart_daemon(self, with_signal: signal.Signals = signal.SIGTERM) -> None:
        self.stop_daemon(with_signal)
        self.sandbox.start_libvirtd()


def mac(number: int, nic: int) -> str:
    return f"52:54:00:00:{number:02x}:{nic:02x}"


def uuid(number: int) -> str:
    return f"62000000-0000-4000-8000-{number:012d}"


def _of(nic: etree._Element, child: str, attribute: str) -> str:
    element = nic.find(child)
    return "" if element is None else str(element.get(attribute, ""))
