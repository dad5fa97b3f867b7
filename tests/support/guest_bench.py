"""Two networks and their guests in a throw-away network namespace, with plain QEMU: no libvirt, no hooks.

The namespace is the host: bridge vlan1 (DHCP and router advertisements by dnsmasq) and bridge vlan2 (nothing), and an
address of LAN 2 on its loopback. Everything dies with the `with` block.
"""

from __future__ import annotations

import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

from libvirt_guestnet.guest.agent import Agent, agent_script
from libvirt_guestnet.guest.config import CHANNEL, CMDLINE, FWCFG, guest_config
from libvirt_guestnet.guest.image import TinyImage
from libvirt_guestnet.model.port_address import Assignment
from libvirt_guestnet.model.topology import Guest, Topology

LAN2 = ("198.18.2.1", "fd61:12::1")


class Bench:
    """A network namespace that is the host of `topology`."""

    def __init__(self, topology: Topology, directory: Path, stack: ExitStack) -> None:
        self.topology, self.directory, self.stack = topology, directory, stack
        self.holder = self._start(["unshare", "-n", "--kill-child", "cat"])
        self._wait_for_namespace()
        self.ip("link", "set", "lo", "up")
        # A host that does not forward says so when a guest checks its neighbour, and loses the guest's default route.
        forwarding = "/proc/sys/net/ipv6/conf/all/forwarding"
        subprocess.run(self.inside("tee", forwarding), input=b"1", check=True, timeout=120, stdout=subprocess.DEVNULL)
        for address in LAN2:
            self.ip("addr", "add", address, "dev", "lo")

    def _start(self, argv: list[str], **options: object) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, **options)  # type: ignore[call-overload]
        self.stack.callback(process.wait, 5)
        self.stack.callback(process.kill)
        return process  # type: ignore[no-any-return]

    def _wait_for_namespace(self) -> None:
        own = Path("/proc/self/ns/net").readlink()
        deadline = time.monotonic() + 240
        while Path(f"/proc/{self.holder.pid}/ns/net").readlink() == own:
            assert time.monotonic() < deadline, "unshare made no namespace"
            time.sleep(0.01)

    def inside(self, *argv: str) -> list[str]:
        return ["nsenter", f"--net=/proc/{self.holder.pid}/ns/net", "--", *argv]

    def ip(self, *argv: str) -> None:
        subprocess.run(self.inside("ip", *argv), check=True, timeout=120)

    def add_network(self, name: str, *addresses: str) -> None:
        self.ip("link", "add", name, "type", "bridge", "stp_state", "0")
        self.ip("link", "set", name, "up")
        for address in addresses:
            self.ip("addr", "add", address, "dev", name, *([] if "." in address else ["nodad"]))

    def serve(self, name: str) -> None:
        """DHCP and router advertisements on a network, as libvirt's dnsmasq would."""
        network = self.topology.network(name)
        argv = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", f"--interface={name}"]
        argv += ["--bind-interfaces", "--leasefile-ro", "--enable-ra", "--pid-file=", "--user=root"]
        for subnet in network.subnets:
            assert subnet.host is not None
            static = "static" if subnet.prefix.version == 4 else "ra-only"
            argv.append(f"--dhcp-range={subnet.prefix.network_address},{static}")
        for _, port in self.topology.ports_on(name):
            for address in port.addresses:
                if address.assignment is Assignment.DHCP:
                    argv.append(f"--dhcp-host={port.mac},{address.ip}")
        self._start(self.inside(*argv), stderr=subprocess.DEVNULL)

    def host_agent(self, name: str = "host") -> Agent:
        """The agent program in the namespace itself."""
        path = self.directory / f"{name}.agent"
        self._start(self.inside("perl", str(agent_script()), "--listen", str(path)))
        return self.stack.enter_context(Agent.connect(path, 10, name))

    def boot(self, guest: Guest, image: TinyImage, config: str | None = None) -> GuestProcess:
        config_file = self.directory / f"{guest.name}.config"
        config_file.write_text(guest_config(self.topology, guest) if config is None else config)
        socket, console = self.directory / f"{guest.name}.agent", self.directory / f"{guest.name}.console"
        argv = ["qemu-system-x86_64", "-M", "pc,accel=tcg", "-cpu", "qemu64,-cx16", "-m", str(guest.memory_mib)]
        argv += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", f"file:{console}"]
        argv += ["-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", CMDLINE]
        argv += ["-fw_cfg", f"name={FWCFG},file={config_file}", "-device", "virtio-serial"]
        argv += ["-chardev", f"socket,id=agent,path={socket},server=on,wait=off"]
        argv += ["-device", f"virtserialport,chardev=agent,name={CHANNEL}"]
        argv += ["-qmp", f"unix:{self.directory / guest.name}.qmp,server=on,wait=off"]
        for number, port in enumerate(guest.ports):
            self.ip("tuntap", "add", port.tap, "mode", "tap")
            self.ip("link", "set", port.tap, "master", port.network, "up")
            argv += ["-netdev", f"tap,id=n{number},ifname={port.tap},script=no,downscript=no"]
            argv += ["-device", f"virtio-net,netdev=n{number},mac={port.mac}"]
        return GuestProcess(guest.name, self._start(self.inside(*argv)), socket, console, self)


class GuestProcess:
    """A QEMU; `agent` connects on first use."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], path: Path, console: Path, bench: Bench) -> None:
        self.name, self.process, self.path, self.console, self.bench = name, process, path, console, bench
        self.started = time.monotonic()

    def connect(self) -> Agent:
        return self.bench.stack.enter_context(Agent.connect(self.path, 180, self.name))
