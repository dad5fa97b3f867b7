"""Guests with an image file on a real libvirtd, whose QEMU is not root and gets what it opens from libvirt.

There is nothing on the images that could boot: tests/guest/test_cloud_image.py boots one.
"""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from lxml import etree

from libvirt_guestnet import sandbox as sandboxes
from libvirt_guestnet.guest import qcow2
from libvirt_guestnet.sandbox import Sandbox

pytestmark = pytest.mark.libvirt

SETTINGS = {"user": '"nobody"', "group": '"nogroup"', "dynamic_ownership": "1", "remember_owner": "1"}
FOLDER = "/var/lib/libvirt-guestnet/guests"
GIB = 1 << 30
TOPOLOGY = """
name: images
networks: { web: { mode: nat, subnets: [10.61.1.0/24], dhcp: {} } }
guests:
  one:
    { image: /srv/images/plain.qcow2, disk: 2G, vcpus: 2, memory: 64, EXTRA ports: [{ network: web }] }
  two: { image: /srv/images/plain.raw, memory: 64, ports: [{ network: web }] }
"""
_TUNED = "<memtune><hard_limit unit='GiB'>4</hard_limit></memtune>"
_TABLET = "<devices><input type='tablet' bus='virtio'/></devices>"
MORE = f'domain-xml: "<domain>{_TUNED}{_TABLET}</domain>",'


class Host:
    """A sandbox with images under /srv."""

    def __init__(self, sandbox: Sandbox, folder: Path) -> None:
        self.sandbox = sandbox
        standalone = bytearray(qcow2.overlay("x", "raw", GIB))
        struct.pack_into(">QI", standalone, 8, 0, 0)
        self.sh("mkdir -p /srv/images")
        self.put(folder, "plain.qcow2", bytes(standalone))
        self.put(folder, "plain.raw", (bytes(510) + b"\x55\xaa").ljust(1 << 20, b"\0"))
        self.put(folder, "hostile.qcow2", qcow2.overlay("/etc/shadow", "raw", GIB))

    def put(self, folder: Path, name: str, data: bytes) -> None:
        (folder / name).write_bytes(data)
        self.sh(f"cp {folder / name} /srv/images/{name}; chmod 644 /srv/images/{name}")

    def sh(self, text: str) -> str:
        return self.sandbox.run(["sh", "-euc", text], timeout=240).stdout

    def guestnet(self, *argv: str, text: str = TOPOLOGY.replace("EXTRA", "")) -> subprocess.CompletedProcess[str]:
        command = self.sandbox.python(["-m", "libvirt_guestnet.cli", "--topology-name", "t.yaml", *argv])
        return subprocess.run(command, input=text, capture_output=True, text=True, timeout=480)

    def owners(self, *paths: str) -> list[str]:
        return self.sh(f"stat -c '%U %a' {' '.join(paths)}").splitlines()


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    install = sandboxes.python_inside(["-m", "libvirt_guestnet.cli", "hooks", "install", "--any-owner"])
    edits = "; ".join(f"s/^{name} = .*/{name} = {value}/" for name, value in SETTINGS.items())
    prepare = [install, ["sed", "-i", edits, "/etc/libvirt/qemu.conf"]]
    with sandboxes.start(f"images-{os.getpid()}", prepare=prepare) as sandbox:
        yield Host(sandbox, tmp_path_factory.mktemp("images"))


def test_applied_started_and_nothing_left_to_do(host: Host) -> None:
    applied = host.guestnet("apply", "-")
    assert applied.returncode == 0, applied.stderr
    for line in (
        "make guest disk one: 2G, of /srv/images/plain.qcow2",
        "make guest disk two: 1M, of /srv/images/plain.raw",
        "write guest seed one",
        "define guest two: 1 NIC",
    ):
        assert line in applied.stdout.splitlines(), applied.stdout
    assert host.guestnet("plan", "-").stdout == "nothing to do\n"
    for guest in ("one", "two"):
        host.sandbox.run(["virsh", "-q", "start", guest], timeout=240)
    assert host.guestnet("plan", "-").stdout == "nothing to do\n"
    assert host.sh("ps -o user= -C qemu-system-x86_64 || ps -eo user,comm | grep qemu-system").split()[0] == "nobody"


def test_qemu_has_what_is_the_guests_and_only_reads_the_image(host: Host) -> None:
    own = [f"{FOLDER}/one/{name}" for name in ("disk.qcow2", "seed.img")]
    assert host.owners(*own) == ["nobody 600"] * 2
    assert host.owners("/srv/images/plain.qcow2", "/srv/images/plain.raw") == ["root 644"] * 2
    opened = host.sh('virsh -q qemu-monitor-command one --pretty \'{"execute": "query-named-block-nodes"}\'')
    assert '"file": "/srv/images/plain.qcow2"' in opened
    assert '"ro": true' in opened


def test_the_seed_is_mounted_by_the_kernel_with_long_names(host: Host) -> None:
    """By another reader than ours."""
    label = host.sh(f"blkid -p -s LABEL -o value {FOLDER}/one/seed.img").strip()
    assert label == "cidata"


def test_the_users_xml_stays_and_needs_nothing_again(host: Host) -> None:
    text = TOPOLOGY.replace("EXTRA", MORE)
    planned = host.guestnet("plan", "-", text=text)
    assert "redefine guest one" in planned.stdout and "is running and gets this at its next start" in planned.stdout
    assert host.guestnet("apply", "-", text=text).returncode == 0
    assert host.guestnet("plan", "-", text=text).stdout == "nothing to do\n"
    defined = etree.fromstring(host.sandbox.run(["virsh", "-q", "dumpxml", "--inactive", "one"]).stdout.encode())
    assert defined.findtext("memtune/hard_limit") is not None
    assert defined.find("devices/input[@type='tablet']") is not None
    assert host.guestnet("apply", "-").returncode == 0


def test_an_image_that_names_another_file_is_refused_and_nothing_is_changed(host: Host) -> None:
    text = TOPOLOGY.replace("EXTRA", "") + (
        "  three: { image: /srv/images/hostile.qcow2, ports: [{ network: web }] }\n"
    )
    done = host.guestnet("apply", "-", text=text)
    assert done.returncode == 1
    assert "image /srv/images/hostile.qcow2: it stands on another file, '/etc/shadow'" in done.stderr
    assert host.sh(f"ls {FOLDER}").split() == ["one", "two"]


def test_destroying_keeps_disks_and_removes_them_where_that_is_said(host: Host) -> None:
    marked = "printf marked | dd of={0} bs=1 seek=9000 conv=notrunc status=none"
    destroyed = host.guestnet("destroy", "-")
    assert destroyed.returncode == 0, destroyed.stderr
    assert f"rm {FOLDER}/one/disk.qcow2" in destroyed.stderr
    assert host.sh(f"cd {FOLDER}; ls one two").split() == ["one:", "disk.qcow2", "two:", "disk.qcow2"]
    assert host.owners(f"{FOLDER}/one/disk.qcow2") == ["root 600"]
    host.sh(marked.format(f"{FOLDER}/two/disk.qcow2"))
    again = host.guestnet("apply", "-")
    assert again.returncode == 0 and "make guest disk" not in again.stdout
    assert "gets the disk again that it had" in again.stderr
    assert "marked" in host.sh(f"strings {FOLDER}/two/disk.qcow2 || cat {FOLDER}/two/disk.qcow2 | tr -d '\\000'")
    removed = host.guestnet("destroy", "--remove-disks", "-")
    assert f"remove guest disk two: {FOLDER}/two/disk.qcow2, with all that is on it" in removed.stdout
    assert host.sh(f"ls {FOLDER}") == ""
