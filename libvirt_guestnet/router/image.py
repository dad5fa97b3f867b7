"""The appliance's image: Debian's cloud kernel, and an initramfs of busybox, perl, nft and dnsmasq from this machine's
own packages. It is made and kept as the tiny guest's is."""

from __future__ import annotations

import stat
import tempfile
from importlib.resources import files
from pathlib import Path

from libvirt_guestnet.guest import debian, image, initrd
from libvirt_guestnet.guest.image import CACHE, Recipe, TinyImage
from libvirt_guestnet.guest.initrd import ArchiveEntry

MODULES = (
    *("virtio_pci", "virtio_net", "virtio_blk", "virtio_console", "button", "evdev"),
    *("nf_tables", "nft_ct", "nft_nat", "nft_chain_nat", "nft_limit", "nft_objref"),
    *("nft_numgen", "nft_hash", "nft_reject_inet", "nft_connlimit", "nft_queue"),
    *("nf_conntrack_netlink", "nfnetlink_queue"),
)
_APPLETS = ("sh", "mkdir", "mount", "modprobe", "sleep", "ip", "sha256sum", "poweroff", "reboot")
_USERS = b"root:*:0:0:root:/:/bin/false\ndnsmasq:*:100:100:dnsmasq:/run/dnsmasq:/bin/false\n"
_GROUPS = b"root:*:0:\ndnsmasq:*:100:\n"


def ensure_router_image(
    cache: Path = CACHE, tell: image.Tell = lambda _doing: None, *, of_pair: bool = False
) -> TinyImage:
    """The image for this machine's packages, made if it is not cached; `of_pair` for one of two. Raises GuestnetError
    as ensure_image does."""
    return image.ensure_image(cache, tell, PAIR if of_pair else RECIPE)


def userland() -> dict[str, ArchiveEntry]:
    """Everything but kernel modules. Raises GuestnetError for a missing package."""
    contents = {
        path: entry
        for path, entry in (initrd.programs("perl", "nft", "dnsmasq") | initrd.skeleton()).items()
        if entry.data != b"busybox" or path.removeprefix("bin/") in _APPLETS
    }
    data = files("libvirt_guestnet.router").joinpath("data")
    for name in ("init", "agent", "balancer", "identities", "metadata"):
        place = name if name == "init" else f"etc/{name}"
        contents[place] = ArchiveEntry(stat.S_IFREG | 0o755, data.joinpath(name).read_bytes())
    contents["etc/passwd"] = ArchiveEntry(stat.S_IFREG | 0o644, _USERS)
    contents["etc/group"] = ArchiveEntry(stat.S_IFREG | 0o644, _GROUPS)
    return contents


def pair_userland(cache: Path = CACHE) -> dict[str, ArchiveEntry]:
    """The same with conntrackd, which is not installed on this machine: its package would start a service."""
    contents = userland()
    with tempfile.TemporaryDirectory(prefix="guestnet-") as scratch:
        root = Path(scratch)
        for deb in debian.fetch_with_needs("conntrackd", cache / "debs"):
            debian.unpack(deb, root)
        return contents | initrd.program_of(root, "conntrackd")


RECIPE = Recipe("router", MODULES, userland)
PAIR = Recipe("pairrouter", MODULES, pair_userland)
