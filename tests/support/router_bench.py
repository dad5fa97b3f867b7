"""A virtual router's appliance on plain QEMU, with its guests, its host and its public side in network namespaces.

The namespace `host` has the taps, each in a bridge of its network; every other namespace has one end of a veth whose
other end is in such a bridge. All dies with the `with` block.
"""

from __future__ import annotations

import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

from libvirt_guestnet.guest.agent import Agent, agent_script
from libvirt_guestnet.guest.config import CMDLINE
from libvirt_guestnet.guest.image import TinyImage
from libvirt_guestnet.model.router import RouterConfig
from libvirt_guestnet.router import control, disks
from libvirt_guestnet.router.client import CHANNEL, RouterClient
from libvirt_guestnet.router.document import document

MEMORY_MIB = 128


class Namespace:
    """A network namespace that lives until the stack ends."""

    def __init__(self, name: str, stack: ExitStack, directory: Path) -> None:
        self.name, self.stack, self.directory = name, stack, directory
        self.holder = self.start_outside(["unshare", "-n", "--kill-child", "cat"])
        own, deadline = Path("/proc/self/ns/net").readlink(), time.monotonic() + 240
        while Path(f"/proc/{self.holder.pid}/ns/net").readlink() == own:
            assert time.monotonic() < deadline, "unshare made no namespace"
            time.sleep(0.01)
        self.ip("link set lo up")

    def start_outside(self, argv: list[str], **options: object) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(  # type: ignore[call-overload]
            argv, stdin=subprocess.PIPE, **{"stdout": subprocess.DEVNULL, **options}
        )
        self.stack.callback(process.wait, 5)
        self.stack.callback(process.kill)
        return process  # type: ignore[no-any-return]

    def inside(self, *argv: str) -> list[str]:
        return ["nsenter", f"--net=/proc/{self.holder.pid}/ns/net", "--", *argv]

    def start(self, *argv: str, **options: object) -> subprocess.Popen[bytes]:
        return self.start_outside(self.inside(*argv), **options)

    def run(self, *argv: str, timeout: float = 120) -> str:
        """What it prints; its failure is the test's."""
        done = subprocess.run(self.inside(*argv), capture_output=True, text=True, timeout=timeout, check=False)
        assert done.returncode == 0, (argv, done.stdout, done.stderr)
        return done.stdout

    def ip(self, words: str) -> None:
        self.run("ip", *words.split())

    def agent(self) -> Agent:
        """The tiny guest's agent, with its echo responders."""
        path = self.directory / f"{self.name}.agent"
        self.start("perl", str(agent_script()), "--listen", str(path))
        return self.stack.enter_context(Agent.connect(path, 240, self.name))


class Here(Namespace):
    """The network namespace that the test is in."""

    def __init__(self, name: str, stack: ExitStack, directory: Path) -> None:
        self.name, self.stack, self.directory = name, stack, directory

    def inside(self, *argv: str) -> list[str]:
        return [*argv]


class RouterBench:
    """A host with bridges, and routers that start there. The host is a namespace of its own where none is given."""

    def __init__(self, directory: Path, stack: ExitStack, host: Namespace | None = None) -> None:
        self.directory, self.stack = directory, stack
        self.host = host or Namespace("host", stack, directory)

    def bridge(self, name: str, address: str = "") -> None:
        self.host.ip(f"link add {name} type bridge stp_state 0")
        self.host.run("sh", "-c", f"echo 1 >/proc/sys/net/ipv6/conf/{name}/disable_ipv6")
        self.host.ip(f"link set {name} up")
        if address:
            self.host.ip(f"addr add {address} dev {name}")

    def machine(self, name: str, bridge: str, mac: str, *addresses: str, tap: str = "") -> Namespace:
        """A namespace with a NIC called net0 on a bridge; `tap` is the bridge's port."""
        machine, tap = Namespace(name, self.stack, self.directory), tap or f"v-{name}"
        self.host.ip(f"link add {tap} type veth peer name net0 address {mac} netns {machine.holder.pid}")
        self.host.ip(f"link set {tap} master {bridge} up")
        machine.ip("link set net0 up")
        for address in addresses:
            machine.run("ip", "addr", "add", address, "dev", "net0", *([] if "." in address else ["nodad"]))
        return machine

    def boot(self, config: RouterConfig, image: TinyImage, bridges: dict[str, str]) -> Router:
        """Starts a router with a new document on its disk; `bridges` by its NICs' names."""
        router = Router(self, config, image, bridges)
        control.ensure_on_disk(router.disk("config"), document(config).encoded())
        router.start()
        return router


class Router:
    """A QEMU that can be killed and started again with the same disks and taps."""

    def __init__(self, bench: RouterBench, config: RouterConfig, image: TinyImage, bridges: dict[str, str]) -> None:
        self.bench, self.config, self.name, self.image = bench, config, config.name, image
        self.nics = [(nic.name, nic.mac) for nic in config.traffic_nics]
        self.nics += [(nic.name, nic.mac) for nic in (config.control, config.sync) if nic]
        # The kernel's names are in the order of PCI, as a host would give it; a test wants the appliance to name them.
        self.nics.reverse()
        self.bridges = bridges
        for name, _ in self.nics:
            bench.host.ip(f"tuntap add {self.tap(name)} mode tap")
        self.join()
        for name in ("config", "leases"):
            disks.ensure_disk(self.disk(name), disks.CONFIG_BYTES)

    def tap(self, nic: str) -> str:
        return f"{self.name}-{nic}"

    def disk(self, name: str) -> Path:
        return self.bench.directory / f"{self.name}.{name}"

    @property
    def console(self) -> Path:
        return self.bench.directory / f"{self.name}.console"

    @property
    def socket(self) -> Path:
        return self.bench.directory / f"{self.name}.router"

    def start(self) -> None:
        argv = ["qemu-system-x86_64", "-M", "pc,accel=tcg", "-cpu", "qemu64,-cx16", "-m", str(MEMORY_MIB)]
        argv += ["-nodefaults", "-no-user-config", "-display", "none", "-serial", f"file:{self.console}"]
        argv += ["-kernel", str(self.image.kernel), "-initrd", str(self.image.initrd), "-append", CMDLINE]
        for name, only in (("config", ",readonly=on"), ("leases", "")):
            argv += ["-drive", f"file={self.disk(name)},if=none,id={name},format=raw{only}"]
            argv += ["-device", f"virtio-blk-pci,drive={name},serial={name}"]
        argv += ["-device", "virtio-serial", "-chardev", f"socket,id=router,path={self.socket},server=on,wait=off"]
        argv += ["-device", f"virtserialport,chardev=router,name={CHANNEL}"]
        argv += ["-qmp", f"unix:{self.bench.directory / self.name}.qmp,server=on,wait=off"]
        for name, mac in self.nics:
            argv += ["-netdev", f"tap,id={name},ifname={self.tap(name)},script=no,downscript=no"]
            argv += ["-device", f"virtio-net,netdev={name},mac={mac}"]
        self.started = time.monotonic()
        self.process = self.bench.host.start(*argv)

    def connect(self, timeout: float = 180) -> RouterClient:
        return self.bench.stack.enter_context(RouterClient.connect(self.socket, self.name, timeout))

    def qemu(self) -> int:
        """The process: nsenter has become it."""
        return self.process.pid

    def join(self) -> None:
        """Its taps are up, in their bridges."""
        for name, _ in self.nics:
            self.bench.host.ip(f"link set {self.tap(name)} master {self.bridges[name]} up")

    @property
    def traffic_taps(self) -> set[str]:
        return {self.tap(nic.name) for nic in self.config.traffic_nics}

    def cut_off(self) -> None:
        """What its host does to a router of a pair that is not to serve: its links to guests and to the public side are
        down, whatever it does."""
        for tap in self.traffic_taps:
            self.bench.host.ip(f"link set {tap} down")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
