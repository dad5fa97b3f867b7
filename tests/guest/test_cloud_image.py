"""A Debian image with cloud-init, booted for real in a lab: reached by SSH with the key that it was given.

Guest `web1` has a seed, and a NIC of each of the modes nat, bridge, host-routed and isolated behind a virtual router.
Guest `web2` is behind that router, too, and has no seed: the router's metadata service tells it. Both boot at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import cloud
from support.cloud import CloudImage
from support.lab import Lab

from libvirt_guestnet import sandbox as sandboxes
from libvirt_guestnet.router.image import ensure_router_image

pytestmark = [
    pytest.mark.cloud,
    pytest.mark.skipif(os.geteuid() != 0, reason="sandboxes and taps need root"),
]

DISK_BYTES = 3 << 30
HOST = "192.0.2.1"  # an address of the host's that is on no link of the guest's
WIRE, FORWARDED, OFFICE = "198.18.21.7", "198.18.21.20", "10.61.4.7"
TOPOLOGY = """
name: cloud
physical-networks:
  lan: {{ subnets: [198.18.21.0/24, "fd61:21::/64"], host: [198.18.21.2, "fd61:21::2"] }}
networks:
  nat: {{ mode: nat, subnets: [10.61.1.0/24, "fd61:1::/64"], dhcp: {{}}, mtu: 1400 }}
  wire: {{ mode: bridge, physical-network: lan }}
  routed: {{ mode: host-routed, publish: false, subnets: [203.0.113.0/24, "fd61:3::/64"] }}
  office: {{ mode: isolated, subnets: [10.61.4.0/24, "fd61:4::/64"] }}
routers:
  edge:
    tiers: {{ office: {{ egress: deny }} }}
    public: {{ wire: {{ addresses: [198.18.21.30, "fd61:21::30"], gateways: [198.18.21.1, "fd61:21::1"] }} }}
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
      - {{ network: office, default-route: false, addresses: [10.61.4.7, "fd61:4::7"] }}
  web2:
    image: {image.disk}
    seed: none
    memory: 512
    ssh-keys: ["{key}"]
    user-data: {user_data}
    domain-xml: {domain_xml}
    ports: [{{ network: office, addresses: [10.61.4.8], forwards: [{{ services: [tcp/22], at: [198.18.21.20] }}] }}]
"""


@dataclass
class World:
    """Both guests, and who logs into them."""

    image: CloudImage
    digest: str
    key: Path
    lab: Lab

    def login(self, address: str, *command: str, source: str = "", by: str = "") -> subprocess.CompletedProcess[str]:
        """A command in a guest, by the host, or by way of another guest."""
        argv = self.lab.sandbox.command(cloud.ssh(self.key, address, *command, source=source, by=by))
        return subprocess.run(argv, capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL)

    def seeded(self, *command: str) -> str:
        return self.login(WIRE, *command).stdout

    def told(self, *command: str) -> str:
        """A command in the guest behind the router, which forwards the port."""
        return self.login(FORWARDED, *command).stdout


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    image, folder = cloud.cloud_image(), tmp_path_factory.mktemp("cloud")
    key, before = cloud.make_key(folder), digest(image.disk)
    topology = folder / "cloud.yaml"
    domain_xml, user_data = json.dumps(image.domain_xml), json.dumps(cloud.USER_DATA)
    public = key.with_suffix(".pub").read_text().strip()
    topology.write_text(TOPOLOGY.format(image=image, key=public, user_data=user_data, domain_xml=domain_xml))
    ensure_router_image()  # a sandbox cannot make one
    with sandboxes.start(f"cloud-{os.getpid()}", prepare=_prepare()) as sandbox:
        made = World(image, before, key, Lab(sandbox, topology))
        up = made.lab.guestnet("lab", "up", "--here", "-")
        print(up.stdout, up.stderr)
        assert up.returncode == 0
        sandbox.run(["ip", "address", "add", HOST, "dev", "lo"])
        cloud.await_login(lambda: made.login(WIRE, "true"), lambda: made.lab.virsh("domiflist", "web1"))
        cloud.await_login(lambda: made.login(FORWARDED, "true"), lambda: made.lab.virsh("domiflist", "web2"))
        yield made


def _prepare() -> list[list[str]]:
    """A host with our hooks, whose QEMU is not root, and gets what it opens from libvirt as on a default host."""
    install = sandboxes.python_inside(["-m", "libvirt_guestnet.cli", "hooks", "install", "--any-owner"])
    said = {"user": "nobody", "group": "nogroup"}
    words = [f's/^{name} = .*/{name} = "{value}"/' for name, value in said.items()]
    nobody = f"sed -i '{'; '.join(words)}; s/^dynamic_ownership.*/dynamic_ownership = 1/'"
    return [install, ["sh", "-c", f"{nobody} /etc/libvirt/qemu.conf"]]


@pytest.mark.parametrize(
    ("address", "source", "by"),
    [
        ("10.61.1.7", "", ""),
        ("fd61:1::7", "", ""),
        (WIRE, "", ""),
        ("fd61:21::7", "", ""),
        ("203.0.113.7", HOST, ""),
        (OFFICE, "", FORWARDED),
        ("fd61:4::7", "", FORWARDED),
    ],
)
def test_it_is_reached_with_its_key_in_each_mode(world: World, address: str, source: str, by: str) -> None:
    done = world.login(address, "hostname; cat /etc/told", source=source, by=by)
    assert done.stdout.split() == ["web1", "hello"], done.stderr


def test_its_nics_are_as_the_file_says(world: World) -> None:
    links = json.loads(world.seeded("ip -j address"))
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
        "10.61.4.7/24": 1500,
        "fd61:4::7/64": 1500,
    }
    routes = world.seeded("ip route show default; ip -6 route show default")
    assert "via 169.255.30.1" in routes and "onlink" in routes and "via fe80::1" in routes
    assert routes.count("default") == 2


def test_its_disk_is_larger_than_the_image_and_that_is_untouched(world: World) -> None:
    size, root = world.seeded("lsblk -bdno SIZE /dev/vda; df -B1 --output=size / | tail -1").split()
    assert int(size) == DISK_BYTES
    assert int(root) > DISK_BYTES * 0.9
    assert digest(world.image.disk) == world.digest


def test_a_second_apply_changes_nothing(world: World) -> None:
    done = world.lab.guestnet("plan", "--map", "lan=lan-lan", "-")
    assert done.stdout == "nothing to do\n", done.stdout + done.stderr


def test_a_guest_without_a_seed_is_told_by_its_router(world: World) -> None:
    assert world.told("hostname; cat /etc/told").split() == ["web2", "hello"]
    assert "10.61.4.8" in world.told("ip -4 address show scope global")
    for url in (
        "http://169.254.169.254/latest/meta-data/local-hostname",
        "http://10.61.4.1/latest/meta-data/local-hostname",
    ):
        code = f"import urllib.request as u; print(u.urlopen('{url}', timeout=120).read().decode())"
        assert world.told(f'python3 -c "{code}"') == "web2\n"


def test_a_guest_with_a_seed_is_told_nothing_there(world: World) -> None:
    code = "import urllib.request as u; print(u.urlopen('http://10.61.4.1/user-data', timeout=120).read())"
    done = world.login(WIRE, f'python3 -c "{code}"')
    assert done.returncode != 0 and "HTTP Error 404" in done.stderr, done.stdout + done.stderr


def test_destroying_keeps_its_disk(world: World) -> None:
    """The last one: the guests are gone after that."""
    disk = "/var/lib/libvirt-guestnet/guests/web1/disk.qcow2"
    done = world.lab.guestnet("destroy", "-")
    assert "remove guest web1" in done.stdout and f"rm {disk}" in done.stderr, done.stdout + done.stderr
    assert world.lab.sandbox.run(["ls", "/var/lib/libvirt-guestnet/guests/web1"]).stdout == "disk.qcow2\n"
