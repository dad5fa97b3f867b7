"""Which of the machine's mounts a sandbox takes over."""

from __future__ import annotations

from libvirt_guestnet.sandbox.mounts import inner_mounts, parse_mountinfo

MOUNTINFO = r"""
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:21 / /proc rw - proc proc rw
24 22 0:22 / /sys rw shared:2 master:3 - sysfs sysfs rw
25 24 0:23 / /sys/fs/cgroup rw - cgroup2 cgroup rw
26 22 254:2 / /var rw shared:9 - xfs /dev/vdb rw
27 26 254:3 / /var/lib/my\040disk rw - ext4 /dev/vdc rw
28 22 0:30 / /run rw - tmpfs tmpfs rw
29 22 0:31 / /mnt/share rw - nfs4 server:/share rw
30 22 254:0 /x /runtime rw - ext4 /dev/vda rw
32 22 0:33 / /home/me/gvfs rw - fuse.gvfsd-fuse gvfs rw
33 22 0:34 / /var/lib/docker/overlay2/x/merged rw - overlay overlay rw
31 26 254:4 / /var rw - btrfs /dev/vdd rw
"""


def test_file_systems_of_the_machine_but_no_foreign_ones_outer_first() -> None:
    mounted = parse_mountinfo(MOUNTINFO.strip().splitlines())
    assert inner_mounts("/", mounted) == ["/runtime", "/var", "/var/lib/my disk"]
    assert [m.fstype for m in mounted if m.target == "/var"] == ["btrfs"], "the last mount on a place is the one seen"


def test_another_root_has_none_of_the_machines_mounts() -> None:
    assert inner_mounts("/srv/trixie", parse_mountinfo(MOUNTINFO.strip().splitlines())) == []
