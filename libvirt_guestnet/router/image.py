"""The appliance's image: Debian's cloud kernel, and an initramfs of busybox, perl, nft and dnsmasq from this machine's
own packages. It is made and kept as the tiny guest's is."""

from __future__ import annotations

import stat
from importlib.resources import files
from pathlib import Path

from libvirt_guestnet.guest import image, initrd
from libvirt_guestnet.guest.image import CACHE, Recipe, TinyImage
from libvirt_guestnet.guest.initrd import ArchiveEntry

MODULES = (
    *("virtio_pci", "virtio_net", "virtio_blk", "virtio_console", "button", "evdev"),
    *("nf_tables", "nft_ct", "nft_nat", "nft_chain_nat", "nft_limit", "nft_objref"),
)
_APPLETS = ("sh", "mkdir", "mount", "modprobe", "sleep", "ip", "sha256sum", "poweroff", "reboot")
_USERS = b"root:*:0:0:root:/:/bin/false\ndnsmasq:*:100:100:dnsmasq:/run/dnsmasq:/bin/false\n"
_GROUPS = b"root:*:0:\ndnsmasq:*:100:\n"


def ensure_router_image(cache: Path = CACHE, tell: image.Tell = lambda _doing: None) -> TinyImage:
    """The image for this machine's packages, made if it is not cached. Raises GuestnetError as ensure_image does."""
    return image.ensure_image(cache, tell, RECIPE)


def userland() -> dict[str, ArchiveEntry]:
    """Everything but kernel modules. Raises GuestnetError for a missing package."""
    contents = {
        path: entry
        for path, entry in (initrd.programs("perl", "nft", "dnsmasq") | initrd.skeleton()).items()
        if entry.data != b"busybox" or path.removeprefix("bin/") in _APPLETS
    }
    data = files("libvirt_guestnet.router").joinpath("data")
    for name, place in (("init", "init"), ("agent", "etc/agent"), ("metadata", "etc/metadata")):
        contents[place] = ArchiveEntry(stat.S_IFREG | 0o755, data.joinpath(name).read_bytes())
    contents["etc/passwd"] = ArchiveEntry(stat.S_IFREG | 0o644, _USERS)
    contents["etc/group"] = ArchiveEntry(stat.S_IFREG | 0o644, _GROUPS)
    return contents


RECIPE = Recipe("router", MODULES, userland)
