"""A Debian image with cloud-init, booted for real: reached by SSH with the key that it was given.

One guest has a NIC of each of the modes nat, bridge and host-routed and a seed; another one is behind a virtual router
and has none: its router tells it. Both boot at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from support import cloud
from support.cloud import CloudImage
from support.lab import Lab
from support.router_bench import Namespace, Router, RouterBench
from support.router_config import ROUTER, WEB_MAC

from libvirt_guestnet import sandbox as sandboxes
from libvirt_guestnet.guest import qcow2
from libvirt_guestnet.model.disk_image import CloudInit
from libvirt_guestnet.model.router import RouterConfig
from libvirt_guestnet.model.traffic import Verdict
from libvirt_guestnet.model.virtual_router import Tier, VirtualRouter
from libvirt_guestnet.router import disks, metadata
from libvirt_guestnet.router.document import document
from libvirt_guestnet.router.image import ensure_router_image
from libvirt_guestnet.topology import loads
from libvirt_guestnet.xmlgen.disk_domain import ASKS_ROUTER

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="sandboxes and taps need root")

DISK_BYTES = 3 << 30
HOST = "192.0.2.1"  # an address of the host's that is on no link of the guest's
TOPOLOGY = """
name: cloud
physical-networks: {{ lan: {{ subnets: [198.18.21.0/24, "fd61:21::/64"] }} }}
networks:
  nat: {{ mode: nat, subnets: [10.61.1.0/24, "fd61:1::/64"], dhcp: {{}}, mtu: 1400 }}
  wire: {{ mode: bridge, physical-network: lan }}
  routed: {{ mode: host-routed, subnets: [203.0.113.0/24, "fd61:3::/64"] }}
guests:
  web1:
    image: {image.disk}
    disk: 3G
    memory: 512
    ssh-keys: ["{key}"]
    user-data: {user_data}
    domain-xml: {domain_xml}
    ports:
      - {{ network: nat, default-route: false, addresses: [10.61.1.7, "fd61:1::7"] }}
      - {{ network: wire, default-route: false, addresses: [198.18.21.7, "fd61:21::7"] }}
      - {{ network: routed, default-route: true, addresses: [203.0.113.7, "fd61:3::7"] }}
"""
BEHIND = """
name: behind
networks: {{ web: {{ mode: isolated, subnets: [10.1.1.0/24, "fd13:1::/64"], gateway: edge }} }}
guests:
  edge: {{ router: {{}}, ports: [{{ network: web, addresses: [10.1.1.1, "fd13:1::1"] }}] }}
  web: {{ ports: [{{ network: web, mac: "{mac}", addresses: [10.1.1.10, "fd13:1::10"] }}] }}
"""


@dataclass
class World:
    """Both guests, and who logs into them."""

    image: CloudImage
    digest: str
    key: Path
    lab: Lab
    peer: Namespace
    console: Path

    def seeded(self, address: str, *command: str, source: str = "") -> subprocess.CompletedProcess[str]:
        """A command in the guest with the seed, by the host."""
        argv = self.lab.sandbox.command(cloud.ssh(self.key, address, *command, source=source))
        return subprocess.run(argv, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)

    def told(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command in the guest behind the router, by its neighbour."""
        argv = self.peer.inside(*cloud.ssh(self.key, "10.1.1.10", *command))
        return subprocess.run(argv, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    image, folder = cloud.cloud_image(), tmp_path_factory.mktemp("cloud")
    key = cloud.make_key(folder)
    public = key.with_suffix(".pub").read_text().strip()
    with ExitStack() as stack:
        before = digest(image.disk)
        lab = stack.enter_context(_sandbox(folder, image, public))
        peer, console = _behind_a_router(folder, stack, image, public)
        made = World(image, before, key, lab, peer, console)
        print(lab.guestnet("lab", "up", "--here", "-").stderr)
        lab.sandbox.run(["ip", "address", "add", HOST, "dev", "lo"])
        cloud.await_login(lambda: made.seeded("198.18.21.7", "true"), lambda: lab.virsh("domiflist", "web1"))
        cloud.await_login(lambda: made.told("true"), console.read_text)
        yield made


def _sandbox(folder: Path, image: CloudImage, public: str) -> Any:
    """A host with our hooks, whose QEMU is not root, and gets what it opens from libvirt as on a default host."""
    topology = folder / "cloud.yaml"
    domain_xml, user_data = json.dumps(image.domain_xml), json.dumps(cloud.USER_DATA)
    topology.write_text(TOPOLOGY.format(image=image, key=public, user_data=user_data, domain_xml=domain_xml))
    install = sandboxes.python_inside(["-m", "libvirt_guestnet.cli", "hooks", "install", "--any-owner"])
    said = {"user": "nobody", "group": "nogroup"}
    words = [f's/^{name} = .*/{name} = "{value}"/' for name, value in said.items()]
    nobody = f"sed -i '{'; '.join(words)}; s/^dynamic_ownership.*/dynamic_ownership = 1/'"
    prepare = [install, ["sh", "-c", f"{nobody} /etc/libvirt/qemu.conf"]]
    return _LabOf(sandboxes.start(f"cloud-{os.getpid()}", prepare=prepare), topology)


class _LabOf(Lab):
    def __enter__(self) -> Lab:
        self.sandbox.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.sandbox.__exit__(*error)


def _config(public: str) -> RouterConfig:
    """A router that tells its guest what a topology says of it."""
    found = loads(BEHIND.format(mac=WEB_MAC), "behind.yaml")
    edge = replace(found.guest("edge"), virtual_router=VirtualRouter((Tier("web", Verdict.DENY),), ()))
    said = replace(found.guest("web"), cloud_init=CloudInit((public,), cloud.USER_DATA))
    topology = replace(found, guests=(edge, said))
    return replace(ROUTER, metadata=metadata.of_router(topology, edge))


def _behind_a_router(folder: Path, stack: ExitStack, image: CloudImage, public: str) -> tuple[Namespace, Path]:
    bench = RouterBench(folder, stack)
    for name in ("lan", "tier", "pub"):
        bench.bridge(name)
    bench.bridge("ctl", "169.254.7.1/30")
    bridges = {"eth0": "lan", "eth1": "ctl", "eth2": "pub", "eth3": "tier"}
    router = Router(bench, ROUTER, ensure_router_image(), bridges)
    disks.write(router.disk("config"), document(_config(public)).encoded())
    router.start()
    peer = bench.machine("peer", "lan", "52:54:00:13:00:77", "10.1.1.77/24")
    bench.host.ip("tuntap add web mode tap")
    bench.host.ip("link set web master lan up")
    disk, console = folder / "web.qcow2", folder / "web.console"
    disk.write_bytes(qcow2.overlay(str(image.disk), "raw", DISK_BYTES))
    argv = ["qemu-system-x86_64", "-M", "pc,accel=tcg", "-cpu", "qemu64,-cx16", "-m", "512", "-nodefaults"]
    argv += ["-display", "none", "-serial", f"file:{console}", "-smbios", f"type=1,serial={ASKS_ROUTER}"]
    argv += ["-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", cloud.CMDLINE]
    argv += ["-drive", f"file={disk},if=virtio,format=qcow2", "-object", "rng-random,id=r,filename=/dev/urandom"]
    argv += ["-device", "virtio-rng-pci,rng=r", "-netdev", "tap,id=n,ifname=web,script=no,downscript=no"]
    bench.host.start(*argv, "-device", f"virtio-net,netdev=n,mac={WEB_MAC}")
    return peer, console


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("10.61.1.7", ""),
        ("fd61:1::7", ""),
        ("198.18.21.7", ""),
        ("fd61:21::7", ""),
        ("203.0.113.7", HOST),
    ],
)
def test_it_is_reached_with_its_key_in_each_mode(world: World, address: str, source: str) -> None:
    done = world.seeded(address, "hostname; cat /etc/told", source=source)
    assert done.stdout.split() == ["web1", "hello"], done.stderr


def test_its_nics_are_as_the_file_says(world: World) -> None:
    links = json.loads(world.seeded("198.18.21.7", "ip -j address").stdout)
    found = {
        f"{each['local']}/{each['prefixlen']}": link["mtu"]
        for link in links
        for each in link["addr_info"]
        if each["scope"] == "global"
    }
    assert found == {
        "10.61.1.7/24": 1400,
        "fd61:1::7/64": 1400,
        "198.18.21.7/24": 1500,
        "fd61:21::7/64": 1500,
        "203.0.113.7/32": 1500,
        "fd61:3::7/128": 1500,
    }
    routes = world.seeded("198.18.21.7", "ip route show default; ip -6 route show default").stdout
    assert "via 169.255.30.1" in routes and "onlink" in routes and "via fe80::1" in routes
    assert routes.count("default") == 2


def test_its_disk_is_larger_than_the_image_and_that_is_untouched(world: World) -> None:
    size, root = world.seeded(
        "198.18.21.7", "lsblk -bdno SIZE /dev/vda; df -B1 --output=size / | tail -1"
    ).stdout.split()
    assert int(size) == DISK_BYTES
    assert int(root) > DISK_BYTES * 0.9
    assert digest(world.image.disk) == world.digest


def test_a_second_apply_changes_nothing(world: World) -> None:
    done = world.lab.guestnet("plan", "--map", "lan=lan-lan", "-")
    assert done.stdout == "nothing to do\n", done.stdout + done.stderr


def test_a_guest_without_a_seed_is_told_by_its_router(world: World) -> None:
    done = world.told(
        "hostname; cat /etc/told; cloud-init query ds.meta_data.instance-id || cloud-init query instance_id"
    )
    assert done.stdout.split()[:2] == ["web", "hello"], done.stderr
    addresses = world.told("ip -j address show scope global").stdout
    assert {"10.1.1.10"} <= {a["local"] for link in json.loads(addresses) for a in link.get("addr_info", ()) if a}
    for url in (
        "http://169.254.169.254/latest/meta-data/local-hostname",
        "http://10.1.1.1/latest/meta-data/local-hostname",
    ):
        code = f"import urllib.request as u; print(u.urlopen('{url}', timeout=60).read().decode())"
        assert world.told(f'python3 -c "{code}"').stdout == "web\n"


def test_destroying_keeps_its_disk(world: World) -> None:
    """The last one: the guest is gone after that."""
    disk = "/var/lib/libvirt-guestnet/guests/web1/disk.qcow2"
    done = world.lab.guestnet("destroy", "-")
    assert "remove guest web1" in done.stdout and f"rm {disk}" in done.stderr, done.stdout + done.stderr
    assert world.lab.sandbox.run(["ls", "/var/lib/libvirt-guestnet/guests/web1"]).stdout == "disk.qcow2\n"
